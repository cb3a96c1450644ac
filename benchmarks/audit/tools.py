"""The tools that are audited: how each one is started, what its processes are, and what its records say in the end."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa

from benchmarks.audit.findings import Told
from benchmarks.audit.processes import Role, Victim
from benchmarks.audit.work import SEEDS, SIZES, WITNESS, Job, cell_of
from orchestrator.storage import VARIABLE

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDY = "audit"
SETTLED_HERE = ("AUDIT_", "TESSERA", "WANDB", "RAY_", "TUNE_", "OPTUNA", "NO_COLOR", "FORCE_COLOR", "COLUMNS")  # not to be inherited

STUDY_FILE = '''"""Does every trial come out once, and the same, whatever is killed?"""

from benchmarks.audit import work
from orchestrator import Grid, Objective, Replicates, Study, Values

STUDY = Study(
    name="{name}",
    trainer="benchmarks.audit.witnessed:Witnessed",
    base=work.base({sleep_s!r}),
    arms=[Grid({{"size": Values(*{sizes!r}), "learning_rate": Values(*{rates!r})}})],
    protocol=Replicates({seeds}),
    objectives=[Objective("val/nll")],
)
'''


class Tool(Protocol):
    """One tool, as a careful user runs it.

    Attributes:
        name: In JSON and on the command line.
        title: In the table.
        needs: Package that has to be installed; empty if it is there anyway.
        victims: What may be killed, with weights.
    """

    name: str
    title: str
    needs: str
    victims: Mapping[Victim, int]

    def command(self, job: Job) -> list[str]:
        """The command that begins the job, and goes on with it: the same one each time."""
        ...

    def role(self, line: str, parent_line: str) -> Role:
        """What a process is, by its command line and its parent's. The launcher is known otherwise."""
        ...

    def told(self, job: Job) -> Told:
        """What its own records say, once it said that all is done."""
        ...


VICTIMS = {Victim.LAUNCHER: 6, Victim.WORKER: 6, Victim.WORKERS: 3, Victim.EVERYTHING: 4}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tessera:
    """`launch.py` on a study file. Its ledger is read with SQL of this file, not with the ledger's own code.

    Attributes:
        name: See `Tool`.
        title: See `Tool`.
        victims: See `Tool`.
        wandb: Mode of the W&B copy; a process of its own unless disabled.
    """

    name: str = "tessera"
    title: str = "Tessera"
    victims: Mapping[Victim, int] = dataclasses.field(default_factory=lambda: {**VICTIMS, Victim.NURSERY: 1})
    wandb: str = "disabled"
    needs: str = ""

    def command(self, job: Job) -> list[str]:
        study = job.folder / "study.py"
        text = STUDY_FILE.format(name=STUDY, sleep_s=job.sleep_s, sizes=SIZES, rates=job.learning_rates, seeds=SEEDS)
        study.write_text(text, "utf-8")
        options = ["--out", str(job.out / "runs"), "--workers", str(job.workers), "--wandb", self.wandb, "--json"]
        return [sys.executable, str(ROOT / "launch.py"), str(study), *options]

    def role(self, line: str, parent_line: str) -> Role:
        """A forked worker has the nursery's command line, and the nursery for a parent."""
        if "orchestrator.worker" in line or ("orchestrator.nursery" in line and "orchestrator.nursery" in parent_line):
            return Role.WORKER
        return Role.NURSERY if "orchestrator.nursery" in line else Role.OTHER

    def told(self, job: Job) -> Told:
        return ledger_told(job.storage or f"sqlite:///{job.out / 'runs' / 'ledger.db'}")


_TRIALS = sa.text(
    "SELECT trials.key, cells.config, trials.seed FROM trials JOIN cells ON cells.key = trials.cell"
    " WHERE trials.state = 'complete' AND trials.key IN (SELECT trial FROM memberships WHERE study = :study)"
)
_FINAL = sa.text(
    "SELECT measurements.trial, measurements.name, measurements.value FROM measurements"
    " JOIN trials ON trials.key = measurements.trial AND trials.step = measurements.step"
)
_COMPLETIONS = sa.text("SELECT trial, count(*) FROM attempts WHERE outcome = 'complete' GROUP BY trial")


