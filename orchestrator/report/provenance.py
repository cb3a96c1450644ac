"""Where the numbers come from, in rows of text: who trained what, with which versions, configs, seeds and effort."""

from __future__ import annotations

import dataclasses
from collections import Counter

from orchestrator.analysis.trials import trials_of
from orchestrator.analysis.tuning import ArmTuning, tuning
from orchestrator.keys import FlatConfig
from orchestrator.records import ArmRecord, Phase, StudyRecord, UpstreamRecord
from orchestrator.report.number import UNKNOWN, decimals_of_error, duration, fixed, plain, short
from orchestrator.report.words import counted, listed, state_words

_KEYS_SHOWN = 40
_NOUNS = {Phase.UPSTREAM: "upstream trials", Phase.TUNE: "tuning trials", Phase.REPLICATE: "replicates"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmOrigin:
    """How one arm was made.

    Attributes:
        arm: Its name.
        overrides: What it changes in the base config, `key = value`.
        selected: Values that tuning chose, `key = value`.
        cells: Keys of the cells that its replicates are of.
        seeds: Seeds of its replicates, in their order.
    """

    arm: str
    overrides: tuple[str, ...]
    selected: tuple[str, ...]
    cells: tuple[str, ...]
    seeds: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningRow:
    """What tuning gave one arm, as text."""

    arm: str
    budget: str
    outcomes: str
    steps: str
    best: str
    selected: tuple[str, ...]


def facts(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """Name and value of what holds for the whole study."""
    # Arms that resolve to one config share their trials.
    trials = tuple({trial.key: trial for trial in record.trained}.values())
    of_trials: dict[str, Counter[str]] = {}
    for trial in trials:
        for key, value in trial.provenance.items():
            of_trials.setdefault(key, Counter())[value] += 1
    # What every trial agrees on with the launcher is said once.
    trained = [
        (f"trained with: {key}", _values(counts)) for key, counts in of_trials.items() if list(counts) != [record.provenance.get(key)]
    ]
    return (
        ("study", record.name),
        *([("profile", record.profile)] if record.profile else []),
        ("trainer", f"{record.trainer}, version {record.version}"),
        *((f"launcher: {key}", value) for key, value in record.provenance.items()),
        *trained,
        ("trials", _trials(record)),
        (
            "worker time",
            f"{duration(sum(trial.elapsed_s for trial in trials))} over {counted(sum(trial.attempts for trial in trials), 'attempt')}",
        ),
        ("finished", _span(record)),
        ("signatures", counted(len({trial.signature for trial in trials}), "compiled program")),
    )


def origins(record: StudyRecord) -> tuple[ArmOrigin, ...]:
    """How each trained arm was made."""
    rows: list[ArmOrigin] = []
    for arm in (arm for arm in record.arms if not arm.is_derived):
        replicates = list(trials_of(record, arm.name, Phase.REPLICATE))
        cells = tuple(dict.fromkeys(trial.cell for trial in replicates))
        seeds = ", ".join(str(trial.seed) for trial in replicates[:_KEYS_SHOWN]) + (", …" if len(replicates) > _KEYS_SHOWN else "")
        selected = () if arm.selected is None else settings(arm.selected)
        rows.append(ArmOrigin(arm=arm.name, overrides=settings(arm.overrides), selected=selected, cells=cells, seeds=seeds))
    return tuple(rows)


def upstream_words(record: StudyRecord) -> tuple[str, ...]:
    """What each upstream is: nothing of it is in a table of arms."""
    return tuple(_upstream(record, row) for row in record.upstreams)


def _upstream(record: StudyRecord, row: UpstreamRecord) -> str:
    trials = trials_of(record, row.name, Phase.UPSTREAM)
    seeds = ", ".join(str(trial.seed) for trial in trials[:_KEYS_SHOWN]) + (", …" if len(trials) > _KEYS_SHOWN else "")
    whose = "shared by all that start from it" if row.seeds == "shared" else "one for each seed of what starts from it"
    keys = f", trial {trials[0].key}" if len(trials) == 1 else ""
    return (
        f"{row.name}: upstream, {whose}; {counted(row.trials, 'trial')} of seed {seeds or UNKNOWN}{keys}, "
        f"{'; '.join(settings(row.overrides)) or 'the base config'}. {listed(list(row.arms))} start from it."
    )


def derived_words(record: StudyRecord) -> tuple[str, ...]:
    """What each derived arm is."""
    replicates = {arm.name: arm.replicates for arm in record.arms}
    return tuple(_derived(arm, min(replicates[name] for name in arm.of)) for arm in record.arms if arm.is_derived)


def _derived(arm: ArmRecord, replicates: int) -> str:
    of = listed(list(arm.of))
    if arm.members == 1:
        return f"{arm.name}: the mean prediction of the same replicate of {of}; nothing was trained for it."
    parts = f"{arm.members} replicates of {of}" if len(arm.of) == 1 else f"{arm.members} replicates of each of {of}"
    left = replicates % arm.members
    return (
        f"{arm.name}: the mean prediction of {parts}; nothing was trained for it. Its n counts groups that share no replicate, and "
        "each is compared with the mean of another arm over the same replicates."
        + (f" The last {left} of {replicates} replicates fill no group, so its own mean is over fewer seeds than theirs." if left else "")
    )


def tuning_rows(record: StudyRecord) -> tuple[TuningRow, ...]:
    """The budget of each arm, what became of it, and what was chosen."""
    return tuple(_tuning_row(row) for row in tuning(record))


def settings(config: FlatConfig) -> tuple[str, ...]:
    """`key = value` for each key.

    >>> settings({"model.k": 2, "optim.learning_rate": 0.003})
    ('model.k = 2', 'optim.learning_rate = 0.003')
    """
    return tuple(f"{key} = {plain(value)}" for key, value in config.items())


def _tuning_row(row: ArmTuning) -> TuningRow:
    states = ", ".join(f"{count} {state_words(state.value)}" for state, count in row.states.items())
    chosen = [point.value for point in row.points if point.selected and point.value is not None]
    return TuningRow(
        arm=row.arm,
        budget=f"{row.spent} of {max(row.planned, len(row.points))}",
        outcomes=states or "none started",
        steps=f"{row.steps:,}",
        best=fixed(chosen[0], decimals_of_error(0.0)) if chosen else UNKNOWN,
        selected=() if row.selected is None else settings({key: short(value) for key, value in row.selected.items()}),
    )


def _values(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({counted(count, 'trial')})" for value, count in counts.most_common())


def _trials(record: StudyRecord) -> str:
    def of(phase: Phase) -> str:
        rows = [trial for trial in record.trained if trial.phase is phase]
        states = Counter(state_words(trial.state.value) for trial in rows)
        words = ", ".join(f"{count} {state}" for state, count in states.most_common())
        return f"{len(rows)} {_NOUNS[phase]}" + (f" ({words})" if rows else "")

    return "; ".join(of(phase) for phase in Phase if phase is not Phase.UPSTREAM or record.upstreams)


def _span(record: StudyRecord) -> str:
    ends = sorted(trial.finished_at for trial in record.trials if trial.finished_at)
    return f"{ends[0]} to {ends[-1]}" if ends else "nothing yet"
