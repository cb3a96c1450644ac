"""The ways in which a lease ends, all through one function: finished, failed, parked at a rung, handed back, lost."""

from __future__ import annotations

import dataclasses
import types
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from orchestrator.keys import canonical
from orchestrator.ledger.codec import moment
from orchestrator.ledger.database import chunks
from orchestrator.ledger.lease import Held, held
from orchestrator.ledger.rows import Trouble
from orchestrator.ledger.schema import attempts, memberships, trials, workers
from orchestrator.ledger.settle import settle
from orchestrator.ledger.states import check
from orchestrator.records import Cause, TrialState

# How often a trial is tried again after each cause: so many attempts that ended by it, and the trial has failed. Where a process
# died, only those count since when the trial got no further, and only with the trial alone on its worker at last. A SIGKILL or a
# silence may well come from outside, so these are let pass more often.
BOUNDS: Mapping[Cause, int] = types.MappingProxyType(
    {Cause.RAISED: 3, Cause.OUT_OF_MEMORY: 3, Cause.CRASHED: 3, Cause.KILLED: 6, Cause.LOST: 6}
)
_IN_PROCESS = (Cause.RAISED,)
_RELEASED: Mapping[TrialState, Cause | None] = {TrialState.PLANNED: None, TrialState.PREEMPTED: Cause.PREEMPTED}
_WHY: Mapping[Cause, str] = {
    Cause.OUT_OF_MEMORY: "its worker ran out of memory and was killed",
    Cause.CRASHED: "its worker crashed",
    Cause.KILLED: "its worker was killed",
    Cause.LOST: "the lease expired: its worker was not heard of",
    Cause.ORPHANED: "its worker died with its launcher",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one lease ends.

    Attributes:
        held: The lease.
        outcome: State that the attempt ends in.
        then: State that the trial is left in: that of the attempt, or PLANNED when a failed one is tried again. One that is
            to wait or to pause is then settled: what its studies want of it decides.
        reason: Why.
        losses: Of the trial, this one included.
        cause: Why it ended before its time; None for an end that was meant.
        provenance: Of the attempt.
    """

    held: Held
    outcome: TrialState
    then: TrialState
    reason: str
    losses: int
    cause: Cause | None = None
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
    end(connection, [Ending(held=row, outcome=paused, then=paused, reason=reason, losses=row.losses) for row in rows])
    return len(rows)


def release(connection: sa.Connection, worker: int, *, keys: Collection[str] | None, state: TrialState, reason: str) -> int:
    """Hands back what the worker holds, without holding it against the trials; see `Ledger.release`."""
    if state not in _RELEASED:
        raise ValueError(f"a released trial waits again: {state} is neither planned nor preempted")
    rows = [row for row in held(connection, worker=worker) if keys is None or row.key in keys]
    cause = _RELEASED[state]
    end(connection, [Ending(held=row, outcome=state, then=state, reason=reason, losses=row.losses, cause=cause) for row in rows])
    return len(rows)


def fail(
    connection: sa.Connection, worker: int, key: str, fence: int, reason: str, *, cause: Cause, bounds: Mapping[Cause, int]
) -> TrialState | None:
    """Ends an attempt that raised; see `Ledger.fail`."""
    rows = [row for row in held(connection, trials.c.key == key, worker=worker) if row.fence == fence and row.is_live]
    if not rows:
        return None
    before = _blamed(connection, [key], cause)[key]
    then = TrialState.FAILED if before + 1 >= bounds[cause] else TrialState.PLANNED
    end(connection, [Ending(held=rows[0], outcome=TrialState.FAILED, then=then, reason=reason, losses=rows[0].losses, cause=cause)])
    return then


def expire(connection: sa.Connection, study: str, *, bounds: Mapping[Cause, int]) -> list[str]:
    """Ends the study's expired leases as LOST; see `Ledger.expire`."""
    own = sa.select(memberships.c.trial).where(memberships.c.study == study, memberships.c.trial == trials.c.key).exists()
    rows = [row for row in held(connection, own) if not row.is_live]
    return _lose(connection, rows, dict.fromkeys({row.worker for row in rows}, Cause.LOST), bounds)


def release_dead(connection: sa.Connection, study: str, causes: Mapping[int, Cause], *, bounds: Mapping[Cause, int]) -> list[str]:
    """Ends the leases of dead workers as LOST; see `Ledger.release_dead`."""
    dead = sa.select(workers.c.id).where(workers.c.study == study, workers.c.id.in_(list(causes)))
    return _lose(connection, held(connection, trials.c.worker.in_(dead)), causes, bounds)


def retry(connection: sa.Connection, study: str) -> int:
    """FAILED trials of the study wait again, with a clean slate; how many."""
    own = sa.select(memberships.c.trial).where(memberships.c.study == study, memberships.c.orphaned == sa.false())
    failed = sa.select(trials.c.key).where(trials.c.state == TrialState.FAILED, trials.c.key.in_(own)).order_by(trials.c.key)
    keys = connection.execute(failed.with_for_update(of=trials)).scalars().all()
    check(TrialState.FAILED, TrialState.PLANNED)
    for some in chunks(keys):
        again = sa.update(trials).where(trials.c.key.in_(some), trials.c.state == TrialState.FAILED)
        connection.execute(again.values(state=TrialState.PLANNED, reason="", losses=0, retried=trials.c.fence))
    settle(connection, keys)
    return len(keys)


def redo(connection: sa.Connection, keys: Sequence[str]) -> int:
    """Complete trials wait again; see `Ledger.redo`."""
    check(TrialState.COMPLETE, TrialState.PLANNED)
    n_again = 0
    for some in chunks(keys):
        again = sa.update(trials).where(trials.c.key.in_(some), trials.c.state == TrialState.COMPLETE)
        n_again += connection.execute(again.values(state=TrialState.PLANNED, reason="", losses=0, retried=trials.c.fence)).rowcount
    settle(connection, keys)
    return n_again


def troubles(connection: sa.Connection, study: str) -> tuple[Trouble, ...]:
    """Attempts at the study's trials that ended before their time; see `Ledger.troubles`."""
    own = sa.select(memberships.c.trial).where(memberships.c.study == study, memberships.c.trial == attempts.c.trial)
    query = (
        sa.select(
            attempts.c.trial, attempts.c.fence, attempts.c.cause, attempts.c.reason, workers.c.identity, workers.c.host, attempts.c.ended_at
        )
        .join_from(attempts, workers)
        .where(attempts.c.cause != "", own.exists())
        .order_by(attempts.c.ended_at, attempts.c.trial, attempts.c.fence)
    )
    return tuple(
        Trouble(trial=trial, attempt=fence, cause=Cause(cause), reason=reason, worker=identity, host=host, at=moment(at))
        for trial, fence, cause, reason, identity, host, at in connection.execute(query)
    )


def _lose(connection: sa.Connection, rows: Sequence[Held], causes: Mapping[int, Cause], bounds: Mapping[Cause, int]) -> list[str]:
    """Ends leases whose workers are gone. A trial that was alone at its worker's death often enough is what kills it."""
    if not rows:
        return []
    leases = Counter({worker: n for worker, n in connection.execute(_LEASES)})
    before = {cause: _blamed(connection, [row.key for row in rows], cause) for cause in set(causes.values())}
    endings: list[Ending] = []
    for row in rows:
        cause = causes[row.worker]
        deaths = before[cause][row.key] + 1
        deadly = cause.blames_trial and deaths >= bounds[cause] and leases[row.worker] == 1
        outcome = TrialState.FAILED if deadly else TrialState.LOST
        why = _WHY[cause]
        reason = f"{why}, {deaths} times with no step gained; at last the trial was alone on it" if deadly else why
        losses = row.losses + cause.blames_trial
        endings.append(Ending(held=row, outcome=outcome, then=outcome, reason=reason, losses=losses, cause=cause))
    end(connection, endings)
    return [row.key for row in rows]


def _blamed(connection: sa.Connection, keys: Sequence[str], cause: Cause) -> Counter[str]:
    """Attempts of each trial that ended by the cause, since it was last retried, and of deaths since it last got further."""
    since = attempts.c.fence > trials.c.retried
    if cause not in _IN_PROCESS:
        since = sa.and_(since, attempts.c.fence >= trials.c.furthered)
    count = sa.select(attempts.c.trial, sa.func.count()).join_from(attempts, trials).where(attempts.c.cause == cause, since)
    count = count.group_by(attempts.c.trial)
    return Counter({key: n for some in chunks(keys) for key, n in connection.execute(count.where(attempts.c.trial.in_(some)))})


def _trial(ending: Ending) -> dict[str, object]:
    return {
        "of_key": ending.held.key,
        "of_fence": ending.held.fence,
        "state": ending.then,
        "reason": ending.reason,
        "losses": ending.losses,
    }


def _attempt(ending: Ending) -> dict[str, object]:
    return {
        "of_key": ending.held.key,
        "of_fence": ending.held.fence,
        "ended_at": min(ending.held.now, ending.held.expires_at),
        "outcome": ending.outcome,
        "reason": ending.reason,
        "cause": "" if ending.cause is None else ending.cause,
        "provenance": canonical(dict(ending.provenance)),
    }
