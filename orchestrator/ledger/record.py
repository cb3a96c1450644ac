"""What workers measure: a rung of a whole pack is one transaction, and only the holder of a live lease writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from orchestrator.ledger.database import put
from orchestrator.ledger.ending import Ending, end
from orchestrator.ledger.lease import Held, held
from orchestrator.ledger.rows import Entry
from orchestrator.ledger.schema import artifacts, attempts, measurements, trials
from orchestrator.records import TrialState

Rungs = dict[int, Mapping[str, float]]

_REWIND = sa.delete(measurements).where(measurements.c.trial == sa.bindparam("of_trial"), measurements.c.step >= sa.bindparam("from_step"))
_MEASURE = sa.insert(measurements)
_ADVANCE = sa.update(trials).where(
    trials.c.key == sa.bindparam("of_key"), trials.c.fence == sa.bindparam("of_fence"), trials.c.state == TrialState.LEASED
)
# A report that comes a second time, as it does when the answer to the first one was lost, finds its lease ended, by itself.
_STANDS = sa.select(attempts.c.trial).where(*(attempts.c[name] == sa.bindparam(name) for name in ("trial", "fence", "worker", "outcome")))


def record(connection: sa.Connection, worker: int, entries: Sequence[Entry]) -> dict[str, bool]:
    """Writes the entries whose leases are live; see `Ledger.record`."""
    leases = {row.key: row for row in held(connection, worker=worker) if row.is_live}
    kept = [entry for entry in entries if entry.key in leases and leases[entry.key].fence == entry.fence]
    by_trial: dict[str, list[Entry]] = {}
    for entry in kept:
        said = by_trial.setdefault(entry.key, [])
        if said and said[-1].outcome is not None:
            raise ValueError(f"nothing is recorded of trial {entry.key} after its end")
        said.append(entry)
    _measure(connection, {key: _curve(said) for key, said in by_trial.items()}, leases)
    after = {key: _advanced(leases[key], said) for key, said in by_trial.items()}
    if after:
        connection.execute(_ADVANCE, list(after.values()))
    put(connection, artifacts, [row for entry in kept for row in _artifacts(entry)])
    end(connection, [_ending(leases[entry.key], entry, entry.outcome) for entry in kept if entry.outcome is not None])
    ended = [entry for entry in entries if entry.outcome is not None and entry.key not in by_trial]
    stands = {entry.key for entry in ended if connection.execute(_STANDS, _result(worker, entry)).first() is not None}
    return {entry.key: entry.key in by_trial or entry.key in stands for entry in entries}


def _artifacts(entry: Entry) -> list[dict[str, object]]:
    return [{"trial": entry.key, "name": name, "uri": uri, "sha256": entry.sha256.get(name, "")} for name, uri in entry.artifacts.items()]


def _result(worker: int, entry: Entry) -> dict[str, object]:
    return {"trial": entry.key, "fence": entry.fence, "worker": worker, "outcome": entry.outcome}


def _curve(said: Sequence[Entry]) -> tuple[int, Rungs]:
    """The step from which on the curve so far does not hold any more, and what takes its place."""
    begin, rungs = said[0].step + 1, Rungs()
    for entry in said:
        first = entry.step if entry.metrics else entry.step + 1
        rungs = {step: metrics for step, metrics in rungs.items() if step < first}
        if entry.metrics:
            rungs[entry.step] = entry.metrics
        begin = min(begin, first)
    return begin, rungs


def _measure(connection: sa.Connection, curves: Mapping[str, tuple[int, Rungs]], leases: Mapping[str, Held]) -> None:
    # A lane that goes on from a checkpoint says again what was said before its worker died, and what comes after
    # that checkpoint is no longer part of its curve.
    rewound = [{"of_trial": key, "from_step": begin} for key, (begin, _) in curves.items() if begin <= leases[key].step]
    if rewound:
        connection.execute(_REWIND, rewound)
    rows = [
        {"trial": key, "step": step, "name": name, "value": None if value != value else float(value)}
        for key, (_, rungs) in curves.items()
        for step, metrics in rungs.items()
        for name, value in metrics.items()
    ]
    if rows:
        connection.execute(_MEASURE, rows)


def _advanced(lease: Held, said: Sequence[Entry]) -> dict[str, object]:
    """What is known of a trial after a report. One that gets further than ever before is not what kills its workers."""
    furthest = max(lease.furthest_step, *(entry.step for entry in said))
    is_further = furthest > lease.furthest_step
    return {
        "of_key": lease.key,
        "of_fence": lease.fence,
        "step": said[-1].step,
        "furthest_step": furthest,
        "losses": 0 if is_further else lease.losses,
        "furthered": lease.fence if is_further else lease.furthered,
    }


def _ending(lease: Held, entry: Entry, outcome: TrialState) -> Ending:
    return Ending(
        held=lease,
        outcome=outcome,
        then=outcome,
        reason=entry.reason,
        losses=lease.losses,
        provenance=entry.provenance,
    )
