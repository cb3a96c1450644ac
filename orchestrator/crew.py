"""The workers of a run: started while trials wait, mourned when they die, stopped at the end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from orchestrator.executors.base import Executor, UnitStatus, WorkerSpec
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.process import is_running
from orchestrator.ledger import Ledger
from orchestrator.records import Cause
from orchestrator.worker import WorkerOrder

LEASE_S = 20.0  # a worker renews four times in this span
EXPIRE_EVERY_S = 2.0
STOP_GRACE_S = 30.0  # for workers to checkpoint when they are asked to stop


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CrewOptions:
    """How workers are run.

    Attributes:
        study: Whose trials they train.
        trainer: `module:Class`.
        ledger: URL or path of the ledger.
        out: Folder for the trials' folders; the study's logs lie in it too.
        workers: At once, at most.
        provenance: Of the launcher.
        lease_s: Seconds until a lease that is not renewed expires.
    """

    study: str
    trainer: str
    ledger: str
    out: pathlib.Path
    workers: int
    provenance: Mapping[str, str]
    lease_s: float = LEASE_S

    @property
    def folder(self) -> pathlib.Path:
        """Folder of the study."""
        return self.out / self.study


class Crew:
    """The workers of one run of a study. A context manager: nothing of it outlives the run."""

    def __init__(self, options: CrewOptions, ledger: Ledger, executor: Executor, say: Callable[[str], None]) -> None:
        self._options, self._ledger, self._say = options, ledger, say
        self._fleet = Fleet(study=options.study, folder=options.folder / "workers", executor=executor)
        self._expired_at = 0.0
        self.deaths = 0

    def __enter__(self) -> Self:
        self._fleet.reattach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._fleet.close()

    @property
    def active(self) -> int:
        """Workers that run."""
        return sum(1 for unit in self._fleet.units() if unit.status.is_active)

    def staff(self, waiting: int) -> None:
        """Starts workers while trials wait and there is room for more of them.

        Raises:
            LaunchError: One cannot be started.
        """
        for _ in range(min(self._options.workers - self.active, waiting)):
            self._fleet.start(self._spec())

    def mourn(self) -> None:
        """Puts the trials of dead workers, and of those not heard of, back in the queue; counts the deaths."""
        units = {unit.identity: unit for unit in self._fleet.units() if not unit.status.is_active}
        dead: dict[int, Cause] = {}
        for worker in self._ledger.live_workers(self._options.study):
            is_gone = worker.host == socket.gethostname() and not is_running(worker.pid, worker.started)
            if worker.identity in units or is_gone:
                unit = units.get(worker.identity)
                code = None if unit is None else unit.exit_code
                how = "the worker is gone" if unit is None else f"the worker ended: {_ending(unit.status, code)}"
                self._ledger.worker_ended(worker.id, exit_code=code, reason=how)
                dead[worker.id] = Cause.KILLED
        lost = self._ledger.release_dead(self._options.study, dead) if dead else []
        if time.monotonic() - self._expired_at > EXPIRE_EVERY_S:
            self._expired_at = time.monotonic()
            lost += self._ledger.expire(self._options.study)
        self.deaths += len(dead)
        if lost:
            which = f"trial {lost[0]} lost its worker and goes" if len(lost) == 1 else f"{len(lost)} trials lost their worker and go"
            self._say(f"{which} back to the queue")

    def stop(self, hasty: Callable[[], bool], wait: Callable[[], None]) -> None:
        """Asks every worker to checkpoint and end, and kills those that do not.

        Args:
            hasty: Whether to wait no longer.
            wait: Called now and then meanwhile.
        """
        self._fleet.stop()
        deadline = time.monotonic() + STOP_GRACE_S
        while not self._fleet.wait(0.2) and time.monotonic() < deadline and not hasty():
            wait()
        self._fleet.kill()
        self._fleet.wait(5.0)
        self.mourn()

    def _spec(self) -> WorkerSpec:
        options = self._options
        busy = {unit.identity.rpartition("-a")[0] for unit in self._fleet.units() if unit.status.is_active}
        number = next(n for n in itertools.count() if f"{options.study}/worker-{n}" not in busy)
        identity = self._fleet.next_identity(number)
        name = identity.rpartition("/")[2]
        order = WorkerOrder(
            ledger=options.ledger,
            study=options.study,
            trainer=options.trainer,
            identity=identity,
            out=str(options.out.resolve()),
            n_workers=options.workers,
            lease_s=options.lease_s,
            paths=tuple(dict.fromkeys([str(pathlib.Path(__file__).resolve().parent.parent), str(pathlib.Path.cwd())])),
            provenance=tuple(options.provenance.items()),
        )
        path = options.folder / "workers" / f"{name}.order.json"
        order.write(path)
        return WorkerSpec(
            identity=identity,
            argv=(sys.executable, "-m", "orchestrator.worker", str(path.resolve())),
            log=options.folder / "logs" / f"{name}.log",
            folder=options.folder / "workers",
            env=(("PYTHONPATH", os.pathsep.join(order.paths)),),
        )


def _ending(status: UnitStatus, code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return status.value if code is None else f"{status.value}, exit code {code}"
