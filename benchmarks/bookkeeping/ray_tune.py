"""Ray Tune: actors are kept from trial to trial, each trial is five results; what it costs is seen from outside."""

from __future__ import annotations

import logging
import os
import pathlib
import tempfile
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}

import ray
from ray import tune

from benchmarks import machine
from benchmarks.bookkeeping import rungs
from benchmarks.bookkeeping.rungs import RUNGS, Figures


class Nothing(tune.Trainable):
    """A trial of five results."""

    def setup(self, config: dict[str, Any]) -> None:
        self._number = config["number"]

    def step(self) -> dict[str, Any]:
        return {**rungs.metrics(self._number, self.iteration + 1), "done": self.iteration + 1 == RUNGS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray saves every trial at its end; there is nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was saved."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._number = new_config["number"]
        return True


def keep(trials: int, folder: pathlib.Path) -> Figures:
    """Runs them all."""
    from benchmarks.bookkeeping.ray_tune import Nothing  # by its module's name, which Ray's workers can import

    # Ray's sockets are named by their path, of which a system takes about 100 letters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as sockets:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(num_cpus=machine.cores(), num_gpus=0, _temp_dir=sockets, **quiet)
        try:
            fitted = tune.Tuner(
                tune.with_resources(Nothing, {"cpu": 1}),
                param_space={"number": tune.grid_search(list(range(trials)))},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=machine.cores()),
                run_config=tune.RunConfig(storage_path=str(folder.resolve() / "ray"), verbose=0),
            ).fit()
        finally:
            ray.shutdown()
    if fitted.num_errors or len(fitted) != trials:
        raise RuntimeError(f"{len(fitted)} of {trials} trials ended, {fitted.num_errors} failed")
    return {}


if __name__ == "__main__":
    rungs.main(keep)
