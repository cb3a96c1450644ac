"""The format in which V-MoE and E³ were released: `PREFIX.index`, and shards `PREFIX.data-nnnnn-of-NNNNN`.

All of them are msgpack, as Flax writes it, with four more types. The index is a tree of names; each leaf has the shape and type
of an array, and into which slices it was cut, in which shards these are. A shard has, by the place of the array in the tree with
its names in order, the numbers of slices. No file is trusted: what it says is held against the sizes of files before room is made.

Source:
    google-research/vmoe, vmoe/checkpoints/{serialization,partitioned,types}.py.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from orchestrator.contract import DamagedError, DataError

INDEX = ".index"
VERSION = "20220622"
MARK = "__msgpack_array_chunk_a87ca2__"  # a key in each shard
SLICES, LEAF = 6, 8  # types of msgpack: slices along each axis, and a leaf of the index
ROOT = "params"  # of a training state; a release has none
TYPES = {name: np.dtype(kind) for name, kind in (("float16", "f2"), ("float32", "f4"), ("float64", "f8"), ("bfloat16", ml_dtypes.bfloat16))}
MOST_SHARDS = 100_000
UNREADABLE = (OSError, DamagedError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, RecursionError)

Slices = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """What the index says of an array.

    Attributes:
        name: Names on the way to it, joined by `/`.
        shape: Of the whole array.
        dtype: Name of its type.
        places: The slices it was cut into, start and stop along each axis, and the shard of each.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    places: tuple[tuple[Slices, int], ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * TYPES[self.dtype].itemsize


def read(prefix: pathlib.Path) -> dict[str, np.ndarray]:
    """Parameters by name, of a float type, put together from all shards. Nothing in the files is run.

    Raises:
        DataError: A file is missing, damaged, or not of this format.
    """
    index = prefix.with_name(prefix.name + INDEX)
    try:
        leaves, n_shards = _read_index(index)
    except UNREADABLE as error:
        raise _unreadable(index, error) from error
    shards = [prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}") for shard in range(n_shards)]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise DataError(
            f"{len(missing)} of {n_shards} files of weights are missing",
            found=f"no {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''} in {prefix.parent}",
            expected=f"{prefix.name}.index and all of {prefix.name}.data-…-of-{n_shards:05d}",
            fix="copy the missing files beside the others; one cannot stand for another",
        )
    try:
        wanted = _parameters(leaves, at_most=sum(shard.stat().st_size for shard in shards))
    except UNREADABLE as error:
        raise _unreadable(index, error) from error
    arrays = {place: np.empty(leaf.shape, TYPES[leaf.dtype]) for place, leaf in wanted.items()}
    for number, shard in enumerate(shards):
        try:
            _fill(arrays, wanted, number, _unpacked(shard.read_bytes()))
        except UNREADABLE as error:
            raise _unreadable(shard, error) from error
    return {leaf.name.removeprefix(ROOT + "/"): arrays[place] for place, leaf in wanted.items()}


def _read_index(path: pathlib.Path) -> tuple[list[Leaf], int]:
    """The leaves in the order by which shards count them, and the number of shards."""
    content: Any = _unpacked(path.read_bytes())
    n_shards, tree, version = content["shard_count"], content["index"], content.get("version")
    if type(n_shards) is not int or not 0 < n_shards <= MOST_SHARDS:
        raise DamagedError(f"it speaks of {n_shards!r} shards")
    if version not in (VERSION, None):
        raise DamagedError(f"it is of version {version!r}, and {VERSION!r} is the one that is known")
    if version is None and ROOT in tree:
        # The order of a training state's fields was not written down before there was a version.
        raise DamagedError("it is a training state of before June 2022, in which no name stands beside its array")
    return list(_leaves(tree)), n_shards


def _leaves(tree: Mapping[str, Any], way: tuple[str, ...] = ()) -> Iterator[Leaf]:
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, dict):
            yield from _leaves(value, (*way, key))
        elif value is not None:  # which stands for no array
            yield _leaf("/".join((*way, key)), value)


def _leaf(name: str, value: Any) -> Leaf:
    if value.code != LEAF:
        raise DamagedError(f"{name} is no leaf of an index")
    said, cuts, shards = _unpacked(value.data)
    shape, dtype = _unpacked(said)[:2]
    places = tuple(zip((_slices(cut) for cut in cuts), shards, strict=True))
    return Leaf(name=name, shape=tuple(shape), dtype=dtype, places=places)


