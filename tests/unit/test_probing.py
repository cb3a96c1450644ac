"""Programs are measured in processes of their own: what comes back, and what is said when something goes wrong."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

import psutil

from orchestrator.config import flatten
from orchestrator.contract import FlatConfig, Probe
from orchestrator.errors import DataError
from orchestrator.executors.local import LocalExecutor
from orchestrator.planned import PlannedCell
from orchestrator.probing import Measured, Measuring, ProbeOrder, measured
from tests.waiting import eventually
from trainers.curves import Curves, CurvesConfig

ROOT = pathlib.Path(__file__).parents[2]


class Moody(Curves):
    """Fails on some sizes, each in its own way."""

    name = "tests.unit.test_probing:Moody"

    def probe(self, config: FlatConfig) -> Sequence[Probe]:
        match config["size"]:
            case 1:
                raise DataError("the images are gone", found="nothing", fix="bring them back")
            case 2:
                raise RuntimeError("out of registers")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
            case 4:
                threading.Event().wait()  # for ever
            case _:
                pass
        return super().probe(config)


def cells(*sizes: int) -> list[PlannedCell]:
    return [
        PlannedCell(key=str(size), config=flatten(CurvesConfig(size=size)), signature=f"program-of-{size}", cost={}, steps=100)
        for size in sizes
    ]


def measure(folder: pathlib.Path, *sizes: int, processes: int = 2) -> Mapping[str, Measured]:
    work = Measuring(study="s", trainer=Moody.name, cells=cells(*sizes), processes=processes, log=folder / "probing.log")
    return {row.signature: row for row in measured(work, LocalExecutor())}


def test_each_program_is_measured_once_whatever_the_number_of_processes(tmp_path: pathlib.Path) -> None:
    found = measure(tmp_path, 100, 200, 300, processes=8)
    assert {name: (len(row.probes), row.problems) for name, row in found.items()} == {f"program-of-{n}00": (1, ()) for n in (1, 2, 3)}
    assert measure(tmp_path, processes=2) == {}


def test_a_program_that_fails_costs_itself_only_and_says_why(tmp_path: pathlib.Path) -> None:
    found = measure(tmp_path, 1, 2, 100, processes=1)
    assert [problem.what for problem in found["program-of-1"].problems] == ["the images are gone"]
    (raised,) = found["program-of-2"].problems
    assert (raised.what, raised.found) == ("program progra could not be measured", "RuntimeError: out of registers")
    assert len(found["program-of-100"].probes) == 1
    assert "Traceback" in (tmp_path / "probing.log").read_text("utf-8")


def test_a_process_that_dies_is_named_with_what_it_left(tmp_path: pathlib.Path) -> None:
    found = measure(tmp_path, 100, 3, 200, processes=1)
    assert found["program-of-100"].problems == ()
    for name in ("program-of-3", "program-of-200"):
        (problem,) = found[name].problems
        assert problem.found == "SIGKILL, while it measured progra"
        assert "probing.log" in problem.fix


def measuring(launcher: psutil.Process) -> list[psutil.Process]:
    """The processes that measure for it. A child of another test that has ended and was not waited for has no command line."""
    living = [child for child in launcher.children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "orchestrator.probing" in child.cmdline()]


def test_nothing_is_left_running_by_who_does_not_wait(tmp_path: pathlib.Path) -> None:
    work = Measuring(study="s", trainer=Moody.name, cells=cells(100, 4), processes=1, log=tmp_path / "probing.log")
    rows = measured(work, LocalExecutor())
    assert next(rows).signature == "program-of-100"
    (process,) = measuring(psutil.Process())
    rows.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_ends_with_its_launcher(tmp_path: pathlib.Path) -> None:
    """Killed, not asked: nothing that the launcher could still do is needed."""
    code = (
        "import pathlib, sys; from tests.unit.test_probing import *; folder = pathlib.Path(sys.argv[1]);"
        "work = Measuring(study='s', trainer=Moody.name, cells=cells(4), processes=1, log=folder / 'probing.log');"
        "[row for row in measured(work, LocalExecutor())]"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)})

    def measuring_now() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return measuring(psutil.Process(launcher.pid))
        return []

    try:
        eventually(lambda: bool(measuring_now()))
        (process,) = measuring_now()
    finally:
        launcher.kill()
        launcher.wait()
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_an_order_comes_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    order = ProbeOrder(trainer="a:B", programs=(("sig", {"sizes": (1, (2.5,)), "name": "x"}),), results="r", paths=("/p",))
    path = tmp_path / "order.json"
    order.write(path)
    assert ProbeOrder.read(path) == order
