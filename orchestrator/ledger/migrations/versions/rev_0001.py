"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATES = "'planned', 'leased', 'complete', 'stopped', 'diverged', 'failed', 'preempted', 'lost'"


def upgrade() -> None:
    """Makes every table."""
    _what_is_planned()
    _who_works()
    _what_is_computed()
    _what_is_told()


def _what_is_planned() -> None:
    op.create_table(
        "studies",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("stop", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_studies"),
    )
    op.create_table(
        "cells",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("trainer", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("cost", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_cells"),
    )


def _who_works() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("exit_code", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_workers_study"),
    )
    op.create_index("ix_workers_study", "workers", ["study"])


def _what_is_computed() -> None:
    op.create_table(
        "trials",
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
    op.create_index("ix_trials_cell", "trials", ["cell"])
    held = sa.text("worker IS NOT NULL")
    op.create_index("ix_trials_leases", "trials", ["worker", "expires_at"], sqlite_where=held, postgresql_where=held)
    op.create_table(
        "memberships",
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("point", sa.Text, nullable=False),
        sa.Column("orphaned", sa.Boolean, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("waiting", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("study", "trial", "arm", "phase", "number", name="pk_memberships"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_memberships_study"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_memberships_trial"),
        sa.CheckConstraint("phase IN ('tune', 'replicate')", name="ck_memberships_phase"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_memberships_trial", "memberships", ["trial"])
    op.create_index("ix_memberships_queue", "memberships", ["study", "waiting", "signature", "position"])
    op.create_table(
        "attempts",
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
    op.create_table(
        "measurements",
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.PrimaryKeyConstraint("trial", "step", "name", name="pk_measurements"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_measurements_trial"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "artifacts",
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("trial", "name", name="pk_artifacts"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_artifacts_trial"),
    )


def _what_is_told() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_events_study"),
    )
    op.create_index("ix_events_study_id", "events", ["study", "id"])
    op.create_table(
        "publications",
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("tracker", sa.Text, nullable=False),
        sa.Column("trial", sa.Text, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("study", "tracker", "trial", name="pk_publications"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_publications_study"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_publications_trial"),
    )
    op.create_table(
        "probes",
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("compile_s", sa.Double, nullable=False),
        sa.Column("lane_step_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("signature", "device", "strategy", "width", name="pk_probes"),
    )
