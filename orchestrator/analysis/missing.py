"""What a study still lacks: replicates and tuning trials that are not finished, and why."""

from __future__ import annotations

import dataclasses
from collections import Counter

from orchestrator.analysis.trials import trials_of
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialRecord, TrialState

NOT_PLANNED = "not planned yet"  # replicates are planned once their arm's tuning is finished


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why some trials are missing.

    Attributes:
        state: Their state, or `NOT_PLANNED` for those without a trial.
        reason: First line of the recorded reason; empty where none was given.
        count: How many.
    """

    state: str
    reason: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What one arm lacks in one phase.

    Attributes:
        arm: The arm.
        phase: Tuning or replicates.
        planned: Trials that the protocol gives it.
        count: Trials that are missing, the sum over the causes.
        causes: Most frequent first.
    """

    arm: str
    phase: Phase
    planned: int
    count: int
    causes: tuple[Cause, ...]


def missing(record: StudyRecord) -> tuple[Missing, ...]:
    """One entry for each arm and phase that is not whole, in the order of the study file.

    A replicate counts when it is complete, or was stopped with its arm. A tuning trial counts when it is complete, stopped or
    diverged: it has said what it was asked.
    """
    entries = (_entry(record, arm, phase) for arm in record.arms for phase in (Phase.TUNE, Phase.REPLICATE))
    return tuple(entry for entry in entries if entry.count)


def _entry(record: StudyRecord, arm: ArmRecord, phase: Phase) -> Missing:
    trials = list(trials_of(record, arm.name, phase))
    planned = max(len(trials), arm.tune_trials if phase is Phase.TUNE else arm.replicates)
    counts = Counter((trial.state.value, first_line(trial.reason)) for trial in trials if not _counts(trial))
    if planned > len(trials):
        counts[(NOT_PLANNED, _stuck(record, arm.name))] = planned - len(trials)
    causes = [Cause(state=state, reason=reason, count=count) for (state, reason), count in counts.items()]
    causes.sort(key=lambda cause: (-cause.count, cause.state, cause.reason))
    return Missing(arm=arm.name, phase=phase, planned=planned, count=sum(counts.values()), causes=tuple(causes))


def _stuck(record: StudyRecord, arm: str) -> str:
    """Why trials of an arm are never planned: what they start from came to nothing. Empty where it did not."""
    for row in (row for row in record.upstreams if arm in row.arms):
        for trial in trials_of(record, row.name, Phase.UPSTREAM):
            if trial.state in (TrialState.FAILED, TrialState.DIVERGED):
                return f"they start from upstream {row.name}, which {_ENDED[trial.state]}: {first_line(trial.reason)}"
    return ""


_ENDED = {TrialState.FAILED: "failed", TrialState.DIVERGED: "diverged"}


def first_line(reason: str) -> str:
    """The first line of a reason that may hold a traceback."""
    return reason.strip().split("\n", 1)[0]


def _counts(trial: TrialRecord) -> bool:
    if trial.phase is Phase.REPLICATE:
        return trial.state in (TrialState.COMPLETE, TrialState.STOPPED)
    return trial.state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED)
