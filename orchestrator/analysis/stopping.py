"""What rules stopped: every trial that ended at a rung, with the figures that decided, and what each arm's tuning spent."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.trials import trials_of
from orchestrator.analysis.tuning import tuning
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A tuning trial, or all replicates of an arm, that a rule stopped.

    Attributes:
        arm: The arm.
        index: Of the tuning trial; None for an arm.
        keys: Of the trials.
        steps: Optimizer steps that each of them did, the most of any.
        reason: Of the decision.
    """

    arm: str
    index: int | None
    keys: tuple[str, ...]
    steps: int
    reason: str


def stopped(record: StudyRecord) -> tuple[Stopped, ...]:
    """What was stopped, in the order of the plan."""
    rows: list[Stopped] = []
    for arm in record.arms:
        rows += [_row(arm.name, trial.index, [trial]) for trial in trials_of(record, arm.name, Phase.TUNE) if _is_stopped(trial)]
        ended = [trial for trial in trials_of(record, arm.name, Phase.REPLICATE) if _is_stopped(trial)]
        rows += [_row(arm.name, None, ended)] if ended else []
    return tuple(rows)


def stopped_arms(record: StudyRecord) -> frozenset[str]:
    """Arms that a rule stopped, replicates and all."""
    return frozenset(row.arm for row in stopped(record) if row.index is None)


def tuning_steps(record: StudyRecord) -> dict[str, int]:
    """Optimizer steps that the tuning of each arm spent."""
    return {row.arm: row.steps for row in tuning(record)}


def _is_stopped(trial: TrialRecord) -> bool:
    return trial.state is TrialState.STOPPED


def _row(arm: str, index: int | None, trials: list[TrialRecord]) -> Stopped:
    steps = max((trial.rungs[-1].step for trial in trials if trial.rungs), default=0)
    return Stopped(arm=arm, index=index, keys=tuple(trial.key for trial in trials), steps=steps, reason=trials[0].reason)
