"""The ways in which a lease ends, all through one function: finished, failed, parked at a rung, handed back, lost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from orchestrator.keys import canonical
from orchestrator.ledger.database import chunks
from orchestrator.ledger.lease import Held, held
from orchestrator.ledger.schema import attempts, memberships, trials, workers
from orchestrator.ledger.settle import settle
from orchestrator.ledger.states import check
from orchestrator.records import TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one lease ends.

    Attributes:
        held: The lease.
        outcome: State that the attempt ends in.
        then: State that the trial is left in: that of the attempt, or PLANNED when a failed one is tried again. One that is
            to wait or to pause is then settled: what its studies want of it decides.
        reason: Why.
        failures: Of the trial, this one included.
        losses: Of the trial, this one included.
        provenance: Of the attempt.
    """

    held: Held
    outcome: TrialState
    then: TrialState
    reason: str
    failures: int
    losses: int
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


_END = (
    sa.update(trials)
    .where(trials.c.key == sa.bindparam("of_key"), trials.c.fence == sa.bindparam("of_fence"), trials.c.state == TrialState.LEASED)
    .values(worker=None, expires_at=None)
)
_END_ATTEMPT = sa.update(attempts).where(attempts.c.trial == sa.bindparam("of_key"), attempts.c.fence == sa.bindparam("of_fence"))
_LEASES = sa.select(trials.c.worker, sa.func.count()).where(trials.c.worker.is_not(None)).group_by(trials.c.worker)


def end(connection: sa.Connection, endings: Sequence[Ending]) -> None:
    """Ends leases whose rows this transaction has locked."""
    if not endings:
        return
    for ending in endings:
        check(TrialState.LEASED, ending.outcome)
        if ending.then is not ending.outcome:
            check(ending.outcome, ending.then)
    ended = connection.execute(_END, [_trial(ending) for ending in endings])
    assert ended.rowcount == len(endings), "the rows were locked and leased"
    connection.execute(_END_ATTEMPT, [_attempt(ending) for ending in endings])
    settle(connection, [ending.held.key for ending in endings if not ending.then.is_terminal])


def park(connection: sa.Connection, worker: int, keys: Collection[str]) -> int:
    """Ends the leases of lanes that wait at a rung, their checkpoints being on disk; see `Ledger.park`."""
    rows = [row for row in held(connection, worker=worker) if row.key in keys and row.is_live]
    paused, reason = TrialState.PAUSED, "it waits at a rung"
    end(
        connection,
        [Ending(held=row, outcome=paused, then=paused, reason=reason, failures=row.failures, losses=row.losses) for row in rows],
    )
    return len(rows)


def release(connection: sa.Connection, worker: int, *, keys: Collection[str] | None, state: TrialState, reason: str) -> int:
    """Hands back what the worker holds, without holding it against the trials; see `Ledger.release`."""
    if not state.is_waiting:
        raise ValueError(f"a released trial waits again: {state} is not planned, preempted or lost")
    rows = [row for row in held(connection, worker=worker) if keys is None or row.key in keys]
    end(
        connection,
        [Ending(held=row, outcome=state, then=state, reason=reason, failures=row.failures, losses=row.losses) for row in rows],
    )
    return len(rows)


def fail(connection: sa.Connection, worker: int, key: str, fence: int, reason: str, *, max_failures: int) -> TrialState | None:
    """Ends an attempt that raised; see `Ledger.fail`."""
    rows = [row for row in held(connection, trials.c.key == key, worker=worker) if row.fence == fence and row.is_live]
    if not rows:
        return None
    failures = rows[0].failures + 1
    then = TrialState.FAILED if failures >= max_failures else TrialState.PLANNED
    end(
        connection,
        [Ending(held=rows[0], outcome=TrialState.FAILED, then=then, reason=reason, failures=failures, losses=rows[0].losses)],
    )
    return then


def expire(connection: sa.Connection, study: str, *, max_lost: int | None) -> list[str]:
    """Ends the study's expired leases as LOST; see `Ledger.expire`."""
    own = sa.select(memberships.c.trial).where(memberships.c.study == study, memberships.c.trial == trials.c.key).exists()
    rows = [row for row in held(connection, own) if not row.is_live]
    return _lose(connection, rows, "the lease expired: its worker was not heard of", max_lost)


def release_dead(connection: sa.Connection, study: str, worker_ids: Collection[int], *, max_lost: int | None) -> list[str]:
    """Ends the leases of dead workers as LOST; see `Ledger.release_dead`."""
    dead = sa.select(workers.c.id).where(workers.c.study == study, workers.c.id.in_(list(worker_ids)))
    rows = held(connection, trials.c.worker.in_(dead))
    return _lose(connection, rows, "its worker died", max_lost)


def retry(connection: sa.Connection, study: str) -> int:
    """FAILED trials of the study wait again, with a clean slate; how many."""
    own = sa.select(memberships.c.trial).where(memberships.c.study == study, memberships.c.orphaned == sa.false())
    failed = sa.select(trials.c.key).where(trials.c.state == TrialState.FAILED, trials.c.key.in_(own)).order_by(trials.c.key)
    keys = connection.execute(failed.with_for_update(of=trials)).scalars().all()
    check(TrialState.FAILED, TrialState.PLANNED)
    for some in chunks(keys):
        again = sa.update(trials).where(trials.c.key.in_(some), trials.c.state == TrialState.FAILED)
        connection.execute(again.values(state=TrialState.PLANNED, reason="", failures=0, losses=0))
    settle(connection, keys)
    return len(keys)


def _lose(connection: sa.Connection, rows: Sequence[Held], why: str, max_lost: int | None) -> list[str]:
    """Ends leases whose workers are gone. A trial that was alone at its worker's death often enough is what kills it."""
    if not rows:
        return []
    leases = Counter({worker: n for worker, n in connection.execute(_LEASES)})
    endings: list[Ending] = []
    for row in rows:
        losses = row.losses + (max_lost is not None)
        deadly = max_lost is not None and losses >= max_lost and leases[row.worker] == 1
        outcome = TrialState.FAILED if deadly else TrialState.LOST
        reason = f"{why}, and so did {losses - 1} before it, with no step gained; the trial was alone on it" if deadly else why
        endings.append(Ending(held=row, outcome=outcome, then=outcome, reason=reason, failures=row.failures, losses=losses))
    end(connection, endings)
    return [row.key for row in rows]


def _trial(ending: Ending) -> dict[str, object]:
    return {
        "of_key": ending.held.key,
        "of_fence": ending.held.fence,
        "state": ending.then,
        "reason": ending.reason,
        "failures": ending.failures,
        "losses": ending.losses,
    }


def _attempt(ending: Ending) -> dict[str, object]:
    return {
        "of_key": ending.held.key,
        "of_fence": ending.held.fence,
        "ended_at": min(ending.held.now, ending.held.expires_at),
        "outcome": ending.outcome,
        "reason": ending.reason,
        "provenance": canonical(dict(ending.provenance)),
    }
