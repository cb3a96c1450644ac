"""Lanes of one signature on a leading axis, advanced and measured by one set of compiled programs.

A chunk advances each lane by its own, traced number of steps, so that a finished or empty lane costs nothing and a new
one takes its place without compiling. Under `Strategy.MAP` a lane's bits do not depend on its neighbours, on the width,
or on where chunks begin (tests/trainers/test_pack.py, on hashes of parameters).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from orchestrator.contract import FlatConfig, build
from trainers import evaluate
from trainers.config import DataConfig, EvalConfig, VisionConfig
from trainers.data import load
from trainers.step import LaneState, Program, TrainData, root_key, traced_numbers

MOST_PROGRAMS = 16  # signatures that a process keeps compiled: tuning and replicates of an arm come minutes apart


class Strategy(enum.Enum):
    """How lanes are run."""

    MAP = "map"  # one after another; on a CPU also the faster way, since there are no launches to hide
    VMAP = "vmap"  # as one batched program: for accelerators; the bits of a lane depend on the width

    def over_lanes(self, function: Callable[[Any], Any], stacked: Any) -> Any:
        """The function applied to every lane of a stack."""
        return lax.map(function, stacked) if self is Strategy.MAP else jax.vmap(function)(stacked)


@dataclasses.dataclass(frozen=True, slots=True)
class Resident:
    """The data of a signature, on the device: what is trained on, and each split that is measured on, by name."""

    train: TrainData
    measured: Mapping[str, evaluate.EvalSplit]


@functools.lru_cache(maxsize=2)
def resident(data: DataConfig, config: EvalConfig) -> Resident:
    """Reads a dataset and puts it on the device, once for all packs that follow one another."""
    splits = load(data)
    batch = evaluate.batch_size(config.batch_size, len(splits["val"].labels))
    left_out = {"train"} if config.corrupted else {"train", "corrupted"}
    measured = {name: evaluate.EvalSplit.cut(split, batch) for name, split in splits.items() if name not in left_out}
    train = splits["train"]
    return Resident(TrainData(jnp.asarray(train.images), jnp.asarray(train.labels)), measured)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The compiled programs of one signature at one width.

    Attributes:
        template: Shapes and types of one lane's state.
        init: (key, numbers) to a lane's state at step 0.
        put: (states, place, state) to the states with that lane in that place.
        chunk: (states, numbers, steps of each lane, data) to the states, so many steps on.
        logits: (params, numbers, which lanes, images) to logits [lane, member, image, class].
        metrics: Number of images to (logits of each batch, classes) to metrics of each lane.
        compile_s: Seconds that tracing and compiling took.
    """

    template: LaneState
    init: Callable[..., Any]
    put: Callable[..., Any]
    chunk: Callable[..., Any]
    logits: Callable[..., Any]
    metrics: Mapping[int, Callable[..., Any]]
    compile_s: float

    @classmethod
    def compiled(cls, flat: FlatConfig, data: Resident, *, width: int, strategy: Strategy) -> Programs:
        """Traces and compiles every program at once, on threads: XLA compiles outside Python's lock."""
        started = time.monotonic()
        config, numbers = build(VisionConfig, flat), traced_numbers(flat)
        program = Program(config)

        def put(states: LaneState, place: jax.Array, state: LaneState) -> LaneState:
            return jax.tree.map(lambda stack, one: stack.at[place].set(one), states, state)

        def chunk(states: LaneState, numbers: Any, n_steps: jax.Array, data: TrainData) -> LaneState:
            return strategy.over_lanes(lambda lane: program.chunk(*lane, data), (states, numbers, n_steps))

        def logits(params: Any, numbers: Any, active: jax.Array, images: jax.Array) -> jax.Array:
            return strategy.over_lanes(lambda lane: evaluate.logits_where(program, *lane, images), (params, numbers, active))

        template: LaneState = jax.eval_shape(program.init, root_key(0), numbers)
        states, stack = _stacked_shapes(template, width), _stacked_shapes(numbers, width)
        splits = list(data.measured.values())
        predict = (states.params, stack, np.zeros(width, bool), splits[0].batches[0])
        one_batch = jax.eval_shape(logits, *predict)
        with ThreadPoolExecutor() as threads:
            jobs = {
                "chunk": threads.submit(_compiled, chunk, states, stack, np.zeros(width, np.int32), data.train, donate=0),
                "logits": threads.submit(_compiled, logits, *predict),
                "init": threads.submit(_compiled, program.init, root_key(0), numbers, once=True),
                "put": threads.submit(_compiled, put, states, np.int32(0), template, donate=0, once=True),
            }
            measure = evaluate.measure_with(config.eval.ece_bins)
            metrics = {
                n_images: threads.submit(_compiled, measure, [one_batch] * n_batches, jax.ShapeDtypeStruct((n_images,), np.int32))
                for n_images, n_batches in {len(split.labels): len(split.batches) for split in splits}.items()
            }
        return cls(
            template=template,
            metrics={n_images: job.result() for n_images, job in metrics.items()},
            compile_s=time.monotonic() - started,
            **{name: job.result() for name, job in jobs.items()},
        )


