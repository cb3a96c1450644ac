"""Learning curves: mean and standard error of one metric at each rung, over the replicates of each arm."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

from orchestrator.analysis.summary import Mean, mean_of
from orchestrator.analysis.trials import trials_of
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One arm's curve.

    Attributes:
        arm: The arm.
        n: Replicates it is made of.
        steps: Optimizer steps, increasing.
        means: One for each step.
    """

    arm: str
    n: int
    steps: tuple[int, ...]
    means: tuple[Mean, ...]


def curves(record: StudyRecord, metric: str) -> tuple[Curve, ...]:
    """A curve for each arm that has one, in the order of the study file.

    Made of finished replicates; of unfinished ones only while an arm has no finished one, since a mean over replicates
    that stand at different steps jumps where one of them ends.
    """
    found: list[Curve] = []
    for arm in record.arms:
        trials = [trial for trial in trials_of(record, arm.name, Phase.REPLICATE) if any(metric in rung.metrics for rung in trial.rungs)]
        trials = [trial for trial in trials if trial.state is TrialState.COMPLETE] or trials
        if curve := _curve(arm.name, trials, metric):
            found.append(curve)
    return tuple(found)


def _curve(arm: str, trials: list[TrialRecord], metric: str) -> Curve | None:
    values: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        for rung in trial.rungs:
            if metric in rung.metrics and math.isfinite(rung.metrics[metric]):
                values[rung.step].append(rung.metrics[metric])
    steps = tuple(sorted(values))
    return Curve(arm=arm, n=len(trials), steps=steps, means=tuple(mean_of(values[step]) for step in steps)) if steps else None
