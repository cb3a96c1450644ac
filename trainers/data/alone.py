"""One process at a time: workers that start together find data prepared by the first of them."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def alone(lock: pathlib.Path) -> Iterator[None]:
    """Holds a lock file; the system lets go of it when its holder dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
