"""Leases: who may work on a trial, until when, and which of two claims is the later one."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from orchestrator.keys import FlatConfig
from orchestrator.ledger.codec import to_config
from orchestrator.ledger.rows import Leased
from orchestrator.ledger.schema import SECONDS, attempts, cells, in_state, memberships, now, trials, workers
from orchestrator.ledger.states import predecessors
from orchestrator.records import TrialState

# Losses of a trial (workers that died with it) that are put down to chance: up to here it shares a full pack.
FREE_LOSSES = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A leased trial, and the moment of the database's clock at which it was looked at."""

    key: str
    fence: int
    worker: int
    expires_at: float
    step: int
    furthest_step: int
    losses: int
    furthered: int
    now: float

    @property
    def is_live(self) -> bool:
        """The lease has not expired."""
        return self.expires_at > self.now


_may_lease = in_state(predecessors(TrialState.LEASED))
_HELD = (
    sa.select(
        trials.c.key,
        trials.c.fence,
        trials.c.worker,
        trials.c.expires_at,
        trials.c.step,
        trials.c.furthest_step,
        trials.c.losses,
        trials.c.furthered,
        now(),
    )
    # Leased trials, as the table's checks say; in this form, and in this order, SQLite reads the few rows of ix_trials_leases.
    .where(trials.c.worker > 0)
    # Always in one order, so that two transactions that hold the same rows never wait for each other.
    .order_by(trials.c.worker, trials.c.key)
    .with_for_update(of=trials)
)
_BY_WORKER = _HELD.where(trials.c.worker == sa.bindparam("worker"))
_LOAD = (
    sa.select(workers.c.study, workers.c.ended_at, sa.func.count(trials.c.key), sa.func.coalesce(sa.func.max(trials.c.losses), 0))
    .select_from(workers.outerjoin(trials, trials.c.worker == workers.c.id))
    .where(workers.c.id == sa.bindparam("worker"))
    .group_by(workers.c.id, workers.c.study, workers.c.ended_at)
)
_in_queue = sa.and_(memberships.c.study == sa.bindparam("study"), memberships.c.waiting == sa.true())
_WAITING = (
    sa.select(memberships.c.signature, sa.func.count(), sa.func.min(memberships.c.position))
    .where(_in_queue)
    .group_by(memberships.c.signature)
)
_WAITING_OF = sa.select(sa.func.count()).where(_in_queue, memberships.c.signature == sa.bindparam("signature"))
# No further than it matters: a worker asks this whenever a lane falls free.
_first_waiting = sa.select(memberships.c.trial).where(_in_queue).limit(sa.bindparam("most")).subquery()
_WAITING_UP_TO = sa.select(sa.func.count()).select_from(_first_waiting)
_LEASED = (
    sa.select(sa.func.count())
    .select_from(trials.join(workers, trials.c.worker == workers.c.id))
    .where(trials.c.worker > 0, workers.c.study == sa.bindparam("study"))
)
_TAKEN = (
    sa.select(cells.c.signature)
    .distinct()
    .select_from(trials.join(cells).join(workers, trials.c.worker == workers.c.id))
    .where(workers.c.study == sa.bindparam("study"), trials.c.worker != sa.bindparam("worker"), trials.c.expires_at > now())
)
_somebodys = sa.select(memberships.c.trial).where(
    memberships.c.trial == trials.c.key, memberships.c.orphaned == sa.false(), memberships.c.dropped == ""
)
_UNWANTED = sa.select(trials.c.key).where(trials.c.worker == sa.bindparam("worker"), sa.not_(_somebodys.exists()))
_READY = (
    sa.select(trials.c.key, trials.c.fence, trials.c.seed, trials.c.losses, cells.c.config)
    .select_from(memberships.join(trials).join(cells))
    .where(_in_queue, memberships.c.signature == sa.bindparam("signature"), _may_lease, trials.c.losses <= sa.bindparam("most_losses"))
    .order_by(memberships.c.position)
    .limit(sa.bindparam("n"))
)
# Two workers that ask at once take different trials. When others hold all that waits, wait for what they leave.
_CANDIDATES = (_READY.with_for_update(of=trials, skip_locked=True), _READY.with_for_update(of=trials))
_CLAIM = (
    sa.update(trials)
    .where(trials.c.key == sa.bindparam("of_key"), trials.c.fence == sa.bindparam("of_fence"), _may_lease)
    .values(
        state=TrialState.LEASED,
        reason="",
        fence=trials.c.fence + 1,
        worker=sa.bindparam("of_worker"),
        expires_at=now() + sa.bindparam("lease_s", type_=SECONDS),
    )
)
_BEGIN = sa.insert(attempts).values(
    trial=sa.bindparam("of_key"),
    fence=sa.bindparam("of_fence", type_=sa.Integer()) + 1,
    worker=sa.bindparam("of_worker"),
    leased_at=now(),
    outcome=TrialState.LEASED,
    reason="",
    provenance="{}",
)
_UNTIL = sa.select(memberships.c.trial, memberships.c.until).where(_in_queue)
_LEAVE_QUEUE = sa.update(memberships).where(memberships.c.trial == sa.bindparam("of_key")).values(waiting=False)
_SEEN = sa.update(workers).where(workers.c.id == sa.bindparam("of_worker")).values(seen_at=now())
_SEEN_ON = _SEEN.values(signature=sa.bindparam("on_signature"))
_RENEW = (
    sa.update(trials)
    .where(trials.c.key == sa.bindparam("of_key"), trials.c.fence == sa.bindparam("of_fence"))
    .values(expires_at=now() + sa.bindparam("lease_s", type_=SECONDS))
)


