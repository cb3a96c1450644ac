"""The tables. `trials` holds the truth of a trial; a study refers to it through `memberships`, so studies share trials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from orchestrator.records import Phase, TrialState

REVISION = "0004"  # of the newest migration; a test compares the two

SECONDS: sa.Double[float] = sa.Double()

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),  # canonical JSON, as are config, cost, point, payload, provenance
    sa.Column("stop", sa.Boolean, nullable=False),
    # Each launch of an edited study file counts up; a launcher of an older edition plans no more.
    sa.Column("edition", sa.Integer, nullable=False, server_default="0"),
    sa.Column("digest", sa.Text, nullable=False, server_default=sa.text("''")),  # of the study file and settings
    sa.Column("created_at", sa.Double, nullable=False),  # seconds since 1970 on the database's clock, as is every `_at`
)

cells = sa.Table(
    "cells",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("trainer", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("cost", sa.Text, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Text, sa.ForeignKey("studies.name"), nullable=False, index=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("exit_code", sa.Integer),
    sa.Column("reason", sa.Text, nullable=False),
)


def _one_of(column: str, values: type[TrialState] | type[Phase]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


trials = sa.Table(
    "trials",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("cell", sa.Text, sa.ForeignKey("cells.key"), nullable=False, index=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),  # grows by one with each lease, so it also counts them
    sa.Column("worker", sa.Integer, sa.ForeignKey("workers.id")),
    sa.Column("expires_at", sa.Double),
    sa.Column("step", sa.BigInteger, nullable=False),  # last one recorded
    sa.Column("furthest_step", sa.BigInteger, nullable=False),  # over all attempts
    sa.Column("losses", sa.Integer, nullable=False),  # workers that died with it since it last got further
    # Attempts that may be held against it are younger: than the last `retry`, and for deaths than the last one that got further.
    sa.Column("retried", sa.Integer, nullable=False, server_default="0"),
    sa.Column("furthered", sa.Integer, nullable=False, server_default="0"),
    sa.CheckConstraint(_one_of("state", TrialState), name="state"),
    sa.CheckConstraint("(state = 'leased') = (worker IS NOT NULL)", name="leased_by_a_worker"),
    sa.CheckConstraint("(state = 'leased') = (expires_at IS NOT NULL)", name="leased_until"),
    sqlite_with_rowid=False,
)
# Only leased trials have a worker: an index of a few rows, whatever the size of the study.
sa.Index(
    "ix_trials_leases",
    trials.c.worker,
    trials.c.expires_at,
    sqlite_where=trials.c.worker.is_not(None),
    postgresql_where=trials.c.worker.is_not(None),
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("study", sa.Text, sa.ForeignKey("studies.name"), primary_key=True),
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.key"), primary_key=True, index=True),
    sa.Column("arm", sa.Text, primary_key=True),
    sa.Column("phase", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),  # `index` in records; Row.index is a method
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("point", sa.Text, nullable=False),
    sa.Column("orphaned", sa.Boolean, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    # Not orphaned, the trial waits, and this study wants it to go on: the queue is an index, not a scan.
    sa.Column("waiting", sa.Boolean, nullable=False),
    sa.Column("until", sa.BigInteger),  # the step at which it pauses for this study; NULL is its end
    sa.Column("dropped", sa.Text, nullable=False, server_default=sa.text("''")),  # why this study stopped it; empty when it did not
    sa.CheckConstraint(_one_of("phase", Phase), name="phase"),
    sa.Index("ix_memberships_queue", "study", "waiting", "signature", "position"),
    sqlite_with_rowid=False,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.key"), primary_key=True),
    sa.Column("fence", sa.Integer, primary_key=True),
    sa.Column("worker", sa.Integer, sa.ForeignKey("workers.id"), nullable=False),
    sa.Column("leased_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("outcome", sa.Text, nullable=False),  # `leased` until it ends
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("provenance", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False, server_default=sa.text("''")),  # a `Cause`; empty for one that ended as it should
    sa.CheckConstraint(_one_of("outcome", TrialState), name="outcome"),
    sqlite_with_rowid=False,
)

measurements = sa.Table(
    "measurements",
    metadata,
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.key"), primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Double),  # NULL is NaN, which SQLite cannot store; infinities are stored as they are
    sqlite_with_rowid=False,
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.key"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False, server_default=sa.text("''")),  # empty where nobody reckoned it
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.Text, sa.ForeignKey("studies.name"), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("trial", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Index("ix_events_study_id", "study", "id"),
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("study", sa.Text, sa.ForeignKey("studies.name"), primary_key=True),
    sa.Column("tracker", sa.Text, primary_key=True),
    sa.Column("trial", sa.Text, sa.ForeignKey("trials.key"), primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),  # of the attempt that was published: a retried trial is published again
)

# What only one process at a time may do for a study, such as publishing; it is let go by not being renewed.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("study", sa.Text, sa.ForeignKey("studies.name"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

probes = sa.Table(
    "probes",
    metadata,
    sa.Column("signature", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("strategy", sa.Text, primary_key=True),
    sa.Column("width", sa.Integer, primary_key=True),
    sa.Column("compile_s", sa.Double, nullable=False),
    sa.Column("lane_step_s", sa.Double, nullable=False),
    sa.Column("lane_s", sa.Double, nullable=False, server_default="0"),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False, server_default="0"),
)


# Whether a study wants its trial to train on, from where it stands; and whether it holds the trial back at a rung.
is_short = sa.or_(memberships.c.until.is_(None), trials.c.step < memberships.c.until)
wants = sa.and_(memberships.c.orphaned == sa.false(), memberships.c.dropped == "", is_short)


def in_state(states: Iterable[TrialState]) -> sa.ColumnElement[bool]:
    """The trial is in one of the states. Not an IN clause, which executemany does not take."""
    return sa.or_(*(trials.c.state == state for state in states))


class now(FunctionElement[float]):  # noqa: N801
    """Seconds since 1970 on the database's clock, read when the statement runs, not when the transaction began."""

    type = SECONDS
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite_now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(_element: now, _compiler: Any, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
