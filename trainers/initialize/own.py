"""Files of ours: parameters alone, and checkpoints of lanes, of which the parameters are taken. Both are sealed safetensors."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from orchestrator.contract import DamagedError, DataError, write_whole
from trainers import sealed
from trainers.initialize.shapes import Shape, leaves

T = TypeVar("T")

HOLDS, PARAMETERS = "holds", "parameters"  # words of a file of parameters
OF_A_LANE = "params/"  # of a checkpoint, whose other arrays are the state of its training
SUFFIX = ".safetensors"
FLOATS = ("float16", "bfloat16", "float32", "float64")


def save_parameters(path: str | os.PathLike[str], tree: Any, words: Mapping[str, str] | None = None) -> str:
    """Writes parameters in one stroke, and returns the hash of the file's content: the same parameters and words have the same.

    Args:
        path: Of the file; `read` knows it by the ending `.safetensors`.
        tree: Parameters of a model.
        words: What the file shall say of itself.

    Raises:
        OSError: It cannot be written.
    """
    content = sealed_parameters(tree, words or {})
    write_whole(pathlib.Path(path), *content.parts)
    return content.sha256


def sealed_parameters(tree: Any, words: Mapping[str, str]) -> sealed.Sealed:
    """What `save_parameters` writes."""
    return sealed.seal({name: np.asarray(leaf) for name, leaf in leaves(tree)}, {**words, HOLDS: PARAMETERS})


def load_parameters(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Parameters by name, such as `head/kernel`, from a file of parameters or from a lane's checkpoint.

    Raises:
        DataError: It is not there, damaged, or neither.
    """
    return read(pathlib.Path(path))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """See `load_parameters`."""
    with _said_of(path):
        words, arrays = sealed.load(path)
        return _parameters(words, arrays, {name: array.dtype.name for name, array in arrays.items()})


def shapes_in(path: pathlib.Path) -> dict[str, Shape]:
    """Shapes of the parameters in a file, from its head alone.

    Raises:
        DataError: See `load_parameters`; damage to the arrays goes unseen.
    """
    with _said_of(path):
        words, kinds = sealed.kinds_of(path)
        return _parameters(words, {name: shape for name, (_, shape) in kinds.items()}, {name: kind for name, (kind, _) in kinds.items()})


def _parameters(words: Mapping[str, str], values: dict[str, T], types: Mapping[str, str]) -> dict[str, T]:
    """Of all that a file holds, what is of the parameters, by their own names."""
    root = "" if words.get(HOLDS) == PARAMETERS else OF_A_LANE
    found = {name.removeprefix(root): value for name, value in values.items() if name.startswith(root)}
    if not found:
        raise DamagedError("it holds no parameters")
    if strangers := [name for name in found if types[root + name] not in FLOATS]:
        raise DamagedError(f"{', '.join(strangers)} is no array of floats")
    return found


@contextlib.contextmanager
def _said_of(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, DamagedError) as error:
        raise DataError(
            "parameters cannot be read",
            found=f"{path}: {error}",
            expected="a checkpoint of a trial, or what `save_parameters` wrote",
            fix="take another checkpoint, or train the model again",
        ) from error
