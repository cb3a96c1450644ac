"""A worker: a process that leases lanes from the ledger and lets a trainer train them, until told to stop.

It ends by itself when its launcher is gone, when the study is stopped, or when its ledger is away for too long. Whatever it
had not finished goes back to the queue. Of trials whose leases are gone, since it was stopped for longer than they last, it
writes nothing more: neither into the ledger nor into their folders.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import logging
import math
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import TypeVar

from orchestrator.causes import LEDGER_AWAY, Failure
from orchestrator.contract import FlatConfig, Lane, Probe, Report, Trainer, Usage, Verdict
from orchestrator.errors import LedgerError, OrchestratorError
from orchestrator.executors.process import birth
from orchestrator.executors.watch import supervised
from orchestrator.leases import LeaseLostError, Leases
from orchestrator.ledger import Entry, Leased, Ledger, Patience
from orchestrator.load import load_trainer
from orchestrator.records import Cause, Rung, TrialState
from orchestrator.stopping.divergence import DivergenceGuard

log = logging.getLogger("worker")

AnyPath = TypeVar("AnyPath", bound=pathlib.PurePath)

IDLE_S = 0.2  # between two looks at an empty queue
PATIENCE_S = 600.0  # with a database that is away: a server that restarts, a full disk
HASTE_S = 3.0  # of that patience once the worker is asked to end: a launcher's death leaves it four seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """All that a worker is told, as a JSON file that its command line names.

    Attributes:
        ledger: Path of the ledger, or its URL without a password, for people: the whole one is in the environment
            variable TESSERA_STORAGE, which nobody else can read.
        study: Whose trials it leases.
        trainer: `module:Class`.
        identity: Name of the work unit.
        out: Folder that holds the trials' folders.
        n_workers: Workers of the study, to share a short queue fairly.
        lease_s: Seconds until a lease that is not renewed expires.
        paths: Where modules are found, as `sys.path` of the launcher.
        provenance: Versions and commit, stored with each finished trial.
    """

    ledger: str
    study: str
    trainer: str
    identity: str
    out: str
    n_workers: int
    lease_s: float
    paths: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]

    def write(self, path: pathlib.Path) -> None:
        """Writes the order where `read` finds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: pathlib.Path) -> WorkerOrder:
        """The order that a launcher wrote."""
        values = json.loads(path.read_text())
        return cls(**(values | {"paths": tuple(values["paths"]), "provenance": tuple((key, value) for key, value in values["provenance"])}))


