"""Bad disks for tests: one that is full, and files that lost their end or a bit."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
from collections.abc import Iterator


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


def held_to_permissions() -> list[str]:
    """What a command begins with so that closed files are closed to it: root gives up its right to open them all the same."""
    beyond = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={beyond}", f"--inh-caps={beyond}"] if os.geteuid() == 0 else []
