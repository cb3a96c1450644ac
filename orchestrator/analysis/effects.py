"""What each arm changes against the baseline, paired by replicate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.adaptive import pairs_at_looks, repeated, verdict_of
from orchestrator.analysis.paired import ALPHA, Effect, holm, paired_effect
from orchestrator.analysis.power import replicates_needed, smallest_effect
from orchestrator.analysis.rounds import Verdict
from orchestrator.analysis.sequential import corrected, nominal
from orchestrator.analysis.summary import paired_values
from orchestrator.analysis.trials import members_of, trials_of
from orchestrator.records import Phase, StudyRecord, TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmEffect:
    """What one arm changes in one metric against the baseline.

    Attributes:
        arm: The arm.
        baseline: The arm it is measured against.
        metric: The metric.
        effect: Its fields are NaN where too few replicates are paired: all without any, all but the mean with one.
        p_holm: p corrected for the number of arms of its family that are compared in this metric (Holm); NaN where p is.
        compared: That number, at least 1. Trained arms are one family, derived ones another: see `effects`.
        resolved: `p_holm` is at most `ALPHA` and the interval does not hold 0.
        needed: Replicates that would resolve the observed difference with probability `POWER`; infinite if it is 0, NaN if the
            spread is unknown. At least one more than there are, for an effect that is not resolved.
        smallest: Smallest true difference that this many replicates of this spread resolve with probability `POWER`, corrected for
            the number of arms; infinite where they can resolve none, as p moves in steps of 2^(1 - n). NaN if the spread is unknown.
        smallest_t: The same of a paired t test, which has no steps but needs normal differences.
        diverged: Replicates of either arm that diverged. They are in no pair, which flatters the arm that they are of.
        repeated: Interval and p are those of repeated looks, since the number of replicates followed from results.
        verdict: Why the arm gets no more replicates, or `OPEN`; None where their number was fixed, and in metrics that did not decide.
        members: Replicates of the study that one pair is of: 1, or more for a derived arm, whose pairs `effect.n` counts.
    """

    arm: str
    baseline: str
    metric: str
    effect: Effect
    p_holm: float
    compared: int
    resolved: bool
    needed: float
    smallest: float
    smallest_t: float
    diverged: int
    repeated: bool = False
    verdict: Verdict | None = None
    members: int = 1

    @property
    def more(self) -> float:
        """Further replicates that would settle it, were the true difference the observed one; 0 where it is resolved."""
        return 0.0 if self.resolved else self.needed - self.members * self.effect.n


def baseline_of(record: StudyRecord) -> str:
    """Name of the arm that effects are measured against; empty if no arm is marked."""
    return next((arm.name for arm in record.arms if arm.baseline), "")


def effects(record: StudyRecord, metric: str) -> tuple[ArmEffect, ...]:
    """Each arm against the baseline in one metric, in the order of the study file; empty without a baseline.

    What is trained and what is derived from it are corrected for apart. A derived arm answers another question (what would more of
    the same give?), costs no trial, and has few pairs, so that adding one to a study must not unsettle what was trained.
    """
    baseline = baseline_of(record)
    if not baseline:
        return ()
    found: dict[str, ArmEffect] = {}
    for is_derived in (False, True):
        names = [arm.name for arm in record.arms if arm.name != baseline and arm.is_derived is is_derived]
        found |= {effect.arm: effect for effect in between(record, metric, [(baseline, name) for name in names])}
    return tuple(found[arm.name] for arm in record.arms if arm.name in found)


def between(record: StudyRecord, metric: str, pairs: Sequence[tuple[str, str]]) -> tuple[ArmEffect, ...]:
    """What the second arm of each pair changes against the first one; the pairs are one family, for which p is corrected."""
    if record.adaptive is None:
        found = [_effect(*paired_values(record, before, after, metric)) for before, after in pairs]
        p_holms = holm([effect.p for effect in found])
        compared = max(1, sum(not math.isnan(p) for p in p_holms))
    else:
        found = [repeated(record, before, after, metric) for before, after in pairs]
        p_holms, compared = corrected([effect.p for effect in found], len(pairs)), max(1, len(pairs))
    rows = zip(pairs, found, p_holms, strict=True)
    return tuple(_compared(record, pair, metric, effect, p_holm, compared) for pair, effect, p_holm in rows)


def _compared(record: StudyRecord, pair: tuple[str, str], metric: str, effect: Effect, p_holm: float, compared: int) -> ArmEffect:
    (baseline, arm), members = pair, math.lcm(*(members_of(record, name) for name in pair))
    rule, is_repeated = record.adaptive, record.adaptive is not None
    resolved = p_holm <= (ALPHA if rule is None else rule.alpha) and not effect.low <= 0 <= effect.high
    sd, alpha = effect.se * math.sqrt(effect.n), (ALPHA if rule is None else rule.alpha) / compared  # Holm's first step
    if is_repeated:
        alpha = nominal(pairs_at_looks(record, baseline, arm, metric), alpha)
    return ArmEffect(
        arm=arm,
        baseline=baseline,
        metric=metric,
        effect=effect,
        p_holm=p_holm,
        compared=compared,
        resolved=resolved,
        needed=members * _needed(effect, sd, alpha, resolved=resolved, exact=not is_repeated),
        smallest=smallest_effect(sd, effect.n, alpha=alpha, exact=not is_repeated),
        smallest_t=smallest_effect(sd, effect.n, alpha=alpha, exact=False),
        diverged=sum(_diverged(record, name) for name in (arm, baseline)),
        repeated=is_repeated,
        verdict=verdict_of(record, arm) if rule is not None and metric == rule.metric else None,
        members=members,
    )


def _diverged(record: StudyRecord, arm: str) -> int:
    return sum(trial.state is TrialState.DIVERGED for trial in trials_of(record, arm, Phase.REPLICATE))


def _effect(baseline: Sequence[float], ablated: Sequence[float]) -> Effect:
    before, after = (np.array(values, dtype=np.float64) for values in (baseline, ablated))
    if len(before) >= 2:
        return paired_effect(before, after)
    mean = float(after[0] - before[0]) if len(before) and np.isfinite([before[0], after[0]]).all() else math.nan
    return Effect(mean=mean, se=math.nan, low=math.nan, high=math.nan, p=math.nan, n=len(before))


def _needed(effect: Effect, sd: float, alpha: float, *, resolved: bool, exact: bool) -> float:
    if math.isnan(effect.p):
        return math.nan
    needed = replicates_needed(effect.mean, sd, alpha=alpha, exact=exact)
    return needed if resolved else max(needed, effect.n + 1.0)