class Worker:
    """Leases, trains, gives back."""

    def __init__(self, order: WorkerOrder, ledger: Ledger, trainer: Trainer) -> None:
        self.order, self.ledger, self.trainer = order, ledger, trainer
        self.stopping, self._ended = threading.Event(), threading.Event()
        self.id = ledger.register_worker(
            order.study, identity=order.identity, host=socket.gethostname(), pid=os.getpid(), started=birth(os.getpid()) or ""
        )
        self.leases = Leases(ledger, order.study, self.id, order.lease_s)

    def run(self) -> None:
        """Until told to stop: leases a pack of one signature and trains it, or waits for the queue to fill."""
        threading.Thread(target=self._renew, name="leases", daemon=True).start()
        while not self.stopping.is_set():
            leased = self.lease(1, signature=None)
            if leased:
                self._train(leased)
            else:
                self.stopping.wait(IDLE_S)
        self._ended.set()
        self.ledger.worker_ended(self.id, exit_code=0, reason="stopped")

    def lease(self, n: int, *, signature: str | None, held: int = 0) -> list[Leased]:
        """Up to n trials more than the `held` ones, and no more in all than this worker's share of what runs and waits."""
        unfinished = self.ledger.unfinished(self.order.study, most=self.order.n_workers * (held + n))
        share = max(1, -(-unfinished // self.order.n_workers))
        return self.leases.take(min(n, share - held), signature)

    def stop(self, reason: str) -> None:
        """Asks the trainer to checkpoint and return."""
        if not self.stopping.is_set():
            log.info("stopping: %s", reason)
            self.stopping.set()

    def _train(self, first: Sequence[Leased]) -> None:
        host = WorkerHost(self, first, refill=True)
        failure, held = self._trained(host), host.held()
        if failure is None:
            self._give_back(held)
        elif len(held) == 1:
            self.leases.fail(held[0], failure)
        else:  # each lane by itself, so that the one at fault costs itself only
            for lane in held:
                self._train_alone(lane)

    def _train_alone(self, lane: Leased) -> None:
        host = WorkerHost(self, [lane], refill=False)
        failure = self._trained(host)
        if failure is None:
            self._give_back(host.held())
        else:
            for held in host.held():
                self.leases.fail(held, failure)

    def _trained(self, host: WorkerHost) -> Failure | None:
        """Lets the trainer train; what it raised, if anything. Its paused lanes are given back then, and those it lost are let go."""
        failure = None
        try:
            self.trainer.train(host)
        except LeaseLostError as error:
            log.warning("%s", error)
            self.leases.forget(error.keys)
            others = [lane.key for lane in host.leave() if lane.key not in error.keys]
            self.leases.release(others, "its pack was given up when leases of it were gone")
        except LedgerError:
            raise  # nobody's trial is at fault: this worker ends, and its leases go to another
        except (Exception, SystemExit) as error:
            keys = [lane.key for lane in host.held()]
            log.error("%s %s raised %s", "trial" if len(keys) == 1 else f"a pack of {len(keys)}:", " ".join(keys), traceback.format_exc())
            failure = Failure.of(error)
        self._give_back_paused(host)
        if failure is not None:
            gc.collect()  # what memory the pack has is needed by the lanes that are tried alone
        return failure

    def _give_back_paused(self, host: WorkerHost) -> None:
        """Lanes at a rung whose checkpoints nobody said are on disk: they pause all the same, and may have to repeat some steps."""
        self.leases.release(host.leave_paused(), "its pack ended before its checkpoint was written")

    def _give_back(self, held: Sequence[Leased]) -> None:
        if self.stopping.is_set():
            self.leases.release([lane.key for lane in held], "the worker was asked to stop")
            return
        for lane in held:
            self.leases.fail(lane, Failure(cause=Cause.RAISED, reason=f"{self.order.trainer} returned without a final report"))

    def _renew(self) -> None:
        """Keeps the leases to the end, which may be some checkpoints after the call to stop."""
        while not self._ended.wait(self.order.lease_s / 4):
            try:
                self.leases.renew()
                if self.ledger.stop_requested(self.order.study):
                    self.stop("the study was asked to stop")
            except Exception as error:  # the lease decides: if this goes on, the next report is refused
                log.warning("could not renew leases: %s", error)


class WorkerHost:
    """What a worker gives to a trainer: `orchestrator.contract.Host` on the ledger."""

    def __init__(self, worker: Worker, first: Sequence[Leased], *, refill: bool) -> None:
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
        for lane in taken:
            log.info("trial %s: leased, attempt %d", lane.key, lane.attempt)
        return [self._lane(lane) for lane in taken]

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        """One transaction for all; a lane whose lease is gone is told so, and nothing of it is written.

        A lane told to pause stays leased until it is parked, so that nobody goes on with it before its checkpoint is there.
        So does one that no study has any more, since it was edited: it is kept for when a study has it again.
        """
        known = [report for report in reports if report.key in self._held]
        entries = [self._entry(report) for report in known]
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

    def _lane(self, lane: Leased) -> Lane:
        folder = trial_folder(pathlib.Path(self._worker.order.out), lane.key)
        folder.mkdir(parents=True, exist_ok=True)
        return Lane(key=lane.key, config=lane.config, seed=lane.seed, folder=folder)

    def _entry(self, report: Report) -> Entry:
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
        )


def trial_folder(out: AnyPath, key: str) -> AnyPath:
    """Where a trial keeps its checkpoints and predictions, whatever the study. Artifacts in the ledger are relative to `out`."""
    return out / "trials" / key[:2] / key


def _verdict(entry: Entry, written: bool, until: int | None) -> Verdict:
    if not written:
        return Verdict.LOST
    if entry.outcome is None:
        return Verdict.PAUSE if until is not None and entry.step >= until and entry.metrics else Verdict.CONTINUE
    return Verdict.FINISHED if entry.outcome is TrialState.COMPLETE else Verdict.STOP


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m orchestrator.worker ORDER.json`."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.worker", description="One worker of a study.")
    parser.add_argument("order", type=pathlib.Path, help="JSON file written by the launcher")
    order = WorkerOrder.read(parser.parse_args(arguments).order)
    sys.path[:] = list(dict.fromkeys([*sys.path, *order.paths]))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        with supervised(stop := _Stop()):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, stop.caught)
            _work(order, stop)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    return 0


class _Stop:
    """Word to end, from a signal or because the launcher is gone; it may come before there is a worker."""

    def __init__(self) -> None:
        self.reason, self._asked_at, self._worker = "", math.inf, list[Worker]()

    def __call__(self, reason: str = "the launcher is gone") -> None:
        self.reason, self._asked_at = reason, min(self._asked_at, time.monotonic())
        for worker in self._worker:
            worker.stop(reason)

    def caught(self, number: int, _: object) -> None:
        """A handler of signals."""
        # On a thread: the signal may have come in the middle of a log line, and streams refuse to be entered twice.
        threading.Thread(target=self, args=(signal.Signals(number).name,), daemon=True).start()

    def is_overdue(self) -> bool:
        """Whoever asked waits no longer for a database that is away."""
        return time.monotonic() - self._asked_at > HASTE_S

    def tell(self, worker: Worker) -> None:
        """From here on the worker is told; at once if word came before."""
        self._worker.append(worker)
        if self.reason:
            worker.stop(self.reason)


def _work(order: WorkerOrder, stop: _Stop) -> None:
    """The worker's whole life.

    Raises:
        SystemExit: With `LEDGER_AWAY`, or 2 for anything else that the user has to mend.
    """
    try:
        patience = Patience(for_s=PATIENCE_S, say=log.warning, hasty=stop.is_overdue)
        ledger = Ledger.open(os.environ.get("TESSERA_STORAGE") or order.ledger, create=False, patience=patience)
        worker = Worker(order, ledger, load_trainer(order.trainer))
        stop.tell(worker)
        log.info("%s: pid %d", order.identity, os.getpid())
        worker.run()
    except OrchestratorError as error:
        log.error("%s", error)
        raise SystemExit(LEDGER_AWAY if isinstance(error, LedgerError) else 2) from error


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # At once: a thread that compiles what would have been trained next must not hold the process up, nor crash its end.
    os._exit(code)
