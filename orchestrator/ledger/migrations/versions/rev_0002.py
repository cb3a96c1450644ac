"""What a lane costs beside its steps, what it takes of the device's memory, and where a study pauses or stops its trials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = "'planned', 'leased', 'paused', 'complete', 'stopped', 'diverged', 'failed', 'preempted', 'lost'"


def upgrade() -> None:
    """Adds columns, empty for old rows, and lets trials be paused."""
    op.add_column("probes", sa.Column("lane_s", sa.Double, nullable=False, server_default="0"))
    op.add_column("probes", sa.Column("memory_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("memberships", sa.Column("until", sa.BigInteger))
    op.add_column("memberships", sa.Column("dropped", sa.Text, nullable=False, server_default=sa.text("''")))
    if op.get_bind().dialect.name == "sqlite":
        _trials_anew()
        _attempts_anew()
    else:
        for table, column in (("trials", "state"), ("attempts", "outcome")):
            op.drop_constraint(f"ck_{table}_{column}", table, type_="check")
            op.create_check_constraint(f"ck_{table}_{column}", table, f"{column} IN ({STATES})")


def _trials_anew() -> None:
    """SQLite cannot change a check: the rows move to a new table. Its caller has switched foreign keys off."""
    op.create_table(
        "new_trials",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("cell", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("worker", sa.Integer),
        sa.Column("expires_at", sa.Double),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("furthest_step", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_trials"),
        sa.ForeignKeyConstraint(["cell"], ["cells.key"], name="fk_trials_cell"),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name="fk_trials_worker"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_trials_state"),
        sa.CheckConstraint("(state = 'leased') = (worker IS NOT NULL)", name="ck_trials_leased_by_a_worker"),
        sa.CheckConstraint("(state = 'leased') = (expires_at IS NOT NULL)", name="ck_trials_leased_until"),
        sqlite_with_rowid=False,
    )
    columns = "key, cell, seed, state, reason, fence, worker, expires_at, step, furthest_step, failures, losses"
    _replace("trials", columns)
    op.create_index("ix_trials_cell", "trials", ["cell"])
    op.create_index("ix_trials_leases", "trials", ["worker", "expires_at"], sqlite_where=sa.text("worker IS NOT NULL"))


def _attempts_anew() -> None:
    op.create_table(
        "new_attempts",
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("worker", sa.Integer, nullable=False),
        sa.Column("leased_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("trial", "fence", name="pk_attempts"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_attempts_trial"),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name="fk_attempts_worker"),
        sa.CheckConstraint(f"outcome IN ({STATES})", name="ck_attempts_outcome"),
        sqlite_with_rowid=False,
    )
    _replace("attempts", "trial, fence, worker, leased_at, ended_at, outcome, reason, provenance")


def _replace(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO new_{table} ({columns}) SELECT {columns} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"new_{table}", table)
