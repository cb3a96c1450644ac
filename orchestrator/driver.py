"""The loop in `launch.py`: fills the queue, keeps workers running, and stops when nothing is left to do.

It trains nothing and decides nothing about numbers: kill it at any moment and the next one goes on from the ledger.
"""

from __future__ import annotations

import collections
import enum
import itertools
import signal
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TypeAlias, cast

from orchestrator.contract import Trainer
from orchestrator.crew import Crew
from orchestrator.enqueue import plan_rows
from orchestrator.keys import Json
from orchestrator.ledger import Ledger, ProgressRow
from orchestrator.outcomes import Outlook
from orchestrator.plan import Planner
from orchestrator.planned import Outcomes, Part, Plan, PlannedTrial, PlannedUpstream
from orchestrator.progress import ArmProgress, Progress, View
from orchestrator.records import Phase, TrialState

TICK_S = 0.2
# Shares of the time that the driver counts the study's trials, plans them anew, and describes the plan: what these take grows
# with the study, to half a second at 100,000 trials, so they come more rarely there.
COUNTS, PLANS, DESCRIBES = 0.05, 0.05, 0.02
AT_ONCE = 1000  # arms that are planned anew together
Settled: TypeAlias = tuple[tuple[str, Phase, int, int, int, float], ...]
NEWS_EVERY_S = 2.0  # between two looks whether the study was launched again
LAUNCH = "launch"  # kind of the events that tell of a launcher, with the edition of its study file
MAX_DEATHS = 20  # of workers in a row without a trial finished: then something is wrong with the machine, not with a trial


