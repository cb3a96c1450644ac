"""The work that every tool does in the kill audit: the same short trials, and witnesses who write down that they were trained.

A witness is a line of a file that no tool knows of: one when work on a trial begins, one when it was carried to its end,
appended and synced before the tool hears of it. So the same kind of evidence is there for every tool, whatever its own records say.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.contract import FlatConfig, Lane, Probe, Report, Usage, Verdict, flatten
from trainers.curves import Curves, CurvesConfig

SIZES = (100, 200)  # two programs, so that packs come to an end within a study
SEEDS = 3
LEAST = len(SIZES) * SEEDS
RUNGS, RUNG_STEPS = 5, 20
LEARNING_RATES = (1e-3, 1e-1)  # lowest and highest, spaced evenly in the logarithm
WITNESS = "AUDIT_WITNESS"  # environment variable: the file of witnesses
SLEEP_S = 0.05  # that a rung of a trial takes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One trial, as every tool names it."""

    size: int
    learning_rate: float
    seed: int

    def __str__(self) -> str:
        """Its name in witnesses and results, with the rate to its last bit."""
        return f"{self.size}/{self.learning_rate!r}/{self.seed}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a tool is asked to do, and to do again until it says that all is done.

    Attributes:
        folder: For whatever the tool writes.
        trials: How many, a multiple of `LEAST`.
        workers: Processes that may train at the same time.
        out: For what the tool has to keep; it may lie on a disk of its own.
        sleep_s: Seconds that a rung of a trial takes.
        storage: URL of the database; empty for the tool's own file.
    """

    folder: pathlib.Path
    trials: int
    workers: int
    out: pathlib.Path
    sleep_s: float = SLEEP_S
    storage: str = ""

    @property
    def learning_rates(self) -> list[float]:
        """Rounded, so that their text is short and exact."""
        (low, high), count = LEARNING_RATES, self.trials // LEAST
        return [float(f"{low * (high / low) ** (i / max(count - 1, 1)):.6g}") for i in range(count)]

    def cells(self) -> list[Cell]:
        """Every trial, once."""
        rates = self.learning_rates
        return [Cell(size=size, learning_rate=rate, seed=seed) for size in SIZES for rate in rates for seed in range(SEEDS)]

    def config(self, cell: Cell) -> FlatConfig:
        """The resolved config of a trial."""
        return flatten(base(self.sleep_s)) | {"size": cell.size, "learning_rate": cell.learning_rate}

    def write(self, file: pathlib.Path) -> None:
        """Writes the job where `read` finds it."""
        file.write_text(json.dumps({**dataclasses.asdict(self), "folder": str(self.folder), "out": str(self.out)}), "utf-8")

    @classmethod
    def read(cls, file: pathlib.Path) -> Job:
        """A job as it was written."""
        document = json.loads(file.read_text("utf-8"))
        return cls(**{**document, "folder": pathlib.Path(document["folder"]), "out": pathlib.Path(document["out"])})


def base(sleep_s: float) -> CurvesConfig:
    """A curve with some noise, so that a result that was computed another way differs."""
    return CurvesConfig(noise=0.02, steps=RUNGS * RUNG_STEPS, rung_steps=RUNG_STEPS, sleep_s=sleep_s)


def cell_of(config: Mapping[str, Any], seed: int) -> Cell:
    """The trial with this config and seed."""
    return Cell(size=config["size"], learning_rate=config["learning_rate"], seed=seed)


def attest(event: str, cells: Iterable[Cell]) -> None:
    """Appends a line for each trial to the file of witnesses, and returns when they are on disk."""
    lines = [json.dumps({"event": event, "cell": str(cell), "pid": os.getpid(), "at": time.time()}) + "\n" for cell in cells]
    number = os.open(os.environ[WITNESS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for line in lines:
            os.write(number, line.encode())  # one call, so that lines of two processes never mix
        os.fsync(number)
    finally:
        os.close(number)


def witnesses(file: pathlib.Path) -> dict[str, list[str]]:
    """Event to the trials it was seen of, in the order of the lines; one that a kill tore is left out."""
    found: dict[str, list[str]] = {"begun": [], "finished": []}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["event"]].append(row["cell"])
    return found


class LoneHost:
    """Trains one trial outside of Tessera: the host that a rival's objective gives to the same trainer.

    Attributes:
        final: Metrics of the final report, once it came.
    """

    def __init__(self, lane: Lane, heard: Callable[[Report], None]) -> None:
        self.final: Mapping[str, float] | None = None
        self._lanes, self._heard, self._untold = [lane], heard, list[Report]()

    stopping = False
    waiting = 0

    def pull(self, n: int) -> Sequence[Lane]:
        """The trainer asks before each rung, with the checkpoint of the one before on disk: only now is the tool told of that."""
        untold, self._untold = self._untold, []
        for report in untold:
            self._heard(report)
        taken, self._lanes = self._lanes[:n], self._lanes[n:]
        return taken

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        for report in reports:
            if report.final:
                self.final = dict(report.metrics)
            else:
                self._untold.append(report)
        return {report.key: Verdict.FINISHED if report.final else Verdict.CONTINUE for report in reports}

    def failed(self, key: str, error: Exception) -> None:  # noqa: ARG002 - there is one
        raise error

    def parked(self, keys: Sequence[str]) -> None:
        """Nothing is paused."""

    def upcoming(self) -> FlatConfig | None:
        return None

    def probes(self) -> Sequence[Probe]:
        return ()

    def probed(self, probe: Probe) -> None:
        """Nobody plans with it."""

    def used(self, usage: Usage) -> None:
        """Nobody asks."""


def train(job: Job, cell: Cell, folder: pathlib.Path, heard: Callable[[Report], None]) -> Mapping[str, float]:
    """Trains one trial, from the checkpoint in its folder if there is one; its final metrics.

    Args:
        job: What it is part of.
        cell: The trial.
        folder: Of its checkpoints.
        heard: Told of each rung but the last, when its checkpoint is in the folder.
    """
    attest("begun", [cell])
    host = LoneHost(Lane(key=str(cell), config=job.config(cell), seed=cell.seed, folder=folder), heard)
    Curves().train(host)
    assert host.final is not None
    attest("finished", [cell])
    return host.final
