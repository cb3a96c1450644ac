"""Optuna by its own recipes, for the kill audit: exhaustive search by several processes, and the same command again to go on.

    python -m benchmarks.rivals.audit_optuna JOB.json STORAGE            # STORAGE: journal or rdb
    python -m benchmarks.rivals.audit_optuna JOB.json STORAGE --told     # what its storage says, as JSON

`journal` is the tutorial's file storage. `rdb` is SQLite with heartbeats and the callback that puts stale trials back in the
queue; a trial that is tried again goes on from the checkpoint of the first try, as Optuna's checkpoint example does.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys

import optuna
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.audit.work import SEEDS, SIZES, Cell, Job, train

HEARTBEAT_S, STALE_S = 1, 3
SQLITE_PATIENCE_S = 60


def storage_of(job: Job, kind: str) -> optuna.storages.BaseStorage:
    """The storage, created where it is not there yet."""
    if kind == "journal":
        return JournalStorage(JournalFileBackend(str(job.out / "journal.log")))
    return RDBStorage(
        f"sqlite:///{job.out / 'optuna.db'}",
        engine_kwargs={"connect_args": {"timeout": SQLITE_PATIENCE_S}},
        heartbeat_interval=HEARTBEAT_S,
        grace_period=STALE_S,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def study_of(job: Job, kind: str) -> optuna.Study:
    """The study, or the one that an earlier launch began."""
    sampler = optuna.samplers.BruteForceSampler()
    return optuna.create_study(study_name="audit", storage=storage_of(job, kind), sampler=sampler, load_if_exists=True)


def work(job: Job, kind: str) -> None:
    """What each worker does: Optuna's loop until its sampler says that the space is exhausted."""

    def objective(trial: optuna.Trial) -> float:
        cell = Cell(
            size=trial.suggest_categorical("size", SIZES),
            learning_rate=trial.suggest_categorical("learning_rate", job.learning_rates),
            seed=trial.suggest_int("seed", 0, SEEDS - 1),
        )
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number(study.get_trials(deepcopy=False)[trial.number])
        folder = job.out / "checkpoints" / str(trial.number if first is None else first)
        metrics = train(job, cell, folder, lambda report: trial.report(report.metrics["val/nll"], report.step))
        trial.set_user_attr("metrics", dict(metrics))
        return metrics["val/nll"]

    study = study_of(job, kind)
    if len(told(study)["results"]) < job.trials:  # else brute force would draw one more
        study.optimize(objective)


def launch(job: Job, kind: str) -> int:
    """Creates the study, for workers that do it all at once collide, then starts the workers; 0 when all of them end well."""
    study_of(job, kind)
    again = [sys.executable, "-m", "benchmarks.rivals.audit_optuna", *sys.argv[1:], "--worker"]
    workers = [subprocess.Popen(again) for _ in range(job.workers)]
    return int(any([worker.wait() for worker in workers]))


def told(study: optuna.Study) -> dict[str, dict[str, object]]:
    """Results of the complete trials, and how many of them each point has."""
    results: dict[str, object] = {}
    completions: collections.Counter[str] = collections.Counter()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        cell = str(Cell(**trial.params))
        results[cell] = trial.user_attrs["metrics"]
        completions[cell] += 1
    return {"results": results, "completions": dict(completions)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=pathlib.Path)
    parser.add_argument("kind", choices=("journal", "rdb"))
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--told", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = Job.read(options.job)
    if options.told:
        print(json.dumps(told(study_of(job, options.kind))))
        return 0
    if options.worker:
        work(job, options.kind)
        return 0
    return launch(job, options.kind)


if __name__ == "__main__":
    raise SystemExit(main())
