"""Transactions on the ledger's database, and what its errors mean to a person."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.errors import LedgerError

BUSY_S = 60
# SQLite's own reach us where we begin transactions and set connections up on the driver's connection; the others are texts
# of a damaged file.
DATABASE_ERRORS = (exc.DBAPIError, exc.TimeoutError, sqlite3.Error, UnicodeDecodeError, json.JSONDecodeError)
CHUNK = 1000  # keys in one IN clause; SQLite allows 32,766 parameters


FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.5  # between two tries of a call on a database that cannot serve

P = ParamSpec("P")
T = TypeVar("T")


class LedgerUnavailableError(LedgerError):
    """The database cannot serve now: locked, full or out of reach. Nothing was written; the same call may work later."""


def _say_nothing(_: str) -> None:
    return


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call waits for a database that is locked, full, or out of reach, such as a server that restarts.

    A call that is made again has no second effect: it may have been committed before the connection broke, and every
    write of the ledger may come twice (an event is then told twice).

    Attributes:
        for_s: Seconds until the call gives up.
        say: Told in one line that it waits and why, and that it goes on.
        hasty: Whether to give up at once, as when the process is asked to end.
    """

    for_s: float
    say: Callable[[str], None] = _say_nothing
    hasty: Callable[[], bool] = _never


NO_PATIENCE = Patience(for_s=0.0)


def patiently(call: Callable[[], T], patience: Patience) -> T:
    """Makes a call, again and again while the database cannot serve and there is patience left.

    Raises:
        LedgerUnavailableError: It could not serve for all that time.
    """
    began, pause_s, waited = time.monotonic(), FIRST_WAIT_S, False
    while True:
        try:
            result = call()
        except LedgerUnavailableError as error:
            if time.monotonic() - began + pause_s > patience.for_s or patience.hasty():
                raise
            if not waited:
                waited = True
                patience.say(f"waiting for the ledger: {error.problems[0].what} ({error.problems[0].found})")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_WAIT_S)
        else:
            if waited:
                patience.say(f"the ledger is back after {time.monotonic() - began:.0f} s")
            return result


class Database:
    """Short transactions on one engine. Safe to use from several threads, not across a fork."""

    def __init__(self, engine: sa.Engine, patience: Patience = NO_PATIENCE) -> None:
        self.where = place(engine.url)
        self._engine, self._patience = engine, patience
        # Several SELECTs of one read see one state of the ledger. SQLite gives that by itself.
        snapshot = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = engine.execution_options(**snapshot)

    def write(self, work: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does the work in a transaction that writes: all of it, or nothing when it raises."""

        def once() -> T:
            with writing(self._engine) as connection:
                return work(connection, *args, **kwargs)

        return patiently(lambda: self._explained(once), self._patience)

    def read(self, work: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does the work in a transaction whose reads all see the same state."""

        def once() -> T:
            with self._reader.begin() as connection:
                _begin(connection, "BEGIN")
                try:
                    return work(connection, *args, **kwargs)
                except ValueError as error:  # no text of the ledger is one that it could not have written
                    raise explain(error, self._engine.url) from error

        return patiently(lambda: self._explained(once), self._patience)

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    def _explained(self, once: Callable[[], T]) -> T:
        try:
            return once()
        except DATABASE_ERRORS as error:
            raise explain(error, self._engine.url) from error


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Generator[sa.Connection]:
    """A transaction that is the only writer from its start; on SQLite others wait for it."""
    with engine.begin() as connection:
        # A transaction that reads first and asks to write later would be told "locked" at once.
        _begin(connection, "BEGIN IMMEDIATE")
        yield connection


def _begin(connection: sa.Connection, statement: str) -> None:
    # On the driver's connection, and not in an engine's `begin` event: one listener costs time at every statement.
    if connection.dialect.name == "sqlite":
        cast(sqlite3.Connection, connection.connection.driver_connection).execute(statement)


def place(url: sa.URL) -> str:
    """Where the ledger is, as said to a person: a path, or a URL without its password.

    >>> place(sa.make_url("postgresql+psycopg://ann:secret@db/sweeps?sslpassword=s2"))
    'postgresql://ann:***@db/sweeps?sslpassword=hidden'
    """
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    hidden = url.update_query_dict({name: "hidden" for name in url.query if "password" in name.lower()})
    return hidden.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def explain(error: exc.SQLAlchemyError | sqlite3.Error | ValueError, url: sa.URL) -> LedgerError:
    """The error in the message form: what happened, where, and what to do. Never a password."""
    lines = str(error.orig if isinstance(error, exc.DBAPIError) else error).strip().splitlines()
    said = _without_secrets(lines[0] if lines else type(error).__name__, url)
    for words, what, fix in _TRANSIENT:
        if any(word in said.lower() for word in words):
            return LedgerUnavailableError(what, found=f"{said} ({place(url)})", fix=fix)
    for words, what, fix in _PERMANENT:
        if any(word in said.lower() for word in words):
            return LedgerError(what, found=f"{said} ({place(url)})", fix=fix)
    if isinstance(error, ValueError):
        return LedgerError(_DAMAGED, found=f"{said} ({place(url)})", fix=_RESTORE)
    if isinstance(error, exc.IntegrityError):
        return LedgerError(
            "the ledger refused a row", found=f"{said} ({place(url)})", expected="rows that name a known study, trial, worker"
        )
    # What SQLite says beside the above is about the file's content, and waiting does not mend that.
    is_away = url.get_backend_name() != "sqlite" and isinstance(error, (exc.OperationalError, exc.InterfaceError))
    if is_away or isinstance(error, exc.TimeoutError) or (isinstance(error, exc.DBAPIError) and error.connection_invalidated):
        return LedgerUnavailableError(
            "the ledger's database is out of reach", found=f"{said} ({place(url)})", fix="check that the server runs and the URL is right"
        )
    return LedgerError("the ledger cannot be read or written", found=f"{said} ({place(url)})")


_DAMAGED, _RESTORE = "the ledger file is damaged", "restore it from a copy, or move it away and run the study again"
_TRANSIENT: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("is locked", "deadlock"),
        f"the ledger was locked by another process for {BUSY_S} s",
        "look for a stopped process that holds it, then run the same command again",
    ),
    (
        ("disk is full", "no space left", "could not extend file"),
        "there is no space left for the ledger",
        "free disk space, then run the same command again; what was recorded before is intact",
    ),
    (
        ("disk i/o error",),
        "the disk of the ledger fails, or is full",
        "free disk space or look at the disk, then run the same command again",
    ),
)
_PERMANENT: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("readonly", "read-only", "unable to open database file"),
        "the ledger cannot be written",
        "make the file and its folder writable, or choose another folder with --out",
    ),
    (("is not a database",), "this file is not a ledger", "choose another path, or move the file away"),
    (("malformed", "could not decode"), _DAMAGED, _RESTORE),
    (("locking protocol",), "the ledger's file system cannot lock files", "put --out on a local disk, or use a PostgreSQL URL"),
    (("password authentication failed",), "the database refused the user or the password", "correct the URL"),
)


def _without_secrets(text: str, url: sa.URL) -> str:
    secrets = [str(url.password)] if url.password else []
    for name, value in url.query.items():
        if "password" in name.lower():
            secrets += [value] if isinstance(value, str) else list(value)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def put(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows; one whose primary key is there already replaces the old one."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    new = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new), rows)


def chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys without repeats, in lists that fit an IN clause."""
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), CHUNK):
        yield unique[start : start + CHUNK]
