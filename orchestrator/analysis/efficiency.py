"""What an arm gains for what it costs: log[ΔLL / ΔGFLOPs] against the baseline, as the paper compares ways to spend compute."""

from __future__ import annotations

import dataclasses
import enum
import math

from orchestrator.analysis.effects import baseline_of
from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.paired import t_interval
from orchestrator.analysis.summary import Mean, mean_of, means_of, paired_values
from orchestrator.records import StudyRecord


class Bargain(enum.Enum):
    """What came of changing the cost."""

    PAID = "gains, and costs more"  # the only one that has a ratio
    FREE = "gains, and costs no more"
    WASTED = "gains nothing, and costs no less"
    SAVED = "gains nothing, and costs less"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CostEffectiveness:
    """One arm against the baseline.

    Attributes:
        arm: The arm.
        baseline: The arm it is measured against.
        gain: How much better its metric is, paired by replicate; of an NLL, the gain in log-likelihood.
        extra: How much more it costs, in units of the cost.
        bargain: What came of it.
        log_ratio: log(gain / extra), natural. NaN unless it is `PAID`.
        low: Lower end of its 95 % interval, -∞ where the gain's interval reaches 0; NaN where there is none.
        high: Upper end.
    """

    arm: str
    baseline: str
    gain: Mean
    extra: float
    bargain: Bargain
    log_ratio: float
    low: float
    high: float


def cost_effectiveness(record: StudyRecord, metric: str, cost: str) -> tuple[CostEffectiveness, ...]:
    """Each arm that shares replicates with the baseline, in the order of the study file; empty without a baseline or direction.

    Args:
        record: The study.
        metric: What is gained, such as `test/nll`.
        cost: What is paid, such as `cost/train_gflops`.

    Source:
        Allingham et al., Sparse MoEs meet Efficient Ensembles, TMLR (2022): log[(LL_(K,M) − LL_(1,1)) / (GFLOPs_(K,M) − GFLOPs_(1,1))].
    """
    baseline, direction = baseline_of(record), direction_of(record, metric)
    costs = means_of(record, cost)
    if not direction or baseline not in costs:
        return ()
    sign = 1.0 if direction == "maximize" else -1.0
    found: list[CostEffectiveness] = []
    for arm in record.arms:
        before, after = paired_values(record, baseline, arm.name, metric)
        if arm.name == baseline or arm.name not in costs or not before:
            continue
        gain = mean_of([sign * (theirs - ours) for ours, theirs in zip(before, after, strict=True)])
        if math.isfinite(gain.mean):
            found.append(effectiveness(gain, costs[arm.name].mean - costs[baseline].mean, arm=arm.name, baseline=baseline))
    return tuple(found)


def effectiveness(gain: Mean, extra: float, *, arm: str = "", baseline: str = "") -> CostEffectiveness:
    """From a gain with its standard error and an extra cost. The cost counts as known: all replicates have it in common.

    >>> found = effectiveness(Mean(mean=0.05, se=0.002, n=8), 16.9)
    >>> found.bargain.value, round(found.log_ratio, 2), round(found.low, 2), round(found.high, 2)
    ('gains, and costs more', -5.82, -5.92, -5.73)
    """
    bargain = _bargain(gain.mean, extra)
    ends = (gain.mean, *t_interval(gain)) if bargain is Bargain.PAID else (math.nan,) * 3
    log_ratio, low, high = (_log(end / extra) if bargain is Bargain.PAID else end for end in ends)
    return CostEffectiveness(arm=arm, baseline=baseline, gain=gain, extra=extra, bargain=bargain, log_ratio=log_ratio, low=low, high=high)


def _bargain(gain: float, extra: float) -> Bargain:
    if gain > 0:
        return Bargain.PAID if extra > 0 else Bargain.FREE
    return Bargain.WASTED if extra >= 0 else Bargain.SAVED


def _log(value: float) -> float:
    if math.isnan(value):
        return math.nan
    return math.log(value) if value > 0 else -math.inf
