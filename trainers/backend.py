"""What has to be settled before JAX starts: how many threads it computes with, and where compiled programs are kept.

XLA on CPU splits a matrix product over its thread pool, and the split changes the order of sums: the same step gave other
bits on one core than on two, and `--xla_cpu_multi_thread_eigen=false` did not change that, while a pool of one thread did
(tests/trainers/test_backend.py). Workers are processes, so a pool of one costs a study nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import time
import zlib

import jax

POOL = "NPROC"  # environment variable from which XLA's CPU client takes the size of its thread pool
SETTLED_S = 2.0  # after its last byte, a cache entry is taken as written
EVERY_S = 86_400.0  # between two looks at every entry
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how its files begin


def prepare() -> None:
    """Settles threads and caches. Only a process that has not computed with JAX yet takes the threads up."""
    os.environ.setdefault(POOL, "1")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        pack_with_zlib()
    _drop_torn_once(str(jax.config.jax_compilation_cache_dir))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> pathlib.Path:
    """Where compiled programs are kept when JAX_COMPILATION_CACHE_DIR does not say."""
    root = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(root) / "tessera" / "jax"


def pack_with_zlib() -> None:
    """Has JAX pack its entries so that a changed byte is noticed when one is read: as it calls zstandard, those carry no checksum."""
    with contextlib.suppress(ImportError):
        from jax._src import compilation_cache

        for name in ("zstd", "zstandard"):
            if hasattr(compilation_cache, name):
                setattr(compilation_cache, name, None)


def describe() -> str:
    """Hardware, software and flags that decide speed and bits, such as `cpu · jax 0.10.2 · 1 thread`."""
    device = jax.devices()[0]
    parts = [device.device_kind if device.platform != "cpu" else "cpu", f"jax {jax.__version__}"]
    if device.platform == "cpu":
        threads = os.environ.get(POOL, "all")
        parts.append(f"{threads} thread" + ("" if threads == "1" else "s"))
    return " · ".join([*parts, *os.environ.get("XLA_FLAGS", "").split()])


def drop_torn(place: pathlib.Path, *, settled_s: float = SETTLED_S) -> list[pathlib.Path]:
    """Removes the entries of XLA's cache that a killed process left unfinished, and says which.

    JAX writes an entry in place and never replaces one, so a torn entry would be read, warned of and compiled around by
    every later process. Only what was written since the last look is read, and once a day all of them, since disks forget;
    an entry that was written within the last `settled_s` seconds may still grow, and waits for the next look.
    """
    looked, all_looked, now = place / "tessera-looked", place / "tessera-looked-at-all", time.time()
    with contextlib.suppress(OSError):
        is_due = not all_looked.exists() or now - all_looked.stat().st_mtime > EVERY_S
        since = 0.0 if is_due or not looked.exists() else looked.stat().st_mtime
        fresh = [path for path in place.glob("*-cache") if path.stat().st_mtime >= since]
        torn = [path for path in fresh if path.stat().st_mtime < now - settled_s and not _is_whole(path)]
        for path in torn:
            path.unlink(missing_ok=True)
        if is_due:
            all_looked.touch()
        looked.touch()
        os.utime(looked, (now - settled_s, now - settled_s))
        return torn
    return []  # a folder that is not there, or another process that removed the same entry: the next look finds the rest


@functools.cache
def _drop_torn_once(place: str) -> None:
    if "://" not in place:
        drop_torn(pathlib.Path(place))


def _is_whole(path: pathlib.Path) -> bool:
    """Whether an entry can be unpacked: JAX packs with zstandard where that is installed, else with zlib."""
    content = path.read_bytes()
    if content.startswith(ZSTANDARD):
        with contextlib.suppress(ImportError):
            import zstandard

            try:
                zstandard.ZstdDecompressor().decompress(content)
            except zstandard.ZstdError:
                return False
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
