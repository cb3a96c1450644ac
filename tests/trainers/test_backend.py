"""The numbers of a step do not depend on how many cores the machine has."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from trainers import backend

ROOT = pathlib.Path(__file__).parents[2]

CODE = """
import hashlib, os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]))
from trainers import backend
backend.prepare()
import jax, jax.numpy as jnp, numpy as np
x, w = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (2048, 256)), (1, (256, 256))))
gradient = jax.jit(jax.grad(lambda w: jnp.sum(jax.nn.gelu(x @ w) ** 2)))(w)
print(hashlib.sha256(np.asarray(gradient).tobytes()).hexdigest())
"""


def bits_on(cores: int) -> str:
    environment = {name: value for name, value in os.environ.items() if name != backend.POOL}
    done = subprocess.run([sys.executable, "-c", CODE, str(cores)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_one_core_and_all_give_the_same_bits() -> None:
    assert bits_on(1) == bits_on(os.cpu_count() or 1)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert backend.cache_folder() == pathlib.Path("/somewhere/tessera/jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert backend.cache_folder() == pathlib.Path("/home/me/.cache/tessera/jax")


def test_what_ran_is_described_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.POOL, "1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert backend.describe().startswith("cpu · jax ")
    assert backend.describe().endswith(" · 1 thread · --xla_cpu_enable_fast_math=false")
