"""A study as a W&B sweep: what is varied, and over which values. Nobody asks that sweep for configs; it is there to be looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from orchestrator.keys import Json, Value, canonical
from orchestrator.records import SpaceRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.payload import nested


def sweep_config(study: StudyHeader) -> dict[str, Any]:
    """The sweep's description: the arm, every key that differs between arms, and every tuned axis with its distribution.

    Parameters carry the names under which runs hold them, so that W&B's plots of a sweep find them.
    """
    lead = study.objectives[0]
    parameters: dict[str, Any] = {"arm": {"values": [arm.name for arm in study.arms if not arm.is_derived]}}
    for key in _differing(study):
        parameters[key] = {"values": [_plain(value) for value in _values(study, key)]}
    for key in study.nuisance:
        if key in study.space:
            parameters[key] = parameter(study.space[key])
    return {
        "name": study.name,
        "description": mark(study.name),
        "method": "custom",  # points come from the study, not from the server
        "controller": {"type": "local"},
        "metric": {"name": lead.metric, "goal": lead.direction},
        "parameters": nested(parameters, within="parameters"),
    }


def parameter(axis: SpaceRecord) -> dict[str, Any]:
    """An axis in the words of W&B.

    >>> parameter(SpaceRecord(low=0.001, high=0.1, log=True))
    {'distribution': 'log_uniform_values', 'min': 0.001, 'max': 0.1}
    >>> parameter(SpaceRecord(low=1, high=64, log=True, whole=True))
    {'distribution': 'q_log_uniform_values', 'min': 1, 'max': 64, 'q': 1}
    """
    if axis.low is None or axis.high is None:
        return {"values": [_plain(value) for value in axis.values]}
    bounds = {"min": axis.low, "max": axis.high}
    if axis.whole:
        return {"distribution": "q_log_uniform_values", **bounds, "q": 1} if axis.log else {"distribution": "int_uniform", **bounds}
    return {"distribution": "log_uniform_values" if axis.log else "uniform", **bounds}


def mark(study: str) -> str:
    """What a sweep or a report of a study says of itself; by it a second process finds what a killed one had made."""
    return f"Copied by Tessera from the ledger of the study {study}."


def digest(config: Mapping[str, Any]) -> str:
    """Differs when the sweep is to be told something else."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _differing(study: StudyHeader) -> Iterable[str]:
    """Keys that arms set, in the order in which they do; an axis that is tuned is none of them."""
    keys = dict.fromkeys(key for arm in study.arms for key in arm.overrides)
    return [key for key in keys if key not in study.nuisance]


def _values(study: StudyHeader, key: str) -> Iterable[Value]:
    """The base's value first, then those of the arms, each once."""
    found = [study.base[key]] if key in study.base else []
    found += [arm.overrides[key] for arm in study.arms if key in arm.overrides]
    return {canonical(cast(Json, value)): value for value in found}.values()


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
