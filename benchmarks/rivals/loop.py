"""Training as one writes it by hand: a jitted step, a Python loop, an evaluation at the end.

Model, step and metrics are the project's own, so that only the way of running trials differs between rivals. What varies
between trials is an argument of the compiled programs: all trials of a process share them.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rivals.workload import Job, Trial
from orchestrator.contract import FlatConfig, build
from trainers import evaluate
from trainers.config import VisionConfig
from trainers.data import load
from trainers.step import LaneState, Program, epoch_order, root_key, traced_numbers


class Loop:
    """The jitted functions of one model, and its data on the device."""

    def __init__(self, flat: FlatConfig) -> None:
        config = build(VisionConfig, flat)
        program = Program(config)
        splits = load(config.data)
        batch = evaluate.batch_size(config.eval.batch_size, splits["val"].shape[0])
        self._n_images = splits["train"].shape[0]
        self._train = jax.device_put(tuple(splits["train"].gather(np.arange(self._n_images))))
        self._measured = {name: evaluate.EvalSplit.cut(splits[name], batch) for name in ("val", "test")}
        self._batch = config.train.batch_size

        def order(key: jax.Array, epoch: jax.Array) -> jax.Array:
            return epoch_order(jax.random.wrap_key_data(key), epoch, self._n_images)

        def step(state: LaneState, order: jax.Array, place: jax.Array, traced: Any, images: jax.Array, labels: jax.Array) -> LaneState:
            rows = jax.lax.dynamic_slice(order, (place * self._batch,), (self._batch,))
            return program.step(state, images[rows], labels[rows], traced)

        self._order = jax.jit(order)
        self._step = jax.jit(step, donate_argnums=0)
        # As the project compiles it: sooner, and optimising it would change the last bit of some first values.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        self._init = jax.jit(program.init, compiler_options=options)
        self._logits = jax.jit(program.member_logits)
        self._metrics = jax.jit(evaluate.measure_with(config.eval.ece_bins))

    def train(self, flat: FlatConfig, seed: int) -> dict[str, float]:
        """Initialises, trains and evaluates one trial; metrics by `split/name`, and seconds by `s/phase`."""
        started = time.monotonic()
        numbers, key = jax.device_put(traced_numbers(flat)), jnp.asarray(root_key(seed))
        state = jax.block_until_ready(self._init(key, numbers))
        initialised = time.monotonic()
        per_epoch = self._n_images // self._batch
        for step in range(int(flat["train.steps"])):  # type: ignore[arg-type]
            if step % per_epoch == 0:
                order = self._order(key, np.int32(step // per_epoch))
            state = self._step(state, order, np.int32(step % per_epoch), numbers, *self._train)
            if step == 0:
                jax.block_until_ready(state)
                compiled = time.monotonic()
        jax.block_until_ready(state)
        trained = time.monotonic()
        metrics = self._evaluated(state, numbers)
        seconds = {"init": initialised - started, "first_step": compiled - initialised, "other_steps": trained - compiled}
        return metrics | {f"s/{name}": value for name, value in {**seconds, "evaluate": time.monotonic() - trained}.items()}

    def _evaluated(self, state: LaneState, numbers: Mapping[str, jax.Array]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, split in self._measured.items():
            logits = [self._logits(state.params, numbers, images)[None] for images in split.batches]
            values = jax.device_get(self._metrics(logits, split.labels))
            found |= {f"{name}/{metric}": float(value[0]) for metric, value in values.items()}
        return found


@functools.cache
def _loop(flat: str) -> Loop:
    return Loop(json.loads(flat))


def train(job: Job, trial: Trial) -> dict[str, float]:
    """One trial of a job, with the programs that this process compiled for the trials before it."""
    config = job.config(trial)
    shared = config | {"optim.learning_rate": 0.0, "train.steps": 1}
    return _loop(json.dumps(shared)).train(config, trial.seed)
