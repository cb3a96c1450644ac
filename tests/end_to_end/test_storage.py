"""Where the ledger is: a server whose password nobody sees, one that is away for a while, a disk that is full, a place that is wrong."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import threading
import urllib.parse

import psutil
import pytest
import sqlalchemy as sa

from tests.ledgers import PostgreSQL

TOTAL = 18


# A password


def secrets(url: str) -> tuple[bytes, ...]:
    """A password as it was chosen, and as URLs write it."""
    password = str(sa.make_url(url).password)
    return tuple(text.encode() for text in {password, urllib.parse.quote(password), urllib.parse.quote(password, safe="")})


def holding(folder: pathlib.Path, words: tuple[bytes, ...]) -> list[str]:
    """Files under a folder that hold one of the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]


def command_lines(of: list[psutil.Process], *, launcher: list[str]) -> bytes:
    """What anybody on the machine can read of some processes; those just forked still bear what the user typed."""
    lines = b""
    for process in of:
        with contextlib.suppress(psutil.Error):
            found = process.cmdline()
            lines += b"" if found == launcher else " ".join(found).encode()
    return lines


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["environment", "option"])
def test_a_password_is_in_no_file_no_output_and_no_command_line(launches, database: str, how: str) -> None:
    words = secrets(database)
    assert len(words) == 3
    given: tuple[str, ...] = ()
    if how == "environment":
        launches.storage = database
    else:
        given = ("--storage", database)
    launches.write(
        base="noise=0.02, sleep_s=0.05", arms=('Arm("plain", baseline=True)', 'Arm("broken", {"raise_at": 40})'), trials=2, replicates=1
    )
    said = b""
    process = launches.start(*given, "--wandb", "offline", "--workers", "2")
    seen = b""

    def children() -> list[psutil.Process]:
        return psutil.Process(process.pid).children(recursive=True)

    def publishes() -> bool:
        nonlocal seen
        seen += command_lines(children(), launcher=psutil.Process(process.pid).cmdline())
        return b"orchestrator.publisher" in seen and bool(launches.workers()) and launches_finished(launches, database) >= 1

    launches.until(publishes)
    process.send_signal(2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "nothing is lost. To go on: python launch.py" in err
    assert ("***@" in err) == (how == "option")
    said += (out + err).encode()
    rest = (("status",), ("report", "--json"), ("retry",), ("plan", "--probe")) if how == "environment" else ()
    for command in (("run", "--wandb", "offline", "--json"), ("status", "--json"), *rest):
        ended = launches.run(*command, *given)
        assert ended.code in (0, 1), ended.err
        said += (ended.out + ended.err).encode()
    assert holding(launches.folder, words) == []
    assert not [word for word in words if word in said or word in seen]
    assert b"orchestrator.worker" in seen or b"orchestrator.nursery" in seen
    assert list((launches.out / "families" / "wandb").glob("offline-run-*")), "W&B's files were looked at too"
    dump = subprocess.run(  # all that the ledger holds
        [sys.executable, "-c", DUMP, database], capture_output=True, check=True, cwd=pathlib.Path(__file__).parents[2]
    ).stdout
    assert b"families" in dump
    assert not [word for word in words if word in dump]


DUMP = """
import sys
import sqlalchemy as sa
engine = sa.create_engine(sa.make_url(sys.argv[1]).set(drivername="postgresql+psycopg"))
metadata = sa.MetaData()
metadata.reflect(engine)
with engine.connect() as connection:
    for table in metadata.sorted_tables:
        for row in connection.execute(sa.select(table)):
            print(table.name, *row)
"""


def launches_finished(launches, url: str) -> int:
    """As `Launches.finished`, where the URL is not in the environment."""
    other = launches.beside("runs")
    other.storage = url
    return other.finished()


# A place that is wrong


@pytest.mark.postgres
def test_a_wrong_place_is_one_clear_message_and_nothing_is_written(launches, server: PostgreSQL) -> None:
    url = server.url
    wrong = {
        url.set(password="Zq7-wrong"): "the database refused the user or the password",
        url.set(database="nowhere"): 'database "nowhere" does not exist',
        url.update_query_dict({"host": str(launches.folder)}): "the ledger's database is out of reach",
        url.set(host="127.0.0.1", port=9).update_query_dict({"host": []}): "the ledger's database is out of reach",
        sa.make_url("mysql://ann:Zq7@db/sweeps"): "a ledger cannot be kept there",
    }
    for number, (place, words) in enumerate(wrong.items()):
        for command in ("run", "status", "stop")[: 3 if number == 0 else 1]:
            launches.storage = place.render_as_string(hide_password=False)
            ended = launches.run(command)
            assert (ended.code, "Traceback" in ended.err, "Zq7" in ended.err) == (2, False, False), ended.err
            assert words in ended.err
            assert "fix:" in ended.err or "expected:" in ended.err
            assert not launches.out.exists()


def test_a_url_with_an_at_sign_in_its_password_says_how_to_write_it(launches) -> None:
    ended = launches.run("plan", "--storage", "postgresql://ann:Zq7@half@db/sweeps")
    assert ended.code == 2
    assert "more than one @" in ended.err
    assert "%40" in ended.err
    assert "Zq7" not in ended.err + ended.out
    assert "half" not in ended.err + ended.out


def test_a_url_that_is_typed_in_the_wrong_place_is_not_repeated_with_its_password(launches) -> None:
    for arguments in (("--storag", "postgresql://ann:Zq7@db/sweeps"), ("--profile", "postgresql://ann:Zq7@db/sweeps", "plan")):
        ended = launches.run(*arguments)
        assert ended.code == 2
        assert "ann:***@db" in ended.err
        assert "Zq7" not in ended.err


def test_without_psycopg_a_server_is_refused_with_what_to_install(launches, monkeypatch: pytest.MonkeyPatch) -> None:
    (launches.folder / "psycopg.py").write_text("raise ModuleNotFoundError(\"No module named 'psycopg'\")\n")
    environment = launches.environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(launches.folder), environment["PYTHONPATH"]])
    monkeypatch.setattr(launches, "environment", lambda: environment)
    ended = launches.run("--storage", "postgresql://ann:Zq7@db/sweeps")
    assert ended.code == 2
    assert "PostgreSQL needs the psycopg package" in ended.err
    assert "tessera-sweeps[postgres]" in ended.err
    assert not launches.out.exists()


