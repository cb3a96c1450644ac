"""What has to be settled before JAX starts: how many threads it computes with, and where compiled programs are kept.

XLA on CPU splits a matrix product over its thread pool, and the split changes the order of sums: the same step gave other
bits on one core than on two, and `--xla_cpu_multi_thread_eigen=false` did not change that, while a pool of one thread did
(tests/trainers/test_backend.py). Workers are processes, so a pool of one costs a study nothing.
"""

from __future__ import annotations

import os
import pathlib

import jax

POOL = "NPROC"  # environment variable from which XLA's CPU client takes the size of its thread pool


def prepare() -> None:
    """Settles threads and caches. Only a process that has not computed with JAX yet takes the threads up."""
    os.environ.setdefault(POOL, "1")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> pathlib.Path:
    """Where compiled programs are kept when JAX_COMPILATION_CACHE_DIR does not say."""
    root = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return pathlib.Path(root) / "tessera" / "jax"


def describe() -> str:
    """Hardware, software and flags that decide speed and bits, such as `cpu · jax 0.10.2 · 1 thread`."""
    device = jax.devices()[0]
    parts = [device.device_kind if device.platform != "cpu" else "cpu", f"jax {jax.__version__}"]
    if device.platform == "cpu":
        threads = os.environ.get(POOL, "all")
        parts.append(f"{threads} thread" + ("" if threads == "1" else "s"))
    return " · ".join([*parts, *os.environ.get("XLA_FLAGS", "").split()])
