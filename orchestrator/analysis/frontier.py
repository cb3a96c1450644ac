"""Which cells no other cell dominates: nothing else is at least as good in every objective and better in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.dominance import non_dominated
from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.paired import Floats
from orchestrator.analysis.summary import Mean, means_of
from orchestrator.records import StudyRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """The cell of one arm, in as many metrics as the frontier has.

    Attributes:
        arm: The arm.
        means: One for each metric asked for, in that order.
        on_frontier: No other cell dominates it, judged by the means.
    """

    arm: str
    means: tuple[Mean, ...]
    on_frontier: bool


def frontier(record: StudyRecord, metrics: Sequence[str]) -> tuple[FrontierPoint, ...]:
    """The arms that have a finite mean in every metric, in the order of the study file. A metric of no direction is minimised."""
    found = [means_of(record, metric) for metric in metrics]
    names = [arm.name for arm in record.arms if all(arm.name in means for means in found)]
    rows = [(name, tuple(means[name] for means in found)) for name in names]
    rows = [(name, means) for name, means in rows if all(np.isfinite(mean.mean) for mean in means)]
    signs = signs_of(record, metrics)
    points = np.array([[mean.mean for mean in means] for _, means in rows], dtype=np.float64).reshape(len(rows), len(metrics))
    kept = non_dominated(points * signs)
    return tuple(FrontierPoint(arm=name, means=means, on_frontier=bool(on)) for (name, means), on in zip(rows, kept, strict=True))


def signs_of(record: StudyRecord, metrics: Sequence[str]) -> Floats:
    """What each metric is multiplied with so that less is better, [metric]."""
    return np.array([-1.0 if direction_of(record, metric) == "maximize" else 1.0 for metric in metrics])
