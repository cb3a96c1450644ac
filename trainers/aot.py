"""Programs traced ahead of time: a later worker reads what an earlier one traced, and has only to load its compiled form.

Tracing a training step takes Python longer than XLA takes to load it from its cache (benchmarks/startup.py). A traced
program is kept with `jax.export` in the user's cache folder, under the hash of all that decides it: the caller's
fingerprint, the shapes of its arguments, the sources of the trainers, versions, device and flags. The file is content
checked, holds no pickle and replaces an older one at once; whatever is wrong with it, it is passed over and written anew.

A program that was just traced goes through the same bytes as one that was read, so both are the same to XLA: the same
bits, and the same entry in its cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from orchestrator import contract
from trainers import backend

OFF = "TESSERA_NO_EXPORTS"  # environment variable: set, every process traces for itself
MAGIC = b"tessera-export-1\n"
MOST_FILES = 200
MOST_BYTES = 500_000_000
DECIDED_BY = ("jax", "jaxlib", "flax", "optax", "numpy", "flatbuffers")
SHARED_SOURCES = (
    "contract.py",
    "config.py",
    "durable.py",
    "errors.py",
    "keys.py",
    "upstream.py",
)  # of the orchestrator, that trainers import
NOT_DECIDING = ("jax_compilation_cache", "jax_persistent_cache", "jax_log", "jax_debug", "jax_explain")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Traced:
    """A function, traced for arguments of certain shapes.

    Attributes:
        name: Of the compiled program.
        call: The function.
        out: What it returns, as a tree of shapes and types.
    """

    name: str
    call: Callable[..., Any]
    out: Any

    def compiled(self, *arguments: Any, donate: int | None = None, options: Mapping[str, Any] | None = None) -> jax.stages.Compiled:
        """The function, compiled or loaded from XLA's cache.

        Args:
            arguments: Of the shapes that it was traced for; arrays, or shapes with a sharding.
            donate: Position of the argument whose memory the result may take.
            options: For the compiler.
        """
        lowered = jax.jit(self.call, donate_argnums=() if donate is None else donate).lower(*arguments)
        return lowered.compile(compiler_options=dict(options or {}))


def traced(name: str, fingerprint: str, function: Callable[..., Any], *arguments: Any) -> Traced:
    """A function as an earlier process traced it, or traced now and kept for later ones.

    Args:
        name: Tells the programs of one fingerprint apart; names the file.
        fingerprint: Hash of all that decides the function beside its arguments' shapes and what `surroundings` covers.
        function: Of arrays in trees of dicts, lists, tuples and named tuples, to such a tree. Not called when it is known.
        arguments: Arrays or shapes.
    """
    if os.environ.get(OFF) or not _can_export():
        return _plain(name, function, arguments)
    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(arguments)]
    tree = jax.tree.structure(arguments)
    key = _hash([name, fingerprint, str(tree), [f"{shape.dtype}{list(shape.shape)}" for shape in shapes], surroundings()])
    path = folder() / f"{name}-{key}.export"
    blob = _read(path, key)
    if blob is not None:
        with contextlib.suppress(Exception):  # of another jax, by some other way: passed over like any file that cannot be read
            found = _loaded(name, blob)
            os.utime(path)  # the files longest out of use are the first to go
            return found
    try:
        blob = _traced_anew(function, tree, shapes)
    except (NotImplementedError, TypeError, ValueError) as error:
        log.info("%s is traced by every worker, since it cannot be exported: %s", name, error)
        return _plain(name, function, arguments)
    _write(path, key, blob)
    return _loaded(name, blob)


def folder() -> pathlib.Path:
    """Where traced programs are kept, beside XLA's compiled ones."""
    return backend.cache_folder().parent / "programs"


@functools.cache
def surroundings() -> str:
    """Hash of what decides every program of this process: sources, versions, device, flags."""
    flags = {name: str(value) for name, value in jax.config.values.items() if not name.startswith(NOT_DECIDING)}
    versions = {name: importlib.metadata.version(name) for name in DECIDED_BY}
    return _hash([SOURCES, versions, sys.version, backend.describe(), flags])


