"""The vision trainer as the plan sees it, and killed in the middle as a user's machine does."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from orchestrator.contract import Trainer
from tests.trainers.scripted import TINY_VISION, flat_of
from trainers.config import VisionConfig
from trainers.vision import Vision

ROOT = pathlib.Path(__file__).parents[2]


def test_it_is_a_trainer() -> None:
    trainer: Trainer = Vision()
    config = flat_of(trainer, TINY_VISION)
    assert trainer.config_class is VisionConfig
    assert trainer.steps(config) == TINY_VISION["train.steps"]
    assert trainer.width(config) >= 1
    assert trainer.cost(config).keys() >= {"cost/parameters", "cost/train_gflops"}
    assert trainer.problems(config) == []
    assert {"jax", "flax", "optax"} <= trainer.provenance().keys()
    assert all(trainer.provenance().values())


def test_it_tells_what_cannot_be_trained() -> None:
    config = flat_of(Vision(), TINY_VISION) | {"model.members": 3}
    assert any("members" in problem.what for problem in Vision().problems(config))


def test_what_it_costs_is_asked_without_jax() -> None:
    """The plan asks for problems, cost, steps, width and provenance of every cell before any worker starts."""
    code = """
import sys
from trainers.vision import Vision
from orchestrator.contract import flatten
trainer = Vision()
config = flatten(trainer.config_class())
trainer.problems(config), trainer.cost(config), trainer.steps(config), trainer.width(config), trainer.provenance()
trainer.data_problem(config), trainer.data_problem({**config, "data.dataset": "formulas"})
trainer.misfits(config, {**config, "model.hidden": 64})
sys.exit(" ".join({"jax", "flax", "optax", "tensorflow"} & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_cost_does_not_depend_on_traced_values() -> None:
    config = flat_of(Vision(), TINY_VISION)
    assert Vision().cost(config) == Vision().cost(config | {"optim.learning_rate": 1.0, "train.steps": 99})


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_ends_with_the_same_numbers(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    settings = [f"{key}={json.dumps(value)}" for key, value in (TINY_VISION | {"train.steps": 400}).items()]
    command = [sys.executable, "-m", "trainers.vision", *(word for text in settings for word in ("--set", text))]

    def process(out: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / out)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    undisturbed, _ = process("undisturbed").communicate()
    killed = process("killed")
    assert killed.stderr is not None
    while not killed.stderr.readline().startswith("step     20"):
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed, progress = process("killed").communicate()
    assert "step      5" not in progress, "it began again"
    assert json.loads(resumed) == json.loads(undisturbed)
