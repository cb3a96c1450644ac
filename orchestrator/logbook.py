"""What a run was expected to take, and what it took: two events in the ledger, for the report and for the next estimate."""

from __future__ import annotations

import time

from orchestrator.analysis.usage import overhead_s
from orchestrator.ledger import Ledger
from orchestrator.plan_table import PlanView


class Logbook:
    """Of one run. Nothing is written for a run that finds nothing to train."""

    def __init__(self, ledger: Ledger, view: PlanView) -> None:
        self._ledger, self._view = ledger, view
        self._began: float | None = None
        self._before = 0

    def begin(self) -> None:
        """The run is about to start its workers."""
        expected = self._view.estimate
        self._before, self._began = self._finished(), time.monotonic()
        self._ledger.event(
            self._view.study,
            "run",
            workers=self._view.workers,
            trials=sum(row.trials for row in self._view.work),
            estimate_s=None if expected is None else expected.seconds,
            inferred=0 if expected is None else expected.inferred,
        )

    def end(self, ending: str) -> float | None:
        """The run's workers have ended; how many seconds it took, None if it never began."""
        if self._began is None:
            return None
        wall_s = time.monotonic() - self._began
        self._ledger.event(
            self._view.study,
            "run ended",
            wall_s=wall_s,
            finished=self._finished() - self._before,
            ending=ending,
            overhead_s=overhead_s(self._ledger.run_records(self._view.study)[-1], wall_s),
        )
        return wall_s

    def _finished(self) -> int:
        return sum(row.done + row.failed for row in self._ledger.progress(self._view.study))