def ledger_told(url: str) -> Told:
    """What a ledger says: complete trials, the metrics of their last step, and the attempts that were recorded as complete."""
    engine = sa.create_engine(driven(url))
    try:
        with engine.connect() as connection:
            names = {key: str(cell_of(json.loads(config), seed)) for key, config, seed in connection.execute(_TRIALS, {"study": STUDY})}
            results: dict[str, dict[str, float]] = collections.defaultdict(dict)
            for trial, name, value in connection.execute(_FINAL):
                if trial in names:
                    results[names[trial]][name] = value
            completions = {names.get(trial, trial): count for trial, count in connection.execute(_COMPLETIONS)}
    finally:
        engine.dispose()
    return Told(results=dict(results), completions=completions)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A rival: a script in `benchmarks.rivals`.

    Attributes:
        name: See `Tool`.
        title: See `Tool`.
        needs: See `Tool`.
        module: Of the script.
        arguments: After the job file.
        worker: What the command line of a worker has.
    """

    name: str
    title: str
    needs: str
    module: str
    worker: str
    arguments: tuple[str, ...] = ()
    victims: Mapping[Victim, int] = dataclasses.field(default_factory=lambda: VICTIMS)

    def command(self, job: Job) -> list[str]:
        file = job.folder / "job.json"
        job.write(file)
        return [sys.executable, "-m", f"benchmarks.rivals.{self.module}", str(file), *self.arguments]

    def role(self, line: str, parent_line: str) -> Role:  # noqa: ARG002 - its own line says enough
        return Role.WORKER if self.worker in line else Role.OTHER

    def told(self, job: Job) -> Told:
        """Asked in a process of its own, by the tool's own library."""
        done = subprocess.run(
            [*self.command(job), "--told"], env=environment(job), cwd=job.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the records of {self.name} cannot be read: {done.stderr.strip()[-2000:]}")
        return Told(**json.loads(done.stdout))


TOOLS: tuple[Tool, ...] = (
    Tessera(),
    Script(
        name="optuna_journal",
        title="Optuna, brute force, journal file",
        needs="optuna",
        module="audit_optuna",
        arguments=("journal",),
        worker="--worker",
    ),
    Script(
        name="optuna_rdb",
        title="Optuna, brute force, SQLite, heartbeats and retries",
        needs="optuna",
        module="audit_optuna",
        arguments=("rdb",),
        worker="--worker",
    ),
    Script(name="ray_tune", title="Ray Tune, Tuner.restore", needs="ray", module="audit_ray", worker="ray::ImplicitFunc"),
)


def environment(job: Job) -> dict[str, str]:
    """The same for every tool. What a killed process leaves in the folder for temporary files goes with the audit's own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(SETTLED_HERE)}
    return {
        **inherited,
        WITNESS: str(job.folder / "witnesses.jsonl"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH", "")))),
        "NO_COLOR": "1",
        "TMPDIR": str(job.folder.parent),
        **({VARIABLE: job.storage} if job.storage else {}),  # not on the command line, which others see: it may hold a password
    }


@contextlib.contextmanager
def storage(url: str) -> Generator[str]:
    """A database of its own on the server of the URL, so that a round finds nothing of another; empty for none.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The server cannot be reached, or the user may not create databases.
    """
    if not url:
        yield ""
        return
    name = f"audit_{uuid.uuid4().hex[:12]}"
    server = sa.create_engine(driven(url), isolation_level="AUTOCOMMIT")
    try:
        _execute(server, f"CREATE DATABASE {name}")
        try:
            yield sa.make_url(url).set(database=name).render_as_string(hide_password=False)
        finally:
            _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        server.dispose()


def driven(url: str) -> sa.URL:
    """The URL with the driver that this project depends on, where it names none."""
    parts = sa.make_url(url)
    return parts.set(drivername="postgresql+psycopg") if parts.drivername in ("postgresql", "postgres") else parts


def _execute(engine: sa.Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text(statement))


def chosen(names: Sequence[str], wandb: str) -> list[Tool]:
    """The tools of these names, or all."""
    tools = [dataclasses.replace(tool, wandb=wandb) if isinstance(tool, Tessera) else tool for tool in TOOLS]
    return [tool for tool in tools if not names or tool.name in names]
