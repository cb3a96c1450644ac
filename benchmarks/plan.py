"""What it costs to plan a study, beside queueing the same points in Optuna: CPU milliseconds a trial, in one run.

    python benchmarks/plan.py [--json]

Tessera resolves each config, checks it, and names it by content, so that planning again adds nothing. Optuna's
`enqueue_trial(skip_if_exists=True)` is its way to the same end: it compares with every earlier trial.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import optuna

from orchestrator import Grid, Replicates, Study, Values
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.plan import Planner
from trainers.curves import Curves, CurvesConfig

REPLICATES = 5
SIZES = (100, 1_000, 10_000)
MOST_QUEUED = 1_000  # its cost a trial grows with the number of trials: 10,000 would take many minutes


def tessera(n_trials: int) -> None:
    """Checks and plans a grid of n trials."""
    floors = [index / n_trials for index in range(n_trials // REPLICATES // 10)]
    grid = Grid({"size": Values(*range(10, 20)), "floor": Values(*floors)})
    study = Study(name="plan", trainer=Curves.name, base=CurvesConfig(), arms=[grid], protocol=Replicates(REPLICATES))
    base = flatten(study.base)
    assert not study_problems(study, Curves(), base)
    assert len(list(Planner(study, Curves(), base).plan({}).trials)) == n_trials


def queued(n_trials: int) -> None:
    """Queues n points in an in-memory Optuna study, each unless it is there."""
    study = optuna.create_study()
    for index in range(n_trials):
        study.enqueue_trial({"size": 10 + index % 10, "floor": index / n_trials}, skip_if_exists=True)


def cpu_ms(work: Callable[[int], None], n_trials: int) -> float:
    """CPU milliseconds a trial."""
    started = time.process_time()
    work(n_trials)
    return 1000 * (time.process_time() - started) / n_trials


def main() -> None:
    """Prints a row for each number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    as_json = parser.parse_args().json
    tessera(SIZES[0])  # imports and caches are warm for both
    queued(10)
    rows = []
    for n_trials in SIZES:
        ours = cpu_ms(tessera, n_trials)
        theirs = cpu_ms(queued, n_trials) if n_trials <= MOST_QUEUED else None
        rows.append({"trials": n_trials, "plan_ms": ours, "optuna_queue_ms": theirs, "queue_over_plan": theirs and theirs / ours})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print("trials  plan, CPU ms a trial  Optuna queue, CPU ms a trial  ratio")
    for row in rows:
        theirs = "" if row["optuna_queue_ms"] is None else f"  {row['optuna_queue_ms']:28.3f}  {row['queue_over_plan']:5.1f}"
        print(f"{row['trials']:6}  {row['plan_ms']:20.3f}{theirs}")


if __name__ == "__main__":
    main()