def test_a_file_elsewhere_keeps_the_ledger_of_several_folders(launches) -> None:
    shared = launches.folder / "shared.db"
    launches.write(arms=('Arm("plain", baseline=True)',), trials=1, replicates=1)
    assert launches.run("--storage", "shared.db").code == 0, "a relative path is where the command was given"
    assert shared.exists()
    assert not (launches.out / "ledger.db").exists()
    other = launches.beside("elsewhere")
    ended = other.run("--storage", f"sqlite:///{shared}")
    assert (ended.code, "nothing to do" in ended.err) == (0, True), ended.err
    assert other.run("status").code == 2


@pytest.mark.parametrize(("place", "storage"), [("file/inside", ""), ("file/inside", "ledger.db"), ("/proc/nowhere", "ledger.db")])
def test_an_output_folder_that_cannot_be_made_is_one_clear_message(launches, place: str, storage: str) -> None:
    """For root too, who may write into any folder that there is."""
    (launches.folder / "file").write_text("")
    launches.out = launches.folder / place
    ended = launches.run("--storage", storage)
    assert ended.code == 2
    assert "the output folder cannot be written" in ended.err
    assert "choose another folder with --out" in ended.err
    assert "Traceback" not in ended.err
    assert not (launches.folder / "ledger.db").exists(), "nothing was written"


# A ledger that cannot serve for a while


@pytest.mark.postgres
def test_a_server_that_is_restarted_costs_no_trial(launches, undisturbed, server: PostgreSQL, database: str) -> None:
    launches.storage = database
    launches.write(base="noise=0.02, sleep_s=0.03")
    process = launches.start("--workers", "2")
    for finished in (2, 6):
        launches.until(lambda finished=finished: launches.finished() >= finished)
        assert process.poll() is None
        server.restart()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert set(launches.completions().values()) == {1}
    assert launches.result() == undisturbed
    assert not launches.workers()


