"""The ways to run the lanes of a signature, and which of them to take: the fastest one measured here that fits in memory.

A CPU gains nothing from batching lanes: `vmap` is slower there than one lane after another, takes three to six times the
memory, and its lanes are not the bits of a lane alone. So only the ways that keep the bits are candidates there. An
accelerator is idle on one small model, and there the widths of `vmap` are tried, doubling while it pays.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
from jax import lax

from orchestrator.contract import Probe

BATCH = 4  # lanes that `Strategy.BATCHED` runs at once
WIDTHS = (4, 8, 16, 32, 64, 128)  # of packs on an accelerator
WORTH = 1.1  # a width twice as large is tried while the last doubling gained this much
MEMORY_SHARE = 0.8  # of what is free, for a pack


class Strategy(enum.Enum):
    """How lanes are run."""

    SOLO = "solo"  # one program of one lane, called for each lane in turn
    MAP = "map"  # one program of all lanes, one after another
    BATCHED = "batched"  # one program of all lanes, a few at a time
    VMAP = "vmap"  # one program of all lanes at once

    @property
    def takes_turns(self) -> bool:
        """A lane that does nothing costs nothing, and on a CPU the bits of a lane do not depend on its neighbours."""
        return self in (Strategy.SOLO, Strategy.MAP)

    def over_lanes(self, function: Callable[[Any], Any], lanes: Any) -> Any:
        """The function applied to every lane of a stack; `SOLO` has one lane, and no stack."""
        if self is Strategy.SOLO:
            return function(lanes)
        return jax.vmap(function)(lanes) if self is Strategy.VMAP else lax.map(function, lanes, batch_size=self._batch_size)

    @property
    def _batch_size(self) -> int | None:
        return BATCH if self is Strategy.BATCHED else None


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """A strategy and the places of the pack: part of how a trial was computed, and kept when it is resumed.

    >>> str(Packing(Strategy.VMAP, 8))
    'vmap × 8'
    >>> Packing.parse("cpu · jax 0.10.2 · vmap × 8") == Packing(Strategy.VMAP, 8)
    True
    """

    strategy: Strategy
    width: int

    def __str__(self) -> str:
        return f"{self.strategy.value} × {self.width}"

    @classmethod
    def parse(cls, text: str) -> Packing | None:
        """What `str` wrote at the end of a longer text; None where it did not."""
        strategy, times, width = text.rpartition(" · ")[2].partition(" × ")
        if not times or not width.isdecimal() or strategy not in {one.value for one in Strategy}:
            return None
        return cls(Strategy(strategy), int(width))

    @classmethod
    def of(cls, probe: Probe) -> Packing:
        """What was measured."""
        return cls(Strategy(probe.strategy), probe.width)

    def keeps_bits_of(self, other: Packing) -> bool:
        """A lane that began as the other goes on as this one to the same bits."""
        return self == other or (self.is_exact and other.is_exact)

    @property
    def is_exact(self) -> bool:
        """A lane's bits are those of the lane alone."""
        return self.strategy.takes_turns and jax.default_backend() == "cpu"


def default(width: int) -> Packing:
    """What is run where nothing was measured yet, on `width` places or fewer."""
    return Packing(Strategy.SOLO if jax.default_backend() == "cpu" else Strategy.VMAP, width)


def candidates(width: int, n_lanes: int) -> tuple[Packing, ...]:
    """Ways worth measuring, the likeliest first, for so many lanes in all.

    Args:
        width: Places of a pack whose lanes take turns; more of them gain nothing.
        n_lanes: Trials that there are to train.
    """
    if jax.default_backend() == "cpu":
        return (Packing(Strategy.SOLO, width), Packing(Strategy.MAP, width))
    widths = [one for one in WIDTHS if one < 2 * n_lanes] or [WIDTHS[0]]
    batched = Packing(Strategy.BATCHED, widths[-1])
    return (*(Packing(Strategy.VMAP, one) for one in widths), batched, Packing(Strategy.MAP, width), Packing(Strategy.SOLO, width))


def worth_trying(ways: Sequence[Packing], measured: Collection[Probe]) -> Iterator[Packing]:
    """Those of the ways that were not measured yet and may be faster, looking at `measured` anew before each.

    Doubling the width of `vmap` ends where the last doubling gained too little.
    """
    widest = False
    for way in ways:
        known = {Packing.of(probe): probe.lane_step_s for probe in measured}
        half, quarter = (known.get(Packing(Strategy.VMAP, way.width // part)) for part in (2, 4))
        if way.strategy is Strategy.VMAP and half is not None and quarter is not None:
            widest = widest or quarter < WORTH * half
        if way not in known and not (widest and way.strategy is Strategy.VMAP):
            yield way


def free_memory() -> float:
    """Bytes that a pack may take on the device here."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return MEMORY_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
    return MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
