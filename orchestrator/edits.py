"""A study file that is edited while its launcher runs: noticed, and said once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable, Generator

LOOK_EVERY_S = 2.0
EDITED = "the study file was edited: run the same command again, here or in another terminal, to take the edit up"


def content_of(file: str | pathlib.Path) -> str:
    """Digest of a file's bytes; empty for one that cannot be read."""
    try:
        return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


@contextlib.contextmanager
def edits_told(file: pathlib.Path, content: str, say: Callable[[str], None], *, every_s: float = LOOK_EVERY_S) -> Generator[None]:
    """Says so, once, when the file says something else than it did. From a thread, so that nobody has to ask.

    Args:
        file: Of the study.
        content: What `content_of` gave when it was read.
        say: Takes a line.
        every_s: Seconds between two looks at its time of change. It is read when that has moved, and not since the last look:
            then whoever writes it is done.
    """
    over = threading.Event()

    def look() -> None:
        seen = read = None
        while not over.wait(every_s):
            before, seen = seen, _stamp(file)
            if seen is None or seen != before or seen == read:
                continue
            read = seen
            if content_of(file) not in ("", content):
                say(EDITED)
                return

    thread = threading.Thread(target=look, name="edits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _stamp(file: pathlib.Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None while it is away, as some editors do for a moment."""
    with contextlib.suppress(OSError):
        found = os.stat(file)
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