@pytest.mark.postgres
def test_a_run_waits_for_its_server_and_ctrl_c_ends_the_wait(launches, undisturbed, server: PostgreSQL, database: str) -> None:
    launches.storage = database
    launches.write(base="noise=0.02, sleep_s=0.03")
    process = launches.start("--workers", "2")
    launches.until(lambda: launches.finished() >= 2)
    server.stop()
    try:
        heard = Heard(process)
        launches.until(lambda: "waiting for the ledger" in heard.text)
        process.send_signal(2)
        process.wait(timeout=60)
        launches.until(lambda: not launches.workers(), timeout_s=6)
    finally:
        server.start()
    heard.close()
    assert process.returncode == 130, heard.text
    assert "nothing is lost. To go on:" in heard.text
    assert "Traceback" not in heard.text
    assert launches.run().code == 0
    assert set(launches.completions().values()) == {1}
    assert launches.result() == undisturbed


@pytest.mark.postgres
def test_a_run_whose_patience_ends_says_so_and_the_same_command_goes_on(launches, server: PostgreSQL, database: str) -> None:
    launches.storage = database
    launches.write(base="noise=0.02, sleep_s=0.03")
    process = launches.start("--workers", "2", "--patience", "1")
    launches.until(lambda: launches.finished() >= 2)
    server.stop()
    try:
        _, err = process.communicate(timeout=60)
        launches.until(lambda: not launches.workers(), timeout_s=6)
    finally:
        server.start()
    assert process.returncode == 2, err
    assert "waiting for the ledger" in err
    assert "To go on, once it serves: python launch.py" in err
    assert "the ledger's database is out of reach" in err
    assert "Traceback" not in err
    assert launches.run().code == 0
    assert set(launches.completions().values()) == {1}


class Heard:
    """What a process says on stderr, taken in as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text, self._process = "", process
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        """Until it has ended."""
        self._thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.text += line


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set with prlimit")
@pytest.mark.parametrize("is_patient", [True, False])
def test_a_run_waits_for_room_on_the_ledgers_disk(launches, undisturbed, is_patient: bool) -> None:
    """No file may grow beyond a size, which is what a full disk is to the ledger; then the limit is lifted."""
    launches.write(base="noise=0.02, sleep_s=0.03")
    process = launches.start("--workers", "2", *(() if is_patient else ("--patience", "1")))
    launches.until(lambda: launches.finished() >= 2)
    ours = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    limit(ours, (launches.out / "ledger.db-wal").stat().st_size)
    heard = Heard(process)
    launches.until(lambda: "waiting for the ledger" in heard.text or process.poll() is not None)
    if is_patient:
        limit(ours, resource.RLIM_INFINITY)
        process.wait(timeout=240)
        heard.close()
        assert process.returncode == 0, heard.text
        assert "the ledger is back" in heard.text
    else:
        process.wait(timeout=60)
        heard.close()
        assert process.returncode == 2, heard.text
        assert "free disk space" in heard.text
        launches.until(lambda: not launches.workers(), timeout_s=6)
        assert launches.run().code == 0
    assert "Traceback" not in heard.text
    assert set(launches.completions().values()) == {1}
    assert launches.result() == undisturbed


def limit(processes: list[psutil.Process], most: int) -> None:
    """How large a file some processes may write; what is larger already stays."""
    for process in processes:
        if process.is_running():
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


# A study file that is edited


def test_an_edit_is_noticed_and_the_next_launcher_takes_the_study_over(launches) -> None:
    launches.write(base="noise=0.02, sleep_s=0.1")
    first = launches.start("--workers", "1")
    launches.until(lambda: launches.finished() >= 1)
    heard = Heard(first)
    launches.write(base="noise=0.02, sleep_s=0.1", arms=('Arm("plain", baseline=True)', 'Arm("tall", {"size": 50})'))
    launches.until(lambda: "the study file was edited: run the same command again" in heard.text)
    second = launches.run("--workers", "2")
    assert second.code == 0, second.err
    first.wait(timeout=60)
    heard.close()
    assert first.returncode == 130, heard.text
    assert "The launcher of the edited study goes on with it" in heard.text
    assert "report:" not in heard.text
    assert "running or waiting trials are no part of the study any more: stopped at their next rung" in second.err
    assert "going on: there is no terminal to ask on" in second.err
    assert set(launches.completions().values()) <= {0, 1}
    assert launches.status() == {"complete": 12}
    assert not launches.workers()
    again = launches.run("--yes")
    assert (again.code, "no part of the study" in again.err) == (0, False), again.err
