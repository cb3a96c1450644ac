"""Bad disks for tests: one that is full, and files that lost their end or a bit."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import stat
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def full(after_bytes: int = 0) -> Iterator[None]:
    """No file of this process grows past so many bytes: as on a full disk, the system refuses to write them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tear(path: pathlib.Path) -> None:
    """Cuts the end off."""
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: pathlib.Path, place: int = -1) -> None:
    """Flips a bit of one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def uncounted() -> dict[str, str]:
    """An environment in which coverage is not measured: a process of nobody's cannot write down what it ran."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_"))}


def need_a_checkout_for_all() -> None:
    """Skips a test that runs as nobody, since root may write anywhere, where nobody may not enter the folder of the checkout."""
    if os.geteuid() != 0:
        return
    here = pathlib.Path(__file__).resolve()
    if closed := [str(folder) for folder in here.parents if not folder.stat().st_mode & stat.S_IXOTH]:
        pytest.skip(f"a process of nobody's may not enter {closed[0]}")
