"""Waiting for what another process does: the only sleep a test needs, and it ends in a failure rather than in a guess."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0


def eventually(claim: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Polls until the claim is true; fails the test when it never is."""
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
