"""Real launches of `launch.py` on studies of the curves trainer, each in a folder of its own."""

from __future__ import annotations

import collections
import copy
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping

import psutil
import pytest
import sqlalchemy as sa

from orchestrator.ledger import Ledger, NoLedgerError
from orchestrator.ledger.opening import parse
from orchestrator.storage import VARIABLE, storage_of
from tests.ledgers import PostgreSQL, need_postgresql, postgresql
from tests.waiting import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent

STUDY = '''"""Which family of curves goes lowest?"""

from orchestrator import *
from trainers.curves import CurvesConfig

STUDY = Study(
    name="families",
    trainer="trainers.curves:Curves",
    base=CurvesConfig({base}),
    arms=[{arms}],
    nuisance={{"learning_rate": {axis}}},
    protocol=Tune(trials={trials}, select="val/nll", then=Replicates({replicates})),
    objectives=[Objective("test/nll"), Objective("cost/train_gflops")],
)
'''

Result = tuple[dict[str, Mapping[str, float]], str]

ARMS = ('Arm("plain", baseline=True)', 'Arm("wide", {"family": "wide", "size": 200})', 'Arm("deep", {"family": "deep", "floor": 0.25})')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A launch that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Mapping[str, object]:
        """stdout as one document."""
        return json.loads(self.out)


class Launches:
    """One folder with a study file and an output folder.

    Attributes:
        storage: URL of the ledger, given in the environment; empty for the file in the output folder.
    """

    def __init__(self, folder: pathlib.Path, *, storage: str = "") -> None:
        self.folder = folder
        self.study = folder / "families.py"
        self.out = folder / "runs"
        self.storage = storage
        self.write()

    def beside(self, name: str) -> Launches:
        """The same study and ledger with another output folder, as on another machine."""
        other = copy.copy(self)
        other.out = self.folder / name
        return other

    def write(
        self,
        *,
        base: str = "noise=0.02",
        arms: tuple[str, ...] = ARMS,
        axis: str = "LogUniform(1e-3, 1e-1)",
        trials: int = 3,
        replicates: int = 3,
    ) -> None:
        """Writes the study file."""
        self.study.write_text(STUDY.format(base=base, arms=", ".join(arms), axis=axis, trials=trials, replicates=replicates))

    def command(self, *arguments: str) -> list[str]:
        """The command line of a launch."""
        wandb = () if "--wandb" in arguments else ("--wandb", "disabled")
        return [sys.executable, str(REPOSITORY / "launch.py"), str(self.study), *arguments, "--out", str(self.out), *wandb]

    def run(self, *arguments: str, timeout_s: float = 120) -> Ended:
        """Launches and waits."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_s, cwd=self.folder, env=self.environment()
        )
        return Ended(code=done.returncode, out=done.stdout, err=done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Launches in the background, in a session of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            env=self.environment(),
        )

    def environment(self) -> dict[str, str]:
        """The environment of a launch: what the tests run under, the repository's modules, and the ledger's URL."""
        ours = {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
        return {**os.environ, **ours, **({VARIABLE: self.storage} if self.storage else {})}

    def ledger(self) -> Ledger:
        """The ledger, which there must be.

        Raises:
            NoLedgerError: There is none yet.
        """
        return Ledger.open(storage_of(self.storage, {}, self.out), create=False)

    def status(self) -> collections.Counter[str]:
        """Trials by state, over all arms."""
        ended = self.run("status", "--json")
        assert ended.code == 0, ended.err
        arms = ended.json["arms"]
        assert isinstance(arms, list)
        return sum((collections.Counter(arm["states"]) for arm in arms), collections.Counter())

    def finished(self) -> int:
        """Trials that are complete, read from the ledger itself."""
        try:
            ledger = self.ledger()
        except NoLedgerError:
            return 0
        with ledger:
            return sum(row.done for row in ledger.progress("families")) if "families" in ledger.study_names() else 0

    def workers(self) -> list[psutil.Process]:
        """Processes of this folder that still run, launchers left out."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if str(self.out) in line and "launch.py" not in line and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def until(self, condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
        """Polls a condition; fails the test when it does not come true."""
        eventually(condition, within_s=timeout_s)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL for a launcher alone: its workers have sessions of their own."""
        process.kill()
        process.communicate()

    def completions(self) -> collections.Counter[str]:
        """How often each trial was completed."""
        with self.ledger() as ledger:
            states = ledger.states(row.key for row in ledger.trial_records("families"))
        engine = sa.create_engine(parse(storage_of(self.storage, {}, self.out)))
        with engine.connect() as connection:
            keys = connection.exec_driver_sql("SELECT trial FROM attempts WHERE outcome = 'complete'").scalars().all()
        engine.dispose()
        return collections.Counter({key: keys.count(key) for key in {*keys, *states}})

    def result(self) -> Result:
        """Final metrics of each trial, to the bit, and the table that the report holds."""
        with self.ledger() as ledger:
            metrics = {row.key: row.metrics for row in ledger.trial_records("families")}
        return metrics, (self.out / "families" / "report" / "table.csv").read_text()


@pytest.fixture(scope="session")
def server() -> Generator[PostgreSQL]:
    """A PostgreSQL server that asks for a password."""
    need_postgresql()
    with postgresql(password=PASSWORD) as running:
        yield running


_databases = itertools.count()


@pytest.fixture
def database(server: PostgreSQL) -> str:
    """URL of an empty database of its own."""
    name = f"study{next(_databases)}"
    engine = sa.create_engine(server.url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.url.set(database=name).render_as_string(hide_password=False)


Pair = tuple[Launches, Launches]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def pair(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Pair:
    """Two launches of the slow study on one ledger: of one output folder, or of two as on two machines."""
    if request.param == "sqlite":
        one = Launches(tmp_path)
        one.write(base=SLOW)
        return one, one
    one = Launches(tmp_path, storage=request.getfixturevalue("database"))
    one.write(base=SLOW)
    return one, one.beside("elsewhere")


PASSWORD = "horse:staple/Zq7%"  # with characters that a URL writes in another way
SLOW = "noise=0.02, sleep_s=0.03"  # long enough to be killed in the middle


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of the slow study, run in one go."""
    launches = Launches(tmp_path_factory.mktemp("undisturbed"))
    launches.write(base=SLOW)
    assert launches.run().code == 0
    return launches.result()


@pytest.fixture
def slow(tmp_path: pathlib.Path) -> Launches:
    """The same, slow enough to be killed in the middle."""
    launches = Launches(tmp_path)
    launches.write(base=SLOW)
    return launches


@pytest.fixture
def launches(tmp_path: pathlib.Path) -> Launches:
    """A fresh folder with the study of three families."""
    return Launches(tmp_path)
