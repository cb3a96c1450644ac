"""What artifacts hold, and trials that others start from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PHASES = "'upstream', 'tune', 'replicate'"


def upgrade() -> None:
    """Adds a column, empty for old rows, and lets trials be upstream of others."""
    op.add_column("artifacts", sa.Column("sha256", sa.Text, nullable=False, server_default=sa.text("''")))
    if op.get_bind().dialect.name == "sqlite":
        _memberships_anew()
    else:
        op.drop_constraint("ck_memberships_phase", "memberships", type_="check")
        op.create_check_constraint("ck_memberships_phase", "memberships", f"phase IN ({PHASES})")


def _memberships_anew() -> None:
    """SQLite cannot change a check: the rows move to a new table. Its caller has switched foreign keys off."""
    op.create_table(
        "new_memberships",
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
        sa.Column("until", sa.BigInteger),
        sa.Column("dropped", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("study", "trial", "arm", "phase", "number", name="pk_memberships"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_memberships_study"),
        sa.ForeignKeyConstraint(["trial"], ["trials.key"], name="fk_memberships_trial"),
        sa.CheckConstraint(f"phase IN ({PHASES})", name="ck_memberships_phase"),
        sqlite_with_rowid=False,
    )
    columns = "study, trial, arm, phase, number, position, point, orphaned, signature, waiting, until, dropped"
    op.execute(f"INSERT INTO new_memberships ({columns}) SELECT {columns} FROM memberships")
    op.drop_table("memberships")
    op.rename_table("new_memberships", "memberships")
    op.create_index("ix_memberships_trial", "memberships", ["trial"])
    op.create_index("ix_memberships_queue", "memberships", ["study", "waiting", "signature", "position"])
