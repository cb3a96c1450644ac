"""Alembic's entry: runs migrations on the connection that `orchestrator.ledger.opening` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context


def migrate() -> None:
    """Runs the pending migrations."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=None)
    context.run_migrations()


# Alembic loads this file under this name; anything else that imports it (a test collector, a type checker) runs nothing.
if __name__ == "env_py":
    migrate()
