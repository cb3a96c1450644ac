"""The compiled programs of a signature: made once for a way to run its lanes, on threads, and kept for the packs that follow.

A chunk advances each lane by its own, traced number of steps, so that a finished or empty lane costs nothing and a new
one takes its place without compiling.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from orchestrator.contract import FlatConfig, build, signature_of
from trainers import aot, evaluate
from trainers.config import DataConfig, EvalConfig, VisionConfig
from trainers.data import Examples, Split, load
from trainers.data.examples import n_bytes
from trainers.feed import block_shape, block_steps
from trainers.packing import Packing, Strategy, free_memory
from trainers.step import LaneState, Program, TrainData, root_key, traced_numbers

RESIDENT_SHARE = 0.25  # of the device's free memory, for one split; a larger one stays on the host
MOST_PROGRAMS = 16  # that a process keeps compiled: tuning and replicates of an arm come minutes apart

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignatureData:
    """The data of a signature.

    Attributes:
        train: What is trained on, where it is on the device.
        fed: What is trained on, where it is not, and blocks of it are put there while the lanes train.
        measured: Each split that is measured on, by name.
    """

    train: TrainData | None
    fed: Examples | None
    measured: Mapping[str, evaluate.EvalSplit]


@functools.lru_cache(maxsize=2)
def data_of(data: DataConfig, config: EvalConfig) -> SignatureData:
    """Reads a dataset and puts on the device what fits there, once for all packs that follow one another."""
    splits = load(data)
    train = splits.pop("train")
    batch = evaluate.batch_size(config.batch_size, splits["val"].shape[0])
    wanted = {name: split for name, split in splits.items() if name != "corrupted" or config.corrupted}
    measured = {name: evaluate.EvalSplit.cut(split, batch, is_fed=_on_device(split) is None) for name, split in wanted.items()}
    held = _on_device(train)
    return SignatureData(
        train=None if held is None else jax.device_put(TrainData(*held)), fed=train if held is None else None, measured=measured
    )


def _on_device(split: Examples) -> Split | None:
    """A split whose arrays fit on the device; None of one that is mapped, streamed, or would take too much of its memory."""
    is_array = isinstance(split, Split) and not isinstance(split.images, np.memmap)
    return split if is_array and n_bytes(split.shape) <= RESIDENT_SHARE * free_memory() else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The compiled programs of one signature for one way to run its lanes.

    What takes "lanes" takes them stacked on a leading axis, or the one lane itself under `Strategy.SOLO`.

    Attributes:
        template: Shapes and types of one lane's state.
        init: (key, numbers) to a lane's state at step 0.
        put: (states, place, state) to the states with that lane in that place; None under `Strategy.SOLO`.
        chunk: (states, numbers, steps, data) of lanes to their states, so many steps on. Fed lanes have a block each as data.
        logits: (params, numbers, whether to, images) of lanes to logits [lane, member, image, class], without lanes under `SOLO`.
        metrics: Number of images to (logits of each batch [lane, …], classes) to metrics of each lane.
        compile_s: Seconds that tracing and compiling took.
        state_bytes: What the state of one lane takes.
        temporary_bytes: What the largest program's temporaries take; 0 where the device does not say.
    """

    template: LaneState
    init: Callable[..., Any]
    put: Callable[..., Any] | None
    chunk: Callable[..., Any]
    logits: Callable[..., Any]
    metrics: Mapping[int, Callable[..., Any]]
    compile_s: float
    state_bytes: int
    temporary_bytes: int

    @classmethod
    def compiled(cls, flat: FlatConfig, data: SignatureData, packing: Packing) -> Programs:
        """Traces and compiles every program at once, on threads: XLA compiles outside Python's lock."""
        started = time.monotonic()
        config, numbers = build(VisionConfig, flat), traced_numbers(flat)
        program, strategy = Program(config), packing.strategy
        is_solo = strategy is Strategy.SOLO

        def put(states: LaneState, place: jax.Array, state: LaneState) -> LaneState:
            return jax.tree.map(lambda stack, one: stack.at[place].set(one), states, state)

        def chunk(states: LaneState, numbers: Any, n_steps: jax.Array, data: TrainData) -> LaneState:
            return strategy.over_lanes(lambda lane: program.chunk(*lane, data), (states, numbers, n_steps))

        def chunk_fed(states: LaneState, numbers: Any, n_steps: jax.Array, blocks: TrainData) -> LaneState:
            return strategy.over_lanes(lambda lane: program.chunk_fed(*lane), (states, numbers, n_steps, blocks))

        def logits(params: Any, numbers: Any, active: jax.Array, images: jax.Array) -> jax.Array:
            return strategy.over_lanes(lambda lane: evaluate.logits_where(program, *lane, images), (params, numbers, active))

        prints = f"{signature(flat, 'programs')} {packing}"

        def compiled(name: str, function: Callable[..., Any], *arguments: Any, donate: int | None = None, once: bool = False) -> Any:
            return _compiled(aot.traced(name, prints, function, *arguments), *arguments, donate=donate, once=once)

        init = aot.traced("init", prints, program.init, root_key(0), numbers)
        template: LaneState = init.out
        states, stack, counts, active = template, numbers, np.int32(0), np.bool_(True)
        if not is_solo:
            states, stack = stacked_shapes(template, packing.width), stacked_shapes(numbers, packing.width)
            counts, active = np.zeros(packing.width, np.int32), np.zeros(packing.width, bool)
        train, advance = data.train, chunk
        if data.fed is not None:
            block = block_shape(data.fed, config.train.batch_size, block_steps(data.fed, config.train.batch_size))
            train, advance = block if is_solo else stacked_shapes(block, packing.width), chunk_fed
        splits = list(data.measured.values())
        predict = (states.params, stack, active, splits[0].batch)
        with ThreadPoolExecutor() as threads:
            jobs = {
                "chunk": threads.submit(compiled, advance.__name__, advance, states, stack, counts, train, donate=0),
                "init": threads.submit(_compiled, init, root_key(0), numbers, once=True),
            }
            if not is_solo:
                jobs["put"] = threads.submit(compiled, "put", put, states, np.int32(0), template, donate=0, once=True)
            predicted = aot.traced("logits", prints, logits, *predict)
            jobs["logits"] = threads.submit(_compiled, predicted, *predict)
            one_batch = jax.ShapeDtypeStruct((1, *predicted.out.shape), predicted.out.dtype) if is_solo else predicted.out
            measure = evaluate.measure_with(config.eval.ece_bins)
            metrics = {
                n_images: threads.submit(compiled, "metrics", measure, [one_batch] * n_batches, jax.ShapeDtypeStruct((n_images,), np.int32))
                for n_images, n_batches in {len(split.labels): len(split.batches) for split in splits}.items()
            }
        done = {name: job.result() for name, job in jobs.items()}
        return cls(
            template=template,
            put=done.pop("put", None),
            metrics={n_images: job.result() for n_images, job in metrics.items()},
            compile_s=time.monotonic() - started,
            state_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template)),
            temporary_bytes=_temporary_bytes(done["chunk"], done["logits"]),
            **done,
        )


