"""XManager's experiment over our executors: a work unit is a worker, and its identity names it for good.

Built on the public `xm` API alone, by the methods that "each implementation of the XManager API should override".
XManager's own `xm_local` is not used: it cannot stop, query or find a local unit again, leaves behind the processes it
started, refuses every `add` after one that failed, and takes 2.5 s and a database in the home directory to import.

Importing this module costs about 0.2 s of CPU, so only what starts or finds workers imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, cast

from absl import flags
from xmanager import xm  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.errors import LaunchError
from orchestrator.executors.base import Executor, Handle, UnitStatus, WorkerSpec
from orchestrator.executors.jobs import packager, spec_of
from orchestrator.executors.store import UnitRecord, UnitStore, this_launcher

_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerStatus(xm.ExperimentUnitStatus):
    """A unit's status, as XManager asks for it."""

    status: UnitStatus
    text: str

    @property
    def is_active(self) -> bool:
        return self.status.is_active

    @property
    def is_completed(self) -> bool:
        return self.status is UnitStatus.SUCCEEDED

    @property
    def is_failed(self) -> bool:
        return self.status in (UnitStatus.FAILED, UnitStatus.LOST)

    @property
    def message(self) -> str:
        return self.text


class WorkerUnit(xm.WorkUnit):
    """One worker.

    Attributes:
        handle: The worker, once it was started; None when it could not be, and for one that was never seen.
        spec: What was asked for, once it was.
        error: Why it could not be started.
        number: Its work unit id.
        record: What an earlier launcher, or another one at this moment, wrote of it.
    """

    handle: Handle | None = None
    spec: WorkerSpec | None = None
    error: LaunchError | None = None
    number: int = 0
    record: UnitRecord | None = None

    @property
    def work_unit_id(self) -> int:
        return self.number

    @property
    def experiment_unit_name(self) -> str:
        return f"{self.experiment_id}_{self.number}"

    @property
    def launched_jobs(self) -> list[xm.LaunchedJob]:
        if self.handle is None or self.spec is None:
            return []
        return [xm.LaunchedJob(name=self.identity, address=f"{self.handle.host}:{self.handle.pid}", logs=str(self.spec.log))]

    def status(self) -> UnitStatus:
        """Where the worker stands. LOST without a handle: it was meant to start, and nothing of it was found."""
        if self.handle is not None:
            return self.handle.status()
        return UnitStatus.FAILED if self.error is not None else UnitStatus.PENDING if self.spec is None else UnitStatus.LOST

    def get_status(self) -> WorkerStatus:
        status = self.status()
        code = None if self.handle is None else self.handle.exit_code
        return WorkerStatus(
            status, str(self.error) if self.error else status.value if code is None else f"{status.value}, exit code {code}"
        )

    def stop(self, *, mark_as_failed: bool = False, mark_as_completed: bool = False, message: str | None = None) -> None:
        """Asks the worker to checkpoint and end. What it ended as is what it did, so no mark is kept."""
        del mark_as_failed, mark_as_completed, message
        if self.handle is not None:
            self.handle.stop()

    async def _launch_job_group(self, job_group: xm.JobGroup, args_view: Mapping[str, Any], identity: str) -> None:
        """Starts the worker, unless it was started before.

        Never raises for a worker that cannot be started. XManager would log that, raise it from `add` and raise it
        once more when the experiment is left; so it becomes the unit's status, and `Fleet` raises it once.
        """
        del args_view, identity
        if self.spec is not None:
            return
        experiment = cast(WorkerExperiment, self.experiment)
        try:
            self.spec = spec_of(self.identity, job_group)
            self.handle = experiment.launch(self.number, self.spec)
        except LaunchError as error:
            self.error = error
            experiment.drop(self)

    async def _wait_until_complete(self) -> None:
        while (status := self.status()).is_active:
            await asyncio.sleep(_POLL_S)
        text = f"{self.identity}: {self.get_status().message}"
        if status is UnitStatus.STOPPED:
            raise xm.ExperimentUnitNotCompletedError(text, work_unit=self)
        if status is not UnitStatus.SUCCEEDED:
            raise xm.ExperimentUnitFailedError(text, work_unit=self)


