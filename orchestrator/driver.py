"""The loop in `launch.py`: fills the queue, keeps workers running, and stops when nothing is left to do.

It trains nothing and decides nothing about numbers: kill it at any moment and the next one goes on from the ledger.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import itertools
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from orchestrator.context import planned
from orchestrator.contract import Trainer
from orchestrator.executors.base import Executor, UnitStatus, WorkerSpec
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.process import is_running
from orchestrator.ledger import CellRow, Ledger, MemberRow, PlanRows, ProgressRow, TrialRow
from orchestrator.plan import Outcomes, Plan, PlannedTrial, Planner
from orchestrator.progress import ArmProgress, Progress, View
from orchestrator.records import Phase, TrialState
from orchestrator.spec import spec_of
from orchestrator.worker import WorkerOrder

TICK_S = 0.2
LEASE_S = 20.0  # a worker renews four times in this span
STOP_GRACE_S = 30.0  # for workers to checkpoint when they are asked to stop
MAX_RESTARTS = 20  # of workers in a row without a trial finished: then something is wrong with the machine


class Ending(enum.Enum):
    """How a run ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"  # asked to stop, workers had time to checkpoint
    ABANDONED = "abandoned"  # asked twice, workers were killed
    STUCK = "stuck"  # workers die without getting anything done


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a study is run here.

    Attributes:
        ledger: URL or path of the ledger.
        out: Folder for the ledger, the trials' folders, logs and reports.
        workers: Workers at once, at most.
        profile: Name of the profile; empty if the study has none.
        provenance: Of the launcher.
        lease_s: Seconds until a lease that is not renewed expires.
    """

    ledger: str
    out: pathlib.Path
    workers: int
    profile: str
    provenance: Mapping[str, str]
    lease_s: float = LEASE_S


class Driver:
    """Runs one study to its end."""

    def __init__(self, planner: Planner, trainer: Trainer, ledger: Ledger, executor: Executor, view: View, options: RunOptions) -> None:
        self.planner, self.trainer, self.ledger, self.executor, self.view, self.options = planner, trainer, ledger, executor, view, options
        self.study = planner.study.name
        self.folder = options.out / self.study
        self._signals = 0
        self._idle_restarts = 0
        self._finished = -1
        self._plan: Plan
        self._outcomes: Outcomes

    def run(self, *, on_start: Callable[[], None]) -> Ending:
        """Until every trial that can be planned is finished, or until asked to stop.

        Args:
            on_start: Called when there is something to train, before the first worker starts.

        Raises:
            DataError: The data cannot be prepared.
            LaunchError: Workers cannot be started.
        """
        self._replan()
        self.ledger.request_stop(self.study, False)
        if not self._left():
            return Ending.DONE
        self._prepare()
        fleet = Fleet(study=self.study, folder=self.folder / "workers", executor=self.executor)
        with fleet, self._signals_caught(), self.view.shown():
            fleet.reattach()
            on_start()
            ending = self._loop(fleet)
            self._end(fleet, ending)
        self._replan()
        return ending

    def _loop(self, fleet: Fleet) -> Ending:
        while self._left():
            if self._signals:
                return Ending.INTERRUPTED
            if self.ledger.stop_requested(self.study):
                return Ending.INTERRUPTED
            self._mourn(fleet)
            if self._idle_restarts > MAX_RESTARTS:
                return Ending.STUCK
            self._staff(fleet)
            self.view.update(self.progress(fleet))
            time.sleep(TICK_S)
            self._advance()
        self.view.update(self.progress(fleet), force=True)
        return Ending.DONE

    def _advance(self) -> None:
        """Plans again when trials have finished: replicates follow tuning, an adaptive sampler follows its results."""
        finished = self._count_finished()
        if finished != self._finished:
            self._idle_restarts = 0
            self._replan()

    def _replan(self) -> None:
        plan, outcomes = planned(self.planner, self.ledger)
        self.ledger.insert_plan(self._rows(plan))
        self._plan, self._outcomes = plan, outcomes
        self._finished = self._count_finished()

    def _count_finished(self) -> int:
        return sum(row.done + row.failed for row in self.ledger.progress(self.study))

    def _left(self) -> bool:
        return any(not self._outcomes[trial.key].state.is_terminal if trial.key in self._outcomes else True for trial in self._plan.trials)

    def _rows(self, plan: Plan) -> PlanRows:
        study = self.planner.study
        trials = tuple(plan.trials)
        cells = {trial.cell.key: trial.cell for trial in trials}
        return PlanRows(
            study=study.name,
            spec=spec_of(study, self.trainer, self.planner.base, self.options.profile, plan, self.options.provenance),
            cells=tuple(
                CellRow(
                    key=cell.key,
                    trainer=self.trainer.name,
                    version=self.trainer.version,
                    config=cell.config,
                    signature=cell.signature,
                    cost=cell.cost,
                )
                for cell in cells.values()
            ),
            trials=tuple(TrialRow(key=trial.key, cell=trial.cell.key, seed=trial.seed) for trial in trials),
            members=tuple(_member(trial) for trial in trials),
        )

    def _prepare(self) -> None:
        """Makes every dataset readable, once, before anybody trains."""
        cells = {trial.cell.signature: trial.cell for trial in self._plan.trials}
        for cell in cells.values():
            self.trainer.prepare(cell.config)

    def _staff(self, fleet: Fleet) -> None:
        """Starts workers while trials wait and there is room for more of them."""
        self.ledger.expire(self.study)
        active = sum(1 for unit in fleet.units() if unit.status.is_active)
        wanted = min(self.options.workers, active + sum(row.waiting for row in self.ledger.progress(self.study)))
        for _ in range(wanted - active):
            fleet.start(self._worker_spec(fleet))

    def _worker_spec(self, fleet: Fleet) -> WorkerSpec:
        taken = {unit.identity.rpartition("-a")[0] for unit in fleet.units() if unit.status.is_active}
        number = next(n for n in itertools.count() if f"{self.study}/worker-{n}" not in taken)
        identity = fleet.next_identity(number)
        name = identity.rpartition("/")[2]
        order = WorkerOrder(
            ledger=self.options.ledger,
            study=self.study,
            trainer=self.trainer.name,
            identity=identity,
            out=str(self.options.out.resolve()),
            n_workers=self.options.workers,
            lease_s=self.options.lease_s,
            paths=tuple(dict.fromkeys([str(pathlib.Path(__file__).resolve().parent.parent), str(pathlib.Path.cwd())])),
            provenance=tuple(self.options.provenance.items()),
        )
        path = self.folder / "workers" / f"{name}.order.json"
        order.write(path)
        return WorkerSpec(
            identity=identity,
            argv=(sys.executable, "-m", "orchestrator.worker", str(path.resolve())),
            log=self.folder / "logs" / f"{name}.log",
            folder=self.folder / "workers",
            env=(("PYTHONPATH", os.pathsep.join(order.paths)),),
        )

    def _mourn(self, fleet: Fleet) -> None:
        """Takes the leases of workers that have ended by themselves; the one trial too many is given up, not the study."""
        ended = {unit.identity: unit for unit in fleet.units() if not unit.status.is_active}
        dead: list[int] = []
        for worker in self.ledger.live_workers(self.study):
            here = worker.host == socket.gethostname()
            if worker.identity in ended or (here and not is_running(worker.pid, worker.started)):
                dead.append(worker.id)
                unit = ended.get(worker.identity)
                reason = "the worker is gone" if unit is None else f"the worker ended: {_ending_of(unit.status, unit.exit_code)}"
                self.ledger.worker_ended(worker.id, exit_code=None if unit is None else unit.exit_code, reason=reason)
        if dead:
            self._idle_restarts += len(dead)
            for key in self.ledger.release_dead(self.study, dead):
                self.view.say(f"trial {key} lost its worker and goes back to the queue")

    def _end(self, fleet: Fleet, ending: Ending) -> None:
        """Stops the workers: they checkpoint; a second signal, or too long a wait, kills them."""
        if ending is Ending.INTERRUPTED:
            self.view.say("stopping: workers write their checkpoints (press Ctrl-C again to leave at once)")
        fleet.stop()
        deadline = time.monotonic() + STOP_GRACE_S
        while not fleet.wait(TICK_S) and time.monotonic() < deadline and self._signals < 2:
            self.view.update(self.progress(fleet))
        fleet.kill()
        fleet.wait(5.0)
        self._mourn(fleet)

    @contextmanager
    def _signals_caught(self) -> Generator[None]:
        def caught(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._signals += 1

        former = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @property
    def was_asked_twice(self) -> bool:
        """The user pressed Ctrl-C again and left at once."""
        return self._signals > 1

    def progress(self, fleet: Fleet | None = None) -> Progress:
        """Where the study stands now."""
        rows = self.ledger.progress(self.study)
        by_arm: dict[str, list[ProgressRow]] = collections.defaultdict(list)
        for row in rows:
            by_arm[row.arm].append(row)
        arms: list[ArmProgress] = []
        for arm in self._plan.arms:
            mine = by_arm[arm.arm.name]
            steps = arm.cell.steps
            total = arm.tune_trials + arm.replicates
            done = sum(row.done + row.failed for row in mine)
            tuning = any(row.phase is Phase.TUNE and row.running + row.waiting for row in mine)
            arms.append(
                ArmProgress(
                    arm=arm.arm.name,
                    phase="done" if done >= total else "tuning" if tuning else "replicates",
                    done=done,
                    running=sum(row.running for row in mine),
                    failed=sum(row.failed for row in mine),
                    total=total,
                    steps_done=done * steps + sum(row.running_steps for row in mine),
                    steps_total=total * steps,
                )
            )
        active = 0 if fleet is None else sum(1 for unit in fleet.units() if unit.status.is_active)
        return Progress(arms=tuple(arms), workers=active)


def _member(trial: PlannedTrial) -> MemberRow:
    return MemberRow(trial=trial.key, arm=trial.arm, phase=trial.phase, index=trial.index, position=trial.position, point=trial.point)


def _ending_of(status: UnitStatus, code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return status.value if code is None else f"{status.value}, exit code {code}"


def unfinished(plan: Plan, outcomes: Outcomes) -> Sequence[PlannedTrial]:
    """Trials that are planned and not complete, stopped or diverged: what makes a run end with exit code 1."""
    good = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED)
    return [trial for trial in plan.trials if trial.key not in outcomes or outcomes[trial.key].state not in good]
