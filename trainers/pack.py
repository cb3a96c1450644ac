"""A fixed number of places, and whatever lanes lie in them: advanced and measured by one set of compiled programs.

Where lanes take turns (`Strategy.SOLO`, `Strategy.MAP`) a lane's bits do not depend on its neighbours, on the width, or on
where chunks begin (tests/trainers/test_loop.py, on hashes of parameters).
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from orchestrator.contract import FlatConfig, build
from trainers.config import VisionConfig
from trainers.evaluate import EvalSplit
from trainers.feed import Ahead, Feed
from trainers.packing import Packing, Strategy
from trainers.predictions import log_probabilities
from trainers.programs import Programs, data_of, programs_of, stacked_shapes
from trainers.step import LaneState, TrainData, root_key, traced_numbers


class Measured(NamedTuple):
    """What a lane scores on a split, as `split/name`, and the log of each member's probabilities, [member, image, class]."""

    metrics: dict[str, float]
    log_probabilities: np.ndarray | None


class Pack(abc.ABC):
    """Places for lanes of one signature. Made by `make_pack`."""

    def __init__(self, flat: FlatConfig, programs: Programs, packing: Packing) -> None:
        config = build(VisionConfig, flat)
        self.packing, self.width, self.programs = packing, packing.width, programs
        self._data = data_of(config.data, config.eval)
        self._feed = None if self._data.fed is None else Feed(self._data.fed, config.train.batch_size, lanes=self.width)
        self._at: dict[int, tuple[np.ndarray, int]] = {}

    def close(self) -> None:
        """No lane is advanced any more, and nothing is read for any."""
        if self._feed is not None:
            self._feed.close()

    @property
    def memory_bytes(self) -> int:
        """What the states of all places and the temporaries of the programs take."""
        return self.width * self.programs.state_bytes + self.programs.temporary_bytes

    @property
    def measured(self) -> Mapping[str, EvalSplit]:
        """The splits that are measured on, by name."""
        return self._data.measured

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that can be measured."""
        return tuple(self._data.measured)

    def enter(self, place: int, flat: FlatConfig, seed: int, state: LaneState | None) -> None:
        """Puts a lane in a place: as its checkpoint left it, as it was begun from parameters of another, or afresh."""
        self._at[place] = (root_key(seed), 0 if state is None else int(state.step))
        begun = self.fresh(flat, seed) if state is None else jax.device_put(state)
        self._put(place, jax.device_put(traced_numbers(flat)), begun)

    def fresh(self, flat: FlatConfig, seed: int) -> LaneState:
        """A lane at step 0, with freshly drawn parameters."""
        return self.programs.init(jax.device_put(root_key(seed)), jax.device_put(traced_numbers(flat)))

    def states(self, places: Sequence[int]) -> dict[int, LaneState]:
        """The states in these places, copied to the host."""
        return {place: jax.device_get(self._state(place)) for place in places}

    def losses(self, places: Sequence[int]) -> dict[int, float]:
        """Sum of the training losses since the last rung, of the lanes in these places."""
        return {place: float(self._state(place).loss) for place in places}

    def labels(self, split: str) -> np.ndarray:
        """Classes of the images of a split, [image]."""
        return np.asarray(self._data.measured[split].labels)

    def measure(self, split: str, places: Sequence[int], *, keep: Collection[int] = ()) -> dict[int, Measured]:
        """What the lanes in these places score on a split, and in the places of `keep` also what they say of each image."""
        return self.measure_on(self._data.measured[split], split, places, keep=keep)

    def measure_on(self, data: EvalSplit, split: str, places: Sequence[int], *, keep: Collection[int] = ()) -> dict[int, Measured]:
        """Likewise on other images, as many as in a split that is measured, under that name; without labels they are not scored.

        Batches are of the size of the others, so nothing is compiled for them.
        """
        found: dict[int, Measured] = {}
        for logits, rows in self._predicted(data.batches, places):
            values = jax.device_get(self.programs.metrics[len(data.labels)](logits, data.labels)) if data.is_scored else {}
            kept = {place: row for place, row in rows.items() if place in keep}
            said = [np.asarray(batch) for batch in logits] if kept else []
            for place, row in rows.items():
                metrics = {f"{split}/{name}": float(value[row]) for name, value in values.items()}
                predicted = log_probabilities([batch[row] for batch in said], len(data.labels)) if place in kept else None
                found[place] = Measured(metrics, predicted)
        return found

    def advance(self, n_steps: Mapping[int, int]) -> None:
        """Trains the lane in each of these places by that many steps, and returns when that is done."""
        for counts, data in self._portions(n_steps):
            self._advance(counts, data)
        for place, n in n_steps.items():
            key, step = self._at[place]
            self._at[place] = (key, step + n)

    def _portions(self, n_steps: Mapping[int, int]) -> Iterator[tuple[Mapping[int, int], Mapping[int, TrainData]]]:
        """The chunk in parts, each with the data of every lane: one part where these are resident."""
        if self._feed is None:
            assert self._data.train is not None, "a set that is not fed is there"
            yield n_steps, dict.fromkeys(n_steps, self._data.train)
        else:
            ahead = {place: Ahead(*self._at[place], n) for place, n in n_steps.items()}
            yield from self._feed.portions(ahead, together=not self.packing.strategy.takes_turns)

    @abc.abstractmethod
    def _advance(self, n_steps: Mapping[int, int], data: Mapping[int, TrainData]) -> None: ...

    @abc.abstractmethod
    def leave(self, place: int) -> None:
        """Takes the lane out of its place."""

    @abc.abstractmethod
    def _put(self, place: int, numbers: Any, state: LaneState) -> None: ...

    @abc.abstractmethod
    def _state(self, place: int) -> LaneState: ...

    @abc.abstractmethod
    def _predicted(self, batches: Sequence[jax.Array], places: Sequence[int]) -> Sequence[tuple[list[jax.Array], Mapping[int, int]]]:
        """Logits of every batch, and in which row of them the lanes in these places are."""


class Separate(Pack):
    """Lanes side by side, each with its own arrays, run in turn by the program of one lane."""

    def __init__(self, flat: FlatConfig, programs: Programs, packing: Packing) -> None:
        super().__init__(flat, programs, packing)
        self._lanes: dict[int, tuple[Any, LaneState]] = {}

    def _advance(self, n_steps: Mapping[int, int], data: Mapping[int, TrainData]) -> None:
        for place, n in n_steps.items():
            numbers, state = self._lanes[place]
            state = self.programs.chunk(state, numbers, jax.device_put(np.int32(n)), data[place])
            self._lanes[place] = numbers, state
            jax.block_until_ready(state.step)

    def leave(self, place: int) -> None:
        del self._lanes[place]

    def _put(self, place: int, numbers: Any, state: LaneState) -> None:
        self._lanes[place] = numbers, state

    def _state(self, place: int) -> LaneState:
        return self._lanes[place][1]

    def _predicted(self, batches: Sequence[jax.Array], places: Sequence[int]) -> Sequence[tuple[list[jax.Array], Mapping[int, int]]]:
        yes = jax.device_put(np.bool_(True))
        predicted: dict[int, list[jax.Array]] = {place: [] for place in places}
        for batch in batches:  # each once: one that is not on the device may have to be decoded
            for place, logits in predicted.items():
                numbers, state = self._lanes[place]
                logits.append(self.programs.logits(state.params, numbers, yes, batch)[None])
        return [(logits, {place: 0}) for place, logits in predicted.items()]


class Stacked(Pack):
    """Lanes on a leading axis of the same arrays, run by a program of them all."""

    def __init__(self, flat: FlatConfig, programs: Programs, packing: Packing) -> None:
        super().__init__(flat, programs, packing)
        self._numbers = [traced_numbers(flat)] * self.width
        self._stack: dict[str, jax.Array] | None = None
        self._states = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stacked_shapes(programs.template, self.width))

    def _advance(self, n_steps: Mapping[int, int], data: Mapping[int, TrainData]) -> None:
        counts = np.zeros(self.width, np.int32)
        for place, n in n_steps.items():
            counts[place] = n
        some = next(iter(data.values()))
        if self._feed is not None:  # a place that does nothing has any block
            some = jax.tree.map(lambda *blocks: jnp.stack(blocks), *(data.get(place, some) for place in range(self.width)))
        self._states = self.programs.chunk(self._states, self._traced(), jax.device_put(counts), some)
        jax.block_until_ready(self._states.step)

    def leave(self, place: int) -> None:
        """The place keeps its numbers: no step is taken with them."""

    def _put(self, place: int, numbers: Any, state: LaneState) -> None:
        self._numbers[place], self._stack = jax.device_get(numbers), None
        assert self.programs.put is not None
        self._states = self.programs.put(self._states, jax.device_put(np.int32(place)), state)

    def _state(self, place: int) -> LaneState:
        return jax.tree.map(lambda leaf: leaf[place], self._states)

    def _predicted(self, batches: Sequence[jax.Array], places: Sequence[int]) -> Sequence[tuple[list[jax.Array], Mapping[int, int]]]:
        active = np.zeros(self.width, bool)
        active[list(places)] = True
        mask = jax.device_put(active)
        logits = [self.programs.logits(self._states.params, self._traced(), mask, batch) for batch in batches]
        return [(logits, {place: place for place in places})]

    def _traced(self) -> dict[str, jax.Array]:
        """The numbers of all places, on the device; stacked anew only after a lane entered."""
        if self._stack is None:
            self._stack = jax.device_put({key: np.stack([numbers[key] for numbers in self._numbers]) for key in self._numbers[0]})
        return self._stack


def make_pack(flat: FlatConfig, signature: str, packing: Packing) -> Pack:
    """An empty pack.

    Args:
        flat: Config of one lane; the others may differ in traced values.
        signature: Of the lanes: programs once compiled for it are used again.
        packing: How lanes are run, and how many places there are.
    """
    kind = Separate if packing.strategy is Strategy.SOLO else Stacked
    return kind(flat, programs_of(flat, signature, packing), packing)
