"""How sure the numbers of the report are, as JSON: chances on the frontier, stable orders, shares of variance, gain for cost."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.components import Component, Variance
from orchestrator.analysis.efficiency import CostEffectiveness, cost_effectiveness
from orchestrator.analysis.frontier_odds import frontier_odds
from orchestrator.analysis.metrics import cost_metric, quality_metric
from orchestrator.analysis.ranks import rank_stability
from orchestrator.analysis.variance import variance
from orchestrator.keys import Json
from orchestrator.records import StudyRecord


def certainty_json(record: StudyRecord) -> dict[str, Json]:
    """What replicates say of the first objective that is not a cost, beside means and effects; empty without one."""
    quality, cost = quality_metric(record), cost_metric(record)
    if not quality:
        return {}
    return {
        "metric": quality,
        "variance": _variance(variance(record, quality)),
        "ranks": _ranks(record, quality),
        "frontier": _frontier(record, cost, quality) if cost else None,
        "efficiency": [_efficiency(found) for found in cost_effectiveness(record, quality, cost)] if cost else [],
    }


def number(value: float) -> float | str:
    """A number, or the text of one that JSON has no word for.

    >>> number(0.5), number(float("nan")), number(float("-inf"))
    (0.5, 'nan', '-inf')
    """
    return value if math.isfinite(value) else str(value)


def _variance(found: Variance) -> dict[str, Json]:
    return {
        "layout": found.layout.value,
        "cells": found.cells,
        "n": found.n,
        "balanced": found.balanced,
        "notes": list(found.notes),
        "components": [_component(one) for one in found.components],
    }


def _component(one: Component) -> dict[str, Json]:
    numbers = {name: number(getattr(one, name)) for name in ("share", "unbiased", "f", "p", "p_holm")}
    return {"name": one.name, "part": one.part.value, "df": one.df, **numbers}


def _ranks(record: StudyRecord, metric: str) -> Json:
    found = rank_stability(record, metric)
    if found is None:
        return None
    arms: list[Json] = [{name: getattr(arm, name) for name in ("arm", "rank", "expected", "low", "high", "best")} for arm in found.arms]
    return {"tau": number(found.tau), "n": found.n, "draws": found.draws, "arms": arms}


def _frontier(record: StudyRecord, cost: str, quality: str) -> Json:
    odds = frontier_odds(record, (cost, quality))
    return {
        "metrics": list(odds.metrics),
        "on_frontier": dict(odds.on_frontier),
        "hypervolume": {"value": odds.hypervolume, "low": number(odds.low), "high": number(odds.high)},
        "reference": list(odds.reference),
        "n": odds.n,
        "draws": odds.draws,
    }


def _efficiency(found: CostEffectiveness) -> dict[str, Json]:
    gain = {field.name: number(getattr(found.gain, field.name)) for field in dataclasses.fields(found.gain)}
    numbers = {name: number(getattr(found, name)) for name in ("extra", "log_ratio", "low", "high")}
    return {"arm": found.arm, "baseline": found.baseline, "bargain": found.bargain.value, "gain": gain, **numbers}
