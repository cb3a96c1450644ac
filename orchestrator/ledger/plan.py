"""Plans into the ledger: what is there already is left alone, so the same plan twice writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from orchestrator.config import Overlay
from orchestrator.errors import LedgerError
from orchestrator.keys import canonical
from orchestrator.ledger.database import CHUNK, chunks
from orchestrator.ledger.journal import tell_decisions
from orchestrator.ledger.rows import CellRow, MemberRow, PlanRows, TrialRow, TrialRows
from orchestrator.ledger.schema import cells, memberships, now, studies, trials
from orchestrator.ledger.settle import settle, settle_study
from orchestrator.records import TrialState

Place = tuple[str, str, str, int]  # trial, arm, phase, number: a membership's primary key in its study
T = TypeVar("T")
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
        _insert(connection, plan.study, plan, _scope(plan))
        tell_decisions(connection, plan.study, plan.decisions)
    return current


def _edition(connection: sa.Connection, plan: PlanRows, edition: int | None) -> int | None:
    """The plan's edition, with the study's row brought up to it; None for a plan of an edition that is no longer the current one."""
    row = connection.execute(sa.select(studies.c.edition, studies.c.digest).where(studies.c.name == plan.study)).first()
    spec = None if plan.spec is None else canonical(plan.spec)
    if row is None and spec is None:
        raise ValueError(f"the first plan of study {plan.study!r} says what the study is")
    if row is None:
        new = sa.insert(studies).values(name=plan.study, spec=spec, stop=False, edition=1, digest=plan.digest, created_at=now())
        connection.execute(new)
        return 1
    if edition is None:
        edition = row.edition if row.digest == plan.digest else row.edition + 1
    if edition < row.edition:
        return None
    moved = sa.update(studies).where(studies.c.name == plan.study)
    if (edition, plan.digest) != tuple(row):
        connection.execute(moved.values(edition=edition, digest=plan.digest))
    if spec is not None:
        connection.execute(moved.where(studies.c.spec != spec).values(spec=spec))
    return edition


def add_trials(connection: sa.Connection, study: str, rows: TrialRows) -> None:
    """Adds to a study, and orphans nothing.

    Raises:
        LedgerError: The ledger has no such study.
    """
    _lock(connection)
    if connection.execute(sa.select(studies.c.name).where(studies.c.name == study)).first() is None:
        raise LedgerError(f"the ledger has no study {study!r}", fix="insert its plan first")
    _insert(connection, study, rows, Scope(arms=frozenset(), trials=[row.trial for row in rows.members]))


def _lock(connection: sa.Connection) -> None:
    # A trial that is leased through another study between our look at it and our commit would stay in our queue for ever.
    # A weaker mode lets others lock rows meanwhile, and then each waits for what the other has: a deadlock at most plans that
    # stop trials while workers lease. SQLite has one writer at a time anyhow.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE trials IN EXCLUSIVE MODE")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What rows speak of: memberships of these arms that they do not name become orphans. None is all.

    Attributes:
        arms: Names of the arms.
        trials: That they had, or have now.
    """

    arms: frozenset[str] | None
    trials: Sequence[str] | None


def _scope(plan: PlanRows) -> Scope:
    return Scope(arms=plan.arms, trials=None if plan.arms is None else [*plan.former, *(row.trial for row in plan.members)])


