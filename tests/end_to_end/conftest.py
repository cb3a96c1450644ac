"""Real launches of `launch.py` on studies of the curves trainer, each in a folder of its own."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping

import psutil
import pytest

from orchestrator.ledger import Ledger, NoLedgerError
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
    """One folder with a study file and an output folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.study = folder / "families.py"
        self.out = folder / "runs"
        self.write()

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
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_s, cwd=self.folder, env=environment()
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
            env=environment(),
        )

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
            ledger = Ledger.open(self.out / "ledger.db", create=False)
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

    def result(self) -> Result:
        """Final metrics of each trial, to the bit, and the table that the report holds."""
        with Ledger.open(self.out / "ledger.db", create=False) as ledger:
            metrics = {row.key: row.metrics for row in ledger.trial_records("families")}
        return metrics, (self.out / "families" / "report" / "table.csv").read_text()


def environment() -> dict[str, str]:
    """The environment of a launch: what the tests run under, and the repository's modules."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}


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