def _slices(packed: bytes) -> Slices:
    """Start and stop along each axis."""
    rows = [_unpacked(row) for row in _unpacked(packed)]
    if any(step not in (None, 1) or type(start) is not int or type(stop) is not int for start, stop, step in rows):
        raise DamagedError(f"{rows} are no slices")
    return tuple((start, stop) for start, stop, _ in rows)


def _parameters(leaves: list[Leaf], *, at_most: int) -> dict[int, Leaf]:
    """The leaves that are parameters, by their place among all; they fill no more bytes than the files have."""
    is_state = any(leaf.name.startswith(ROOT + "/") for leaf in leaves)
    wanted = {place: leaf for place, leaf in enumerate(leaves) if not is_state or leaf.name.startswith(ROOT + "/")}
    if not wanted:
        raise DamagedError("it names no parameters")
    if strangers := [f"{leaf.name} ({leaf.dtype})" for leaf in wanted.values() if leaf.dtype not in TYPES]:
        raise DamagedError(f"{', '.join(strangers)} is no array of floats")
    if any(type(size) is not int or size < 1 for leaf in wanted.values() for size in leaf.shape):
        raise DamagedError("it has shapes that no array has")
    if (said := sum(leaf.nbytes for leaf in wanted.values())) > at_most:
        raise DamagedError(f"it speaks of {said:,} bytes, and its shards have {at_most:,}")
    for leaf in wanted.values():
        if not _is_covered(leaf):
            raise DamagedError(f"the slices of {leaf.name} do not make up an array of shape {leaf.shape}")
    return wanted


def _is_covered(leaf: Leaf) -> bool:
    """Whether the slices have each number of the array once."""
    for cut, _ in leaf.places:
        if len(cut) != len(leaf.shape) or any(not 0 <= start < stop <= size for (start, stop), size in zip(cut, leaf.shape, strict=True)):
            return False
    if sum(_volume(cut) for cut, _ in leaf.places) != math.prod(leaf.shape):
        return False
    seen = np.zeros(leaf.shape, np.bool_)
    for cut, _ in leaf.places:
        seen[tuple(slice(*row) for row in cut)] = True
    return bool(seen.all())


def _fill(arrays: Mapping[int, np.ndarray], leaves: Mapping[int, Leaf], shard: int, content: Any) -> None:
    """Puts what a shard has into the arrays: all that the index says of it, and nothing else."""
    if content.pop(MARK) is not True:
        raise DamagedError("it is no shard")
    expected = {(place, cut) for place, leaf in leaves.items() for cut, where in leaf.places if where == shard}
    found = set()
    for key, chunks in content.items():
        if (place := int(key)) not in leaves:
            continue
        for parts, where in chunks:
            if where.code != SLICES:
                raise DamagedError("a slice of an array has no place")
            cut, array = _slices(where.data), arrays[place]
            if (place, cut) not in expected or (place, cut) in found:
                raise DamagedError(f"it has a slice {cut} of {leaves[place].name} that the index does not have there")
            if any(part.dtype != array.dtype for part in parts) or sum(part.size for part in parts) != _volume(cut):
                raise DamagedError(f"its slice {cut} of {leaves[place].name} is of another type or size")
            array[tuple(slice(*row) for row in cut)] = np.concatenate(parts).reshape([stop - start for start, stop in cut])
            found.add((place, cut))
    if lost := expected - found:
        names = sorted({leaves[place].name for place, _ in lost})
        raise DamagedError(f"it lacks slices of {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")


def _volume(cut: Slices) -> int:
    return math.prod(stop - start for start, stop in cut)


def _unreadable(path: pathlib.Path, error: Exception) -> DataError:
    return DataError(
        "a file of released weights cannot be read",
        found=f"{path}: {error}",
        expected="the index and the shards of one V-MoE or E³, as they were released",
        fix="copy the files again, all from one place",
    )


def _unpacked(data: bytes) -> Any:
    from flax.serialization import msgpack_restore  # JAX comes with it, and a plan reads none of these

    return msgpack_restore(data)
