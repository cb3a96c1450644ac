"""Measures how fast programs are here without training anything, in processes of their own: the launcher imports no framework.

As many processes measure at once as workers will train, since workers that share a machine slow each other down.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from orchestrator.contract import FlatConfig, Probe, Trainer
from orchestrator.errors import OrchestratorError, Problem
from orchestrator.executors.base import Executor, WorkerSpec
from orchestrator.executors.watch import supervised
from orchestrator.load import load_trainer
from orchestrator.planned import PlannedCell

POLL_S = 0.1
SHORT = 6  # hex digits of a signature that messages show


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOrder:
    """All that a probing process is told, as a JSON file that its command line names.

    Attributes:
        trainer: `module:Class`.
        programs: Signature and config of each program, in the order in which they are measured.
        results: File that gets a line for each of them.
        paths: Where modules are found, as `sys.path` of the launcher.
    """

    trainer: str
    programs: tuple[tuple[str, FlatConfig], ...]
    results: str
    paths: tuple[str, ...]

    def write(self, path: pathlib.Path) -> None:
        """Writes the order where `read` finds it."""
        path.write_text(json.dumps(dataclasses.asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: pathlib.Path) -> ProbeOrder:
        """The order that a launcher wrote."""
        values = json.loads(path.read_text("utf-8"))
        programs = tuple((signature, _tuples(config)) for signature, config in values["programs"])
        return cls(trainer=values["trainer"], programs=programs, results=values["results"], paths=tuple(values["paths"]))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is to be measured, and how.

    Attributes:
        study: Whose programs they are.
        trainer: `module:Class`.
        cells: One of each program.
        processes: At once, at most.
        log: File that the processes write to.
    """

    study: str
    trainer: str
    cells: Sequence[PlannedCell]
    processes: int
    log: pathlib.Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of one program: its measurements, or why there are none."""

    signature: str
    probes: tuple[Probe, ...] = ()
    problems: tuple[Problem, ...] = ()


def measured(work: Measuring, executor: Executor) -> Iterator[Measured]:
    """Every program's measurements, or its problems, as they come. Nothing is left running when the caller leaves early.

    Raises:
        LaunchError: A process cannot be started.
    """
    shares = [share for n in range(work.processes) if (share := work.cells[n :: work.processes])]
    with tempfile.TemporaryDirectory(prefix="tessera-probing-") as folder, contextlib.ExitStack() as stack:
        running = [_Process(work, share, pathlib.Path(folder), number, executor, stack) for number, share in enumerate(shares)]
        while running:
            for process in list(running):
                is_over = process.is_over  # asked before reading: what was written before the end is read
                yield from process.news()
                if is_over:
                    running.remove(process)
                    yield from process.missing()
            time.sleep(POLL_S)


class _Process:
    """A process that measures a share of the programs. It ends with the stack, or with its launcher."""

    def __init__(
        self,
        work: Measuring,
        share: Sequence[PlannedCell],
        folder: pathlib.Path,
        number: int,
        executor: Executor,
        stack: contextlib.ExitStack,
    ) -> None:
        order, self._results = folder / f"{number}.order.json", folder / f"{number}.results"
        paths = tuple(dict.fromkeys([str(pathlib.Path(__file__).resolve().parent.parent), str(pathlib.Path.cwd())]))
        programs = tuple((cell.signature, dict(cell.config)) for cell in share)
        told = ProbeOrder(trainer=work.trainer, programs=programs, results=str(self._results), paths=paths)
        told.write(order)
        spec = WorkerSpec(
            identity=f"{work.study}/probing-{number}",
            argv=(sys.executable, "-m", "orchestrator.probing", str(order)),
            log=work.log,
            folder=folder,
            env=(("PYTHONPATH", os.pathsep.join(paths)),),
        )
        self._log, self._read, self._left = work.log, 0, [signature for signature, _ in programs]
        self._handle = executor.launch(spec)
        stack.callback(self._end)

    @property
    def is_over(self) -> bool:
        """It has ended."""
        return not self._handle.status().is_active

    def news(self) -> Iterator[Measured]:
        """What it has measured since it was asked last."""
        text = self._results.read_text("utf-8") if self._results.exists() else ""
        whole = text[self._read : text.rfind("\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            row = cast(Mapping[str, Any], json.loads(line))
            self._left.remove(row["signature"])
            yield Measured(
                signature=row["signature"],
                probes=tuple(Probe(**probe) for probe in row["probes"]),
                problems=tuple(Problem(**problem) for problem in row["problems"]),
            )

    def missing(self) -> Iterator[Measured]:
        """What it left when it ended; the first one is what it was measuring."""
        code = self._handle.exit_code
        how = "no exit code" if code is None else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        for signature in self._left:
            problem = Problem(
                f"program {signature[:SHORT]} could not be measured: the process that measures ended",
                found=f"{how}, while it measured {self._left[0][:SHORT]}",
                expected="a process that lives until all of its programs are measured",
                fix=f"see {self._log}",
            )
            yield Measured(signature=signature, problems=(problem,))

    def _end(self) -> None:
        self._handle.kill()
        while not self.is_over:
            time.sleep(POLL_S)


def _line(trainer: Trainer, signature: str, config: FlatConfig) -> Mapping[str, Any]:
    """What is to be said of one program: its measurements, or why there are none."""
    probes: list[Probe] = []
    problems: list[Problem] = []
    try:
        probes = [*trainer.probe(config)]
    except OrchestratorError as error:
        problems = list(error.problems)
    except Exception as error:  # a trainer may raise anything; the next program may be fine
        traceback.print_exc()
        what = f"program {signature[:SHORT]} could not be measured"
        problems = [Problem(what, found=f"{type(error).__name__}: {error}", expected="a program that compiles and runs here")]
    return {
        "signature": signature,
        "probes": [dataclasses.asdict(probe) for probe in probes],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }


def _tuples(config: Mapping[str, Any]) -> FlatConfig:
    """Lists back to the tuples that configs hold."""
    return {key: _tuple(value) for key, value in config.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in cast(list[Any], value)) if isinstance(value, list) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m orchestrator.probing ORDER.json`."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.probing", description="Measures programs of a study.")
    parser.add_argument("order", type=pathlib.Path, help="JSON file written by the launcher")
    order = ProbeOrder.read(parser.parse_args(arguments).order)
    sys.path[:] = list(dict.fromkeys([*sys.path, *order.paths]))
    nothing: Callable[[], None] = lambda: None  # noqa: E731 - there is nothing to save
    with supervised(nothing, grace_s=0.0), open(order.results, "a", encoding="utf-8") as results:
        trainer = load_trainer(order.trainer)
        for signature, config in order.programs:
            results.write(json.dumps(_line(trainer, signature, config)) + "\n")
            results.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
