"""From a path or a URL to a database whose schema is the one of this version; anything else is refused in plain words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import stat
from collections.abc import Generator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from orchestrator.errors import LedgerError
from orchestrator.ledger.database import BUSY_S, DATABASE_ERRORS, explain, place, writing
from orchestrator.ledger.schema import REVISION

MIGRATIONS = pathlib.Path(__file__).parent / "migrations"
IDLE_S = 30  # within a transaction, until the server gives up on the client
MIGRATION_LOCK = 0x7E55E7A  # PostgreSQL advisory lock: "tessera", as near as hexadecimal comes


class NoLedgerError(LedgerError):
    """There is no ledger at the place, or one that its maker did not live to finish."""


def open_engine(url_or_path: str | pathlib.Path, *, create: bool) -> sa.Engine:
    """An engine on a ledger of this version's schema. A missing or older one is made or migrated first.

    Raises:
        LedgerError: There is no ledger and none may be made; the place is not writable; what is there is not a ledger,
            or is one of a newer Tessera.
    """
    url = parse(url_or_path)
    if url.get_backend_name() == "sqlite":
        _check_file(pathlib.Path(str(url.database)), create=create)
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            found = _revision(connection)
        if found != REVISION:
            if found is None and not create:
                raise _no_ledger(place(url))
            _migrate(engine)
    except DATABASE_ERRORS as error:
        engine.dispose()
        raise explain(error, url) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def parse(url_or_path: str | pathlib.Path) -> sa.URL:
    """The URL of a path, of `sqlite:///path`, or of `postgresql://user:password@host/database`."""
    text = str(url_or_path)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(pathlib.Path(text).expanduser().absolute()))
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        # Not chained: the text may hold a password.
        raise LedgerError("the URL of the ledger cannot be read", expected="postgresql://user:password@host:5432/database") from None
    backend = url.get_backend_name()
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise LedgerError("a ledger cannot be kept there", found=f"a {backend} URL", expected="a file path or a postgresql:// URL")
    if url.database in (None, "", ":memory:"):
        raise LedgerError("a ledger needs a file: workers are processes of their own", expected="sqlite:///path/to/ledger.sqlite")
    return url.set(drivername="sqlite", database=str(pathlib.Path(str(url.database)).expanduser().absolute()))


def _check_file(path: pathlib.Path, *, create: bool) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise _closed(f"{path}: {error.strerror}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise LedgerError("the ledger is a file, and this is a folder", found=str(path), fix="name a file in that folder")
    if mode is None and not create:
        raise _no_ledger(str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            "the ledger's folder cannot be made", found=f"{path.parent}: {error.strerror}", fix="choose another --out"
        ) from error
    closed = [str(place) for place in (path.parent, path) if place.exists() and not os.access(place, os.W_OK)]
    if closed:
        raise _closed(f"no permission to write {closed[0]}")


def _closed(found: str) -> LedgerError:
    return LedgerError("the ledger cannot be written", found=found, fix="choose another folder with --out")


def _no_ledger(where: str) -> NoLedgerError:
    return NoLedgerError("there is no ledger here", found=where, fix="run the study first, or correct --out")


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        except ModuleNotFoundError as error:
            raise LedgerError(
                "PostgreSQL needs the psycopg package", found=str(error), fix="pip install 'tessera-sweeps[postgres]'"
            ) from error
        event.listen(engine, "connect", _set_up_postgresql)
        return engine
    # isolation_level None: the driver starts no transaction of its own accord, `Database` does.
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S, "isolation_level": None})
    event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # Survives SIGKILL whole; a power cut may cost the last transactions, never the file. FULL costs 2 ms a trial.
    connection.execute("PRAGMA synchronous = NORMAL")


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    # A process that is stopped, or a machine that is cut off, in the middle of a transaction would hold its locks for hours.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S} s'")
    connection.commit()


def _revision(connection: sa.Connection) -> str | None:
    """Revision of the schema found, None in an empty database."""
    if connection.dialect.name == "postgresql":
        listing = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    else:
        listing = "SELECT name FROM sqlite_master WHERE type = 'table'"
    names = {str(name) for name in connection.exec_driver_sql(listing).scalars()}
    if not names:
        return None
    where = place(connection.engine.url)
    if not {"alembic_version", "memberships", "trials"} <= names:
        some = ", ".join(sorted(names)[:4])
        raise LedgerError("this database is not a ledger", found=f"{where} with tables {some}, …", fix="give the ledger a place of its own")
    found = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
    if found > REVISION or not found.isdigit():
        raise LedgerError(
            "the ledger was written by a newer Tessera",
            found=f"schema {found} in {where}",
            expected=f"schema {REVISION} or older",
            fix="upgrade Tessera, or choose another folder with --out",
        )
    return found


def _migrate(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _alone(engine), _without_foreign_keys(engine), writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        if _revision(connection) == REVISION:
            return  # another process did it while this one waited
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _check_foreign_keys(connection)


@contextlib.contextmanager
def _without_foreign_keys(engine: sa.Engine) -> Generator[None]:
    """SQLite changes a table by making it anew, and dropping the old one would drop what refers to it.

    The switch works outside of transactions only, so it is set where connections are made; those made meanwhile are closed.
    """
    if engine.dialect.name == "postgresql":
        yield
        return
    engine.dispose()
    event.listen(engine, "connect", _foreign_keys_off)
    try:
        yield
    finally:
        event.remove(engine, "connect", _foreign_keys_off)
        engine.dispose()


def _foreign_keys_off(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")


def _check_foreign_keys(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        assert not lost, f"the migration lost rows that others refer to: {lost[:3]}"


@contextlib.contextmanager
def _alone(engine: sa.Engine) -> Generator[None]:
    """One process at a time migrates a file. The kernel frees the lock of a killed one."""
    if engine.dialect.name == "postgresql":
        yield
        return
    try:
        lock = open(f"{engine.url.database}.lock", "wb")  # noqa: SIM115
    except OSError as error:
        raise _closed(f"{engine.url.database}.lock: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.closing(engine.raw_connection()) as connection:
            cursor = connection.cursor()
            mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]  # kept in the file
            cursor.close()
        if mode != "wal":
            raise LedgerError(
                "the ledger's file system has no shared memory", found=f"journal mode {mode}", fix="put --out on a local disk"
            )
        yield
