"""Runs one rival on one job and says what that took: its command, its environment, its caches, its results."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping

from benchmarks import machine
from benchmarks.meter import Measured, measure
from benchmarks.rivals import tessera, workload
from benchmarks.rivals.workload import SEEDS, Job, Results

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_STEPS = 3
SETTLED_HERE = ("JAX_", "XLA_", "MALLOC_", "OMP_", "NPROC", "TESSERA", "WANDB", "RAY_", "TUNE_")  # not to be inherited


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way to train the trials.

    Attributes:
        name: In JSON and on the command line.
        title: In the table.
        module: In `benchmarks.rivals`.
        one_thread: Each process computes with one thread; else with JAX's default, all cores.
        alone: One process only; else as many at once as there are cores.
        needs: Package that has to be installed.
    """

    name: str
    title: str
    module: str
    one_thread: bool = True
    alone: bool = False
    needs: str = ""


TESSERA = Rival(name="tessera", title="Tessera", module="tessera")

RIVALS = (
    Rival(name="process_all_threads", title="process per trial, JAX's threads", module="processes", one_thread=False),
    Rival(name="process_one_thread", title="process per trial, one thread each", module="processes"),
    Rival(name="optuna_processes", title="Optuna with subprocesses", module="optuna_processes", needs="optuna"),
    Rival(name="ray_reuse", title="Ray Tune, actors reused, step shared", module="ray_tune", needs="ray"),
    Rival(name="hand_loop_alone", title="loop by hand, one process, JAX's threads", module="hand_loop", one_thread=False, alone=True),
    Rival(name="hand_loop_processes", title="loop by hand, a process per core", module="hand_loop"),
    TESSERA,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one rival did with one job.

    Attributes:
        rival: Its name.
        steps: Of each trial.
        trials: How many.
        at_once: Trials that it may train at the same time.
        error: Why there is no result; empty if there is one.
        measured: What it took, if it was started.
        results: Metrics of each trial.
        to_last_trial_s: Tessera only: from the start to the last trial's end, without the report.
        provenance: Tessera only: how its trials were run.
        load_before: Load average over the last minute, as it started.
    """

    rival: str
    steps: int
    trials: int
    at_once: int = 1
    error: str = ""
    measured: Measured | None = None
    results: Results = dataclasses.field(default_factory=dict)
    to_last_trial_s: float | None = None
    provenance: tuple[Mapping[str, str], ...] = ()
    load_before: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Where rivals run, and under what.

    Attributes:
        folder: For caches, jobs and results; each rival has its own.
        gpus: GPUs at hand.
        within_s: A rival that takes longer on one job is ended.
    """

    folder: pathlib.Path
    gpus: int
    within_s: float

    def warm_programs(self, rival: Rival) -> None:
        """Compiles what the rivals by hand share, once for each setting of threads, by one trial."""
        if rival is TESSERA or (cache := self._cache(rival)).exists():
            return
        cache.mkdir()
        job = Job(steps=WARM_STEPS, trials=SEEDS, at_once=1, gpus=self.gpus, folder=cache)
        job.write(cache / "job.json")
        command = [sys.executable, "-m", "benchmarks.rivals.one_trial", str(cache / "job.json"), "0"]
        measure(command, environment=self.environment(rival), log=cache / "said.txt", within_s=self.within_s)

    def warm(self, rival: Rival, trials: int) -> Run:
        """Runs the rival once on two trials of a few steps; Tessera on a study of as many trials as will be timed.

        Tessera compiles for as many lanes as wait, so that only a study of the same size needs the same programs.
        """
        self.warm_programs(rival)
        return self.run(rival, steps=WARM_STEPS, trials=trials if rival is TESSERA else SEEDS, name="warm")

    def run(self, rival: Rival, *, steps: int, trials: int, name: str) -> Run:
        """One rival on one job, in a fresh folder."""
        if rival.needs and importlib.util.find_spec(rival.needs) is None:
            return Run(rival=rival.name, steps=steps, trials=trials, error='not installed: pip install -e ".[benchmarks]"')
        folder = self.folder / f"{rival.name}-{name}"
        folder.mkdir()
        job = Job(steps=steps, trials=trials, at_once=1 if rival.alone else machine.cores(), gpus=self.gpus, folder=folder)
        load_before = machine.load()[0]
        measured = measure(_command(rival, job), environment=self.environment(rival), log=folder / "said.txt", within_s=self.within_s)
        run = Run(rival=rival.name, steps=steps, trials=trials, at_once=job.at_once, measured=measured, load_before=load_before)
        return _with_results(rival, job, run)

    def environment(self, rival: Rival) -> dict[str, str]:
        """The same for everybody, but for threads and for where caches are."""
        cache = self._cache(rival)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(SETTLED_HERE)}
        return {
            **inherited,
            **machine.MALLOC,
            **({"NPROC": "1"} if rival.one_thread else {}),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH", "")))),
            "XDG_CACHE_HOME": str(cache),
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else the first process takes all the memory of a GPU
        }

    def _cache(self, rival: Rival) -> pathlib.Path:
        """Of compiled programs: those for one thread differ from those for many."""
        return self.folder / ("cache-tessera" if rival is TESSERA else f"cache-{'one' if rival.one_thread else 'all'}-thread")


def _command(rival: Rival, job: Job) -> list[str]:
    if rival is TESSERA:
        return tessera.command(job)
    job.write(job.folder / "job.json")
    files = [str(job.folder / "job.json"), str(job.folder / "results.json")]
    return [sys.executable, "-m", f"benchmarks.rivals.{rival.module}", *files]


def _with_results(rival: Rival, job: Job, run: Run) -> Run:
    """The run with its results read, or with the reason why there are none."""
    measured = run.measured
    assert measured is not None
    if measured.code != 0:
        ended = "took too long" if measured.code is None else f"exit code {measured.code}"
        return dataclasses.replace(run, error=f"{ended}: {measured.said.strip()[-800:]}")
    if rival is TESSERA:
        told = tessera.told(job)
        to_last_trial_s = told.last_finished - measured.started
        run = dataclasses.replace(run, results=told.results, to_last_trial_s=to_last_trial_s, provenance=tuple(told.provenance))
    else:
        run = dataclasses.replace(run, results=workload.read_results(job.folder / "results.json"))
    missing = job.trials - len(run.results)
    return dataclasses.replace(run, error=f"{missing} trials have no result") if missing else run
