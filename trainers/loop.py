"""Pulls lanes from a host into a pack, trains them from rung to rung, reports, saves, and refills the places that fall free."""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from orchestrator.contract import DESCRIPTION, PARAMETERS, PREDICTIONS, DataError, Host, Lane, Report, Verdict, build
from trainers import backend, beyond, predictions
from trainers.account import Account
from trainers.checkpoint import Checkpoint, Saver
from trainers.choosing import choose
from trainers.config import VisionConfig
from trainers.pack import Pack, make_pack
from trainers.packing import Packing
from trainers.programs import compile_meanwhile, signature
from trainers.restore import named_arrays, packing_of, restored
from trainers.start import begun, keep_parameters

LOOK_EVERY_S = 1.0  # for about so long a chunk keeps the loop from seeing that the process is asked to stop
FIRST_STEPS = 4  # of each lane, before a step was ever timed
SAVE_SHARE = 0.02  # of the time may go to checkpoints: a lane is saved at the first rung at which they took less

log = logging.getLogger(__name__)


def train(host: Host, *, program: str, width: int, packing: Packing | None = None) -> None:
    """Trains lanes until the host has no more or asks to stop. See `orchestrator.contract.Trainer.train`.

    A lane that was begun in another way than the fastest one goes on in its own, in a pack after the others.

    Args:
        host: Where lanes come from.
        program: Trainer and version, as signatures name them.
        width: Lanes pulled at first; places of a pack whose lanes take turns.
        packing: How lanes are run; None takes the way a lane began in, or the fastest.
    """
    backend.prepare()
    lanes = list(host.pull(width))
    with Saver() as saver:
        while lanes and not host.stopping:
            started, first = time.monotonic(), lanes[0].config
            sign = signature(first, program)
            began = packing_of(lanes[0])
            way = packing or began or choose(host, first, sign, width=width, n_lanes=len(lanes) + host.waiting)
            loop = _Loop(host, make_pack(first, sign, way), saver, Account(sign, way, started), program)
            loop.run(lanes, any_way=packing is not None)
            lanes = [*loop.strays, *host.pull(width)]


