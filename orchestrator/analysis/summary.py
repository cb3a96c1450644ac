"""The arm table: mean and standard error of every metric over the finished replicates of every arm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from orchestrator.analysis.metrics import columns, final_value, is_cost
from orchestrator.analysis.trials import members_of, trials_of
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialState

ROUNDING = 1e-12  # share of a value that is left to rounding


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over replicates.

    Attributes:
        mean: NaN without values; infinite if a value is.
        se: Standard error: sample standard deviation (n - 1) over √n. NaN below two values, or if one is not finite.
        n: Number of values.
    """

    mean: float
    se: float
    n: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One row of the arm table.

    Attributes:
        name: Of the arm.
        baseline: It is what others are measured against.
        n: Finished replicates.
        planned: Replicates that the protocol gives it.
        means: Metric to its mean, for each column that the arm has values of.
    """

    name: str
    baseline: bool
    n: int
    planned: int
    means: Mapping[str, Mean]


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error of some values.

    >>> mean_of([1.0, 3.0])
    Mean(mean=2.0, se=1.0, n=2)
    """
    n = len(values)
    if n == 0:
        return Mean(mean=math.nan, se=math.nan, n=0)
    if not all(math.isfinite(value) for value in values):
        return Mean(mean=sum(values), se=math.nan, n=n)
    # Costs that all replicates share, and differences of arms that follow one another exactly, spread by rounding alone.
    if n == 1 or max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        return Mean(mean=values[0], se=math.nan if n == 1 else 0.0, n=n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Mean(mean=mean, se=math.sqrt(variance / n), n=n)


def replicate_values(record: StudyRecord, arm: str, metric: str) -> dict[int, float]:
    """The metric of each finished replicate of an arm, by the replicate's index."""
    done = (trial for trial in trials_of(record, arm, Phase.REPLICATE) if trial.state is TrialState.COMPLETE)
    found = {trial.index: final_value(trial, metric) for trial in done}
    return {index: value for index, value in found.items() if value is not None}


def paired_values(record: StudyRecord, first: str, second: str, metric: str) -> tuple[list[float], list[float]]:
    """Values of two arms over the same replicates of the study, position by position.

    A value of a derived arm is of several replicates. The other arm's is then the mean over the same ones: what it is over
    the same seeds. A group of which something is missing is left out.
    """
    _, pairs = paired_by_number(record, first, second, metric)
    return [pairs[number][0] for number in sorted(pairs)], [pairs[number][1] for number in sorted(pairs)]


def paired_by_number(record: StudyRecord, first: str, second: str, metric: str) -> tuple[int, dict[int, tuple[float, float]]]:
    """Replicates of the study that a pair is of, and each pair by its number: of replicates number · width to the next pair's."""
    spans = [members_of(record, name) for name in (first, second)]
    width = math.lcm(*spans)
    ours, theirs = (
        _averaged(replicate_values(record, name, metric), width // span) for name, span in zip((first, second), spans, strict=True)
    )
    return width, {number: (ours[number], theirs[number]) for number in ours.keys() & theirs.keys()}


def _averaged(values: dict[int, float], size: int) -> dict[int, float]:
    """Means of values that follow one another, so many together, of groups that are whole.

    >>> _averaged({0: 1.0, 1: 3.0, 2: 5.0, 4: 7.0, 5: 8.0}, 2)
    {0: 2.0, 2: 7.5}
    """
    if size == 1:
        return values
    groups: dict[int, list[float]] = {}
    for index, value in values.items():
        groups.setdefault(index // size, []).append(value)
    return {number: sum(group) / size for number, group in groups.items() if len(group) == size}


def summarise(record: StudyRecord, metrics: Sequence[str] | None = None) -> tuple[ArmSummary, ...]:
    """One row for each arm, in the order of the study file, in some metrics or in those of the arm table."""
    metrics = columns(record) if metrics is None else metrics
    return tuple(_row(record, arm, metrics) for arm in record.arms)


def means_of(record: StudyRecord, metric: str) -> dict[str, Mean]:
    """The mean of each arm that has one in a metric, in the order of the study file."""
    found = {arm.name: _mean(record, arm.name, metric) for arm in record.arms}
    return {name: mean for name, mean in found.items() if mean.n}


def _row(record: StudyRecord, arm: ArmRecord, metrics: Sequence[str]) -> ArmSummary:
    done = sum(trial.state is TrialState.COMPLETE for trial in trials_of(record, arm.name, Phase.REPLICATE))
    means: dict[str, Mean] = {}
    for metric in metrics:
        mean = _mean(record, arm.name, metric)
        if mean.n:
            means[metric] = mean
    return ArmSummary(name=arm.name, baseline=arm.baseline, n=done, planned=arm.replicates, means=means)


def _mean(record: StudyRecord, arm: str, metric: str) -> Mean:
    return mean_of(list(replicate_values(record, arm, metric).values()) or _known_cost(record, arm, metric))


def _known_cost(record: StudyRecord, arm: str, metric: str) -> list[float]:
    """A cost that all trials of the arm agree on, for an arm of which no replicate is finished."""
    if not is_cost(metric):
        return []
    trials = [trial for phase in Phase for trial in trials_of(record, arm, phase)]
    known = {trial.cost[metric] for trial in trials if metric in trial.cost}
    return list(known) if len(known) == 1 else []