def _insert(connection: sa.Connection, study: str, rows: TrialRows, scope: Scope) -> None:
    _insert_cells(connection, rows.cells)
    _insert_trials(connection, rows.trials)
    new = {_place(row): row for row in rows.members}
    if len(new) != len(rows.members):
        raise ValueError("a plan names a trial once for each arm, phase and index")
    moved, gone = list[MemberRow](), list[Place]()
    # What is there already, and the same, is dropped as it is read: two copies of a large plan would be much.
    for place, known in _found(connection, study, scope.trials):
        row = new.pop(place, None)
        if row is not None and known != _known(row):
            moved.append(row)
        elif row is None and not known[-1] and (scope.arms is None or place[1] in scope.arms):
            gone.append(place)
    if gone:
        connection.execute(_MOVE.values(orphaned=True, waiting=False), [_named(study, place) for place in gone])
    for some in _batches(list(new.values())):
        signatures = _signatures(connection, some)
        connection.execute(sa.insert(memberships), [_columns(study, row, signatures[row.trial]) for row in some])
    for some in _batches(moved):
        signatures = _signatures(connection, some)
        # Only what is named in the parameters of the first row is set, so the key's columns are left out.
        connection.execute(_MOVE, [_named(study, _place(row)) | _settings(row, signatures[row.trial]) for row in some])
    changed = [*(place[0] for place in new), *(row.trial for row in moved), *(place[0] for place in gone)]
    if scope.arms is None:
        settle_study(connection, study, changed)
    else:
        settle(connection, changed)


def _insert_cells(connection: sa.Connection, rows: Sequence[CellRow]) -> None:
    for some in _batches(rows):
        query = sa.select(cells.c.key, cells.c.signature, cells.c.cost).where(cells.c.key.in_([row.key for row in some]))
        found = {key: (signature, cost) for key, signature, cost in connection.execute(query)}
        new = {row.key: row for row in some if row.key not in found}
        if new:
            connection.execute(sa.insert(cells), [_cell(row) for row in new.values()])
        # What a config computes is in its key; how it is packed and what it costs follow the code of today.
        for row in (row for row in some if row.key in found and found[row.key] != (row.signature, canonical(dict(row.cost)))):
            values = {"signature": row.signature, "cost": canonical(dict(row.cost))}
            connection.execute(sa.update(cells).where(cells.c.key == row.key).values(**values))
            own = sa.select(trials.c.key).where(trials.c.cell == row.key)
            connection.execute(sa.update(memberships).where(memberships.c.trial.in_(own)).values(signature=row.signature))


def _cell(row: CellRow) -> dict[str, Any]:
    return {
        "key": row.key,
        "trainer": row.trainer,
        "version": row.version,
        "config": canonical(row.config.flat() if isinstance(row.config, Overlay) else dict(row.config)),
        "signature": row.signature,
        "cost": canonical(dict(row.cost)),
    }


def _insert_trials(connection: sa.Connection, rows: Sequence[TrialRow]) -> None:
    for some in _batches(rows):
        found = set(connection.execute(sa.select(trials.c.key).where(trials.c.key.in_([row.key for row in some]))).scalars())
        new = {row.key: row for row in some if row.key not in found}
        if new:
            connection.execute(
                sa.insert(trials), [{"key": row.key, "cell": row.cell, "seed": row.seed, **NEW_TRIAL} for row in new.values()]
            )


def _batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows in parts that one statement takes: all at once, with what a statement makes of them, would fill memory."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _found(connection: sa.Connection, study: str, keys: Iterable[str] | None) -> Iterator[tuple[Place, Known]]:
    """The study's memberships (those of the given trials): each place, and what is known of it."""
    table = memberships.c
    known = (table.position, table.point, table.until, table.dropped, table.orphaned)
    query = sa.select(table.trial, table.arm, table.phase, table.number, *known).where(table.study == study)
    queries = [query] if keys is None else [query.where(table.trial.in_(some)) for some in chunks(keys)]
    rows = (row for query in queries for row in connection.execute(query))
    return (((trial, arm, phase, number), tuple(known)) for trial, arm, phase, number, *known in rows)


def _known(row: MemberRow) -> Known:
    return (row.position, canonical(row.point), row.until, row.dropped, False)


def _signatures(connection: sa.Connection, rows: Sequence[MemberRow]) -> dict[str, str]:
    """Signature of each member's trial.

    Raises:
        ValueError: One is of a trial that the ledger does not have.
    """
    query = sa.select(trials.c.key, cells.c.signature).join_from(trials, cells).where(trials.c.key.in_([row.trial for row in rows]))
    found = {key: signature for key, signature in connection.execute(query)}
    if unknown := sorted({row.trial for row in rows} - found.keys()):
        raise ValueError(f"members of a plan are trials; unknown: {unknown[:3]}")
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
