"""What the driver holds: the workers of one study, started and found again through an XManager experiment.

Everything here returns at once but `wait` and `close`, and runs in the caller's thread, so that the driver's signal
handlers stay in charge. Workers have sessions of their own: a terminal's Ctrl-C reaches the launcher alone.
"""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from orchestrator.executors.base import Executor, UnitStatus, WorkerSpec
from orchestrator.executors.store import UnitStore
from orchestrator.executors.watch import GRACE_S

if TYPE_CHECKING:
    from orchestrator.executors.experiment import WorkerExperiment, WorkerUnit

_POLL_S = 0.05
_REAP_S = 1.0


class Unit:
    """One worker of a fleet. Its properties are as of now."""

    def __init__(self, work_unit: WorkerUnit) -> None:
        self._work_unit = work_unit

    @property
    def identity(self) -> str:
        return self._work_unit.identity

    @property
    def status(self) -> UnitStatus:
        return self._work_unit.status()

    @property
    def exit_code(self) -> int | None:
        """Exit code, or minus the signal that ended it. None while it runs, and when nobody saw it."""
        return None if self._work_unit.handle is None else self._work_unit.handle.exit_code

    @property
    def pid(self) -> int | None:
        return None if self._work_unit.handle is None else self._work_unit.handle.pid

    @property
    def host(self) -> str:
        return "" if self._work_unit.handle is None else self._work_unit.handle.host

    @property
    def log(self) -> pathlib.Path | None:
        """File that it writes to."""
        return None if self._work_unit.spec is None else self._work_unit.spec.log

    def stop(self) -> None:
        """Asks it to checkpoint and end."""
        self._work_unit.stop()

    def kill(self) -> None:
        """Ends it and all that it started."""
        if self._work_unit.handle is not None:
            self._work_unit.handle.kill()

    def __repr__(self) -> str:
        return f"<Unit {self.identity} {self.status}>"


class Fleet:
    """The workers of one study.

    Args:
        study: Name of the study; the title of the XManager experiment.
        folder: Where the records of its workers are kept: the same folder for every launcher of the study.
        executor: Where they run.
    """

    def __init__(self, *, study: str, folder: pathlib.Path, executor: Executor) -> None:
        self._study, self._folder, self._executor = study, folder, executor
        self._units: dict[str, Unit] = {}
        self._runner = asyncio.Runner()
        self._experiment: WorkerExperiment | None = None
        self._entered = False

    def next_identity(self, worker: int) -> str:
        """Takes the first identity of a worker that no launcher ever took: `study/worker-3-a2` for its second attempt.

        An identity names a unit for good, so a worker that is started again takes a new one, and so does another launcher
        that asks at the same moment.

        Raises:
            LaunchError: The folder cannot be written.
        """
        store = UnitStore(self._folder)
        attempts = (f"{self._study}/worker-{worker}-a{attempt}" for attempt in itertools.count(1))
        return next(identity for identity in attempts if store.take(identity))

    def start(self, spec: WorkerSpec) -> Unit:
        """Starts a worker. An identity that was used before gives the unit that has it, running or ended.

        Raises:
            LaunchError: It cannot be started. Later ones still can.
        """
        from orchestrator.executors.jobs import job_of

        experiment = self._opened()
        job = job_of(experiment, spec)

        async def add() -> WorkerUnit:
            if not self._entered:
                await experiment.__aenter__()
                self._entered = True
            return await cast(Any, experiment).add(job, identity=spec.identity)

        work_unit = self._runner.run(add())
        if work_unit.error is not None:
            raise work_unit.error
        return self._units.setdefault(spec.identity, Unit(work_unit))

    def units(self) -> Sequence[Unit]:
        """The workers that this launcher started or took over, in that order."""
        return tuple(self._units.values())

    def reattach(self) -> Sequence[Unit]:
        """Takes over the workers that a launcher left running which itself has ended."""
        if not UnitStore(self._folder).read():
            return ()
        experiment = self._opened()
        strangers = [unit for unit in experiment.work_units.values() if unit.identity not in self._units]
        found = {unit.identity: Unit(unit) for unit in strangers if experiment.take_over(unit)}
        self._units |= found
        return tuple(found.values())

    def stop(self) -> None:
        """Asks every worker to checkpoint and end."""
        for unit in self.units():
            unit.stop()

    def kill(self) -> None:
        """Ends every worker and all that they started."""
        for unit in self.units():
            unit.kill()

    def wait(self, timeout_s: float) -> bool:
        """Waits until every worker has ended; False when one still runs after that time."""
        deadline = time.monotonic() + timeout_s
        while any(unit.status.is_active for unit in self.units()):
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(_POLL_S, left))
        return True

    def close(self, *, grace_s: float = GRACE_S) -> None:
        """Leaves nothing running: stops what still runs, waits that long, and kills the rest. Harmless when repeated."""
        try:
            self.stop()
            self.wait(grace_s)
        finally:  # a Ctrl-C during the wait does not skip this
            self.kill()
            self.wait(_REAP_S)
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _opened(self) -> WorkerExperiment:
        """The experiment, made at the first need: a run that finds nothing to do does not import XManager.

        Entered when a worker is added and not before: XManager warns on the way out of one to which none was.
        """
        from orchestrator.executors.experiment import WorkerExperiment

        if self._experiment is None:
            self._experiment = WorkerExperiment(self._study, self._folder, self._executor)
        return self._experiment

    def _leave(self) -> None:
        """In the runner that entered it: XManager resets a context variable, in the context that set it."""
        if self._entered:
            self._entered = False
            self._runner.run(cast(Any, self._experiment).__aexit__(None, None, None))
        self._runner.close()
