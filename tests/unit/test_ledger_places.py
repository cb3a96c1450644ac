"""Places where a ledger cannot be, or is damaged: one clear message each, to open it and to write to it first."""

from __future__ import annotations

import pathlib
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator

import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, Patience
from tests.disks import held_to_permissions
from tests.ledgers import ROOT, STUDY, plan

OPENS = """
import sys
from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, Patience
from tests.ledgers import plan
try:
    with Ledger.open(sys.argv[1], create=sys.argv[2] == "create") as ledger:
        print("open")
        ledger.insert_plan(plan(300))
        print("written")
except LedgerError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Generator[pathlib.Path]:
    """A folder whose permissions a test may take away."""
    path = tmp_path / "closed"
    path.mkdir()
    yield path
    path.chmod(0o755)


def ledger_in(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.insert_plan(plan(200))
    return path


def said(path: pathlib.Path, mode: str = "create") -> list[str]:
    """The lines that a process says which has no rights but those that the files give."""
    command = [*held_to_permissions(), sys.executable, "-c", OPENS, str(path), mode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def no_permission(folder: pathlib.Path) -> pathlib.Path:
    path = ledger_in(folder)
    folder.chmod(0o000)
    return path


def closed_folder(folder: pathlib.Path) -> pathlib.Path:
    path = ledger_in(folder)
    folder.chmod(0o555)
    return path


def closed_file(folder: pathlib.Path) -> pathlib.Path:
    path = ledger_in(folder)
    path.chmod(0o444)
    return path


def secret_file(folder: pathlib.Path) -> pathlib.Path:
    path = ledger_in(folder)
    path.chmod(0o000)
    return path


def closed_parent(folder: pathlib.Path) -> pathlib.Path:
    folder.chmod(0o555)
    return folder / "new" / "ledger.sqlite"


def hidden_parent(folder: pathlib.Path) -> pathlib.Path:
    folder.chmod(0o000)
    return folder / "new" / "ledger.sqlite"


def a_folder(folder: pathlib.Path) -> pathlib.Path:
    (folder / "ledger.sqlite").mkdir()
    return folder / "ledger.sqlite"


def a_text(folder: pathlib.Path) -> pathlib.Path:
    (folder / "ledger.sqlite").write_text("not a database, but long enough to be looked at " * 200)
    return folder / "ledger.sqlite"


def closed_lock(folder: pathlib.Path) -> pathlib.Path:
    (folder / "ledger.sqlite.lock").touch()
    (folder / "ledger.sqlite.lock").chmod(0o444)
    return folder / "ledger.sqlite"


CLOSED: dict[Callable[[pathlib.Path], pathlib.Path], str] = {
    no_permission: "the ledger cannot be written",
    closed_folder: "the ledger cannot be written",
    closed_file: "the ledger cannot be written",
    secret_file: "the ledger cannot be written",
    closed_parent: "the ledger's folder cannot be made",
    hidden_parent: "the ledger cannot be written",
    a_folder: "the ledger is a file, and this is a folder",
    a_text: "this file is not a ledger",
    closed_lock: "the ledger cannot be written",
}


@pytest.mark.parametrize("place", CLOSED, ids=lambda place: place.__name__)
@pytest.mark.parametrize("mode", ["create", "find"])
def test_a_closed_place_is_refused_in_one_message(folder: pathlib.Path, place: Callable[[pathlib.Path], pathlib.Path], mode: str) -> None:
    path = place(folder)
    lines = said(path, mode)
    expected = "there is no ledger here" if mode == "find" and place in (closed_parent, closed_lock) else CLOSED[place]
    assert lines[0] == expected
    assert any(line.startswith("  found:") for line in lines)
    assert any(line.startswith("  fix:") for line in lines)


def test_a_missing_folder_is_made_and_a_missing_ledger_is_said_to_be(folder: pathlib.Path) -> None:
    assert said(folder / "a" / "b" / "ledger.sqlite", "find")[0] == "there is no ledger here"
    assert said(folder / "a" / "b" / "ledger.sqlite", "create") == ["open", "written"]


# Damage


def damaged(folder: pathlib.Path, change: Callable[[bytearray], bytearray]) -> pathlib.Path:
    path = ledger_in(folder)
    path.write_bytes(change(bytearray(path.read_bytes())))
    return path


@pytest.mark.parametrize("keeps", [100, 4096, 4096 * 3, 4096 * 10 + 17])
def test_a_ledger_that_lost_its_end_is_said_to_be_damaged(folder: pathlib.Path, keeps: int) -> None:
    path = damaged(folder, lambda content: content[:keeps])
    lines = said(path)
    assert next(line for line in lines if line != "open") in ("the ledger file is damaged", "this file is not a ledger")


@pytest.mark.parametrize("n_bytes", [8, 4096])
def test_damage_within_the_file_is_a_clear_message_or_does_no_harm(folder: pathlib.Path, n_bytes: int) -> None:
    path, rng = ledger_in(folder), random.Random(n_bytes)
    whole = path.read_bytes()
    noticed = 0
    for page in range(0, len(whole), 4096):
        spoiled = bytearray(whole)
        for place in range(page, page + 4096) if n_bytes == 4096 else rng.choices(range(page, page + 4096), k=n_bytes):
            spoiled[place] = rng.randrange(256)
        path.write_bytes(spoiled)
        noticed += uses(path)
    assert noticed > 3


def test_a_text_that_the_ledger_cannot_have_written_is_damage(folder: pathlib.Path) -> None:
    for column, text in (("point", "{"), ("phase", "meplicate"), ("arm", b"\xff")):
        path = ledger_in(folder)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(f"UPDATE memberships SET {column} = CAST(? AS TEXT) WHERE position = 3", (text,))
        connection.commit()
        connection.close()
        with Ledger.open(path, patience=Patience(for_s=600)) as ledger, pytest.raises(LedgerError, match="the ledger file is damaged"):
            ledger.members(STUDY)
        path.unlink()


def uses(path: pathlib.Path) -> bool:
    """Whether opening, reading and writing says that the file is damaged; another error is one too many."""
    try:
        with Ledger.open(path) as ledger:
            ledger.trial_records(STUDY)
            ledger.insert_plan(plan(210))
    except LedgerError as error:
        what = error.problems[0].what
    else:
        what = ""
    finally:
        for end in ("-wal", "-shm"):
            pathlib.Path(f"{path}{end}").unlink(missing_ok=True)
    assert what in ("", "the ledger file is damaged", "this file is not a ledger", "the ledger refused a row")
    return bool(what)
