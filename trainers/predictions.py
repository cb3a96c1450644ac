"""What a trial says of each image in the end: a sealed file in its folder, on disk before the final report is sent.

So a complete trial always has one, and an ensemble of finished trials can be measured without training anything.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.contract import DamagedError, DataError, write_whole
from trainers import sealed

SPLITS = ("val", "test")
KEPT = (*SPLITS, "corrupted")  # the last where the dataset has such a split
LOG_PROBABILITIES, LABELS = "log_probabilities", "labels"
MOST_BYTES = 64 * 2**20  # of log-probabilities in float32; of more than that every number is kept in half as many bytes


def save(folder: pathlib.Path, key: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Keeps the predictions of a trial and returns the name of their file in its folder.

    The name holds the hash of the content: a worker that lost its lease and comes late cannot replace what another one recorded.

    Args:
        folder: The trial's.
        key: The trial's.
        arrays: `val/log_probabilities` and `test/log_probabilities`, float32 [member, image, class], and `val/labels` and
            `test/labels`, int32 [image]; of further images, such as `corrupted/…`, as far as there are any.

    Raises:
        DataError: They cannot be written.
    """
    large = sum(array.nbytes for array in arrays.values() if array.dtype == np.float32) > MOST_BYTES
    kept = {name: array.astype(np.float16) if large and array.dtype == np.float32 else array for name, array in arrays.items()}
    content = sealed.seal(kept, {"key": key})
    name = f"predictions-{content.sha256[:12]}.safetensors"
    try:
        write_whole(folder / name, *content.parts)
    except OSError as error:
        raise DataError(
            f"the predictions of trial {key} cannot be written, and without them it is not complete",
            found=str(error),
            expected="a folder that can be written, with room in it",
            fix="make room, then `retry`",
        ) from error
    return name


def load(path: pathlib.Path, key: str) -> dict[str, np.ndarray]:
    """The arrays that `save` was given; log-probabilities of a large trial to three digits.

    Raises:
        DataError: They are not there, damaged, or another trial's.
    """
    try:
        words, arrays = sealed.load(path)
        if words.get("key") != key:
            raise DamagedError(f"it belongs to trial {words.get('key')}")
    except (OSError, DamagedError) as error:
        raise DataError(
            f"the predictions of trial {key} cannot be read",
            found=f"{path}: {error}",
            expected="the file as the trial left it",
            fix="put it back in the queue with `retry`: it is trained again, to the same bits",
        ) from error
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in arrays.items()}


def log_probabilities(batches: Iterable[np.ndarray], n_images: int) -> np.ndarray:
    """Log of each member's probabilities, float32 [member, image, class].

    Args:
        batches: Logits, [member, image, class].
        n_images: The last batch is filled up behind so many images.
    """
    return np.concatenate([_log_softmax(batch) for batch in batches], axis=1)[:, :n_images]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Along the classes; summed in float64, so that its error is that of rounding once."""
    with np.errstate(invalid="ignore", over="ignore"):  # of a lane that diverged
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
