"""Optuna's optimize loop, whose objective runs the training script in a process of its own."""

from __future__ import annotations

import optuna

from benchmarks.rivals import workload
from benchmarks.rivals.one_trial import in_process_of_its_own
from benchmarks.rivals.workload import SEEDS, Job, Results, learning_rates


def do(job: Job) -> Results:
    """Every trial of the job, as a grid."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file, rates = job.folder / "trials.json", learning_rates(job.trials // SEEDS)
    job.write(file)
    results = {}

    def objective(trial: optuna.Trial) -> float:
        rate, seed = trial.suggest_categorical("learning_rate", rates), trial.suggest_categorical("seed", list(range(SEEDS)))
        index = SEEDS * rates.index(rate) + seed
        results[index] = in_process_of_its_own(file, index)
        return results[index]["val/nll"]

    study = optuna.create_study()
    for trial in job.each_trial():  # not a grid sampler, which hands one point to two threads
        study.enqueue_trial({"learning_rate": trial.learning_rate, "seed": trial.seed})
    study.optimize(objective, n_trials=job.trials, n_jobs=job.at_once)
    return results


if __name__ == "__main__":
    workload.main(do)
