"""Pulls lanes from a host into a pack, trains them from rung to rung, reports, saves, and refills the places that fall free."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from orchestrator.contract import Host, Lane, Probe, Report, Verdict, build, signature_of
from trainers import backend
from trainers.checkpoint import Checkpoint, Saver
from trainers.checkpoint import load as load_checkpoint
from trainers.config import VisionConfig
from trainers.pack import Pack, Strategy
from trainers.step import LaneState

LOOK_EVERY_S = 1.0  # for about so long a chunk keeps the loop from seeing that the process is asked to stop
FIRST_STEPS = 4  # of each lane, before a step was ever timed

log = logging.getLogger(__name__)


def train(host: Host, *, program: str, width: int, strategy: Strategy | None = None) -> None:
    """Trains lanes until the host has no more or asks to stop. See `orchestrator.contract.Trainer.train`.

    Args:
        host: Where lanes come from.
        program: Trainer and version, as signatures name them.
        width: Lanes trained together.
        strategy: How they are run; None takes what suits the device.
    """
    backend.prepare()
    lanes = host.pull(width)
    if not lanes or host.stopping:
        return
    strategy = strategy or (Strategy.MAP if jax.default_backend() == "cpu" else Strategy.VMAP)
    signature = signature_of(VisionConfig, lanes[0].config, program=program)
    pack = Pack(lanes[0].config, signature, width=width, strategy=strategy)
    with Saver() as saver:
        loop = _Loop(host, pack, saver, signature)
        loop.seat(lanes)
        while loop.seats:
            loop.to_rungs()
            if host.stopping:
                loop.save(loop.seats)
                return
            loop.seat(host.pull(width - len(loop.seats)))


@dataclasses.dataclass(slots=True)
class _Seat:
    """A lane in its place of the pack: how far it is, and where it stops next, at a rung or at its end."""

    lane: Lane
    step: int
    stop: int
    config: VisionConfig

    @classmethod
    def taken(cls, lane: Lane, step: int) -> _Seat:
        seat = cls(lane, step, step, build(VisionConfig, lane.config))
        seat.head_on()
        return seat

    def head_on(self) -> None:
        """Sets out for the next rung, or the end."""
        rung = self.config.train.rung_steps
        self.stop = min(self.step // rung * rung + rung, self.config.train.steps)

    @property
    def is_final(self) -> bool:
        return self.step == self.config.train.steps

    @property
    def steps_since_rung(self) -> int:
        return (self.step - 1) % self.config.train.rung_steps + 1


class _Loop:
    """The lanes in hand, by place, and what they are trained with."""

    def __init__(self, host: Host, pack: Pack, saver: Saver, signature: str) -> None:
        self.seats: dict[int, _Seat] = {}
        self._host, self._pack, self._saver = host, pack, saver
        self._program = f"{backend.describe()} · {pack.strategy.value}"
        self._signature, self._probed = signature, False
        self._lane_step_s: float | None = None

    def seat(self, lanes: Iterable[Lane]) -> None:
        """Puts lanes in free places, each where its checkpoint left it."""
        free = [place for place in range(self._pack.width) if place not in self.seats]
        for place, lane in zip(free, lanes, strict=False):
            state = self._restored(lane)
            self._pack.enter(place, lane.config, lane.seed, state)
            self.seats[place] = _Seat.taken(lane, 0 if state is None else int(state.step))

    def to_rungs(self) -> None:
        """Trains every lane to its next rung or end, and reports them all; sooner back, unreported, if asked to stop."""
        started, before = time.monotonic(), self._steps_done()
        while not self._host.stopping and any(seat.step < seat.stop for seat in self.seats.values()):
            self._advance()
        arrived = {place: seat for place, seat in self.seats.items() if seat.step == seat.stop}
        if not arrived:
            return
        states = self._pack.states()
        reports = self._measured(arrived, states)
        if not self._probed and self._steps_done() > before:
            self._probe((time.monotonic() - started) / (self._steps_done() - before))
        verdicts = self._host.report(reports)
        for place, seat in arrived.items():
            self._obey(verdicts[seat.lane.key], place, states[place])

    def save(self, places: Iterable[int]) -> None:
        """Checkpoints the lanes in these places."""
        states = self._pack.states()
        for place in places:
            self._save(self.seats[place].lane, states[place])

    def _advance(self) -> None:
        """One chunk: as far as the rungs, but no longer than the loop may be blind."""
        most = FIRST_STEPS
        if self._lane_step_s is not None:
            most = max(1, int(LOOK_EVERY_S / (self._lane_step_s * len(self.seats))))
        n_steps = [min(most, seat.stop - seat.step) if (seat := self.seats.get(place)) else 0 for place in range(self._pack.width)]
        started = time.monotonic()
        self._pack.advance(n_steps)
        self._lane_step_s = max((time.monotonic() - started) / sum(n_steps), 1e-9)
        for place, seat in self.seats.items():
            seat.step += n_steps[place]

    def _measured(self, arrived: dict[int, _Seat], states: Sequence[LaneState]) -> list[Report]:
        """Validation metrics of each lane, and those of every other split where it is final."""
        metrics = {place: {"train/loss": float(states[place].loss) / seat.steps_since_rung} for place, seat in arrived.items()}
        final = {place for place, seat in arrived.items() if seat.is_final}
        for split in self._pack.splits:
            of_split = set(arrived) if split == "val" else final
            values = self._pack.measure(split, [place in of_split for place in range(self._pack.width)]) if of_split else []
            for place in of_split:
                metrics[place] |= values[place]
        return [Report(key=seat.lane.key, step=seat.step, metrics=metrics[place], final=seat.is_final) for place, seat in arrived.items()]

    def _obey(self, verdict: Verdict, place: int, state: LaneState) -> None:
        seat = self.seats[place]
        if verdict is Verdict.CONTINUE and not seat.is_final:
            self._save(seat.lane, state)
            seat.head_on()
            return
        del self.seats[place]
        if verdict is not Verdict.LOST:  # a lost lane's checkpoint is another worker's by now
            self._saver.remove(seat.lane.folder)

    def _probe(self, lane_step_s: float) -> None:
        self._probed = True
        self._host.probed(
            Probe(
                signature=self._signature,
                device=backend.describe(),
                strategy=self._pack.strategy.value,
                width=self._pack.width,
                compile_s=self._pack.programs.compile_s,
                lane_step_s=lane_step_s,
            )
        )

    def _steps_done(self) -> int:
        return sum(seat.step for seat in self.seats.values())

    def _save(self, lane: Lane, state: LaneState) -> None:
        self._saver.save(lane.folder, Checkpoint(key=lane.key, program=self._program, arrays=named_arrays(state)))

    def _restored(self, lane: Lane) -> LaneState | None:
        found = load_checkpoint(lane.folder, lane.key)
        if found is None:
            return None
        template = named_arrays(self._pack.programs.template)
        if {name: (leaf.shape, leaf.dtype) for name, leaf in template.items()} != {
            name: (array.shape, array.dtype) for name, array in found.arrays.items()
        }:
            log.warning("checkpoint in %s is passed over: its arrays are not those of this model", lane.folder)
            return None
        if found.program != self._program:
            log.warning("trial %s goes on under %r, began under %r: its last bits may differ", lane.key, self._program, found.program)
        return jax.tree.unflatten(jax.tree.structure(self._pack.programs.template), [found.arrays[name] for name in template])


def named_arrays(state: LaneState) -> dict[str, np.ndarray]:
    """Every leaf of a lane's state, by its path, such as `params/head/kernel`, in the order of the tree."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
