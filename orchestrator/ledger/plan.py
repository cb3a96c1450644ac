"""Plans into the ledger: what is there already is left alone, so the same plan twice writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator.errors import LedgerError
from orchestrator.keys import canonical
from orchestrator.ledger.database import chunks
from orchestrator.ledger.journal import tell_decisions
from orchestrator.ledger.rows import CellRow, MemberRow, PlanRows, TrialRow, TrialRows
from orchestrator.ledger.schema import cells, memberships, now, studies, trials
from orchestrator.ledger.settle import settle_study
from orchestrator.records import TrialState

Place = tuple[str, str, str, int]  # trial, arm, phase, number: a membership's primary key in its study
Known = tuple[Any, ...]  # position, point, until, dropped, orphaned

NEW_TRIAL: Mapping[str, Any] = {
    "state": TrialState.PLANNED,
    "reason": "",
    "fence": 0,
    "step": 0,
    "furthest_step": 0,
    "losses": 0,
    "retried": 0,
    "furthered": 0,
}
_of_place = sa.and_(
    memberships.c.study == sa.bindparam("of_study"),
    memberships.c.trial == sa.bindparam("of_trial"),
    memberships.c.arm == sa.bindparam("of_arm"),
    memberships.c.phase == sa.bindparam("of_phase"),
    memberships.c.number == sa.bindparam("of_number"),
)
_MOVE = sa.update(memberships).where(_of_place)


def insert_plan(connection: sa.Connection, plan: PlanRows, *, edition: int | None) -> int | None:
    """Makes the study hold exactly what the plan holds; see `Ledger.insert_plan`."""
    _lock(connection)
    current = _edition(connection, plan, edition)
    if current is not None:
        _insert(connection, plan.study, plan, orphan_others=True)
        tell_decisions(connection, plan.study, plan.decisions)
    return current


def _edition(connection: sa.Connection, plan: PlanRows, edition: int | None) -> int | None:
    """The plan's edition, with the study's row brought up to it; None for a plan of an edition that is no longer the current one."""
    spec = canonical(plan.spec)
    known = sa.select(studies.c.spec, studies.c.edition, studies.c.digest).where(studies.c.name == plan.study)
    row = connection.execute(known).first()
    if row is None:
        new = sa.insert(studies).values(name=plan.study, spec=spec, stop=False, edition=1, digest=plan.digest, created_at=now())
        connection.execute(new)
        return 1
    if edition is None:
        edition = row.edition if row.digest == plan.digest else row.edition + 1
    if edition < row.edition:
        return None
    if (spec, edition, plan.digest) != tuple(row):
        moved = sa.update(studies).where(studies.c.name == plan.study)
        connection.execute(moved.values(spec=spec, edition=edition, digest=plan.digest))
    return edition


def add_trials(connection: sa.Connection, study: str, rows: TrialRows) -> None:
    """Adds to a study, and orphans nothing.

    Raises:
        LedgerError: The ledger has no such study.
    """
    _lock(connection)
    if connection.execute(sa.select(studies.c.name).where(studies.c.name == study)).first() is None:
        raise LedgerError(f"the ledger has no study {study!r}", fix="insert its plan first")
    _insert(connection, study, rows, orphan_others=False)


def _lock(connection: sa.Connection) -> None:
    # A trial that is leased through another study between our look at it and our commit would stay in our queue for ever.
    # SQLite has one writer at a time anyhow.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE trials IN SHARE ROW EXCLUSIVE MODE")


def _insert(connection: sa.Connection, study: str, rows: TrialRows, *, orphan_others: bool) -> None:
    _insert_cells(connection, rows.cells)
    _insert_trials(connection, rows.trials)
    wanted = {(row.trial, row.arm, str(row.phase), row.index): row for row in rows.members}
    if len(wanted) != len(rows.members):
        raise ValueError("a plan names a trial once for each arm, phase and index")
    found = _found(connection, study, None if orphan_others else [row.trial for row in rows.members])
    gone = [place for place, known in found.items() if orphan_others and not known[-1] and place not in wanted]
    if gone:
        connection.execute(_MOVE.values(orphaned=True, waiting=False), [_named(study, place) for place in gone])
    changed = [row for place, row in wanted.items() if place not in found or found[place] != _known(row)]
    signatures = _signatures(connection, (row.trial for row in changed))
    if unknown := sorted({row.trial for row in changed} - signatures.keys()):
        raise ValueError(f"members of a plan are trials; unknown: {unknown[:3]}")
    if new := [row for row in changed if _place(row) not in found]:
        connection.execute(sa.insert(memberships), [_columns(study, row, signatures[row.trial]) for row in new])
    moved = [row for row in changed if _place(row) in found]
    if moved:
        # Only what is named in the parameters of the first row is set, so the key's columns are left out.
        connection.execute(_MOVE, [_named(study, _place(row)) | _settings(row, signatures[row.trial]) for row in moved])
    settle_study(connection, study, [*(row.trial for row in changed), *(trial for trial, _, _, _ in gone)])


def _insert_cells(connection: sa.Connection, rows: Sequence[CellRow]) -> None:
    found: dict[str, tuple[str, str]] = {}
    for keys in chunks(row.key for row in rows):
        query = sa.select(cells.c.key, cells.c.signature, cells.c.cost).where(cells.c.key.in_(keys))
        found |= {key: (signature, cost) for key, signature, cost in connection.execute(query)}
    new = {row.key: row for row in rows if row.key not in found}
    if new:
        connection.execute(
            sa.insert(cells),
            [
                {
                    "key": row.key,
                    "trainer": row.trainer,
                    "version": row.version,
                    "config": canonical(dict(row.config)),
                    "signature": row.signature,
                    "cost": canonical(dict(row.cost)),
                }
                for row in new.values()
            ],
        )
    # What a config computes is in its key; how it is packed and what it costs follow the code of today.
    stale = [row for row in rows if row.key in found and found[row.key] != (row.signature, canonical(dict(row.cost)))]
    for row in stale:
        values = {"signature": row.signature, "cost": canonical(dict(row.cost))}
        connection.execute(sa.update(cells).where(cells.c.key == row.key).values(**values))
        own = sa.select(trials.c.key).where(trials.c.cell == row.key)
        connection.execute(sa.update(memberships).where(memberships.c.trial.in_(own)).values(signature=row.signature))


def _insert_trials(connection: sa.Connection, rows: Sequence[TrialRow]) -> None:
    found: set[str] = set()
    for keys in chunks(row.key for row in rows):
        found.update(connection.execute(sa.select(trials.c.key).where(trials.c.key.in_(keys))).scalars())
    new = {row.key: row for row in rows if row.key not in found}
    if new:
        connection.execute(sa.insert(trials), [{"key": row.key, "cell": row.cell, "seed": row.seed, **NEW_TRIAL} for row in new.values()])


def _found(connection: sa.Connection, study: str, keys: Iterable[str] | None) -> dict[Place, Known]:
    """The study's memberships (those of the given trials): place to what is known of it."""
    table = memberships.c
    known = (table.position, table.point, table.until, table.dropped, table.orphaned)
    query = sa.select(table.trial, table.arm, table.phase, table.number, *known).where(table.study == study)
    queries = [query] if keys is None else [query.where(table.trial.in_(some)) for some in chunks(keys)]
    rows = (row for query in queries for row in connection.execute(query))
    return {(trial, arm, phase, number): tuple(known) for trial, arm, phase, number, *known in rows}


