"""The workers of a run: started while trials wait, mourned when they die, stopped at the end."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from orchestrator.causes import Death, OomKills, of_death, oom_kills
from orchestrator.errors import OrchestratorError
from orchestrator.executors.base import Executor, UnitStatus, WorkerSpec
from orchestrator.executors.fleet import Fleet, Unit
from orchestrator.executors.process import is_running
from orchestrator.executors.store import UnitStore
from orchestrator.ledger import Ledger, WorkerRow
from orchestrator.order import WorkerOrder
from orchestrator.records import Cause, TrialState

LEASE_S = 20.0  # a worker renews four times in this span
LEASE = "TESSERA_LEASE_S"  # environment variable: another span, for file systems where a write may take longer
EXPIRE_EVERY_S = 2.0
STOP_GRACE_S = 30.0  # for workers to checkpoint when they are asked to stop


def lease_s() -> float:
    """Seconds until a lease that is not renewed expires.

    Raises:
        OrchestratorError: The environment says something else than a time.
    """
    said = os.environ.get(LEASE, "")
    try:
        seconds = float(said or LEASE_S)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds < math.inf:
        raise OrchestratorError(f"{LEASE} is not a time", found=said, expected="seconds, at least 0.1", fix=f"unset it: {LEASE_S:g} s")
    return seconds


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
    lease_s: float = dataclasses.field(default_factory=lease_s)

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
        self._oom_kills, self._marks = OomKills(oom_kills), dict[str, int]()
        self._ended: dict[str, Death] = {}
        self._unheard: dict[str, float] = {}
        self._silent: set[str] = set()
        self.deaths = 0

    def __enter__(self) -> Self:
        self._fleet.reattach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._fleet.close()

    @property
    def active(self) -> int:
        """Workers that run, as far as they are heard of."""
        return sum(1 for unit in self._fleet.units() if unit.status.is_active and unit.identity not in self._silent)

    def staff(self, waiting: int) -> None:
        """Starts workers while trials wait and there is room for more of them.

        Raises:
            LaunchError: One cannot be started.
        """
        for _ in range(min(self._options.workers - self.active, waiting)):
            spec = self._spec()
            self._marks[spec.identity] = self._oom_kills.mark()
            self._fleet.start(spec)

    def mourn(self) -> None:
        """Puts the trials of dead workers, and of those not heard of, back in the queue; counts the deaths."""
        units = {(unit.identity, unit.host, unit.pid): unit for unit in self._fleet.units()}
        for unit in units.values():
            if unit.identity not in self._ended and not unit.status.is_active:
                self._see_end(unit)
        dead, strangers = dict[int, Cause](), list[WorkerRow]()
        for worker in self._ledger.live_workers(self._options.study):
            unit = units.get((worker.identity, worker.host, worker.pid))
            if unit is not None and unit.identity not in self._ended:
                self._listen(worker, unit)
            elif unit is not None:
                self._bury(worker, self._ended[unit.identity], unit.exit_code, dead)
            elif worker.host == socket.gethostname() and not is_running(worker.pid, worker.started):
                strangers.append(worker)
        for worker in self._orphans(strangers):
            self._bury(worker, of_death(None, is_own=False, was_asked=False, ran_out_of_memory=False), None, dead)
        lost = self._ledger.release_dead(self._options.study, dead) if dead else []
        if time.monotonic() - self._expired_at > EXPIRE_EVERY_S:
            self._expired_at = time.monotonic()
            lost += self._ledger.expire(self._options.study)
        self._tell(lost)

    def stop(self, hasty: Callable[[], bool], wait: Callable[[], None]) -> None:
        """Asks every worker to checkpoint and end, and kills those that do not.

        Args:
            hasty: Whether to wait no longer.
            wait: Called now and then meanwhile.
        """
        self._fleet.stop()
        for unit in self._fleet.units():
            if unit.identity in self._silent:
                unit.kill()  # nothing that it could save is its own any more
        deadline = time.monotonic() + STOP_GRACE_S
        while not self._fleet.wait(0.2) and time.monotonic() < deadline and not hasty():
            wait()
        self._fleet.kill()
        self._fleet.wait(5.0)
        self.mourn()

    def _see_end(self, unit: Unit) -> None:
        """Notes what a worker died of, once: each kill of the kernel explains one death."""
        code, mark = unit.exit_code, self._marks.get(unit.identity)
        self._ended[unit.identity] = death = of_death(
            code,
            is_own=mark is not None,
            was_asked=unit.status is UnitStatus.STOPPED,
            ran_out_of_memory=mark is not None and code == -signal.SIGKILL and self._oom_kills.explain(mark),
        )
        if unit.status in (UnitStatus.FAILED, UnitStatus.LOST):
            self.deaths += 1
            self._say(f"{unit.identity}: {death.how}; its log is {unit.log}")

    def _orphans(self, dead: Sequence[WorkerRow]) -> Sequence[WorkerRow]:
        """Of dead workers that are not this launcher's, those whose launcher is dead too: one that lives says itself what they died of."""
        if not dead:
            return ()
        held = {record.spec.identity for record in UnitStore(self._options.folder / "workers").read() if record.is_held}
        return [worker for worker in dead if worker.identity not in held]

    def _bury(self, worker: WorkerRow, death: Death, code: int | None, dead: dict[int, Cause]) -> None:
        self._ledger.worker_ended(worker.id, exit_code=code, reason=death.how)
        if death.cause is not None:
            dead[worker.id] = death.cause
        elif worker.leases:
            self._ledger.release(worker.id, state=TrialState.PREEMPTED, reason=f"its worker ended: {death.how}")

    def _listen(self, worker: WorkerRow, unit: Unit) -> None:
        """Takes note of a worker whose process lives and that is not heard of, such as one that was stopped by a signal.

        It is asked to end, which it hears when it goes on, and another may take its place. One look is not enough: when the
        database comes back after a while, nobody was heard of.
        """
        if worker.seen_s <= self._options.lease_s:
            self._unheard.pop(unit.identity, None)
        elif unit.identity not in self._silent:
            since = self._unheard.setdefault(unit.identity, time.monotonic())
            if time.monotonic() - since > self._options.lease_s / 2:
                self._silent.add(unit.identity)
                self.deaths += 1
                self._say(f"{unit.identity}: not heard of for {worker.seen_s:.0f} s, though its process lives; another takes its place")
                unit.stop()

    def _tell(self, lost: Sequence[str]) -> None:
        """Says what became of trials whose workers are gone."""
        states = self._ledger.states(lost) if lost else {}
        failed = [key for key in lost if states[key] is TrialState.FAILED]
        again = [key for key in lost if key not in failed]
        if again:
            which = f"trial {again[0]} lost its worker and goes" if len(again) == 1 else f"{len(again)} trials lost their worker and go"
            self._say(f"{which} back to the queue")
        for key in failed:
            self._say(f"trial {key} failed: it ends its worker each time")

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
