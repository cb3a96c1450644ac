"""Where a study stands, from the ledger and the workers' logs: for a person and for a machine."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.inputs import waiting_in_vain
from orchestrator.keys import Json
from orchestrator.ledger import BOUNDS, Trouble, WorkerRow
from orchestrator.records import ArmRecord, Cause, StudyRecord, TrialRecord, TrialState, UpstreamRecord

if TYPE_CHECKING:
    from orchestrator.analysis.rounds import Rounds

_COLUMNS = (
    TrialState.COMPLETE,
    TrialState.LEASED,
    TrialState.PLANNED,
    TrialState.PAUSED,
    TrialState.PREEMPTED,
    TrialState.LOST,
    TrialState.STOPPED,
)
_BAD = (TrialState.DIVERGED, TrialState.FAILED)
RAISED = "raised"  # follows a trial's key in the line of a log behind which the traceback stands


def status_table(record: StudyRecord, workers: Sequence[WorkerRow], troubles: Sequence[Trouble], logs: pathlib.Path) -> RenderableType:
    """A row for each arm, what went wrong and why, and who works.

    Args:
        record: The study.
        workers: Of it, that have not ended.
        troubles: Attempts that ended before their time.
        logs: Folder of the workers' logs.
    """
    table = Table(title=record.name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("arm", *(state.value for state in (*_COLUMNS, *_BAD)), "to follow"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    found = _counts(record)
    rows = [*((row, " (upstream)") for row in record.upstreams), *((arm, " *" if arm.baseline else "") for arm in record.arms)]
    for row, mark in rows:
        counts = found[row.name]
        cells = [str(counts[state] or "") for state in (*_COLUMNS, *_BAD)]
        table.add_row(Text(row.name + mark), *cells, str(_to_follow(row, counts) or ""))
    lines = [Text(line) for line in _lines(record, troubles, Logs(logs))]
    crew = [Text(f"{worker.identity}: pid {worker.pid} on {worker.host}, {worker.leases} trials") for worker in workers]
    return Group(table, *([Text("")] if lines or crew else []), *lines, *crew)


def status_json(record: StudyRecord, workers: Sequence[WorkerRow], troubles: Sequence[Trouble], logs: pathlib.Path) -> dict[str, Json]:
    """The same as one JSON document, with every attempt that ended before its time, forgiven ones too."""
    read, found = Logs(logs), _counts(record)
    return {
        "study": record.name,
        "arms": [
            {
                "name": arm.name,
                "states": {state.value: count for state, count in sorted(found[arm.name].items())},
                "to_follow": _to_follow(arm, found[arm.name]),
            }
            for arm in record.arms
        ],
        "adaptive": None if (rounds := _rounds(record)) is None else rounds.json(),
        "upstream": [
            {
                "name": row.name,
                "states": {state.value: count for state, count in sorted(found[row.name].items())},
                "to_follow": _to_follow(row, found[row.name]),
                "arms": list(row.arms),
            }
            for row in record.upstreams
        ],
        "ended_badly": [
            {
                "key": row.trial.key,
                "arm": row.trial.arm,
                "phase": row.trial.phase.value,
                "index": row.trial.index,
                "state": row.trial.state.value,
                "cause": "" if row.last is None else row.last.cause.value,
                "reason": row.trial.reason,
                "log": row.place(read),
            }
            for row in _rows(record, troubles)
            if row.trial.state in _BAD
        ],
        "causes": {cause.value: count for cause, count in _by_cause(troubles)},
        "troubles": [
            {**{name: str(value) for name, value in dataclasses.asdict(row).items()}, "attempt": row.attempt, "log": read.place_of(row)}
            for row in troubles
        ],
        "workers": [
            {"identity": row.identity, "host": row.host, "pid": row.pid, "leases": row.leases, "seen_s": row.seen_s} for row in workers
        ],
    }


class Logs:
    """The logs of a study's workers, as far as they are on this machine. Each is read once, when it is asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._lines: dict[pathlib.Path, Sequence[str]] = {}

    def place_of(self, trouble: Trouble) -> str:
        """Where to read on of an attempt that ended before its time, as `FILE:LINE`; empty where that is not known.

        That is the line behind which the trial's traceback stands; where its worker died, the last line that it wrote.
        """
        path = self._folder / f"{trouble.worker.rpartition('/')[2]}.log"
        lines = self._read(path)
        own = [number for number, line in enumerate(lines, 1) if trouble.trial in line]
        raised = [number for number in own if f" {RAISED} " in lines[number - 1]]
        if trouble.cause in (Cause.RAISED, Cause.OUT_OF_MEMORY) and raised:
            return f"{path}:{raised[-1]}"
        if trouble.cause in (Cause.RAISED, Cause.PREEMPTED):
            return f"{path}:{own[-1]}" if own else ""
        return f"{path}:{len(lines)}" if lines else ""

    def place_of_trial(self, key: str) -> str:
        """The last line that names a trial, in the log of whichever worker had it."""
        for path in sorted(self._folder.glob("worker-*.log"), reverse=True):
            if own := [number for number, line in enumerate(self._read(path), 1) if key in line]:
                return f"{path}:{own[-1]}"
        return ""

    def _read(self, path: pathlib.Path) -> Sequence[str]:
        if path not in self._lines:
            try:
                self._lines[path] = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:  # of a worker elsewhere, or tidied away
                self._lines[path] = ()
        return self._lines[path]


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A trial that something went wrong with.

    Attributes:
        trial: The trial.
        last: The last attempt that is held against it; None for one that diverged.
        count: Attempts that ended by that cause.
    """

    trial: TrialRecord
    last: Trouble | None
    count: int

    def place(self, logs: Logs) -> str:
        if self.last is None:
            return logs.place_of_trial(self.trial.key)
        return logs.place_of(self.last)

    def words(self, logs: Logs) -> str:
        trial, last = self.trial, self.last
        parts = [f"{trial.arm}, {trial.phase.value} {trial.index} ({trial.key})", trial.state.value]
        if last is not None:
            bound = BOUNDS[last.cause]
            times = f"attempt {self.count} of {bound}" if self.count <= bound else f"{self.count} attempts"
            parts.append(f"{last.cause.value}, {times}")
        reason = trial.reason if trial.state in _BAD or last is None else last.reason
        parts.append(reason.partition("\n")[0])
        return ": ".join(filter(None, [*parts, self.place(logs)]))


def _lines(record: StudyRecord, troubles: Sequence[Trouble], logs: Logs) -> Iterator[str]:
    yield from _rounds_lines(record)
    for row in _rows(record, troubles):
        yield row.words(logs)
    yield from waiting_in_vain(record)
    if causes := _by_cause(troubles):
        yield "attempts that ended early: " + ", ".join(f"{count} {cause.value}" for cause, count in causes)


def _rounds_lines(record: StudyRecord) -> Iterator[str]:
    """How far an adaptive study has settled what."""
    if (found := _rounds(record)) is not None:
        named = [f"{verdict.value}: {', '.join(names)}" for verdict in type(found.comparisons[0].verdict) if (names := found.arms(verdict))]
        yield f"replicates: {found}"
        yield from (f"  {line}" for line in named)


def _rounds(record: StudyRecord) -> Rounds | None:
    if record.adaptive is None:
        return None
    from orchestrator.analysis.adaptive import rounds_of  # the distributions take 0.3 s to import, and most studies need none

    return rounds_of(record)


def _rows(record: StudyRecord, troubles: Sequence[Trouble]) -> Iterator[_Row]:
    """Trials that ended badly, and those on their way that something is held against."""
    of_trial: dict[str, list[Trouble]] = collections.defaultdict(list)
    for trouble in troubles:
        if trouble.cause.blames_trial:
            of_trial[trouble.trial].append(trouble)
    for trial in record.trained:
        own = of_trial[trial.key]
        if trial.state in _BAD or (own and not trial.state.is_terminal):
            # What diverged was not ended by the worker that it lost before.
            last = own[-1] if own and trial.state is not TrialState.DIVERGED else None
            yield _Row(trial, last, sum(row.cause is last.cause for row in own) if last is not None else 0)


def _by_cause(troubles: Sequence[Trouble]) -> list[tuple[Cause, int]]:
    return Counter(trouble.cause for trouble in troubles).most_common()


def _counts(record: StudyRecord) -> dict[str, Counter[TrialState]]:
    """Trials in each state, of each arm."""
    counts = {row.name: Counter[TrialState]() for row in (*record.upstreams, *record.arms)}
    for row in record.trials:
        counts.setdefault(row.arm, Counter())[row.state] += 1
    return counts


def _to_follow(row: ArmRecord | UpstreamRecord, counts: Counter[TrialState]) -> int:
    """Trials that wait for a selection, for an adaptive sampler, or for what they start from."""
    planned = row.trials if isinstance(row, UpstreamRecord) else row.tune_trials + row.replicates
    return planned - counts.total()