def _known(row: MemberRow) -> Known:
    return (row.position, canonical(row.point), row.until, row.dropped, False)


def _signatures(connection: sa.Connection, keys: Iterable[str]) -> dict[str, str]:
    """Signature of each trial."""
    found: dict[str, str] = {}
    for some in chunks(keys):
        query = sa.select(trials.c.key, cells.c.signature).join_from(trials, cells).where(trials.c.key.in_(some))
        found |= {key: signature for key, signature in connection.execute(query)}
    return found


def _place(row: MemberRow) -> Place:
    return (row.trial, row.arm, str(row.phase), row.index)


def _named(study: str, place: Place) -> dict[str, Any]:
    trial, arm, phase, number = place
    return {"of_study": study, "of_trial": trial, "of_arm": arm, "of_phase": phase, "of_number": number}


def _settings(row: MemberRow, signature: str) -> dict[str, Any]:
    return {
        "position": row.position,
        "point": canonical(dict(row.point)),
        "until": row.until,
        "dropped": row.dropped,
        "orphaned": False,
        "signature": signature,
    }


def _columns(study: str, row: MemberRow, signature: str) -> dict[str, Any]:
    own = {"study": study, "trial": row.trial, "arm": row.arm, "phase": str(row.phase), "number": row.index}
    return own | _settings(row, signature) | {"waiting": False}  # until it is settled
