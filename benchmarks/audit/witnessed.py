"""The curves trainer, with witnesses: all that differs from `trainers.curves` is that a file is told of each trial's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.audit.work import Cell, attest, cell_of
from orchestrator.contract import Host, Lane, Report, Verdict
from trainers.curves import Curves


class Witnessed(Curves):
    """See `trainers.curves.Curves`."""

    name = "benchmarks.audit.witnessed:Witnessed"

    def train(self, host: Host) -> None:
        super().train(_Watched(host))


class _Watched:
    """A host that writes down which lanes it hands out and which ones come to their end; for all else it is the other one."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._cells: dict[str, Cell] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def pull(self, n: int) -> Sequence[Lane]:
        lanes = self._host.pull(n)
        self._cells |= {lane.key: cell_of(lane.config, lane.seed) for lane in lanes}
        attest("begun", [self._cells[lane.key] for lane in lanes])
        return lanes

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        """The work is done before the ledger hears of it, and so is the line."""
        attest("finished", [self._cells[report.key] for report in reports if report.final])
        return self._host.report(reports)
