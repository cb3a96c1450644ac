"""Lanes of one signature on a leading axis, advanced and measured by one set of compiled programs.

A chunk advances each lane by its own, traced number of steps, so that a finished or empty lane costs nothing and a new
one takes its place without compiling. Under `Strategy.MAP` a lane's bits do not depend on its neighbours, on the width,
or on where chunks begin (tests/trainers/test_pack.py, on hashes of parameters).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from orchestrator.contract import FlatConfig, build
from trainers import evaluate
from trainers.config import VisionConfig
from trainers.data import Split
from trainers.step import LaneState, Program, TrainData, root_key, traced_numbers


class Strategy(enum.Enum):
    """How lanes are run."""

    MAP = "map"  # one after another; on a CPU also the faster way, since there are no launches to hide
    VMAP = "vmap"  # as one batched program: for accelerators; the bits of a lane depend on the width

    def over_lanes(self, function: Callable[[Any], Any], stacked: Any) -> Any:
        """The function applied to every lane of a stack."""
        return lax.map(function, stacked) if self is Strategy.MAP else jax.vmap(function)(stacked)


class Pack:
    """A fixed number of places, and the programs that train whatever lanes lie in them.

    Args:
        flat: Config of one lane; the others may differ in traced values.
        width: Places.
        strategy: How lanes are run.
        splits: Images of `train`, `val`, `test` and, if there is one, `corrupted`.
    """

    def __init__(self, flat: FlatConfig, *, width: int, strategy: Strategy, splits: Mapping[str, Split]) -> None:
        config = build(VisionConfig, flat)
        batch = evaluate.batch_size(config.eval.batch_size, len(splits["val"].labels))
        self._measured = {name: evaluate.EvalSplit.cut(split, batch) for name, split in splits.items() if name != "train"}
        self._data = TrainData(jnp.asarray(splits["train"].images), jnp.asarray(splits["train"].labels))
        self.width, self.strategy = width, strategy
        self._numbers = [traced_numbers(flat)] * width
        self._bins = config.eval.ece_bins
        program = Program(config)
        self.template: LaneState = jax.eval_shape(program.init, root_key(0), self._numbers[0])
        self._states = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape), leaf.dtype), self.template)
        self._compile(program, strategy, width)

    def enter(self, place: int, flat: FlatConfig, seed: int, state: LaneState | None) -> None:
        """Puts a lane in a place: as its checkpoint left it, or at step 0."""
        self._numbers[place] = traced_numbers(flat)
        if state is None:
            state = self._init(root_key(seed), self._numbers[place])
        self._states = self._put(self._states, np.int32(place), state)

    def advance(self, n_steps: Sequence[int]) -> None:
        """Trains the lane in each place by that many steps."""
        self._states = self._chunk(self._states, self._stacked, np.asarray(n_steps, np.int32), self._data)
        jax.block_until_ready(self._states.step)

    def measure(self, split: str, active: Sequence[bool]) -> list[dict[str, float]]:
        """Metrics of the lane in each place on a split, as `split/name`. Those of inactive places mean nothing."""
        measured = self._measured[split]
        mask = np.asarray(active)
        logits = [self._logits(self._states.params, self._stacked, mask, batch) for batch in measured.batches]
        values = jax.device_get(self._metrics[len(measured.labels)](logits, measured.labels))
        return [{f"{split}/{name}": float(value[place]) for name, value in values.items()} for place in range(len(mask))]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be measured."""
        return tuple(self._measured)

    def states(self) -> list[LaneState]:
        """The state in each place, copied to the host."""
        states = jax.device_get(self._states)
        return [jax.tree.map(lambda leaf, place=place: leaf[place], states) for place in range(len(self._numbers))]

    @property
    def _stacked(self) -> dict[str, np.ndarray]:
        return {key: np.stack([numbers[key] for numbers in self._numbers]) for key in self._numbers[0]}

    def _compile(self, program: Program, strategy: Strategy, width: int) -> None:
        """Traces and compiles every program at once, on threads: XLA compiles outside Python's lock."""

        def chunk(states: LaneState, traced: Any, n_steps: jax.Array, data: TrainData) -> LaneState:
            return strategy.over_lanes(lambda lane: program.chunk(*lane, data), (states, traced, n_steps))

        def put(states: LaneState, place: jax.Array, state: LaneState) -> LaneState:
            return jax.tree.map(lambda all_, one: all_.at[place].set(one), states, state)

        def logits(params: Any, traced: Any, active: jax.Array, images: jax.Array) -> jax.Array:
            return strategy.over_lanes(lambda lane: evaluate.logits_where(program, *lane, images), (params, traced, active))

        first = next(iter(self._measured.values()))
        arguments = (self._states.params, self._stacked, np.zeros(width, bool), first.batches[0])
        shape = jax.eval_shape(logits, *arguments)
        with ThreadPoolExecutor() as threads:
            jobs = {
                "chunk": threads.submit(_compiled, chunk, self._states, self._stacked, np.zeros(width, np.int32), self._data, donate=0),
                "logits": threads.submit(_compiled, logits, *arguments),
                "init": threads.submit(_compiled, program.init, root_key(0), self._numbers[0]),
                "put": threads.submit(_compiled, put, self._states, np.int32(0), self.template, donate=0),
            }
            metrics = {
                len(split.labels): threads.submit(_compiled, evaluate.measured(self._bins), [shape] * len(split.batches), split.labels)
                for split in self._measured.values()
            }
        self._chunk, self._logits, self._init, self._put = (jobs[name].result() for name in ("chunk", "logits", "init", "put"))
        self._metrics = {n_images: job.result() for n_images, job in metrics.items()}


def _compiled(function: Callable[..., Any], *arguments: Any, donate: int | None = None) -> Callable[..., Any]:
    return jax.jit(function, donate_argnums=() if donate is None else donate).lower(*arguments).compile()
