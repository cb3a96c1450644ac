"""Training batches from a set that stays on the host or on its disk, gathered while the device trains on the ones before.

Which images a step sees is computed by the same function as on the device, so a lane that is fed and one whose data are
resident end with the same bits (tests/trainers/test_feed.py). Batches come in aligned blocks of steps, so that a chunk may
begin and end anywhere, and lanes with one seed, such as all tuning trials of a study, share them.
"""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from trainers.data.examples import Examples, n_bytes
from trainers.step import TrainData, epoch_order, places_in_epoch

BLOCK_BYTES = 32 * 2**20  # of one block; two of them are held for each seed: the one in use and the next
MOST_STEPS = 256  # of a block

_Wanted = tuple[bytes, int]  # root of a lane's draws, and number of the block


class Ahead(NamedTuple):
    """How far a lane is, and how far it is to go.

    Attributes:
        key: Root of its draws, uint32 [2].
        step: Steps done.
        left: Steps to do.
    """

    key: np.ndarray
    step: int
    left: int


class Feed:
    """Blocks of batches of one training set, for the lanes of one pack. Close it when they are done.

    Args:
        data: The training set, which is not on the device.
        batch: Images a step.
        lanes: Lanes with seeds of their own that are fed at once.
        steps: Steps of a block; None takes as many as `BLOCK_BYTES` hold.
    """

    def __init__(self, data: Examples, batch: int, *, lanes: int, steps: int | None = None) -> None:
        self._data, self._batch = data, batch
        self.steps = steps or block_steps(data, batch)
        self._most = 2 * lanes
        self._blocks: collections.OrderedDict[_Wanted, Future[TrainData]] = collections.OrderedDict()
        self._threads, self._closed = ThreadPoolExecutor(data.at_once, thread_name_prefix="feed"), threading.Event()
        self._order = functools.lru_cache(maxsize=lanes + 1)(self._order_of)

    def portions(self, lanes: Mapping[int, Ahead], *, together: bool) -> Iterator[tuple[dict[int, int], dict[int, TrainData]]]:
        """What each lane is to do next, and on which block, until all have done what is left to them.

        Args:
            lanes: By place.
            together: Lanes do equally many steps at a time, since one that waits costs as much as one that does not.
        """
        done = dict.fromkeys(lanes, 0)
        while waiting := {place: lane for place, lane in lanes.items() if done[place] < lane.left}:
            counts = {place: min(lane.left - done[place], self._to_the_end(lane.step + done[place])) for place, lane in waiting.items()}
            if together:
                counts = dict.fromkeys(counts, min(counts.values()))
            yield counts, {place: self.block(lane.key, lane.step + done[place]) for place, lane in waiting.items()}
            for place, count in counts.items():
                done[place] += count

    def block(self, key: np.ndarray, step: int) -> TrainData:
        """The block that holds a step of a lane, on the device. The one after it is gathered meanwhile."""
        number = step // self.steps
        found = self._asked(key, number)
        self._asked(key, number + 1)
        return found.result()

    def close(self) -> None:
        """Gathers no more; what is being gathered is given up. The process can end as soon as it likes."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._blocks.clear()

    def _asked(self, key: np.ndarray, number: int) -> Future[TrainData]:
        wanted = (key.tobytes(), number)
        if wanted not in self._blocks:
            while len(self._blocks) >= self._most:
                self._blocks.popitem(last=False)[1].cancel()
            self._blocks[wanted] = self._threads.submit(self._gathered, *wanted)
        self._blocks.move_to_end(wanted)
        return self._blocks[wanted]

    def _gathered(self, key: bytes, number: int) -> TrainData:
        n_images = self._data.shape[0]
        per_epoch = max(n_images // self._batch, 1)
        rows = np.empty((self.steps, self._batch), np.int32)
        for index in range(self.steps):
            epoch, place = divmod(number * self.steps + index, per_epoch)
            rows[index] = self._order(key, epoch)[places_in_epoch(place, self._batch, n_images)]
        return jax.device_put(TrainData(*self._data.gather(rows, self._closed)))

    def _order_of(self, key: bytes, epoch: int) -> np.ndarray:
        root, epoch_number = jax.device_put((np.frombuffer(key, np.uint32), np.int32(epoch)))
        return np.asarray(jax.device_get(_compiled_order(root, epoch_number, self._data.shape[0])))

    def _to_the_end(self, step: int) -> int:
        return self.steps - step % self.steps


def block_steps(data: Examples, batch: int) -> int:
    """Steps of a block of this training set."""
    return max(1, min(MOST_STEPS, BLOCK_BYTES // n_bytes((batch, *data.shape[1:]))))


def block_shape(data: Examples, batch: int, steps: int) -> TrainData:
    """Shapes and types of a block, [step, image, …]."""
    images = jax.ShapeDtypeStruct((steps, batch, *data.shape[1:]), np.uint8)
    return TrainData(images, jax.ShapeDtypeStruct((steps, batch), np.int32))


@functools.partial(jax.jit, static_argnums=2)
def _compiled_order(key: jax.Array, epoch: jax.Array, n_images: int) -> jax.Array:
    return epoch_order(jax.random.wrap_key_data(key), epoch, n_images)
