"""Nothing is compiled twice: JAX's own events, counted over packs, refills and chunks of any length."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from tests.trainers.scripted import TINY_VISION, ScriptedHost, lane
from trainers import loop
from trainers.packing import Packing, Strategy
from trainers.vision import Vision

PROGRAM = f"{Vision.name} {Vision.version}"
COMPILED = "/jax/core/compile/backend_compile_duration"  # also where the program comes from JAX's cache of compiled ones
TRACED = "/jax/core/compile/jaxpr_trace_duration"

# Of one signature: chunks of other lengths, other numbers, an arm of the same program.
LANES: tuple[dict[str, Any], ...] = (
    {"optim.learning_rate": 3e-3},
    {"train.steps": 7, "model.dropout": 0.4},
    {"train.steps": 3, "model.router_noise": 3.0},
    {"model.partition": False, "train.steps": 6},
)


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """Names of the programs that are traced or compiled meanwhile, by what JAX says of them."""
    said: list[str] = []

    def listen(event: str, duration: float, **about: Any) -> None:
        if event in (COMPILED, TRACED):
            said.append(f"{event.rsplit('/', 1)[-1]} {about.get('fun_name', '')}")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield said
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def train(folder: pathlib.Path, *, seeds: int, width: int, strategy: Strategy) -> ScriptedHost:
    lanes = [lane(Vision(), folder, TINY_VISION | overrides, seed=seeds + place) for place, overrides in enumerate(LANES)]
    host = ScriptedHost(lanes)
    loop.train(host, program=PROGRAM, width=width, packing=Packing(strategy, width))
    assert len(host.finals()) == len(LANES)
    return host


@pytest.mark.parametrize(("strategy", "width"), [(Strategy.SOLO, 3), (Strategy.MAP, 2)])
def test_refills_and_a_second_pack_compile_nothing(tmp_path: pathlib.Path, strategy: Strategy, width: int) -> None:
    with counted() as first:
        train(tmp_path / "first", seeds=0, width=width, strategy=strategy)
    with counted() as second:
        train(tmp_path / "second", seeds=10, width=width, strategy=strategy)
    assert second == []
    assert first.count("backend_compile_duration jit_chunk") + first.count("backend_compile_duration chunk") <= 1


def test_the_count_sees_a_program_that_is_compiled() -> None:
    with counted() as said:
        jax.jit(lambda x: x * 7 - 3)(np.float32(2))
    assert any(name.startswith("backend_compile_duration") for name in said)
