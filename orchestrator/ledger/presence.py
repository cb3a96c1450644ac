"""Who is at work: workers, and the one process at a time that holds a role."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.errors import LedgerError
from orchestrator.ledger.rows import WorkerRow
from orchestrator.ledger.schema import SECONDS, claims, now, trials, workers

ELSEWHERE_S = 60.0  # a worker of another machine that was heard of since then is taken to be alive

_LIVE_WORKERS = (
    sa.select(
        workers.c.id,
        workers.c.identity,
        workers.c.host,
        workers.c.pid,
        workers.c.started,
        now() - workers.c.seen_at,
        workers.c.signature,
        sa.select(sa.func.count()).where(trials.c.worker == workers.c.id).scalar_subquery(),
    )
    .where(workers.c.study == sa.bindparam("study"), workers.c.ended_at.is_(None))
    .order_by(workers.c.id)
)


def register_worker(connection: sa.Connection, study: str, *, identity: str, host: str, pid: int, started: str) -> int:
    """Number of a new worker of the study."""
    row = {"study": study, "identity": identity, "host": host, "pid": pid, "started": started, "signature": "", "reason": ""}
    _same_machine(connection, host)
    same = sa.and_(*(workers.c[name] == row[name] for name in ("study", "identity", "host", "pid", "started")))
    # The same process again: what it said before was written, though it was told otherwise.
    known = connection.execute(sa.select(workers.c.id).where(same, workers.c.ended_at.is_(None), workers.c.started != "")).scalar()
    if known is not None:
        return known
    made = connection.execute(sa.insert(workers).values(seen_at=now(), **row)).inserted_primary_key
    assert made is not None
    return int(made[0])


def _same_machine(connection: sa.Connection, host: str) -> None:
    """SQLite's locks and shared memory hold within one machine: over a network file system two of them would damage the file."""
    if connection.dialect.name != "sqlite":
        return
    alive = sa.select(workers.c.host, workers.c.study, now() - workers.c.seen_at)
    alive = alive.where(workers.c.ended_at.is_(None), workers.c.host != host, workers.c.seen_at > now() - ELSEWHERE_S)
    if found := connection.execute(alive.limit(1)).first():
        raise LedgerError(
            "a SQLite ledger serves the workers of one machine, and one of another machine is at work in it",
            found=f"a worker of study {found[1]!r} on {found[0]}, heard of {found[2]:.0f} s ago; this is {host}",
            expected="workers of one machine, or a PostgreSQL ledger: SQLite cannot lock a file between machines",
            fix="use --storage postgresql://…, or stop the study there and wait a minute",
        )


def claim(connection: sa.Connection, study: str, role: str, holder: str, lease_s: float) -> bool:
    """Takes or renews a role that one process at a time may have; see `Ledger.claim`."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = insert(claims).values(study=study, role=role, holder=holder, expires_at=now() + sa.literal(lease_s, SECONDS))
    is_free = sa.or_(claims.c.holder == holder, claims.c.expires_at <= now())
    new = {"holder": row.excluded.holder, "expires_at": row.excluded.expires_at}
    taken = row.on_conflict_do_update(index_elements=[claims.c.study, claims.c.role], set_=new, where=is_free)
    return connection.execute(taken.returning(claims.c.holder)).first() is not None


def disclaim(connection: sa.Connection, study: str, role: str, holder: str) -> None:
    """Lets a role go; see `Ledger.disclaim`."""
    connection.execute(sa.delete(claims).where(claims.c.study == study, claims.c.role == role, claims.c.holder == holder))


def worker_seen(connection: sa.Connection, worker: int) -> None:
    """The worker is alive now."""
    connection.execute(sa.update(workers).where(workers.c.id == worker).values(seen_at=now()))


def worker_ended(connection: sa.Connection, worker: int, *, exit_code: int | None, reason: str) -> None:
    """The worker's process has ended. The first word counts: a worker's own is not replaced by what the driver saw of it."""
    ended = sa.update(workers).where(workers.c.id == worker, workers.c.ended_at.is_(None))
    connection.execute(ended.values(ended_at=now(), exit_code=exit_code, reason=reason))


def live_workers(connection: sa.Connection, study: str) -> list[WorkerRow]:
    """Workers of the study that were not said to have ended, oldest first."""
    return [
        WorkerRow(id=id, identity=identity, host=host, pid=pid, started=started, seen_s=seen_s, signature=signature, leases=leases)
        for id, identity, host, pid, started, seen_s, signature, leases in connection.execute(_LIVE_WORKERS, {"study": study})
    ]
