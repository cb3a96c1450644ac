"""Files of ours: parameters alone, and checkpoints of lanes, of which the parameters are taken. Both are sealed safetensors."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from orchestrator.contract import DamagedError, DataError, write_whole
from trainers import sealed

HOLDS, PARAMETERS = "holds", "parameters"  # words of a file of parameters
OF_A_LANE = "params/"  # of a checkpoint, whose other arrays are the state of its training
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
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(where, simple=True, separator="/"): np.asarray(leaf) for where, leaf in leaves}
    return sealed.seal(arrays, {**words, HOLDS: PARAMETERS})


def load_parameters(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Parameters by name, such as `head/kernel`, from a file of parameters or from a lane's checkpoint.

    Raises:
        DataError: It is not there, damaged, or neither.
    """
    return read(pathlib.Path(path))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """See `load_parameters`."""
    try:
        words, arrays = sealed.load(path)
        if words.get(HOLDS) != PARAMETERS:
            arrays = {name.removeprefix(OF_A_LANE): array for name, array in arrays.items() if name.startswith(OF_A_LANE)}
        if not arrays:
            raise DamagedError("it holds no parameters")
        if strangers := [name for name, array in arrays.items() if array.dtype.name not in FLOATS]:
            raise DamagedError(f"{', '.join(strangers)} is no array of floats")
    except (OSError, DamagedError) as error:
        raise DataError(
            "parameters cannot be read",
            found=f"{path}: {error}",
            expected="a checkpoint of a trial, or what `save_parameters` wrote",
            fix="take another checkpoint, or train the model again",
        ) from error
    return arrays
