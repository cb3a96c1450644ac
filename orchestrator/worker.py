"""A worker: a process that leases lanes from the ledger and lets a trainer train them, until told to stop.

It ends by itself when its launcher is gone, when the study is stopped, or when its ledger is away for too long. Whatever it
had not finished goes back to the queue. Of trials whose leases are gone, since it was stopped for longer than they last, it
writes nothing more: neither into the ledger nor into their folders.
"""

from __future__ import annotations

import argparse
import gc
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
from collections.abc import Sequence

from orchestrator.causes import LEDGER_AWAY, Failure
from orchestrator.contract import Keeper, Trainer
from orchestrator.errors import LedgerError, OrchestratorError
from orchestrator.executors.process import birth
from orchestrator.executors.watch import supervised
from orchestrator.host import WorkerHost
from orchestrator.inputs import Inputs
from orchestrator.leases import LeaseLostError, Leases
from orchestrator.ledger import Leased, Ledger, Patience
from orchestrator.load import load_trainer
from orchestrator.order import WorkerOrder
from orchestrator.records import Cause

log = logging.getLogger("worker")

IDLE_S = 0.2  # between two looks at an empty queue
PATIENCE_S = 600.0  # with a database that is away: a server that restarts, a full disk
HASTE_S = 3.0  # of that patience once the worker is asked to end: a launcher's death leaves it four seconds


class Worker:
    """Leases, trains, gives back."""

    def __init__(self, order: WorkerOrder, ledger: Ledger, trainer: Trainer) -> None:
        self.order, self.ledger, self.trainer = order, ledger, trainer
        self.stopping, self._ended = threading.Event(), threading.Event()
        self.id = ledger.register_worker(
            order.study, identity=order.identity, host=socket.gethostname(), pid=os.getpid(), started=birth(os.getpid()) or ""
        )
        self.leases = Leases(ledger, order.study, self.id, order.lease_s)
        self.inputs = Inputs(ledger, pathlib.Path(order.out), trainer)
        self.keeps = trainer.keeps if isinstance(trainer, Keeper) else ""

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
