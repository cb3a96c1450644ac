"""Ray Tune at its best: actors are kept from trial to trial, and all trials of an actor share one compiled step."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}

import ray
from ray import tune

from benchmarks.rivals import workload
from benchmarks.rivals.workload import Job, Results, Trial

OURS = ("val/", "test/", "s/")  # of all that Ray says of a trial


class Trained(tune.Trainable):
    """A trial is one call of `step`."""

    def setup(self, config: dict[str, Any]) -> None:
        self._asked = config

    def step(self) -> dict[str, Any]:
        from benchmarks.rivals.loop import train  # its compiled functions are the module's, so they outlive the trial

        job, trial = self._asked["job"], self._asked["trial"]
        return {**train(Job(**job), Trial(**trial)), "index": trial["index"], "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray saves every trial at its end; one that cannot be saved counts as failed, and its actor is not used again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was saved."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._asked = new_config
        return True


def do(job: Job) -> Results:
    """Every trial of the job."""
    from benchmarks.rivals.ray_tune import Trained  # by its module's name, which Ray's workers can import

    trials = [dataclasses.asdict(trial) for trial in job.each_trial()]
    # Ray's sockets are named by their path, of which a system takes about 100 letters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(num_cpus=job.at_once, num_gpus=job.gpus, _temp_dir=folder, **quiet)
        try:
            tuner = tune.Tuner(
                tune.with_resources(Trained, {"cpu": 1, "gpu": job.gpus / job.at_once}),
                param_space={"job": dataclasses.asdict(job), "trial": tune.grid_search(trials)},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=job.at_once),
                run_config=tune.RunConfig(storage_path=str(job.folder / "ray"), verbose=0),
            )
            fitted = tuner.fit()
        finally:
            ray.shutdown()
    if fitted.num_errors:
        raise RuntimeError(f"{fitted.num_errors} trials failed, the first with {fitted.errors[0]}")
    found = [result.metrics for result in fitted]
    actors = {metrics["pid"] for metrics in found}
    if len(actors) > job.at_once:
        raise RuntimeError(f"{len(actors)} actors were started for {job.at_once} places: they were not used again")
    return {metrics["index"]: {name: value for name, value in metrics.items() if name.startswith(OURS)} for metrics in found}


if __name__ == "__main__":
    workload.main(do)
