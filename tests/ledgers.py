"""Ledgers to test on: small plans, a private PostgreSQL server, and processes that lease, finish and are killed.

python -m tests.ledgers WHAT LEDGER STUDY IDENTITY

WHAT: `open` only opens; `work` leases and finishes until nothing waits; `crowd` is IDENTITY processes that do; `hold` leases one
trial for half a second, waits for a line, and then tries everything with it; `stop` stops itself within a transaction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from orchestrator.ledger import CellRow, Entry, Leased, Ledger, MemberRow, Patience, PlanRows, TrialRow, opening
from orchestrator.ledger.opening import parse
from orchestrator.ledger.schema import metadata
from orchestrator.records import Phase, TrialState

ROOT = pathlib.Path(__file__).parents[1]
STUDY = "study"
LEASE_S = 600.0


def plan(
    n_trials: int = 4,
    *,
    study: str = STUDY,
    arms: Sequence[str] = ("base",),
    signatures: Sequence[str] = ("sig",),
    first: int = 0,
    spec: Mapping[str, str] | None = None,
) -> PlanRows:
    """A plan of trials `t0000`, …; trial i is of arm i, cell i and signature i, each modulo their number."""
    cells = tuple(
        CellRow(
            key=f"cell-{arm}-{signature}",
            trainer="tests:Nothing",
            version="1",
            config={"optim.lr": 0.1, "model.sizes": (1, (2.5,)), "arm": arm},
            signature=signature,
            cost={"cost/train_gflops": 2.5},
        )
        for arm in arms
        for signature in signatures
    )
    numbers = range(first, first + n_trials)
    trials = tuple(
        TrialRow(key=f"t{i:04d}", cell=f"cell-{arms[i % len(arms)]}-{signatures[i % len(signatures)]}", seed=100 + i) for i in numbers
    )
    members = tuple(
        MemberRow(
            trial=f"t{i:04d}",
            arm=arms[i % len(arms)],
            phase=Phase.REPLICATE,
            index=i // len(arms),
            position=i,
            point={"optim.lr": 0.1},
        )
        for i in numbers
    )
    return PlanRows(study=study, spec=spec or {"question": "why?"}, cells=cells, trials=trials, members=members)


def with_members(rows: PlanRows, **changes: object) -> PlanRows:
    """The plan with every membership changed alike."""
    return dataclasses.replace(rows, members=tuple(dataclasses.replace(row, **changes) for row in rows.members))


_births = itertools.count()


def register(ledger: Ledger, identity: str = "w", *, study: str = STUDY, host: str = "here") -> int:
    """A worker: another one at each call."""
    return ledger.register_worker(study, identity=identity, host=host, pid=1, started=f"birth {next(_births)}")


def rung(lease: Leased, step: int, outcome: TrialState | None = None, **metrics: float) -> Entry:
    """An entry for a lease; `val_nll=1.0` is the metric `val/nll`."""
    named: dict[str, float] = {name.replace("_", "/"): value for name, value in metrics.items()}
    return Entry(key=lease.key, fence=lease.fence, step=step, metrics=named, outcome=outcome, provenance={"jax": "1"} if outcome else {})


def finish(ledger: Ledger, worker: int, leases: Sequence[Leased]) -> None:
    """Completes the leases with the metric `test/nll` 0.5."""
    kept = ledger.record(worker, [rung(lease, 10, TrialState.COMPLETE, test_nll=0.5) for lease in leases])
    assert all(kept.values()), kept


def states(ledger: Ledger, study: str = STUDY) -> dict[str, TrialState]:
    """State of each live trial of the study."""
    return {member.key: member.state for member in ledger.members(study) if not member.orphaned}


class PostgreSQL:
    """A server of our own in a folder of our own, reached by a socket in it: it can be stopped and started like any other.

    Attributes:
        url: Of its first database; the same after a restart.
    """

    def __init__(self, folder: pathlib.Path, *, password: str = "") -> None:
        """Not started yet.

        Args:
            folder: Empty.
            password: That it asks for; empty for none.
        """
        self.url = sa.URL.create(
            "postgresql", username="tessera", password=password or None, database="postgres", query={"host": str(folder)}
        )
        self._folder, self._programs = folder, _postgresql_programs()
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # which it refuses to run as
            shutil.chown(folder, "postgres")
            self._as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        secret = folder / "password"
        secret.write_text(f"{password}\n")
        asked = ("-A", "scram-sha-256", "--pwfile", str(secret)) if password else ("-A", "trust")
        self._run("initdb", "-U", "tessera", *asked, "-E", "UTF8", "--locale=C", "--no-sync")
        secret.unlink()

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """At once, as if its processes were killed: transactions that have not committed are lost, connections break."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """Stops and starts it: what it committed is there again."""
        self.stop()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        log = self._folder / f"{program}.out"
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        with open(log, "wb") as out:
            done = subprocess.run(command, stdout=out, stderr=out, cwd="/", check=False, **self._as_user)
        assert done.returncode == 0, log.read_text()


@contextlib.contextmanager
def postgresql(*, password: str = "") -> Generator[PostgreSQL]:
    """A server that runs, and is gone afterwards.

    Args:
        password: That it asks for; empty for none.

    Raises:
        FileNotFoundError: There is no server program on this machine.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
    try:
        server = PostgreSQL(folder, password=password)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def need_postgresql() -> None:
    """Skips what needs a server where there is no program for one."""
    import pytest  # not at the top: processes that tests start import this module too

    try:
        _postgresql_programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def _postgresql_programs() -> pathlib.Path:
    found = [path.parent for path in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if on_path := shutil.which("initdb"):
        found.append(pathlib.Path(on_path).resolve().parent)
    if not found:
        raise FileNotFoundError("no PostgreSQL server programs on PATH or in /usr/lib/postgresql")
    return found[-1]


def start(what: str, ledger: str | pathlib.Path, identity: str = "p", *, study: str = STUDY) -> subprocess.Popen[str]:
    """A process of this file's."""
    command = [sys.executable, "-m", "tests.ledgers", what, str(ledger), study, identity]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=pathlib.Path(__file__).parents[1]
    )