class Ending(enum.Enum):
    """How a run ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"  # asked to stop; what workers could not checkpoint is done again from the last checkpoint
    STUCK = "stuck"  # workers die without getting anything done
    SUPERSEDED = "superseded"  # the study was edited and launched again: that launcher goes on with its trials


class Pace:
    """Keeps something that is done again and again to a share of the time."""

    def __init__(self, share: float) -> None:
        self._share, self._due = share, 0.0

    @property
    def is_due(self) -> bool:
        """It may be done again."""
        return time.monotonic() >= self._due

    @contextmanager
    def kept(self) -> Generator[None]:
        """Times what is done inside, and puts the next time off accordingly."""
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self._due = ended + (ended - started) * (1.0 / self._share - 1.0)


class Driver:
    """Runs one study to its end."""

    def __init__(
        self, planner: Planner, ledger: Ledger, view: View, describe: Callable[[Plan], Mapping[str, Json]], digest: str = ""
    ) -> None:
        """A driver of one study.

        Args:
            planner: Of its trials.
            ledger: Where they are kept.
            view: Shows progress.
            describe: The study's description for the ledger, given its newest plan.
            digest: Of the study file and the settings: a launcher with another one takes the study over.
        """
        self._planner, self._ledger, self._view, self._describe, self._digest = planner, ledger, view, describe, digest
        self._study, self._trainer = planner.study.name, planner.trainer
        self._signals = 0
        self._edition: int | None = None
        self._is_superseded = False
        self._heard, self._heard_at = 0, 0.0
        self._settled: Settled = ()
        self._outlook = Outlook(planner, ledger)
        self._plan: Plan | None = None
        self._moved: set[str] | None = None  # arms whose trials ended or reached a rung since the last plan; None: any may have
        self._counts, self._plans, self._describes = Pace(COUNTS), Pace(PLANS), Pace(DESCRIBES)

    @property
    def is_asked_to_stop(self) -> bool:
        """A signal came; whoever waits for something waits no longer."""
        return self._signals > 0

    def run(self, crew: Callable[[], Crew], *, on_start: Callable[[], None]) -> Ending:
        """Until every trial that can be planned is finished, or until asked to stop.

        Args:
            crew: Makes the workers; not called when there is nothing to do.
            on_start: Called when there is something to train, before the first worker starts.

        Raises:
            LaunchError: Workers cannot be started.
        """
        self._replan()
        self._heard = self._ledger.event(self._study, LAUNCH, edition=self._edition)
        self._ledger.request_stop(self._study, False)
        if not _left(self._ledger.progress(self._study)):
            return Ending.DONE
        with self._signals_caught(), crew() as workers, self._view.shown():
            on_start()
            ending = self._loop(workers)
            if ending is Ending.SUPERSEDED:
                self._view.say("the study file was edited and launched again; this launcher hands its trials over")
            if ending is Ending.INTERRUPTED:
                self._view.say("stopping: workers write their checkpoints (Ctrl-C again leaves at once)")
            workers.stop(lambda: self._signals > 1, lambda: self._show(workers, self._ledger.progress(self._study)))
        return ending

    def _loop(self, crew: Crew) -> Ending:
        deaths, waiting = 0, 0
        while True:
            if self._signals or self._ledger.stop_requested(self._study):
                return Ending.INTERRUPTED
            crew.mourn()
            if self._counts.is_due:
                with self._counts.kept():
                    rows = self._ledger.progress(self._study)
                if self._has_moved(rows):
                    deaths = crew.deaths
                rows = self._followed(rows)
                if self._is_superseded or self._is_launched_again():
                    return Ending.SUPERSEDED
                # What finished while the plan was made anew may have called for more: then it is made again.
                is_over = not _left(rows) and _settled(rows) == self._settled
                self._show(crew, rows, force=is_over)
                if is_over:
                    return Ending.DONE
                waiting = sum(row.waiting for row in rows)
            if crew.deaths - deaths > MAX_DEATHS:
                return Ending.STUCK
            crew.staff(waiting)
            time.sleep(TICK_S)

    def _has_moved(self, rows: Sequence[ProgressRow]) -> bool:
        """Whether a trial ended or reached a rung since the last look; notes which arm's."""
        settled = _settled(rows)
        if settled == self._settled:
            return False
        if self._moved is not None:
            self._moved |= {arm for arm, *_ in set(settled) ^ set(self._settled)}
        self._settled = settled
        return True

    def _followed(self, rows: Sequence[ProgressRow]) -> Sequence[ProgressRow]:
        """The rows after a plan made anew, where more may follow from them."""
        if self._moved is not None and not self._moved:
            return rows
        over = not _left(rows)
        if not over and not (self._plans.is_due and self._may_advance(rows)):
            return rows
        with self._plans.kept():
            self._replan()
            while over and self._moved and not self._is_superseded:
                self._replan()
            rows = self._ledger.progress(self._study)
            if over and not _left(rows) and not self._is_superseded:
                self._moved = None  # the last plan leaves nothing out
                self._replan()
                rows = self._ledger.progress(self._study)
        return rows

    def _may_advance(self, rows: Sequence[ProgressRow]) -> bool:
        """Whether more may follow from what just came in: an arm's whole batch, or a cohort's whole rung."""
        plan = self._planned()
        pending = {arm.arm.name for arm in plan.arms if arm.pending}
        busy = {row.arm for row in rows if row.phase is Phase.TUNE and row.running + row.waiting + row.paused}
        return bool(pending - busy) or any(_is_at_rung(rows, *cohort) for cohort in plan.cohorts)

    def _replan(self) -> None:
        """Plans again the arms that have moved, or all, and tells the ledger what has changed."""
        # Those of many arms in turn: what is told of all of them at once, and what the ledger makes of it, would fill memory.
        arms = None if self._moved is None else set(itertools.islice(sorted(self._moved), AT_ONCE))
        before, plan = self._plan, self._outlook.look(arms)
        describes = before is None or arms is None or self._describes.is_due
        with self._describes.kept() if describes else nullcontext():
            spec = self._describe(plan) if describes else None
            rows = plan_rows(self._study, self._trainer, plan, spec, self._digest, since=before)
            edition = self._ledger.insert_plan(rows, edition=self._edition)
        if edition is None:  # nothing was written: the study is another launcher's by now
            self._is_superseded = True
            return
        self._plan, self._edition = plan, edition
        self._moved = set() if self._moved is None or arms is None else self._moved - arms

    def _is_launched_again(self) -> bool:
        """Whether a launcher of a later edition has told of itself. One of the same edition works beside this one."""
        now = time.monotonic()
        if now - self._heard_at < NEWS_EVERY_S:
            return False
        self._heard_at = now
        news = self._ledger.events(self._study, self._heard)
        self._heard = max((event.id for event in news), default=self._heard)
        return any(event.kind == LAUNCH and cast(int, event.payload["edition"]) > cast(int, self._edition) for event in news)

    def _planned(self) -> Plan:
        assert self._plan is not None, "a run begins with a plan"
        return self._plan

    def _show(self, crew: Crew, rows: Sequence[ProgressRow], *, force: bool = False) -> None:
        self._view.update(progress_of(self._planned(), rows, workers=crew.active), force=force)

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


