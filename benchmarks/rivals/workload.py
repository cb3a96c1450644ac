"""The work that every rival does, without JAX: the tiny E³, its trials, and the files that a rival reads and writes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contract import FlatConfig, flatten
from trainers.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig

SEEDS = 2
LEARNING_RATES = (1e-3, 1e-2)  # lowest and highest, spaced evenly in the logarithm
LONGEST = 1_000_000  # steps between evaluations: only the last step is one

Results = Mapping[int, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial: what it differs in from its neighbours."""

    index: int
    learning_rate: float
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one rival is asked to do.

    Attributes:
        steps: Optimizer steps of each trial.
        trials: How many, an even number: half as many learning rates, two seeds each.
        at_once: Processes that may train at the same time.
        gpus: GPUs that they share.
        folder: For whatever the rival writes.
    """

    steps: int
    trials: int
    at_once: int
    gpus: int
    folder: pathlib.Path

    def each_trial(self) -> list[Trial]:
        """The trials, by learning rate and then by seed."""
        rates = learning_rates(self.trials // SEEDS)
        return [Trial(index=SEEDS * i + seed, learning_rate=rate, seed=seed) for i, rate in enumerate(rates) for seed in range(SEEDS)]

    def config(self, trial: Trial) -> FlatConfig:
        """The resolved config of a trial, by dotted key."""
        return flatten(base(self.steps)) | {"optim.learning_rate": trial.learning_rate}

    def write(self, file: pathlib.Path) -> None:
        """Writes the job where `read` finds it."""
        file.write_text(json.dumps({**dataclasses.asdict(self), "folder": str(self.folder)}), "utf-8")

    @classmethod
    def read(cls, file: pathlib.Path) -> Job:
        """A job as it was written."""
        document = json.loads(file.read_text("utf-8"))
        return cls(**{**document, "folder": pathlib.Path(document["folder"])})


def learning_rates(count: int) -> list[float]:
    """That many rates, rounded so that their text is short and exact.

    >>> learning_rates(3)
    [0.001, 0.00316228, 0.01]
    """
    low, high = LEARNING_RATES
    return [float(f"{low * (high / low) ** (i / max(count - 1, 1)):.6g}") for i in range(count)]


def base(steps: int) -> VisionConfig:
    """The tiny E³: digits in patches of 2, 4 blocks of width 64, 8 experts in the last two odd ones, 2 members."""
    return VisionConfig(
        data=DataConfig(dataset="digits", classes=10, image_size=8, channels=1),
        model=ModelConfig(
            hidden=64,
            mlp=256,
            depth=4,
            heads=4,
            patch=2,
            moe_placement="last",
            moe_layers=2,
            experts=8,
            k=1,
            members=2,
            tile=True,
            partition=True,
            capacity_factor=1.5,
            eval_capacity_factor=1.5,
            dropout=0.1,
            expert_dropout=0.1,
        ),
        optim=OptimConfig(name="adamw", learning_rate=3e-3, weight_decay=1e-4, clip_norm=10.0),
        augment=AugmentConfig(mixup=0.2),
        train=TrainConfig(steps=steps, batch_size=32, rung_steps=LONGEST),
        eval=EvalConfig(corrupted=False),
    )


def main(do: Callable[[Job], Mapping[int, Any]]) -> None:
    """The command line of a rival: JOB.json in, RESULTS.json out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path)
    options = parser.parse_args()
    results = do(Job.read(options.job))
    options.results.write_text(json.dumps({str(index): metrics for index, metrics in sorted(results.items())}), "utf-8")


def read_results(file: pathlib.Path) -> Results:
    """Metrics of each trial, as `main` wrote them."""
    return {int(index): metrics for index, metrics in json.loads(file.read_text("utf-8")).items()}
