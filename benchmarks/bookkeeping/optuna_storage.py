"""Optuna's storages: ask, six suggestions, five reports and tell, by one process; the sampler is the cheapest there is."""

from __future__ import annotations

import pathlib
import sys

import optuna
from optuna.storages.journal import JournalFileBackend

from benchmarks.bookkeeping import rungs
from benchmarks.bookkeeping.rungs import RUNGS, Clock, Figures


def storage(kind: str, folder: pathlib.Path) -> optuna.storages.BaseStorage:
    """SQLite as its documentation opens it, or the journal."""
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{folder.resolve()}/optuna.db")
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder.resolve() / "optuna.journal")))


def keep(kind: str, trials: int, folder: pathlib.Path) -> Figures:
    """CPU seconds by phase, and of opening the study again."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = Clock()
    study = optuna.create_study(study_name="s", storage=storage(kind, folder), sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(trials):
        with clock.of("ask"):
            trial = study.ask()
            _suggest(trial)
        with clock.of("record"):
            for rung in range(1, RUNGS + 1):
                trial.report(rungs.metrics(number, rung)["val/nll"], step=rung)
        with clock.of("finish"):
            study.tell(trial, 0.5)
    with clock.of("open"):
        again = optuna.load_study(study_name="s", storage=storage(kind, folder))
        assert len(again.get_trials(deepcopy=False)) == trials
    return clock.phases


def _suggest(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    trial.suggest_float("weight_decay", 1e-4, 1.0, log=True)
    trial.suggest_float("dropout", 0.01, 0.5)
    trial.suggest_float("router_noise", 0.0, 4.0)
    trial.suggest_float("mixup", 0.01, 1.0, log=True)
    trial.suggest_categorical("optimizer", ["adamw", "sgd"])


if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    rungs.main(lambda trials, folder: keep(chosen, trials, folder))
