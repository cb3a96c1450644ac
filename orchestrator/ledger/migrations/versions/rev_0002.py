"""What a lane costs beside its steps, and what it takes of the device's memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns to the speed measurements; those of old ones are 0."""
    op.add_column("probes", sa.Column("lane_s", sa.Double, nullable=False, server_default="0"))
    op.add_column("probes", sa.Column("memory_bytes", sa.BigInteger, nullable=False, server_default="0"))
