"""What a worker gives to a trainer: `orchestrator.contract.Host` on the ledger."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.causes import Failure
from orchestrator.contract import PARAMETERS, DataError, FlatConfig, Lane, Probe, Report, Usage, Verdict
from orchestrator.files import sha256_of
from orchestrator.inputs import Inputs
from orchestrator.leases import Leases
from orchestrator.ledger import Entry, Leased, Ledger
from orchestrator.order import WorkerOrder, trial_folder
from orchestrator.records import Rung, TrialState
from orchestrator.stopping.divergence import DivergenceGuard

log = logging.getLogger("worker")


class Workplace(Protocol):
    """What a host needs of the worker that it is of."""

    id: int
    order: WorkerOrder
    ledger: Ledger
    leases: Leases
    inputs: Inputs
    keeps: str
    stopping: threading.Event

    def lease(self, n: int, *, signature: str | None, held: int = 0) -> list[Leased]:
        """Up to n trials more."""
        ...


class WorkerHost:
    """What a worker gives to a trainer: `orchestrator.contract.Host` on the ledger."""

    def __init__(self, worker: Workplace, first: Sequence[Leased], *, refill: bool) -> None:
        self._worker, self._queue, self._refill = worker, list(first), refill
        self._signature = first[0].signature
        self._held: dict[str, Leased] = {lane.key: lane for lane in first}
        self._paused: set[str] = set()
        self._guard = DivergenceGuard()

    @property
    def stopping(self) -> bool:
        """The worker was asked to end.

        Raises:
            LeaseLostError: A lane is another's by now, so the pack is given up, and no checkpoint of it is written.
        """
        self._worker.leases.check(self._held.keys())
        return self._worker.stopping.is_set()

    def held(self) -> list[Leased]:
        """Lanes that have no final verdict yet."""
        return list(self._held.values())

    def leave(self) -> list[Leased]:
        """Lanes that have no final verdict yet; from here on they are not held."""
        left = self.held()
        self._held.clear()
        return left

    def leave_paused(self) -> list[str]:
        """Lanes told to pause that were not parked; from here on they are not held."""
        keys = sorted(self._paused & self._held.keys())
        for key in keys:
            del self._held[key]
        self._paused.clear()
        return keys

    def pull(self, n: int) -> Sequence[Lane]:
        """Lanes of the pack's signature: the first of them were leased before the trainer was called."""
        taken, self._queue = self._queue[:n], self._queue[n:]
        if self._refill and len(taken) < n and not self.stopping:
            more = self._worker.lease(n - len(taken), signature=self._signature, held=len(self._held))
            self._held |= {lane.key: lane for lane in more}
            taken += more
        return [lane for leased in taken if (lane := self._lane(leased)) is not None]

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        """One transaction for all; a lane whose lease is gone is told so, and nothing of it is written.

        A lane told to pause stays leased until it is parked, so that nobody goes on with it before its checkpoint is there.
        So does one that no study has any more, since it was edited: it is kept for when a study has it again.
        """
        known = [report for report in reports if report.key in self._held]
        entries = [self._entry(report, hashes) for report in known if (hashes := self._hashes(report)) is not None]
        written, unwanted = self._worker.leases.record(entries), self._worker.leases.unwanted
        verdicts = {report.key: Verdict.LOST for report in reports}
        for entry in entries:
            is_wanted = entry.key not in unwanted
            verdicts[entry.key] = verdict = _verdict(entry, written[entry.key], self._held[entry.key].until if is_wanted else 0)
            if verdict is Verdict.PAUSE:
                self._paused.add(entry.key)
            elif verdict is not Verdict.CONTINUE:
                del self._held[entry.key]
            if verdict is not Verdict.CONTINUE:
                why = entry.reason if is_wanted else "no study has it any more"
                log.info("trial %s: %s at step %d %s", entry.key, verdict.value, entry.step, why)
        return verdicts

    def failed(self, key: str, error: Exception) -> None:
        """Ends this attempt at the trial, with what was raised as its reason."""
        log.error("trial %s: %s", key, error)
        lane = self._held.pop(key, None)
        self._paused.discard(key)
        if lane is not None:
            self._worker.leases.fail(lane, Failure.of(error))

    def parked(self, keys: Sequence[str]) -> None:
        """Their leases end here, so that a worker that goes on with them finds their checkpoints."""
        self._worker.leases.park(keys)
        for key in keys:
            self._held.pop(key, None)
        self._paused.difference_update(keys)

    @property
    def waiting(self) -> int:
        """Trials of the pack's signature in the study's queue."""
        return self._worker.ledger.waiting(self._worker.order.study, self._signature)

    def upcoming(self) -> FlatConfig | None:
        """What this worker would train next."""
        return self._worker.ledger.upcoming(self._worker.order.study, self._worker.id, self._signature)

    def probes(self) -> Sequence[Probe]:
        """All that the ledger knows of the pack's signature."""
        return self._worker.ledger.probes([self._signature])

    def probed(self, probe: Probe) -> None:
        """Kept in the ledger."""
        self._worker.ledger.probe_put(probe)

    def used(self, usage: Usage) -> None:
        """Kept in the ledger, for the report."""
        self._worker.ledger.event(self._worker.order.study, "usage", None, worker=self._worker.id, **dataclasses.asdict(usage))

    def _lane(self, lane: Leased) -> Lane | None:
        """None for one that cannot start, which has failed."""
        log.info("trial %s: leased, attempt %d", lane.key, lane.attempt)
        folder = self._folder(lane.key)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            inputs = self._worker.inputs.of(lane.config)
        except DataError as error:
            self.failed(lane.key, error)
            return None
        return Lane(key=lane.key, config=lane.config, seed=lane.seed, folder=folder, inputs=inputs)

    def _folder(self, key: str) -> pathlib.Path:
        return trial_folder(pathlib.Path(self._worker.order.out), key)

    def _hashes(self, report: Report) -> dict[str, str] | None:
        """Of what others read of a trial that is finished; None for one that left no parameters though it was to: it has failed."""
        keeps = self._worker.keeps
        if not report.final or not keeps or not self._held[report.key].config.get(keeps):
            return {}
        try:
            return {PARAMETERS: sha256_of(self._folder(report.key) / report.artifacts[PARAMETERS])}
        except (KeyError, OSError) as error:
            found = f"no artifact {PARAMETERS} in its final report" if isinstance(error, KeyError) else str(error)
            self.failed(
                report.key,
                DataError(f"trial {report.key} left no parameters for others to start from", found=found, fix="make room, then `retry`"),
            )
            return None

    def _entry(self, report: Report, hashes: Mapping[str, str]) -> Entry:
        decision = self._guard.decide([Rung(step=report.step, metrics=report.metrics)])
        outcome = TrialState.DIVERGED if decision.stop else TrialState.COMPLETE if report.final else None
        provenance = dict(self._worker.order.provenance) | dict(report.provenance) if outcome is not None else {}
        return Entry(
            key=report.key,
            fence=self._held[report.key].fence,
            step=report.step,
            metrics=report.metrics,
            outcome=outcome,
            reason=decision.reason,
            provenance=provenance,
            artifacts={name: str(trial_folder(pathlib.PurePosixPath(), report.key) / path) for name, path in report.artifacts.items()},
            sha256=hashes,
        )


def _verdict(entry: Entry, written: bool, until: int | None) -> Verdict:
    if not written:
        return Verdict.LOST
    if entry.outcome is None:
        return Verdict.PAUSE if until is not None and entry.step >= until and entry.metrics else Verdict.CONTINUE
    return Verdict.FINISHED if entry.outcome is TrialState.COMPLETE else Verdict.STOP