@dataclasses.dataclass(slots=True)
class _Seat:
    """A lane in its place of the pack: how far it is, and where it stops next, at a rung or at its end."""

    lane: Lane
    step: int
    stop: int
    config: VisionConfig
    saved_at: float | None = None

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

    def __init__(self, host: Host, pack: Pack, saver: Saver, account: Account, program: str) -> None:
        self.strays: list[Lane] = []
        self._seats: dict[int, _Seat] = {}
        self._host, self._pack, self._saver, self._account, self._program = host, pack, saver, account, program
        self._here = backend.describe()
        self._lane_step_s: float | None = None
        self._is_dry = False
        self._copy_s = 0.0

    def run(self, lanes: Sequence[Lane], *, any_way: bool) -> None:
        """Trains these lanes and all that follow them, until none is left or the host is stopping."""
        self._account.compiled()
        waiting = collections.deque(lanes)
        try:
            while True:
                self._seat(waiting, any_way=any_way)
                if not self._seats or self._host.stopping:
                    break
                self._advance()
                self._arrive()
            self._save(self._seats)
        finally:
            self._pack.close()
        self._account.close(self._host, self._pack)

    def _seat(self, waiting: collections.deque[Lane], *, any_way: bool) -> None:
        """Fills the free places. A lane that was begun in another way, and would end with other bits, is set aside."""
        free = [place for place in range(self._pack.width) if place not in self._seats]
        while free and not self._host.stopping:
            if not waiting:
                wanted = len(free)
                waiting.extend(self._host.pull(wanted))
                if len(waiting) < wanted:
                    self._run_dry()
                if not waiting:
                    break
            lane = waiting.popleft()
            began = packing_of(lane)
            if not any_way and began is not None and not self._pack.packing.keeps_bits_of(began):
                self.strays.append(lane)
                continue
            try:
                state = restored(lane, self._pack.programs.template, self._program_of_lanes) or begun(lane, self._pack)
            except DataError as error:
                self._host.failed(lane.key, error)  # of this lane: its neighbours start from other files, or from none
                continue
            place = free.pop(0)
            self._pack.enter(place, lane.config, lane.seed, state)
            self._seats[place] = _Seat.taken(lane, 0 if state is None else int(state.step))
        self._narrow()
        self._account.entered()

    def _run_dry(self) -> None:
        """No trial of the signature waits: the next signature's programs are compiled while these lanes train."""
        if not self._is_dry:
            self._is_dry = True
            if (config := self._host.upcoming()) is not None:
                compile_meanwhile(config, signature(config, self._program), self._pack.packing)

    def _narrow(self) -> None:
        """Moves the last lanes of a batched pack to a program of fewer places, where that saves more than it costs to compile.

        Lanes that take turns leave nothing idle when there are fewer of them.
        """
        packing, programs = self._pack.packing, self._pack.programs
        half = packing.width // 2
        if packing.strategy.takes_turns or not self._is_dry or not 0 < len(self._seats) <= half or self._lane_step_s is None:
            return
        left = max(seat.config.train.steps - seat.step for seat in self._seats.values())
        saved_s = left * self._lane_step_s * len(self._seats) / 2  # a step of half as many places takes about half as long
        if saved_s > programs.compile_s:
            self._move_to(Packing(packing.strategy, half))

    def _move_to(self, packing: Packing) -> None:
        states, seats = self._pack.states(list(self._seats)), list(self._seats.items())
        config = seats[0][1].lane.config
        self._pack.close()
        self._pack = make_pack(config, signature(config, self._program), packing)
        self._account.moved(packing)
        self._seats, self._lane_step_s = {}, None
        for place, (old, seat) in enumerate(seats):
            self._pack.enter(place, seat.lane.config, seat.lane.seed, states[old])
            self._seats[place] = seat

    def _advance(self) -> None:
        """One chunk: to the rungs, but no longer than the loop may be blind, and no lane waiting for another's end."""
        most = FIRST_STEPS
        if self._lane_step_s is not None:
            most = max(1, int(LOOK_EVERY_S / (self._lane_step_s * len(self._seats))))
        left = {place: min(most, seat.stop - seat.step) for place, seat in self._seats.items()}
        if not self._pack.packing.strategy.takes_turns:
            left = dict.fromkeys(left, min(left.values()))
        started = time.monotonic()
        self._pack.advance(left)
        self._lane_step_s = max((time.monotonic() - started) / max(sum(left.values()), 1), 1e-9)
        for place, seat in self._seats.items():
            seat.step += left[place]
        self._account.trained(sum(left.values()), lanes=len(left), dry=self._is_dry)

    def _arrive(self) -> None:
        """Measures and reports the lanes that are at their rung or end, and does as the host says."""
        arrived = {place: seat for place, seat in self._seats.items() if seat.step == seat.stop}
        if not arrived:
            return
        reports = self._measured(arrived)
        self._account.evaluated(len(arrived), final=sum(seat.is_final for seat in arrived.values()))
        verdicts = self._host.report(reports)
        self._account.probe(self._host, self._pack)
        paused = [place for place, seat in arrived.items() if self._obey(verdicts[seat.lane.key], place)]
        if paused:
            self._park(paused)
        self._account.reported()

    def _measured(self, arrived: Mapping[int, _Seat]) -> list[Report]:
        """Validation metrics of each lane; where it is final those of every other split too, and its predictions are on disk."""
        losses = self._pack.losses(list(arrived))
        metrics = {place: {"train/loss": losses[place] / seat.steps_since_rung} for place, seat in arrived.items()}
        final = [place for place, seat in arrived.items() if seat.is_final]
        said: dict[int, dict[str, np.ndarray]] = {place: {} for place in final}
        for split in self._pack.splits:
            of_split, keep = list(arrived) if split == "val" else final, final if split in predictions.KEPT else ()
            for place, found in self._pack.measure(split, of_split, keep=keep).items() if of_split else ():
                metrics[place] |= found.metrics
                if found.log_probabilities is not None:
                    said[place][f"{split}/{predictions.LOG_PROBABILITIES}"] = found.log_probabilities
                    said[place][f"{split}/{predictions.LABELS}"] = self._pack.labels(split)
        found = beyond.measured(self._pack, {place: arrived[place].lane.config for place in final}, said)
        artifacts: dict[int, dict[str, str]] = {place: {} for place in arrived}
        for place in final:
            lane, one = arrived[place].lane, found[place]
            metrics[place] |= one.metrics
            artifacts[place][PREDICTIONS] = predictions.save(lane.folder, lane.key, said[place] | one.said)
            artifacts[place][DESCRIPTION] = beyond.save(lane.folder, lane.key, one.described)
            if arrived[place].config.train.keep_parameters:
                artifacts[place][PARAMETERS] = keep_parameters(lane, self._pack.states([place])[place].params)
        how = {"device": self._here, "strategy": self._pack.packing.strategy.value, "width": str(self._pack.width)}
        return [
            Report(
                key=seat.lane.key,
                step=seat.step,
                metrics=metrics[place],
                final=seat.is_final,
                provenance=how,
                artifacts=artifacts[place],
            )
            for place, seat in arrived.items()
        ]

    def _obey(self, verdict: Verdict, place: int) -> bool:
        """Whether the lane is to be parked: all else is done."""
        seat = self._seats[place]
        if verdict is Verdict.PAUSE:
            return True
        if verdict is Verdict.CONTINUE and not seat.is_final:
            if seat.saved_at is None or (time.monotonic() - seat.saved_at) * SAVE_SHARE >= self._save_s * len(self._seats):
                self._save([place])
            seat.head_on()
            return False
        self._leave(place)
        if verdict is not Verdict.LOST:  # a lost lane's checkpoint is another worker's by now
            self._saver.remove(seat.lane.folder)
        return False

    def _park(self, places: Sequence[int]) -> None:
        """Saves lanes that have to wait for others, and lets them go: only then may another worker go on with them."""
        keys = [self._seats[place].lane.key for place in places]
        self._save(places)
        for place in places:
            self._leave(place)
        self._saver.flush()
        self._host.parked(keys)

    def _leave(self, place: int) -> None:
        del self._seats[place]
        self._pack.leave(place)

    def _save(self, places: Iterable[int]) -> None:
        """Checkpoints the lanes in these places."""
        for place in places:
            started, seat = time.thread_time(), self._seats[place]
            state = self._pack.states([place])[place]
            arrays = named_arrays(state)
            self._saver.save(seat.lane.folder, Checkpoint(key=seat.lane.key, program=self._program_of_lanes, arrays=arrays))
            seat.saved_at, self._copy_s = time.monotonic(), time.thread_time() - started

    @property
    def _save_s(self) -> float:
        """Seconds of CPU that the last checkpoint of a lane took: the copy from the device, hashing and writing."""
        return self._copy_s + self._saver.last_s

    @property
    def _program_of_lanes(self) -> str:
        return f"{self._here} · {self._pack.packing}"
