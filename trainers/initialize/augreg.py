"""The `.npz` in which ViTs were published (AugReg, BiT, and checkpoints of big_vision): flat names, and bfloat16 as bytes."""

from __future__ import annotations

import math
import pathlib
import zipfile
from typing import IO

import ml_dtypes
import numpy as np

from orchestrator.contract import DataError

# Where the parameters stand in a file that holds an optimizer or a training state as well.
ROOTS = ("opt/target/", "params/")
MOST_BYTES = 2**34  # of all arrays together, six times the largest ViT: a small file may claim to unpack to anything
FLOATS = ("float16", "float32", "float64")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Parameters by name, of a float type. Nothing in the file is run.

    Raises:
        DataError: It cannot be read, an array is not what its head says, or is not of floats.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if (total := sum(entry.file_size for entry in entries.values())) > MOST_BYTES:
                raise ValueError(f"its arrays claim {total:,} bytes")
            root = next((root for root in ROOTS if any(name.startswith(root) for name in entries)), "")
            return {name.removeprefix(root): _array(archive, entry) for name, entry in entries.items() if name.startswith(root)}
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(
            "a .npz file of weights cannot be read",
            found=f"{path}: {error}",
            expected="arrays of floats, whole, and no pickles",
            fix="fetch the file again, and compare its size with the published one",
        ) from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        shape, in_columns, dtype, head_bytes = _head(file, entry.filename)
        # Before room is made for what the head promises.
        if math.prod(shape) * dtype.itemsize + head_bytes != entry.file_size:
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes, and its head says {dtype} {shape}")
        # To the end, where the checksum is compared.
        flat = np.frombuffer(file.read(), dtype=dtype)
    return flat.reshape(shape, order="F" if in_columns else "C")


def _head(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, type and the bytes that say so, of an array in NumPy's format."""
    version = np.lib.format.read_magic(file)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise ValueError(f"{name} is of version {version} of the format, which has never held weights")
    shape, in_columns, dtype = reader(file)
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None:
        dtype = np.dtype(ml_dtypes.bfloat16)  # NumPy has no name for it, and saves it as two bytes
    elif dtype.name not in FLOATS:
        raise ValueError(f"{name} is of type {dtype}, which is no float")
    return shape, in_columns, dtype, file.tell()
