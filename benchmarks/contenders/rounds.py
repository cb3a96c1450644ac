"""Times of several contenders that take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

TURN_S = 0.25  # of one contender at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several measurements of one thing: their median, and what half of them lie between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, high = np.percentile(values, (25, 75))
        return cls(median=statistics.median(values), low=float(low), high=float(high))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Milliseconds of each contender's call in every round, and of the others over the first, round by round."""

    cpu_ms: Mapping[str, Spread]
    wall_ms: Mapping[str, Spread]
    cpu_ratio: Mapping[str, Spread]
    wall_ratio: Mapping[str, Spread]


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Timed:
    """Calls all of them in turn, in another order each round; the first is what the others are compared with.

    Args:
        calls: One call of each contender; the result is waited for after several of them.
        rounds: How often each has a turn.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    names = list(calls)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent[name].append(_ms(calls[name], repeats[name]))
    cpu, wall = ({name: [pair[which] for pair in pairs] for name, pairs in spent.items()} for which in (0, 1))
    return Timed(cpu_ms=_spreads(cpu), wall_ms=_spreads(wall), cpu_ratio=_ratios(cpu, names[0]), wall_ratio=_ratios(wall, names[0]))


def _spreads(found: Mapping[str, list[float]]) -> dict[str, Spread]:
    return {name: Spread.of(values) for name, values in found.items()}


def _ratios(found: Mapping[str, list[float]], base: str) -> dict[str, Spread]:
    own = found[base]
    return {name: Spread.of([x / y for x, y in zip(values, own, strict=True)]) for name, values in found.items() if name != base}


def _repeats(call: Callable[[], Any]) -> int:
    """Calls that fill a turn, after two that compile and warm."""
    _ms(call, 2)
    return max(1, round(1e3 * TURN_S / _ms(call, 2)[1]))


def _ms(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """CPU and wall milliseconds of one call."""
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(repeats):
        done = call()
    jax.block_until_ready(done)
    return 1e3 * (time.process_time() - cpu) / repeats, 1e3 * (time.monotonic() - wall) / repeats