_Key = tuple[str, Strategy, int]  # signature, and the packing; programs of one lane are the same on any number of places
_kept: dict[_Key, Future[Programs]] = {}
_lock = threading.Lock()


def programs_of(flat: FlatConfig, signature: str, packing: Packing) -> Programs:
    """The programs of a signature, compiled now unless they are, or are being compiled."""
    future, is_new = _claimed(signature, packing)
    if is_new:
        _fulfil(future, flat, packing)
    try:
        return future.result()
    except BaseException:
        with _lock:
            _kept.pop(_key(signature, packing), None)  # the next pack tries again
        raise


def compile_meanwhile(flat: FlatConfig, signature: str, packing: Packing) -> None:
    """Starts to compile what will be asked for next. The thread dies with the process, and what it met is met again later."""
    future, is_new = _claimed(signature, packing)
    if is_new:
        threading.Thread(target=_fulfil, args=(future, flat, packing), name="compile-next", daemon=True).start()


def _claimed(signature: str, packing: Packing) -> tuple[Future[Programs], bool]:
    key = _key(signature, packing)
    with _lock:
        if key in _kept:
            _kept[key] = _kept.pop(key)  # the last one asked for is the last one to go
            return _kept[key], False
        while len(_kept) >= MOST_PROGRAMS:
            del _kept[next(iter(_kept))]
        _kept[key] = Future()
        return _kept[key], True


def _key(signature: str, packing: Packing) -> _Key:
    return signature, packing.strategy, 1 if packing.strategy is Strategy.SOLO else packing.width


def _fulfil(future: Future[Programs], flat: FlatConfig, packing: Packing) -> None:
    try:
        config = build(VisionConfig, flat)
        future.set_result(Programs.compiled(flat, data_of(config.data, config.eval), packing))
    except BaseException as error:  # a waiting pack would wait for ever
        future.set_exception(error)


def stacked_shapes(tree: Any, width: int) -> Any:
    """Shapes of a tree with a leading axis of lanes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype), tree)


def signature(flat: FlatConfig, program: str) -> str:
    """The signature of a vision config, as the plan computes it."""
    return signature_of(VisionConfig, flat, program=program)


def _compiled(program: aot.Traced, *arguments: Any, donate: int | None = None, once: bool = False) -> jax.stages.Compiled:
    """The compiled function. What runs once a lane is not optimised, which halves the time that initialisation compiles."""
    options = {"xla_backend_optimization_level": 0} if once and jax.default_backend() == "cpu" else {}
    return program.compiled(*arguments, donate=donate, options=options)


def _temporary_bytes(*compiled: Any) -> int:
    found = [one.memory_analysis() for one in compiled]
    return max((stats.temp_size_in_bytes for stats in found if stats is not None), default=0)
