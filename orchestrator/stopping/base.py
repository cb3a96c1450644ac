"""What a stopping rule is given, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from orchestrator.records import Rung


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether a trial ends now, and why."""

    stop: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if self.stop != bool(self.reason):
            raise ValueError("a trial is stopped for a reason, and goes on without one")


GO_ON = Decision(stop=False)


class StoppingRule(Protocol):
    """A pure function of history: asked twice, it answers the same."""

    def decide(self, rungs: Sequence[Rung]) -> Decision:
        """Decides on a trial by its rungs, in the order of steps; the last one is new."""
        ...