def progress_of(plan: Plan, rows: Sequence[ProgressRow], *, workers: int) -> Progress:
    """Where a study stands, arm by arm."""
    by_arm: dict[str, list[ProgressRow]] = collections.defaultdict(list)
    for row in rows:
        by_arm[row.arm].append(row)
    return Progress(arms=tuple(_progress(part, by_arm[part.name]) for part in plan.parts), workers=workers)


def unfinished(plan: Plan, outcomes: Outcomes) -> Sequence[PlannedTrial]:
    """Trials that are planned and not complete, diverged, or stopped by the study: what makes a run end with exit code 1."""
    good = (TrialState.COMPLETE, TrialState.DIVERGED)
    wanted = (trial for trial in plan.trials if not trial.dropped)
    return [trial for trial in wanted if trial.key not in outcomes or outcomes[trial.key].state not in good]


def _progress(part: Part, rows: Sequence[ProgressRow]) -> ArmProgress:
    steps, total = part.cell.steps, len(part.trials) + part.pending
    done = sum(row.done + row.failed for row in rows)
    busy = {row.phase for row in rows if row.running + row.waiting + row.paused}
    doing = "upstream" if isinstance(part, PlannedUpstream) else "tuning" if Phase.TUNE in busy else "replicates"
    return ArmProgress(
        arm=part.name,
        phase="done" if done >= total else doing,
        done=done,
        running=sum(row.running for row in rows),
        failed=sum(row.failed for row in rows),
        total=total,
        steps_done=done * steps + sum(row.running_steps for row in rows),
        steps_total=total * steps,
    )


def _settled(rows: Sequence[ProgressRow]) -> Settled:
    """What a new plan may follow from: how many have finished, and how many are at a rung and at which, by arm and phase.

    The steps tell rungs apart: trials that go on may all be at the next rung before anybody looks.
    """
    return tuple(
        (row.arm, row.phase, row.done, row.failed, row.paused, row.running_steps if row.paused and not row.running else 0)
        for row in rows
        if row.done + row.failed + row.paused
    )


def _left(rows: Sequence[ProgressRow]) -> bool:
    return any(row.running + row.waiting + row.paused for row in rows)


def _is_at_rung(rows: Sequence[ProgressRow], arms: Collection[str], phase: Phase) -> bool:
    """Every trial of a cohort that is still in has reported the rung."""
    own = [row for row in rows if row.phase is phase and row.arm in arms]
    return any(row.paused for row in own) and not any(row.running + row.waiting for row in own)


def prepare_data(trainer: Trainer, plan: Plan) -> None:
    """Makes every dataset readable, once, before anything is written and anybody trains.

    Raises:
        DataError: One cannot be prepared here.
    """
    for cell in plan.programs.values():
        trainer.prepare(cell.config)
