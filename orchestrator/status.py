"""Where a study stands, from the ledger: for a person and for a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.keys import Json
from orchestrator.ledger import WorkerRow
from orchestrator.records import ArmRecord, StudyRecord, TrialRecord, TrialState

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


def status_table(record: StudyRecord, workers: Sequence[WorkerRow]) -> RenderableType:
    """A row for each arm, what failed and why, and who works."""
    table = Table(title=record.name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("arm", *(state.value for state in (*_COLUMNS, *_BAD)), "to follow"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in record.arms:
        counts = _counts(record, arm)
        cells = [str(counts[state] or "") for state in (*_COLUMNS, *_BAD)]
        table.add_row(Text(arm.name + (" *" if arm.baseline else "")), *cells, str(_to_follow(record, arm) or ""))
    lines = [
        Text(f"{row.arm}, {row.phase.value} {row.index} ({row.key}): {row.state.value}: {row.reason.partition(chr(10))[0]}")
        for row in _ended_badly(record)
    ]
    crew = [Text(f"{worker.identity}: pid {worker.pid} on {worker.host}, {worker.leases} trials") for worker in workers]
    return Group(table, *([Text("")] if lines or crew else []), *lines, *crew)


def status_json(record: StudyRecord, workers: Sequence[WorkerRow]) -> dict[str, Json]:
    """The same figures as one JSON document."""
    return {
        "study": record.name,
        "arms": [
            {
                "name": arm.name,
                "states": {state.value: count for state, count in sorted(_counts(record, arm).items())},
                "to_follow": _to_follow(record, arm),
            }
            for arm in record.arms
        ],
        "ended_badly": [
            {"key": row.key, "arm": row.arm, "phase": row.phase.value, "index": row.index, "state": row.state.value, "reason": row.reason}
            for row in _ended_badly(record)
        ],
        "workers": [
            {"identity": row.identity, "host": row.host, "pid": row.pid, "leases": row.leases, "seen_s": row.seen_s} for row in workers
        ],
    }


def _counts(record: StudyRecord, arm: ArmRecord) -> Counter[TrialState]:
    return Counter(row.state for row in record.trials if row.arm == arm.name)


def _to_follow(record: StudyRecord, arm: ArmRecord) -> int:
    """Trials that wait for a selection or for an adaptive sampler."""
    return arm.tune_trials + arm.replicates - sum(_counts(record, arm).values())


def _ended_badly(record: StudyRecord) -> list[TrialRecord]:
    return [row for row in record.trials if row.state in _BAD]