def empty(url: str) -> None:
    """Takes every row out of a ledger, as if it were new: much sooner done than making another database."""
    engine = sa.create_engine(parse(url))
    names = [table.name for table in reversed(metadata.sorted_tables)]
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")
        else:
            for name in names:
                connection.exec_driver_sql(f"DELETE FROM {name}")
    engine.dispose()


def dump(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, without moments and without the numbers that workers and events are given."""
    engine = sa.create_engine(parse(url))
    found: dict[str, list[tuple[Any, ...]]] = {}
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            columns = [column for column in table.columns if not column.name.endswith("at") and column.name != "id"]
            found[table.name] = sorted((tuple(row) for row in connection.execute(sa.select(*columns))), key=repr)
    engine.dispose()
    return found


def _say(*words: object) -> None:
    """One line, in one piece: others may say something too."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _work(ledger: Ledger, study: str, identity: str) -> None:
    worker = register(ledger, f"{identity} {os.getpid()}", study=study)
    while leases := ledger.lease(study, worker, 4, lease_s=LEASE_S):
        for step in (1, 2):
            ledger.record(worker, [rung(lease, step, val_nll=1.0 / step) for lease in leases])
        finish(ledger, worker, leases)
        _say(*(lease.key for lease in leases))


def _hold(ledger: Ledger, study: str, identity: str) -> None:
    """Says what became of every call that it makes about a trial after it was told to go on."""
    worker = register(ledger, identity, study=study)
    (lease,) = ledger.lease(study, worker, 1, lease_s=0.5)
    _say(lease.key)
    sys.stdin.readline()
    key = lease.key
    _say(
        ledger.renew(worker, LEASE_S),
        ledger.record(worker, [rung(lease, 7, val_nll=7.0)])[key],
        ledger.record(worker, [rung(lease, 8, TrialState.COMPLETE, val_nll=8.0)])[key],
        ledger.fail(worker, key, lease.fence, "it raised"),
        ledger.park(worker, [key]),
        ledger.release(worker, state=TrialState.PREEMPTED, reason="told to"),
    )


def _stop(ledger: Ledger, study: str, identity: str) -> None:
    """Stops itself when it has written a rung and not committed; says whether the rung was written when it goes on."""
    worker = register(ledger, identity, study=study)
    (lease,) = ledger.lease(study, worker, 1, lease_s=0.5)
    commit = DefaultDialect.do_commit

    def stopped(dialect: DefaultDialect, connection: Any) -> None:
        DefaultDialect.do_commit = commit
        _say(lease.key)
        os.kill(os.getpid(), signal.SIGSTOP)
        commit(dialect, connection)

    DefaultDialect.do_commit = stopped
    _say(ledger.record(worker, [rung(lease, 7, TrialState.COMPLETE, val_nll=7.0)])[lease.key])


DOES: Mapping[str, Callable[[Ledger, str, str], None]] = {
    "work": _work,
    "crowd": _work,
    "hold": _hold,
    "stop": _stop,
    "open": lambda *_: None,
}


def _main(what: str, url: str, study: str, identity: str) -> None:
    if what == "stop":
        opening.IDLE_S = 1
    with Ledger.open(url, patience=Patience(for_s=300)) as ledger:
        _say("open")
        DOES[what](ledger, study, identity)


def _fork(arguments: Sequence[str]) -> int:
    """A process of this program; its number."""
    if pid := os.fork():
        return pid
    try:
        _main(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "crowd":  # forked before anything is opened, so that Python is imported once for all of them
        crowd = [_fork(sys.argv[1:]) for _ in range(int(sys.argv[4]))]
        sys.exit(max([os.waitpid(pid, 0)[1] for pid in crowd]) > 0)
    _main(*sys.argv[1:])