def held(connection: sa.Connection, *conditions: sa.ColumnElement[bool], worker: int | None = None) -> list[Held]:
    """Leased trials that meet the conditions, locked until the transaction ends."""
    query, given = (_HELD, {}) if worker is None else (_BY_WORKER, {"worker": worker})
    rows = connection.execute(query.where(*conditions) if conditions else query, given)
    return [
        Held(
            key=key,
            fence=fence,
            worker=holder,
            expires_at=expires_at,
            step=step,
            furthest_step=furthest_step,
            losses=losses,
            furthered=furthered,
            now=moment,
        )
        for key, fence, holder, expires_at, step, furthest_step, losses, furthered, moment in rows
    ]


def lease(connection: sa.Connection, study: str, worker: int, n: int, *, signature: str | None, lease_s: float) -> list[Leased]:
    """Up to `n` waiting trials of one signature, in the order of the plan; see `Ledger.lease`."""
    load = connection.execute(_LOAD, {"worker": worker}).first()
    if load is None or load[0] != study:
        raise ValueError(f"worker {worker} is not registered for study {study!r}")
    _, ended_at, n_held, losses = load
    if ended_at is not None or n < 1:
        return []
    if signature is None:
        signature = _choose(connection, study, worker)
    if signature is None:
        return []
    most = 2**31 - 1 if n_held == 0 else FREE_LOSSES + ((n_held + n) // (n_held + 1)).bit_length() - 1
    first = _candidates(connection, {"study": study, "signature": signature, "most_losses": most, "n": 2 * n + 8})
    keys = _that_fit([(key, row[2]) for key, row in first.items()], n, n_held=n_held, losses=losses)
    until = _until(connection, study, keys)
    _claim(connection, worker, [(key, first[key][0]) for key in keys], signature, lease_s)
    return [
        Leased(
            key=key,
            fence=first[key][0] + 1,
            config=to_config(first[key][3]),
            seed=first[key][1],
            signature=signature,
            attempt=first[key][0] + 1,
            until=until[key],
        )
        for key in keys
    ]


def waiting(connection: sa.Connection, study: str, signature: str) -> int:
    """Trials of a signature that wait in the study's queue."""
    return connection.execute(_WAITING_OF, {"study": study, "signature": signature}).scalar_one()


def unfinished(connection: sa.Connection, study: str, most: int) -> int:
    """Trials of the study that wait, or that its workers hold; see `Ledger.unfinished`."""
    n_waiting = connection.execute(_WAITING_UP_TO, {"study": study, "most": most}).scalar_one()
    return min(most, n_waiting + connection.execute(_LEASED, {"study": study}).scalar_one())


def upcoming(connection: sa.Connection, study: str, worker: int, signature: str) -> FlatConfig | None:
    """Config of the first trial that the worker would be given once no trial of its signature waits; None for none."""
    following = _choose(connection, study, worker, without=signature)
    if following is None:
        return None
    first = _candidates(connection, {"study": study, "signature": following, "most_losses": 2**31 - 1, "n": 1}, lock=False)
    return next((to_config(row[3]) for row in first.values()), None)


def renew(connection: sa.Connection, worker: int, lease_s: float, keys: Collection[str] | None) -> set[str]:
    """Moves the expiry of every live lease of the worker, or of those of `keys`; keys of these."""
    connection.execute(_SEEN, {"of_worker": worker})
    live = [row for row in held(connection, worker=worker) if row.is_live and (keys is None or row.key in keys)]
    if live:
        connection.execute(_RENEW, [{"of_key": row.key, "of_fence": row.fence, "lease_s": lease_s} for row in live])
    return {row.key for row in live}


def unwanted(connection: sa.Connection, worker: int) -> set[str]:
    """Trials that the worker holds and no study has any more; see `Ledger.unwanted`."""
    return set(connection.execute(_UNWANTED, {"worker": worker}).scalars())


def _choose(connection: sa.Connection, study: str, worker: int, *, without: str = "") -> str | None:
    """Signature whose trials the worker should train now, other than `without`; None when nothing else waits.

    One that no other worker is on, by plan order: then each program is compiled by one worker. Otherwise the longest queue.
    """
    queues = [row for row in connection.execute(_WAITING, {"study": study}) if row[0] != without]
    if not queues:
        return None
    taken = set(connection.execute(_TAKEN, {"study": study, "worker": worker}).scalars())
    if free := [row for row in queues if row[0] not in taken]:
        return min(free, key=lambda row: row[2])[0]
    return max(queues, key=lambda row: (row[1], -row[2]))[0]


def _candidates(connection: sa.Connection, given: Mapping[str, object], *, lock: bool = True) -> dict[str, tuple[int, int, int, str]]:
    """Waiting trials in the order of the plan: key to fence, seed, losses, config."""
    found: dict[str, tuple[int, int, int, str]] = {}
    for query in _CANDIDATES if lock else (_READY,):
        for key, fence, seed, losses, config in connection.execute(query, given):
            found.setdefault(key, (fence, seed, losses, config))  # a trial may be in the study twice
        if found or connection.dialect.name != "postgresql":
            break
    return found


def _until(connection: sa.Connection, study: str, keys: Sequence[str]) -> dict[str, int | None]:
    """Step at which each waiting trial is to pause: the furthest, where two arms of the study want it."""
    found: dict[str, int | None] = {}
    if keys:
        for key, until in connection.execute(_UNTIL.where(memberships.c.trial.in_(keys)), {"study": study}):
            before = found.get(key, 0)
            found[key] = None if until is None or before is None else max(before, until)
    return found


def _that_fit(candidates: Sequence[tuple[str, int]], n: int, *, n_held: int, losses: int) -> list[str]:
    """The first `n` candidates (key, losses) that may share a pack with each other and with what the worker holds.

    A trial whose workers died is suspect: with each loss beyond the free ones it gets half the company, and at last none,
    so a trial that kills its worker is found after some log2(width) deaths, and fails alone.

    >>> _that_fit([("a", 0), ("b", 0), ("c", 2), ("d", 0)], 4, n_held=0, losses=0)
    ['a', 'b', 'd']
    >>> _that_fit([("c", 2), ("a", 0), ("b", 0), ("d", 0)], 4, n_held=0, losses=0)
    ['c', 'a']
    """
    capacity = n_held + n

    def company(lost: int) -> int:
        return max(1, capacity >> max(0, lost - FREE_LOSSES))

    limit, picked = company(losses), list[str]()
    for key, lost in candidates:
        together = n_held + len(picked) + 1
        if len(picked) < n and together <= min(limit, company(lost)):
            picked.append(key)
            limit = min(limit, company(lost))
    return picked


def _claim(connection: sa.Connection, worker: int, claims: Sequence[tuple[str, int]], signature: str, lease_s: float) -> None:
    if not claims:
        return
    rows = [{"of_key": key, "of_fence": fence, "of_worker": worker} for key, fence in claims]
    claimed = connection.execute(_CLAIM, [row | {"lease_s": lease_s} for row in rows])
    assert claimed.rowcount == len(rows), "the rows were locked and waiting"
    connection.execute(_BEGIN, rows)
    connection.execute(_LEAVE_QUEUE, [{"of_key": key} for key, _ in claims])
    connection.execute(_SEEN_ON, {"of_worker": worker, "on_signature": signature})
