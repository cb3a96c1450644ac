"""Arrays in a safetensors file that knows when it is damaged: one hash over every byte of it, checked before any is parsed.

The hash stands in the file's metadata and is taken with zeros in its own place. A second one covers the metadata alone,
so that what a file says about itself can be read without its arrays. No pickle: a file can hold nothing but arrays and text.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from orchestrator.contract import DamagedError, content_key

HEAD, WHOLE = "head", "sha256"  # in the metadata, beside what the caller says there
BLANK = b"0" * 64
TYPES = {
    **{"BOOL": np.bool_, "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}  # that are read; safetensors' own reader of bytes lacks bfloat16
MOST_HEAD_BYTES = 100_000_000  # as safetensors allows


class Sealed(NamedTuple):
    """A file's content: its parts in order, and its hash."""

    parts: tuple[bytes | memoryview, ...]
    sha256: str


def seal(arrays: Mapping[str, np.ndarray], words: Mapping[str, str]) -> Sealed:
    """Arrays by name, and words that are read with them or alone. The same ones give the same bytes.

    Raises:
        TypeError: An array is of another type than `TYPES` has.
    """
    if strangers := [name for name, array in arrays.items() if array.dtype not in TYPES.values()]:
        raise TypeError(f"the dtype of {', '.join(strangers)} cannot be written")
    metadata = {**words, HEAD: content_key(dict(words)), WHOLE: BLANK.decode()}
    content = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    body = memoryview(content)[8 + _length(content) :]
    head = _in_order(content)
    place = _place_of_hash(head)
    sha256 = _hash(place, head, body)
    return Sealed((head[:place], sha256, head[place + len(BLANK) :], body), sha256.decode())


def load(path: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What the file says of itself, and its arrays.

    Raises:
        DamagedError: Any byte of it is not as it was written.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    place = _place_of_hash(content)
    if _hash(place, content) != content[place : place + len(BLANK)]:
        raise DamagedError("its content does not match its hash")
    head, body = content[8 : 8 + _length(content)], memoryview(content)[8 + _length(content) :]
    arrays = {name: row for name, row in json.loads(head).items() if name != "__metadata__"}
    return _said(head), {name: _array(body, **row) for name, row in arrays.items()}


def words_of(path: pathlib.Path) -> dict[str, str]:
    """What the file says of itself, from its head alone.

    Raises:
        DamagedError: That is not as it was written, or the file is cut short. A changed byte of an array goes unseen here.
        OSError: It cannot be read.
    """
    return kinds_of(path)[0]


def kinds_of(path: pathlib.Path) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """Likewise, and NumPy's name of the type, and the shape, of each array.

    Raises:
        DamagedError: As of `words_of`; the head's own hash covers the words alone.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        length = _length(file.read(8))
        if length > MOST_HEAD_BYTES:
            raise DamagedError("it does not begin with the length of a head")
        head = file.read(length)
        words = _said(head, size=os.fstat(file.fileno()).st_size)
    try:
        rows = {name: row for name, row in json.loads(head).items() if name != "__metadata__"}
        return words, {name: (np.dtype(TYPES[row["dtype"]]).name, tuple(map(int, row["shape"]))) for name, row in rows.items()}
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"its head cannot be read: {error!r}") from error


def _array(body: memoryview, *, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> np.ndarray:
    start, stop = data_offsets
    return np.frombuffer(body[start:stop], TYPES[dtype]).reshape(shape).copy()


def _said(head: bytes, size: int | None = None) -> dict[str, str]:
    """The words in a head, of a file that has that many bytes."""
    try:
        found = json.loads(head)
        words = dict(found.pop("__metadata__"))
        ends = [array["data_offsets"][1] for array in found.values()]
        del words[WHOLE]
        is_sound = words.pop(HEAD) == content_key(words)
        is_whole = size in (None, 8 + len(head) + max(ends, default=0))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"its head cannot be read: {error!r}") from error
    if not is_sound or not is_whole:
        raise DamagedError("its head does not match its hash" if not is_sound else "it is cut short")
    return words


def _length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _in_order(content: bytes) -> bytes:
    """The file's head, its members in order: safetensors writes the metadata in another order each time."""
    head = json.dumps(json.loads(content[8 : 8 + _length(content)]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head


def _place_of_hash(content: bytes) -> int:
    """Where the hash begins. In words and names, quotes are escaped: this text is found once in what we wrote."""
    mark = f'"{WHOLE}":"'.encode()
    found = content.find(mark)
    if found < 0:
        raise DamagedError("it holds no hash of its content")
    return found + len(mark)


def _hash(place: int, first: bytes, *rest: memoryview) -> bytes:
    """SHA-256 of a file with zeros for its hash, which begins at that place of the first part."""
    view = memoryview(first)
    digest = hashlib.sha256(view[:place])
    for part in (BLANK, view[place + len(BLANK) :], *rest):
        digest.update(part)
    return digest.hexdigest().encode()
