"""Why attempts ended, which edition of a study is current, and what one process at a time may do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns and a table, empty for old rows. What was counted as failures and losses starts anew."""
    op.add_column("studies", sa.Column("edition", sa.Integer, nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("digest", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("trials", sa.Column("retried", sa.Integer, nullable=False, server_default="0"))
    op.add_column("trials", sa.Column("furthered", sa.Integer, nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("cause", sa.Text, nullable=False, server_default=sa.text("''")))
    op.drop_column("trials", "failures")
    op.create_table(
        "claims",
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("study", "role", name="pk_claims"),
        sa.ForeignKeyConstraint(["study"], ["studies.name"], name="fk_claims_study"),
    )
