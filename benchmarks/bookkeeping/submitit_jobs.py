"""submitit: a job for each trial, on this machine, as many at once as there are cores; what it costs is seen from outside."""

from __future__ import annotations

import pathlib

import submitit

from benchmarks import machine
from benchmarks.bookkeeping import rungs
from benchmarks.bookkeeping.rungs import Figures


def keep(trials: int, folder: pathlib.Path) -> Figures:
    """Runs them all."""
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="local")
    executor.update_parameters(timeout_min=10)
    for first in range(0, trials, machine.cores()):  # it has no queue of its own: all that is submitted starts at once
        jobs = [executor.submit(rungs.last, number) for number in range(first, min(first + machine.cores(), trials))]
        assert all(job.result() for job in jobs)
    return {}


if __name__ == "__main__":
    rungs.main(keep)
