"""What a report wants to know of trials beside their results: how they describe themselves, and why attempts at them ended."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from orchestrator.contract import DESCRIPTION, DamagedError, read_row
from orchestrator.ledger import Ledger
from orchestrator.records import Bins, Cause, Description, Phase, StudyRecord, TrialRecord, TrialState


def described(record: StudyRecord, ledger: Ledger, out: pathlib.Path) -> StudyRecord:
    """The record in which finished replicates have what they left as their `description`.

    One that is lost, damaged or another trial's is as if there were none: it holds no result, and the report counts who has none.

    Args:
        record: As the ledger gives it.
        ledger: Knows where the descriptions are.
        out: Folder that their paths are relative to.
    """
    wanted = {trial.key for trial in record.trained if trial.phase is Phase.REPLICATE and trial.state is TrialState.COMPLETE}
    rows = ledger.artifacts(wanted) if wanted else ()
    found = {row.trial: _read(out / row.uri, row.trial) for row in rows if row.name == DESCRIPTION}
    return _with(record, {key: {"described": description} for key, description in found.items() if description is not None})


def explained(record: StudyRecord, ledger: Ledger) -> StudyRecord:
    """The record in which trials have the causes of attempts that ended before their time."""
    causes: dict[str, list[Cause]] = {}
    for trouble in ledger.troubles(record.name):
        causes.setdefault(trouble.trial, []).append(trouble.cause)
    return _with(record, {key: {"causes": tuple(each)} for key, each in causes.items()})


def _with(record: StudyRecord, changes: Mapping[str, Mapping[str, Any]]) -> StudyRecord:
    """The record with some fields of some trials changed, by key."""

    def changed(trial: TrialRecord) -> TrialRecord:
        return dataclasses.replace(trial, **changes[trial.key]) if trial.key in changes else trial

    return dataclasses.replace(record, trials=tuple(map(changed, record.trials))) if changes else record


def _read(path: pathlib.Path, key: str) -> Description | None:
    try:
        row = read_row(path)
        if row["key"] != key:
            return None
        return Description(
            reliability={split: _bins(columns) for split, columns in row["reliability"].items()},
            load=tuple(tuple(map(float, layer)) for layer in row.get("load", ())),
        )
    except (OSError, DamagedError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _bins(columns: Mapping[str, Any]) -> Bins:
    count = tuple(map(int, columns["count"]))
    confidence, accuracy = (tuple(map(float, columns[name])) for name in ("confidence", "accuracy"))
    if not len(count) == len(confidence) == len(accuracy):
        raise ValueError("bins of different numbers")
    return Bins(count=count, confidence=confidence, accuracy=accuracy)
