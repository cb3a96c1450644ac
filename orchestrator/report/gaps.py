"""What is missing and what went wrong, in words."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.analysis.missing import Missing, first_line, missing
from orchestrator.analysis.trials import trials_of
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report.words import cause_words, counted, listed, state_words

_NOUNS = {Phase.UPSTREAM: "upstream trials", Phase.TUNE: "tuning trials", Phase.REPLICATE: "replicates"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """What stands above the table of a study that is not whole: one line, then one for each arm and phase."""

    headline: str
    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """A trial that ended without a result, or took more than one attempt to get one."""

    key: str
    arm: str
    place: str
    state: str
    attempts: int
    causes: str
    reason: str


def banner(record: StudyRecord) -> Banner | None:
    """None for a study of which every replicate and every tuning trial is there."""
    entries = missing(record)
    if not entries:
        return None
    parts: list[str] = []
    for phase in (Phase.REPLICATE, Phase.TUNE):
        lacking = sum(entry.count for entry in entries if entry.phase is phase)
        if lacking:
            parts.append(f"{lacking} of {_planned(record, phase)} {_NOUNS[phase]}")
    headline = f"Incomplete: {' and '.join(parts)} missing. Every number below is over what is finished."
    return Banner(headline=headline, lines=tuple(_lines(entries)))


def mishaps(record: StudyRecord) -> tuple[Mishap, ...]:
    """Trials that failed or diverged, and those that needed more than one attempt, in the order of the plan."""
    return tuple(
        Mishap(
            key=trial.key,
            arm=trial.arm,
            place=f"{_NOUNS[trial.phase].removesuffix('s')} {trial.index}",
            state=state_words(trial.state.value),
            attempts=trial.attempts,
            causes=cause_words(trial.causes),
            reason=first_line(trial.reason),
        )
        for trial in record.trained
        if trial.state in (TrialState.FAILED, TrialState.DIVERGED) or _was_tried_again(trial)
    )


def mishap_words(record: StudyRecord) -> str:
    """What happened, in a sentence or two; empty for a study of which every trial ended well at the first attempt."""
    trials = tuple({trial.key: trial for trial in record.trained}.values())
    parts = [
        f"{counted(sum(trial.state is state for trial in trials), 'trial')} {state_words(state.value)}"
        for state in (TrialState.FAILED, TrialState.DIVERGED)
        if any(trial.state is state for trial in trials)
    ]
    causes = [cause for trial in trials for cause in trial.causes]
    told = Counter(cause.value for cause in causes)
    words = [f"{listed(parts)}."] if parts else []
    if told:
        words.append(f"{counted(len(causes), 'attempt')} ended early: {', '.join(f'{n} {cause}' for cause, n in told.most_common())}.")
    return " ".join(words)


def _was_tried_again(trial: TrialRecord) -> bool:
    """One attempt is usual, beside those that ended at a rung as they should."""
    return trial.attempts - trial.pauses > (0 if trial.state in (TrialState.PAUSED, TrialState.STOPPED) else 1)


def _lines(entries: Sequence[Missing]) -> Iterator[str]:
    """One line for all arms that lack the same for the same reasons."""
    groups: dict[tuple[object, ...], list[Missing]] = {}
    for entry in entries:
        groups.setdefault((entry.phase, entry.planned, entry.causes), []).append(entry)
    for alike in groups.values():
        entry, names = alike[0], [entry.arm for entry in alike]
        who = f"{names[0]} lacks" if len(names) == 1 else f"{len(names)} arms ({listed(names)}) each lack"
        causes = [f"{cause.count} {state_words(cause.state)}" + (f" ({cause.reason})" if cause.reason else "") for cause in entry.causes]
        yield f"{who} {entry.count} of {entry.planned} {_NOUNS[entry.phase]}: {', '.join(causes)}"


def _planned(record: StudyRecord, phase: Phase) -> int:
    """At least what the protocol gives; more where the ledger holds more."""
    given = {arm.name: arm.tune_trials if phase is Phase.TUNE else arm.replicates for arm in record.arms}
    return sum(max(count, len(trials_of(record, name, phase))) for name, count in given.items())
