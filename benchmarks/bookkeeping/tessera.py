"""Tessera's driver, its ledger and its worker, on a study that trains nothing; each part's CPU time by itself.

    python -m benchmarks.bookkeeping.tessera TRIALS FOLDER

The driver is the launcher's own. Its crew first finishes the tuning of a few arms one by one, so that each is followed by a
plan made anew, as in a study whose trials take long; then a worker process trains all that waits, twice: tuning, replicates.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, Self

from rich.console import Console

from benchmarks.bookkeeping import rungs
from benchmarks.bookkeeping.rungs import Clock, Figures
from benchmarks.bookkeeping.workload import AN_ARM, NAME, PACK, SPACE, TUNE, Empty, study
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.driver import Driver, Ending, Pace
from orchestrator.expand import proposals
from orchestrator.ledger import Entry, Ledger
from orchestrator.order import WorkerOrder
from orchestrator.plan import Planner
from orchestrator.planned import Plan
from orchestrator.progress import View
from orchestrator.records import TrialState
from orchestrator.samplers import Past, SamplerKind, propose
from orchestrator.spec import spec_of
from orchestrator.worker import Worker

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALONE = 8  # arms whose tuning ends one by one
WARM = 20  # trials of the study that warms imports and caches up
BATCH = 4  # points that an adaptive sampler proposes at once
STUDY = '"""What do trials cost that take no time?"""\n\nfrom benchmarks.bookkeeping import workload\n\nSTUDY = workload.study({trials})\n'


class MeteredDriver(Driver):
    """The launcher's driver, whose plans are timed; it looks and plans as often as it can, where the launcher's keeps to a share."""

    plans = 0

    def __init__(self, clock: Clock, *given: Any) -> None:
        super().__init__(*given)
        self.clock, self._counts, self._plans = clock, Pace(1.0), Pace(1.0)

    def _replan(self) -> None:
        self.plans += 1
        with self.clock.of("plan" if self.plans == 1 else f"replan {self.plans}"):
            super()._replan()


class Crew:
    """Finishes the tuning of single arms, then lets a worker process train what waits; counts the driver's looks."""

    active = 1
    deaths = 0

    def __init__(self, ledger: Ledger, order: pathlib.Path, clock: Clock, alone: int) -> None:
        self._ledger, self._order, self._clock, self._alone = ledger, order, clock, alone
        self._worker = ledger.register_worker(NAME, identity="alone", host=socket.gethostname(), pid=os.getpid(), started="")
        self._settled = 0
        self.looks = 0
        self.worked: Figures = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started that still runs."""

    def mourn(self) -> None:
        """As the real one: asks who is alive."""
        self._ledger.live_workers(NAME)

    def staff(self, waiting: int) -> None:
        """Does some of what waits."""
        self.looks += 1
        with self._clock.of("crew"):
            if self._settled < self._alone:
                self._settled += 1
                self._finish(PACK)
            elif waiting:
                self._train()

    def stop(self, *_: object) -> None:
        """Nothing runs."""

    def _finish(self, n: int) -> None:
        for lane in self._ledger.lease(NAME, self._worker, n, lease_s=600.0):
            final = {"val/nll": 0.5, "test/nll": 0.5}
            entry = Entry(key=lane.key, fence=lane.fence, step=500, metrics=final, outcome=TrialState.COMPLETE)
            assert self._ledger.record(self._worker, [entry])[lane.key]

    def _train(self) -> None:
        said = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--work", str(self._order)], stdout=subprocess.PIPE, check=True, cwd=ROOT
        )
        for phase, seconds in json.loads(said.stdout).items():
            self.worked[phase] = self.worked.get(phase, 0.0) + seconds


def keep(trials: int, folder: pathlib.Path) -> Figures:
    """Seconds and megabytes by name; `rungs.main` says where they go."""
    _driven(WARM, folder / "warm", 1)
    figures = _driven(trials, folder / "cold", ALONE)
    figures["launcher_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | _opened(folder / "cold") | _asked(trials)


def _driven(trials: int, folder: pathlib.Path, alone: int) -> Figures:
    """The whole study; CPU seconds of planning it, of a later plan, of a look, and of the worker's parts."""
    folder.mkdir()
    (folder / "study.py").write_text(STUDY.format(trials=trials), "utf-8")
    asked, trainer, clock = study(trials), Empty(), Clock()
    base = flatten(asked.base)
    with clock.of("plan"):
        assert not study_problems(asked, trainer, base)
    planner = Planner(asked, trainer, base)

    def describe(plan: Plan) -> dict[str, Any]:
        return spec_of(asked, trainer, base, "", plan, {})

    with Ledger.open(folder / "ledger.db") as ledger:
        driver = MeteredDriver(clock, planner, ledger, View(Console(file=io.StringIO()), NAME), describe)
        crews: list[Crew] = []

        def hired() -> Any:
            crews.append(Crew(ledger, _order(folder), clock, min(alone, trials // AN_ARM - 1)))
            return crews[0]

        with clock.of("drive"):
            assert driver.run(hired, on_start=lambda: None) is Ending.DONE
        done = sum(row.done for row in ledger.progress(NAME))
        assert done == trials, f"{done} of {trials} trials are done"
    crew, phases = crews[0], clock.phases
    later = [phases.pop(name) for name in list(phases) if name.startswith("replan")]
    looks = phases.pop("drive") - phases.pop("crew") - sum(later) - phases["plan"]
    return {
        **phases,
        "replan": statistics.median(later[:alone]),
        "look": max(looks, 0.0) / crew.looks,
        "looks": crew.looks,
        "plans": len(later) + 1,
        **crew.worked,
    }


def _order(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "order.json"
    provenance = tuple(sorted({"jax": "0.10", "flax": "0.12", "python": "3.11", "commit": "0" * 12}.items()))
    WorkerOrder(
        ledger=str(folder / "ledger.db"),
        study=NAME,
        trainer=Empty.name,
        identity=f"{NAME}/worker-0-a1",
        out=str(folder),
        n_workers=1,
        lease_s=60.0,
        paths=(str(ROOT),),
        provenance=provenance,
    ).write(path)
    return path


def _work(order: WorkerOrder) -> Figures:
    """A worker until its queue is dry. What it does beside its trials is `other`."""
    clock = Clock()
    started = time.process_time()
    trainer = Empty(clock, lambda: worker.stop("the queue is dry"))
    worker = Worker(order, Ledger.open(order.ledger, create=False), trainer)
    with clock.of("all"):
        worker.run()
    everything = clock.phases.pop("all")
    return {**clock.phases, "other": everything - sum(clock.phases.values()), "start": time.process_time() - started - everything}


def _opened(folder: pathlib.Path) -> Figures:
    """Seconds, CPU seconds and memory of whole commands on the finished study."""
    found: Figures = {}
    for verb in ("status", "plan", "report"):
        command = [sys.executable, str(ROOT / "launch.py"), str(folder / "study.py"), verb, "--json", "--out", str(folder)]
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{verb} ended with {process.returncode}"
        found[f"{verb}_wall"] = time.monotonic() - started
        found[f"{verb}_cpu"] = used.ru_utime + used.ru_stime
        found[f"{verb}_mb"] = used.ru_maxrss / 1024
    return found


def _asked(trials: int) -> Figures:
    """CPU seconds of one proposal: of an arm's tuning trials, and of a sampler that is led by that many earlier ones."""
    pairs, clock = tuple(SPACE.items()), Clock()
    arms = min(trials // AN_ARM, 100)
    for kind in ("sobol", "random"):
        with clock.of(kind):
            for seed in range(arms):
                proposals(pairs, TUNE, sampler=kind, seed=seed, direction="minimize", context={}, score=lambda point: None)  # noqa: ARG005
    points = propose(SPACE, [], trials, sampler=SamplerKind.RANDOM, seed=0)
    history = [Past(point=point, value=float(number % 97)) for number, point in enumerate(points)]
    propose(SPACE, history[:WARM], BATCH, sampler=SamplerKind.TPE, seed=0)
    with clock.of("tpe"):
        propose(SPACE, history, BATCH, sampler=SamplerKind.TPE, seed=0)
    per = {"sobol": arms * TUNE, "random": arms * TUNE, "tpe": BATCH}
    return {f"ask_{kind}": seconds / per[kind] for kind, seconds in clock.phases.items()}


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        print(json.dumps(_work(WorkerOrder.read(pathlib.Path(sys.argv[2])))))
    else:
        rungs.main(keep)
