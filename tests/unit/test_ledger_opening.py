"""What is opened, what is made, and what is refused, in which words."""

from __future__ import annotations

import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile

import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, LedgerUnavailableError, opening
from orchestrator.ledger.schema import REVISION
from tests.ledgers import STUDY, plan, start

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where no ledger is yet."""
    return tmp_path / "out" / "ledger.sqlite"


def sqlite(path: pathlib.Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def said(place: str | pathlib.Path, *, create: bool = True) -> str:
    with pytest.raises(LedgerError, match=r"\w") as caught:
        Ledger.open(place, create=create)
    return str(caught.value)


def test_a_ledger_is_made_with_its_folder_and_found_again(path: pathlib.Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.insert_plan(plan(1))
        assert (ledger.where, repr(ledger)) == (str(path), f"Ledger({str(path)!r})")
    for spelled in (path, str(path), f"sqlite:///{path}"):
        with Ledger.open(spelled, create=False) as ledger:
            assert ledger.study_names() == (STUDY,)


def test_the_newest_migration_is_the_schema_of_the_code() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(opening.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_an_up_to_date_ledger_is_opened_without_alembic(path: pathlib.Path) -> None:
    Ledger.open(path).close()
    program = f"""
import sys
import tempfile
from orchestrator.ledger import Ledger
Ledger.open({str(path)!r}).close()
print("alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_empty_file_becomes_a_ledger(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").touch()
    assert said(tmp_path / "empty", create=False).startswith("there is no ledger here")
    Ledger.open(tmp_path / "empty").close()
    Ledger.open(tmp_path / "empty", create=False).close()


def test_a_ledger_lives_in_a_folder_with_an_odd_name(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "50%(here)s done? #1 été"
    Ledger.open(folder / "ledger.sqlite").close()
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


def test_processes_may_make_one_ledger_at_once(path: pathlib.Path) -> None:
    processes = [start("open", path) for _ in range(6)]
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert (process.returncode, out) == (0, "open\n"), errors
    Ledger.open(path, create=False).close()


def test_no_ledger_is_made_where_one_is_only_read(path: pathlib.Path) -> None:
    assert said(path, create=False) == (f"there is no ledger here\n  found:    {path}\n  fix:      run the study first, or correct --out")
    assert not path.parent.exists()


def test_a_ledger_of_a_newer_version_is_refused(path: pathlib.Path) -> None:
    Ledger.open(path).close()
    sqlite(path, "UPDATE alembic_version SET version_num = '0999'")
    assert said(path) == (
        "the ledger was written by a newer Tessera\n"
        f"  found:    schema 0999 in {path}\n"
        f"  expected: schema {REVISION} or older\n"
        "  fix:      upgrade Tessera, or choose another folder with --out"
    )


def test_another_programs_database_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "optuna.db"
    sqlite(path, "CREATE TABLE alembic_version (version_num)", "CREATE TABLE studies (id)", "CREATE TABLE trials (id)")
    before = path.read_bytes()
    assert said(path).startswith("this database is not a ledger")
    assert path.read_bytes() == before


def test_files_that_are_no_database_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at " * 20)
    assert said(tmp_path / "notes.txt").startswith("this file is not a ledger")
    assert said(tmp_path).startswith("the ledger is a file, and this is a folder")
    assert said(tmp_path / "notes.txt" / "ledger.sqlite").startswith("the ledger's folder cannot be made")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("sqlite://", "a ledger needs a file"),
        ("sqlite:///:memory:", "a ledger needs a file"),
        ("mysql://ann:secret@db/sweeps", "a ledger cannot be kept there"),
        ("postgresql://ann:secret@db:not-a-port/sweeps", "the URL of the ledger cannot be read"),
    ],
)
def test_urls_that_cannot_hold_a_ledger_are_refused_without_their_password(url: str, what: str) -> None:
    message = said(url)
    assert message.startswith(what)
    assert "secret" not in message


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_place_that_cannot_be_written_is_refused(closed: str) -> None:
    # Root may write everywhere, so the process becomes nobody once it has imported what it needs.
    program = """
import os, sys
from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Ledger.open(sys.argv[1])
except LedgerError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to nobody
        path = pathlib.Path(folder) / "ledger.sqlite"
        Ledger.open(path).close()
        path.parent.chmod(0o777 if closed == "file" else 0o555)
        path.chmod(0o444 if closed == "file" else 0o666)
        done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
        path.parent.chmod(0o755)
    where = path if closed == "file" else path.parent
    assert done.stdout == (
        f"the ledger cannot be written\n  found:    no permission to write {where}\n  fix:      choose another folder with --out\n"
    )


def test_a_locked_ledger_is_said_to_be_locked(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY_S", 0.01)
    with Ledger.open(path) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailableError, match="the ledger was locked by another process for 60 s"):
            ledger.insert_plan(plan(1))
        assert ledger.study_names() == (), "readers do not wait for writers"
        other.execute("ROLLBACK")
        other.close()
        ledger.insert_plan(plan(1))


def test_the_lock_file_may_stay(path: pathlib.Path) -> None:
    Ledger.open(path).close()
    assert os.path.getsize(f"{path}.lock") == 0
    Ledger.open(path).close()
