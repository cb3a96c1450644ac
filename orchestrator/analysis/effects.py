"""What each arm changes against the baseline, paired by replicate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.paired import ALPHA, Effect, holm, paired_effect, replicates_needed
from orchestrator.analysis.summary import paired_values
from orchestrator.analysis.trials import members_of
from orchestrator.records import StudyRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmEffect:
    """What one arm changes in one metric against the baseline.

    Attributes:
        arm: The arm.
        baseline: The arm it is measured against.
        metric: The metric.
        effect: Its fields are NaN where too few replicates are paired: all without any, all but the mean with one.
        p_holm: p corrected for the number of arms compared in this metric (Holm); NaN where p is.
        resolved: `p_holm` is at most `ALPHA` and the interval does not hold 0.
        needed: Replicates that would resolve the observed difference with probability `POWER`; infinite if it is 0, NaN if the
            spread is unknown. At least one more than there are, for an effect that is not resolved.
        members: Replicates of the study that one pair is of: 1, or more for a derived arm, whose pairs `effect.n` counts.
    """

    arm: str
    baseline: str
    metric: str
    effect: Effect
    p_holm: float
    resolved: bool
    needed: float
    members: int = 1


def baseline_of(record: StudyRecord) -> str:
    """Name of the arm that effects are measured against; empty if no arm is marked."""
    return next((arm.name for arm in record.arms if arm.baseline), "")


def effects(record: StudyRecord, metric: str) -> tuple[ArmEffect, ...]:
    """Each arm against the baseline in one metric, in the order of the study file; empty without a baseline."""
    baseline = baseline_of(record)
    if not baseline:
        return ()
    names = [arm.name for arm in record.arms if arm.name != baseline]
    found = [_effect(*paired_values(record, baseline, name, metric)) for name in names]
    corrected = holm([effect.p for effect in found])
    compared = max(1, sum(not math.isnan(p) for p in corrected))
    rows = zip(names, found, corrected, strict=True)
    return tuple(_compared(name, baseline, metric, effect, p_holm, compared, members_of(record, name)) for name, effect, p_holm in rows)


def _compared(arm: str, baseline: str, metric: str, effect: Effect, p_holm: float, compared: int, members: int) -> ArmEffect:
    resolved = p_holm <= ALPHA and not effect.low <= 0 <= effect.high
    return ArmEffect(
        arm=arm,
        baseline=baseline,
        metric=metric,
        effect=effect,
        p_holm=p_holm,
        resolved=resolved,
        needed=members * _needed(effect, resolved=resolved, compared=compared),
        members=members,
    )


def _effect(baseline: Sequence[float], ablated: Sequence[float]) -> Effect:
    before, after = (np.array(values, dtype=np.float64) for values in (baseline, ablated))
    if len(before) >= 2:
        return paired_effect(before, after)
    mean = float(after[0] - before[0]) if len(before) and np.isfinite([before[0], after[0]]).all() else math.nan
    return Effect(mean=mean, se=math.nan, low=math.nan, high=math.nan, p=math.nan, n=len(before))


def _needed(effect: Effect, *, resolved: bool, compared: int) -> float:
    """Holm's first step is at alpha / compared, so that is what a new study must reach."""
    if math.isnan(effect.p):
        return math.nan
    needed = replicates_needed(effect.mean, effect.se * math.sqrt(effect.n), alpha=ALPHA / compared)
    return needed if resolved else max(needed, effect.n + 1.0)