class Pack:
    """A fixed number of places, and whatever lanes lie in them.

    Args:
        flat: Config of one lane; the others may differ in traced values.
        signature: Of the lanes: programs once compiled for it are used again.
        width: Places.
        strategy: How lanes are run.
    """

    def __init__(self, flat: FlatConfig, signature: str, *, width: int, strategy: Strategy) -> None:
        config = build(VisionConfig, flat)
        self.width, self.strategy = width, strategy
        self._data = resident(config.data, config.eval)
        self.programs = _programs(flat, signature, self._data, width, strategy)
        self._numbers = [traced_numbers(flat)] * width
        self._states = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _stacked_shapes(self.programs.template, width))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be measured."""
        return tuple(self._data.measured)

    def enter(self, place: int, flat: FlatConfig, seed: int, state: LaneState | None) -> None:
        """Puts a lane in a place: as its checkpoint left it, or at step 0."""
        self._numbers[place] = traced_numbers(flat)
        if state is None:
            state = self.programs.init(root_key(seed), self._numbers[place])
        self._states = self.programs.put(self._states, np.int32(place), state)

    def advance(self, n_steps: Sequence[int]) -> None:
        """Trains the lane in each place by that many steps, and returns when that is done."""
        self._states = self.programs.chunk(self._states, self._stack(), np.asarray(n_steps, np.int32), self._data.train)
        jax.block_until_ready(self._states.step)

    def measure(self, split: str, active: Sequence[bool]) -> list[dict[str, float]]:
        """Metrics of the lane in each place on a split, as `split/name`. Those of inactive places mean nothing."""
        data, mask, stack = self._data.measured[split], np.asarray(active), self._stack()
        logits = [self.programs.logits(self._states.params, stack, mask, batch) for batch in data.batches]
        values = jax.device_get(self.programs.metrics[len(data.labels)](logits, data.labels))
        return [{f"{split}/{name}": float(value[place]) for name, value in values.items()} for place in range(self.width)]

    def states(self) -> list[LaneState]:
        """The state in each place, copied to the host."""
        states = jax.device_get(self._states)
        return [jax.tree.map(lambda leaf, place=place: leaf[place], states) for place in range(self.width)]

    def _stack(self) -> dict[str, np.ndarray]:
        return {key: np.stack([numbers[key] for numbers in self._numbers]) for key in self._numbers[0]}


_kept: dict[tuple[str, int, Strategy], Programs] = {}


def _programs(flat: FlatConfig, signature: str, data: Resident, width: int, strategy: Strategy) -> Programs:
    key = (signature, width, strategy)
    if key not in _kept:
        while len(_kept) >= MOST_PROGRAMS:
            del _kept[next(iter(_kept))]
        _kept[key] = Programs.compiled(flat, data, width=width, strategy=strategy)
    return _kept[key]


def _stacked_shapes(tree: Any, width: int) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype), tree)


def _compiled(function: Callable[..., Any], *arguments: Any, donate: int | None = None, once: bool = False) -> Callable[..., Any]:
    """The compiled function. What runs once a lane is not optimised, which halves the time that initialisation compiles."""
    options = {"xla_backend_optimization_level": 0} if once and jax.default_backend() == "cpu" else {}
    return jax.jit(function, donate_argnums=() if donate is None else donate).lower(*arguments).compile(compiler_options=options)