def source_hash(*roots: pathlib.Path) -> str:
    """Hash of the Python files under these folders, and of these files, by name and content."""
    found = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            content = path.read_bytes()
            found.update(f"{path.relative_to(root.parent)} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _our_sources() -> str:
    ours, shared = pathlib.Path(__file__).parent, pathlib.Path(contract.__file__).parent
    return source_hash(ours, *(shared / name for name in SHARED_SOURCES))


# Read while the modules are imported: a file that is edited later is not what this process runs.
SOURCES = _our_sources()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:40]


def _plain(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Traced:
    return Traced(name, function, jax.eval_shape(function, *arguments))


@functools.cache
def _can_export() -> bool:
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        log.warning("every worker traces its programs itself, which takes seconds: flatbuffers is not installed")
        return False
    return True


def _traced_anew(function: Callable[..., Any], tree: Any, shapes: list[jax.ShapeDtypeStruct]) -> bytes:
    """A header of one line that says what is returned, and jax's own serialisation of a function from leaves to leaves."""
    described: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        found, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        described.append(_described(jax.tree.unflatten(structure, range(len(found)))))
        return found

    exported = jax.export.export(jax.jit(flat))(*shapes)
    return json.dumps(described[0]).encode() + b"\n" + bytes(exported.serialize())


def _loaded(name: str, blob: bytes) -> Traced:
    header, _, body = blob.partition(b"\n")
    structure = jax.tree.structure(_rebuilt(json.loads(header)))
    exported = jax.export.deserialize(bytearray(body))

    def call(*arguments: Any) -> Any:
        return jax.tree.unflatten(structure, exported.call(*jax.tree.leaves(arguments)))

    call.__name__ = name  # by which XLA names its cache entry
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in exported.out_avals]
    return Traced(name, call, jax.tree.unflatten(structure, shapes))


def _described(tree: Any) -> Any:
    """A tree of places as JSON: jax's own way needs each class of a node registered before anything is read.

    Raises:
        TypeError: It holds a node that is none of the known ones.
    """
    if tree is None or isinstance(tree, int):
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = {field: _described(getattr(tree, field)) for field in tree._fields}
        return {"class": f"{type(tree).__module__}:{type(tree).__qualname__}", "fields": fields}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_described(item) for item in tree]}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _described(item) for key, item in tree.items()}}
    raise TypeError(f"it returns a {type(tree).__name__}")


def _rebuilt(row: Any) -> Any:
    if row is None or isinstance(row, int):
        return row
    if "class" in row:
        module, _, name = row["class"].partition(":")
        kind = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        if not (isinstance(kind, type) and issubclass(kind, tuple)):
            raise TypeError(f"{kind} is no named tuple")
        return kind(**{field: _rebuilt(item) for field, item in row["fields"].items()})
    [(kind, items)] = row.items()
    if kind == "dict":
        return {key: _rebuilt(item) for key, item in items.items()}
    return {"list": list, "tuple": tuple}[kind](_rebuilt(item) for item in items)


def _read(path: pathlib.Path, key: str) -> bytes | None:
    """What was kept under a key; None where there is nothing, or anything is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head = MAGIC + f"{key}\n".encode()
    digest, blob = content[len(head) : len(head) + 65], content[len(head) + 65 :]
    is_whole = content.startswith(head) and digest == hashlib.sha256(blob).hexdigest().encode() + b"\n"
    return blob if is_whole else None


def _write(path: pathlib.Path, key: str, blob: bytes) -> None:
    """Keeps it, whole or not at all. A full disk costs later workers their tracing, not this one its study."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        contract.write_whole(path, MAGIC, f"{key}\n{hashlib.sha256(blob).hexdigest()}\n".encode(), blob, sync=False)
        _drop_oldest(path.parent)
    except OSError as error:
        log.warning("a traced program is not kept for later workers: %s", error)


def _drop_oldest(place: pathlib.Path) -> None:
    """Keeps the folder within its bounds. Two workers may do this at once: what is gone already is no matter."""
    found: list[tuple[float, int, pathlib.Path]] = []
    for path in (*place.glob("*.export"), *place.glob("*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    found.sort(reverse=True)
    total = 0
    for rank, (_, size, path) in enumerate(found):
        total += size
        if rank >= MOST_FILES or total > MOST_BYTES:
            path.unlink(missing_ok=True)
