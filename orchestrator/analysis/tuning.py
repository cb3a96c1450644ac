"""What was tuned for each arm: the budget given and spent, every value tried, and the values selected."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping

from orchestrator.analysis.trials import trials_of
from orchestrator.keys import FlatConfig
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialRecord, TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningPoint:
    """One tuning trial.

    Attributes:
        index: Of the trial in its arm's budget.
        point: Values of the tuned axes, by dotted key.
        value: Of the selection metric: the final one, or the last reported by a trial that was stopped; None where there is none.
        state: How the trial stands.
        steps: Optimizer steps that it reported.
        selected: The arm's replicates use this point.
    """

    index: int
    point: FlatConfig
    value: float | None
    state: TrialState
    steps: int
    selected: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmTuning:
    """The tuning of one arm.

    Attributes:
        arm: The arm.
        planned: Trials that the protocol gives it.
        spent: Trials that ended: complete, stopped, diverged or failed.
        states: Number of trials in each state met.
        steps: Optimizer steps spent, over all its tuning trials.
        selected: Chosen values by dotted key; None until tuning is finished.
        points: In the order of their index.
    """

    arm: str
    planned: int
    spent: int
    states: Mapping[TrialState, int]
    steps: int
    selected: FlatConfig | None
    points: tuple[TuningPoint, ...]


def tuning(record: StudyRecord) -> tuple[ArmTuning, ...]:
    """The tuning of each arm that has a budget or a tuning trial, in the order of the study file."""
    rows = (_arm(record, arm) for arm in record.arms)
    return tuple(row for row in rows if row.planned or row.points)


def _arm(record: StudyRecord, arm: ArmRecord) -> ArmTuning:
    points = tuple(_point(record, arm, trial) for trial in trials_of(record, arm.name, Phase.TUNE))
    return ArmTuning(
        arm=arm.name,
        planned=arm.tune_trials,
        spent=sum(point.state.is_terminal for point in points),
        states=Counter(point.state for point in points),
        steps=sum(point.steps for point in points),
        selected=arm.selected,
        points=points,
    )


def _point(record: StudyRecord, arm: ArmRecord, trial: TrialRecord) -> TuningPoint:
    reported = [rung.metrics[record.select] for rung in trial.rungs if record.select in rung.metrics]
    value: float | None = None
    if trial.state is TrialState.COMPLETE and record.select in trial.metrics:
        value = trial.metrics[record.select]
    elif trial.state is TrialState.STOPPED and reported:
        value = reported[-1]
    return TuningPoint(
        index=trial.index,
        point=trial.point,
        value=value if value is not None and math.isfinite(value) else None,
        state=trial.state,
        steps=trial.rungs[-1].step if trial.rungs else 0,
        selected=arm.selected is not None and dict(trial.point) == dict(arm.selected),
    )