class WorkerExperiment(xm.Experiment):
    """The workers of one study. Enter it with `async with`; it waits for no worker when it is left.

    `add` needs an identity. Adding an identity again returns the unit that has it, whatever became of it and whichever
    launcher started it.
    """

    _async_packager = packager

    def __init__(self, title: str, folder: pathlib.Path, executor: Executor) -> None:
        parse_flags()
        self.title, self._executor, self._store = title, executor, UnitStore(folder)
        self._units: dict[str, WorkerUnit] = {}
        for record in self._store.read():
            # Two launchers at once count on from the same number; here each unit needs one of its own.
            number = max(record.number, 1 + max((unit.number for unit in self._units.values()), default=0))
            unit = self._new_unit(number, record.spec.identity)
            unit.spec, unit.record = record.spec, record
            unit.handle = executor.attach(record.handle) if record.handle else executor.find(record.spec)

    @property
    def experiment_id(self) -> int:
        """A number made from the title: the same for every launcher of one study."""
        return int(hashlib.sha256(self.title.encode()).hexdigest()[:12], 16)

    @property
    def work_units(self) -> Mapping[int, WorkerUnit]:
        return {unit.number: unit for unit in self._units.values()}

    @property
    def work_unit_count(self) -> int:
        return len(self._units)

    def launch(self, number: int, spec: WorkerSpec) -> Handle:
        """Starts a worker between two records: that it is meant to start, and how to hold it.

        Raises:
            LaunchError: It cannot be started.
        """
        intent = UnitRecord(number=number, spec=spec, launcher=this_launcher(), handle="")
        self._store.write(intent)
        handle = self._executor.launch(spec)
        with contextlib.suppress(LaunchError):  # it runs, and the next launcher finds it without this
            self._store.write(dataclasses.replace(intent, handle=handle.to_json()))
        return handle

    def take_over(self, unit: WorkerUnit) -> bool:
        """Makes a running unit this launcher's own. False when it is not running, or its own launcher is."""
        if unit.record is None or unit.handle is None or unit.record.is_held or not unit.status().is_active:
            return False
        unit.record = dataclasses.replace(unit.record, launcher=this_launcher(), handle=unit.handle.to_json())
        self._store.write(unit.record)
        return True

    def drop(self, unit: WorkerUnit) -> None:
        """Forgets a unit that could not be started, so that its identity can be used once that is mended."""
        self._units.pop(unit.identity, None)
        self._store.forget(unit.identity)

    def _new_unit(self, number: int, identity: str, args: Mapping[str, Any] | None = None, role: Any = None) -> WorkerUnit:
        unit = WorkerUnit(self, self._create_task, args, role or xm.WorkUnitRole(), identity)
        unit.number = number
        self._units[identity] = unit
        return unit

    def _create_experiment_unit(
        self, args: Mapping[str, Any] | None, role: xm.ExperimentUnitRole, identity: str
    ) -> asyncio.Future[WorkerUnit]:
        if not identity:
            raise ValueError("a worker is added with an identity, by which a later launcher finds it")
        unit = self._units.get(identity)
        if unit is None:
            unit = self._new_unit(1 + max((unit.number for unit in self._units.values()), default=0), identity, args, role)
        future: asyncio.Future[WorkerUnit] = self._event_loop.create_future()
        future.set_result(unit)
        return future

    def _get_experiment_unit(
        self, experiment_id: int, identity: str, role: xm.ExperimentUnitRole, args: Mapping[str, Any] | None = None
    ) -> asyncio.Future[WorkerUnit]:
        del experiment_id
        if identity not in self._units:
            raise xm.NotFoundError(identity)
        return self._create_experiment_unit(args, role, identity)

    def _should_reload_experiment_unit(self, role: xm.ExperimentUnitRole) -> bool:
        del role
        return False


def parse_flags() -> None:
    """Parses absl's flags with none given, since XManager reads them; the command line is not theirs."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1] or ["launch.py"])
