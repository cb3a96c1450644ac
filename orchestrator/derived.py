"""Derived arms: groups of finished trials, put into a study's record as complete trials, so that nothing that reads it needs to know.

Groups are disjoint. Overlapping ones, of which there are many more, would share members: their results would move together, and
the standard error over them would come out too small.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.contract import PREDICTIONS, Combiner, Trainer
from orchestrator.errors import DataError
from orchestrator.keys import content_key
from orchestrator.ledger import Ledger
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialRecord, TrialState

#: Final metrics of the mean of what some trials predict.
Combine = Callable[[Sequence[TrialRecord]], Mapping[str, float]]


def standing(record: StudyRecord) -> StudyRecord:
    """The record with the replicates of its derived arms, as far as their trials are planned; nothing is read or measured."""
    return _extended(record, lambda _: {})


def measured(record: StudyRecord, trainer: Trainer, ledger: Ledger, out: pathlib.Path) -> StudyRecord:
    """The record with the replicates of its derived arms and their metrics.

    One whose predictions cannot be read has failed, and its reason says how to get them back.

    Args:
        record: As the ledger gives it.
        trainer: Which it names.
        ledger: Knows where the predictions are.
        out: Folder that their paths are relative to.
    """
    wanted = {trial.key for _, _, group in _groups(record) for trial in group}
    files = {row.trial: out / row.uri for row in (ledger.artifacts(wanted) if wanted else ()) if row.name == PREDICTIONS}

    def combine(group: Sequence[TrialRecord]) -> Mapping[str, float]:
        if not isinstance(trainer, Combiner):
            raise DataError(f"the trainer {trainer.name} cannot average predictions", fix="add `combine` to it: docs/trainers.md")
        if trainer.version != record.version:  # whose configs have other keys, and whose files may say other things
            raise DataError(
                f"these trials were trained by version {record.version} of {trainer.name}",
                found=f"version {trainer.version}, which does not read their predictions",
                fix="run the study again",
            )
        for trial in group:
            if trial.key not in files:
                raise DataError(
                    f"trial {trial.key} left no predictions",
                    found="no such artifact in the ledger, as of trials of an earlier version or a disk that was full",
                    fix="train it again under another --out",
                )
        return trainer.combine([files[trial.key] for trial in group], [trial.key for trial in group], group[0].config)

    return _extended(record, combine)


def damaged(record: StudyRecord, trainer: Trainer, ledger: Ledger, out: pathlib.Path) -> dict[str, str]:
    """Complete trials whose predictions can no longer be read, by key, and why. Those that never left any are not among them.

    Args:
        record: As the ledger gives it.
        trainer: Which it names.
        ledger: Knows where the predictions are.
        out: Folder that their paths are relative to.
    """
    if not isinstance(trainer, Combiner) or trainer.version != record.version:
        return {}
    complete = {trial.key: trial for trial in record.trials if trial.state is TrialState.COMPLETE}
    found: dict[str, str] = {}
    for row in ledger.artifacts(complete):
        if row.name == PREDICTIONS:
            try:
                trainer.combine([out / row.uri], [row.trial], complete[row.trial].config)
            except DataError as error:
                found[row.trial] = _in_a_line(error)
    return found


def _extended(record: StudyRecord, combine: Combine) -> StudyRecord:
    derived = [_trial(arm, number, group, combine) for arm, number, group in _groups(record)]
    return dataclasses.replace(record, trials=(*record.trials, *derived)) if derived else record


def _groups(record: StudyRecord) -> Iterator[tuple[ArmRecord, int, list[TrialRecord]]]:
    """Each derived arm, the number of each of its groups, and its trials; without groups that are not planned whole."""
    if not any(arm.is_derived for arm in record.arms):
        return
    places = {(trial.arm, trial.index): trial for trial in record.trials if trial.phase is Phase.REPLICATE}
    for arm in (arm for arm in record.arms if arm.is_derived):
        for number in range(arm.replicates):
            indices = range(number * arm.members, (number + 1) * arm.members)
            group = [places[name, index] for name in arm.of for index in indices if (name, index) in places]
            if len(group) == len(arm.of) * arm.members:
                yield arm, number, group


def _trial(arm: ArmRecord, number: int, group: Sequence[TrialRecord], combine: Combine) -> TrialRecord:
    state, reason = _state(group)
    metrics: Mapping[str, float] = {}
    if state is TrialState.COMPLETE:
        try:
            metrics = combine(group)
        except DataError as error:
            state, reason = TrialState.FAILED, _in_a_line(error)
    costs = {name: sum(trial.cost[name] for trial in group) for name in group[0].cost if all(name in trial.cost for trial in group)}
    is_complete = state is TrialState.COMPLETE
    return TrialRecord(
        key=content_key({"mean of": [trial.key for trial in group]}),
        cell="",
        arm=arm.name,
        phase=Phase.REPLICATE,
        index=number,
        seed=group[0].seed,
        config=group[0].config,
        point=group[0].point,
        state=state,
        reason=reason,
        signature="",
        cost=costs,
        metrics={**costs, **metrics} if is_complete else {},
        rungs=(),
        attempts=0,
        elapsed_s=0.0,
        finished_at=max(trial.finished_at for trial in group) if is_complete else "",
        provenance={},
    )


def _state(group: Sequence[TrialRecord]) -> tuple[TrialState, str]:
    """What the states of its trials make a group, and why."""
    for states, state in (
        ((TrialState.FAILED, TrialState.DIVERGED), TrialState.FAILED),
        ((TrialState.STOPPED,), TrialState.STOPPED),
    ):
        for trial in group:
            if trial.state in states:
                return state, f"replicate {trial.index} of {trial.arm} {_ENDINGS[trial.state]}"
    return (TrialState.COMPLETE if all(trial.state is TrialState.COMPLETE for trial in group) else TrialState.PLANNED), ""


_ENDINGS = {TrialState.FAILED: "failed", TrialState.DIVERGED: "diverged", TrialState.STOPPED: "was stopped"}


def _in_a_line(error: DataError) -> str:
    """A problem as a reason that tables show."""
    problem = error.problems[0]
    words = ": ".join(filter(None, (problem.what, problem.found)))
    return " ".join((f"{words}; to get it back: {problem.fix}" if problem.fix else words).split())
