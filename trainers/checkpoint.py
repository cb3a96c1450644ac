"""One lane's checkpoint: named arrays in a sealed file, written so that a kill never loses it.

The file before the last is kept. A torn, edited or foreign file is told by its hash or its key and passed over; the lane
then goes on from the one before, or from the start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from orchestrator.contract import DamagedError, write_whole
from trainers import sealed

LATEST, PREVIOUS, DAMAGED = "checkpoint.safetensors", "checkpoint.previous.safetensors", "checkpoint.damaged.safetensors"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a lane needs to go on.

    Attributes:
        key: The lane's key: a checkpoint of another lane is never taken up.
        program: Backend, flags, strategy and versions that computed it, in words.
        arrays: Every leaf of the lane's state, by its path.
    """

    key: str
    program: str
    arrays: Mapping[str, np.ndarray]


class Saver:
    """Saves and removes checkpoints on a thread of its own, in the order of the calls: training does not wait for disks.

    A disk that is full or gone costs the checkpoint, with a warning, and not the trial.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []
        self.last_s = 0.0  # of CPU, that the last save took on the thread

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True)
        self._raise_errors()

    def save(self, folder: pathlib.Path, checkpoint: Checkpoint) -> None:
        """Saves later, at the latest when the saver is left."""
        self._submit(self._timed_save, folder, checkpoint)

    def remove(self, folder: pathlib.Path) -> None:
        """Removes later, after every earlier save."""
        self._submit(remove, folder)

    def flush(self) -> None:
        """Returns when all that was asked for is on disk, or was warned about."""
        for future in self._pending:
            future.result()
        self._pending.clear()

    def _timed_save(self, folder: pathlib.Path, checkpoint: Checkpoint) -> None:
        started = time.thread_time()
        save(folder, checkpoint)
        self.last_s = time.thread_time() - started

    def _submit(self, job: Callable[..., None], *arguments: Any) -> None:
        self._raise_errors()
        self._pending.append(self._thread.submit(_warned, job, *arguments))

    def _raise_errors(self) -> None:
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            future.result()


def save(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint in one stroke and keeps the one before."""
    content = sealed.seal(checkpoint.arrays, {"key": checkpoint.key, "program": checkpoint.program})
    write_whole(folder / LATEST, *content.parts, keep=folder / PREVIOUS)


def load(folder: pathlib.Path, key: str) -> Checkpoint | None:
    """The newest sound checkpoint of this lane, or None when it has to start from scratch.

    A damaged one is set aside: it must not take the place of the one before when the next is saved.
    """
    for name in (LATEST, PREVIOUS):
        file = folder / name
        try:
            words, arrays = sealed.load(file)
            if words["key"] == key:
                return Checkpoint(key=key, program=words["program"], arrays=arrays)
            log.warning("checkpoint %s is passed over: it belongs to trial %s", file, words["key"])
        except FileNotFoundError:
            continue
        except (OSError, KeyError) as error:
            log.warning("checkpoint %s is passed over: %s", file, error)
        except DamagedError as error:
            log.warning("checkpoint %s is passed over: %s", file, error)
            with contextlib.suppress(OSError):
                os.replace(file, folder / DAMAGED)
    return None


def program_of(folder: pathlib.Path, key: str) -> str | None:
    """What the lane's newest readable checkpoint was computed by, from its head alone; None where there is none."""
    for name in (LATEST, PREVIOUS):
        with contextlib.suppress(OSError, DamagedError):  # said when it is loaded
            words = sealed.words_of(folder / name)
            if words.get("key") == key and "program" in words:
                return words["program"]
    return None


def remove(folder: pathlib.Path) -> None:
    """Deletes the checkpoints of a lane that will not go on, and what a killed writer left.

    What another process is writing goes too: it has no lease of this lane, and its file would be left over for good.
    """
    for file in folder.glob("checkpoint.*"):
        file.unlink(missing_ok=True)


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes, in the order of names: equal when and only when every bit is."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype.name} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _warned(job: Callable[..., None], folder: pathlib.Path, *arguments: Any) -> None:
    try:
        job(folder, *arguments)
    except OSError as error:
        log.warning("%s: a checkpoint could not be written or removed (%s); after a kill its lane would repeat steps", folder, error)
