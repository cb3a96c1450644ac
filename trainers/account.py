"""Where the time of a pack goes, for the report, and how fast it was, for the next plan."""

from __future__ import annotations

import time

from orchestrator.contract import Host, Probe, Usage
from trainers import backend
from trainers.pack import Pack
from trainers.packing import Packing


class Account:
    """A clock that is read at the boundaries of a pack's work: each call books the time since the one before.

    Args:
        signature: Of the pack's lanes.
        packing: How they are run.
        started: When it was begun to get ready for them, on the monotonic clock.
    """

    def __init__(self, signature: str, packing: Packing, started: float) -> None:
        self._signature, self._packing = signature, packing
        self._compile = self._train = self._evaluate = self._other = 0.0
        self._lane = self._place = 0.0
        self._steps = self._finals = 0
        self._final_s = 0.0
        self._lanes, self._dry = 0, False
        self._is_probed = False
        self._clock = started

    def compiled(self) -> None:
        """The programs are there."""
        self._compile = time.monotonic() - self._clock
        self._clock += self._compile

    def moved(self, packing: Packing) -> None:
        """The lanes go on in a pack of fewer places."""
        self._packing = packing

    def entered(self) -> None:
        """Lanes took their places."""
        self._other += self._book()

    def trained(self, steps: int, *, lanes: int, dry: bool) -> None:
        """A chunk of so many steps over all lanes is done; `dry` says that no further lane waited to fill the places."""
        self._lanes, self._dry = lanes, dry
        self._train += self._book()
        self._steps += steps

    def evaluated(self, lanes: int, *, final: int) -> None:
        """So many lanes were measured, of which some on every split."""
        spent = self._book()
        self._evaluate += spent
        if final == lanes:
            self._final_s, self._finals = self._final_s + spent, self._finals + final

    def reported(self) -> None:
        """The host knows, and lanes that are done have left."""
        self._other += self._book()

    def probe(self, host: Host, pack: Pack) -> None:
        """Tells the host how fast the pack is, once: plans made while it trains know already."""
        if not self._is_probed and self._steps:
            self._is_probed = True
            host.probed(self._probe(pack))

    def close(self, host: Host, pack: Pack) -> None:
        """Tells the host all of it."""
        self._other += self._book()
        if not self._steps:
            return
        host.probed(self._probe(pack))
        host.used(
            Usage(
                signature=self._signature,
                strategy=self._packing.strategy.value,
                width=self._packing.width,
                lane_steps=self._steps,
                compile_s=self._compile,
                train_s=self._train,
                evaluate_s=self._evaluate,
                other_s=self._other,
                lane_s=self._lane,
                place_s=self._place,
            )
        )

    def _book(self) -> float:
        now = time.monotonic()
        spent, self._clock = now - self._clock, now
        self._lane += spent * self._lanes
        self._place += spent * (self._lanes if self._dry else self._packing.width)
        return spent

    def _probe(self, pack: Pack) -> Probe:
        lane_s = self._final_s / self._finals if self._finals else 0.0
        finals_s = lane_s * self._finals
        return Probe(
            signature=self._signature,
            device=backend.describe(),
            strategy=self._packing.strategy.value,
            width=self._packing.width,
            compile_s=pack.programs.compile_s,
            lane_step_s=(self._train + self._evaluate + self._other - finals_s) / self._steps,
            lane_s=lane_s,
            memory_bytes=pack.memory_bytes,
        )
