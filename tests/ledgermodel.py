"""What the ledger must hold, in plain Python: the state machine of `conformance/test_ledger_machine.py` compares the two.

Every rule of the ledger is written here a second time, the slow and obvious way: no queue is kept, nothing is locked, and
every idle trial is settled after every call.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from orchestrator.ledger import ProgressRow
from orchestrator.records import Cause, Phase, TrialState

ARMS = {"base": Phase.REPLICATE, "tuned": Phase.TUNE}
BOUNDS = {Cause.RAISED: 2, Cause.OUT_OF_MEMORY: 2, Cause.CRASHED: 2, Cause.KILLED: 3, Cause.LOST: 3}
ENDED = (TrialState.COMPLETE, TrialState.DIVERGED)
Spot = tuple[str, str]  # trial, arm


@dataclasses.dataclass(slots=True, kw_only=True)
class Attempt:
    """One lease of a trial; `reason` is part of what the ledger says."""

    worker: int
    outcome: TrialState = TrialState.LEASED
    cause: Cause | None = None
    reason: str = ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Trial:
    """A trial; the fence of an attempt is its number, from 1."""

    key: str
    signature: str
    state: TrialState = TrialState.PLANNED
    reason: str = ""
    live: bool = False
    step: int = 0
    furthest: int = 0
    losses: int = 0
    retried: int = 0
    furthered: int = 0
    curve: dict[int, float] = dataclasses.field(default_factory=dict[int, float])
    attempts: list[Attempt] = dataclasses.field(default_factory=list[Attempt])

    @property
    def fence(self) -> int:
        return len(self.attempts)

    @property
    def holder(self) -> int | None:
        return self.attempts[-1].worker if self.state is TrialState.LEASED else None

    def is_live(self, worker: int, fence: int) -> bool:
        """Whether the worker holds it under this fence, and in time."""
        return self.holder == worker and self.fence == fence and self.live

    def end(self, outcome: TrialState, then: TrialState, reason: str, cause: Cause | None = None) -> None:
        """Ends the attempt."""
        last = self.attempts[-1]
        last.outcome, last.reason, last.cause = outcome, reason, cause
        self.state, self.reason = then, reason

    def blamed(self, cause: Cause) -> int:
        """Attempts that ended by the cause and still count."""
        since = self.retried + 1 if cause is Cause.RAISED else max(self.retried + 1, self.furthered)
        return sum(attempt.cause is cause for attempt in self.attempts[since - 1 :])


@dataclasses.dataclass(slots=True, kw_only=True)
class Place:
    """A trial's place in a study."""

    position: int
    until: int | None = None
    dropped: str = ""
    orphaned: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class Study:
    """A study: its places and whose it is."""

    edition: int
    digest: str
    places: dict[Spot, Place] = dataclasses.field(default_factory=dict[Spot, Place])
    stop: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class Worker:
    """A worker of one study."""

    study: str
    identity: str
    signature: str = ""
    ended: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class Report:
    """One entry of a `record` call."""

    key: str
    fence: int
    step: int
    value: float | None
    outcome: TrialState | None


class World:
    """All that a ledger holds."""

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}
        self.studies: dict[str, Study] = {}
        self.workers: dict[int, Worker] = {}
        self.claims: dict[str, tuple[str, bool]] = {}  # study to the holder of its role, in time

    # What the studies want

    def insert(self, study: str, places: Mapping[Spot, Place], signatures: Mapping[str, str], *, orphan_others: bool) -> None:
        """The plan of a study, or more of it."""
        known = self.studies[study].places
        if orphan_others:
            for place in known.values():
                place.orphaned = True
        for spot, place in places.items():
            self.trials.setdefault(spot[0], Trial(key=spot[0], signature=signatures[spot[0]]))
            known[spot] = dataclasses.replace(place, orphaned=False)
        self.settle()

    def settle(self) -> None:
        """Every idle trial goes where its studies want it."""
        for trial in self.trials.values():
            if not (trial.state.is_waiting or trial.state in (TrialState.PAUSED, TrialState.STOPPED)):
                continue
            mine = [place for _, spot, place in self.live_places() if spot[0] == trial.key]
            if any(wants(place, trial) for place in mine):
                trial.state = trial.state if trial.state.is_waiting else TrialState.PLANNED
            elif any(not place.dropped for place in mine):
                trial.state = TrialState.PAUSED
            elif mine:
                trial.state, trial.reason = TrialState.STOPPED, min(place.dropped for place in mine)

    def live_places(self) -> Iterator[tuple[str, Spot, Place]]:
        """Places of every study, orphaned ones left out."""
        for name, study in self.studies.items():
            yield from ((name, spot, place) for spot, place in study.places.items() if not place.orphaned)

    def places(self, study: str) -> list[tuple[Spot, Place]]:
        """The study's, in the order of its plan."""
        return sorted(((spot, place) for name, spot, place in self.live_places() if name == study), key=lambda item: item[1].position)

    def queue(self, study: str) -> list[tuple[Trial, Place]]:
        """The study's places whose trials wait and may go on, in the order of its plan."""
        rows = [(self.trials[spot[0]], place) for spot, place in self.places(study)]
        return [(trial, place) for trial, place in rows if trial.state.is_waiting and wants(place, trial)]

    # Leases

    def held(self, worker: int) -> list[Trial]:
        """Trials that the worker holds, in time or not."""
        return [trial for trial in self.trials.values() if trial.holder == worker]

    def choose(self, worker: int) -> str | None:
        """The signature that a worker is given: one that no other is on, else that of the longest queue."""
        study = self.workers[worker].study
        queues: dict[str, list[int]] = {}
        for trial, place in self.queue(study):
            queues.setdefault(trial.signature, []).append(place.position)
        others = [other for other, row in self.workers.items() if row.study == study and other != worker]
        taken = {trial.signature for other in others for trial in self.held(other) if trial.live}
        if free := [signature for signature in queues if signature not in taken]:
            return min(free, key=lambda signature: min(queues[signature]))
        return max(queues, key=lambda signature: (len(queues[signature]), -min(queues[signature])), default=None)

    def lease(self, worker: int, n: int, signature: str | None, *, lives: bool) -> list[tuple[str, int, int | None]]:
        """Keys, fences and rungs of what the worker is given."""
        row, queue = self.workers[worker], self.queue(self.workers[worker].study)
        signature = signature or self.choose(worker)
        if row.ended or signature is None:
            return []
        holds = self.held(worker)
        picked: list[Trial] = []
        for trial, _ in queue:
            company = [*holds, *picked, trial]
            limit = min(company_of(other.losses, len(holds) + n) for other in company)
            if trial.signature == signature and trial not in picked and len(picked) < n and len(company) <= limit:
                picked.append(trial)
        rungs = {trial.key: [place.until for other, place in queue if other is trial] for trial in picked}
        for trial in picked:
            trial.attempts.append(Attempt(worker=worker))
            trial.state, trial.live, trial.reason, row.signature = TrialState.LEASED, lives, "", signature
        return [(trial.key, trial.fence, _furthest(rungs[trial.key])) for trial in picked]

    def record(self, worker: int, reports: Sequence[Report]) -> dict[str, bool]:
        """Which trials' reports stand."""
        kept = {report.key for report in reports if self.trials[report.key].is_live(worker, report.fence)}
        said = {report.key: report.key in kept for report in reports}
        for report in reports:
            trial = self.trials[report.key]
            if report.key in kept:
                self._keep(trial, report)
            elif report.outcome is not None and 0 < report.fence <= trial.fence:
                attempt = trial.attempts[report.fence - 1]
                said[report.key] |= attempt.worker == worker and attempt.outcome is report.outcome
        return said

    def _keep(self, trial: Trial, report: Report) -> None:
        trial.curve = {
            step: value for step, value in trial.curve.items() if step < report.step or (report.value is None and step == report.step)
        }
        if report.value is not None:
            trial.curve[report.step] = report.value
        trial.step = report.step
        if report.step > trial.furthest:
            trial.furthest, trial.losses, trial.furthered = report.step, 0, trial.fence
        if report.outcome is not None:
            trial.end(report.outcome, report.outcome, report.outcome.value)

    def fail(self, worker: int, key: str, fence: int, cause: Cause) -> TrialState | None:
        """An attempt raised."""
        trial = self.trials[key]
        if not trial.is_live(worker, fence):
            return None
        then = TrialState.FAILED if trial.blamed(cause) + 1 >= BOUNDS[cause] else TrialState.PLANNED
        trial.end(TrialState.FAILED, then, f"it failed: {cause}", cause)
        self.settle()
        return then

    def park(self, worker: int, keys: Collection[str]) -> int:
        """Lanes wait at a rung."""
        mine = [trial for trial in self.held(worker) if trial.key in keys and trial.live]
        for trial in mine:
            trial.end(TrialState.PAUSED, TrialState.PAUSED, "rung")
        self.settle()
        return len(mine)

    def release(self, worker: int, keys: Collection[str] | None, state: TrialState) -> int:
        """A worker hands back."""
        mine = [trial for trial in self.held(worker) if keys is None or trial.key in keys]
        for trial in mine:
            trial.end(state, state, "told to", Cause.PREEMPTED if state is TrialState.PREEMPTED else None)
        self.settle()
        return len(mine)

    def expire(self, study: str) -> set[str]:
        """Leases that are over."""
        own = {spot[0] for spot in self.studies[study].places}
        late = [trial for trial in self.trials.values() if trial.holder is not None and not trial.live and trial.key in own]
        return self._lose(late, Cause.LOST)

    def bury(self, worker: int, cause: Cause) -> set[str]:
        """A worker died."""
        return self._lose(self.held(worker), cause)

    def _lose(self, lost: Sequence[Trial], cause: Cause) -> set[str]:
        leases = Counter(trial.holder for trial in self.trials.values())  # before any of them ends
        for trial in lost:
            deaths = trial.blamed(cause) + 1
            fails = cause is not Cause.ORPHANED and deaths >= BOUNDS[cause] and leases[trial.holder] == 1
            trial.losses += cause is not Cause.ORPHANED
            outcome = TrialState.FAILED if fails else TrialState.LOST
            trial.end(outcome, outcome, f", {deaths} times" if fails else "", cause)
        self.settle()
        return {trial.key for trial in lost}

    def retry(self, study: str) -> int:
        """Failed trials wait again."""
        own = {spot[0] for spot, _ in self.places(study)}
        failed = [trial for trial in self.trials.values() if trial.state is TrialState.FAILED and trial.key in own]
        for trial in failed:
            trial.state, trial.reason, trial.losses, trial.retried = TrialState.PLANNED, "", 0, trial.fence
        self.settle()
        return len(failed)

    # What is told

    def seen(self, spot: Spot, place: Place) -> TrialState:
        """A trial's state as a study sees it."""
        trial = self.trials[spot[0]]
        if trial.state in (*ENDED, TrialState.FAILED):
            return trial.state
        if place.dropped:
            return TrialState.STOPPED
        return trial.state if wants(place, trial, orphans=True) else TrialState.PAUSED

    def counts(self, study: str) -> dict[tuple[str, Phase], dict[TrialState, int]]:
        """As `Ledger.counts`, in its order of arms."""
        found: dict[tuple[str, Phase], Counter[TrialState]] = {}
        for spot, place in self.places(study):
            found.setdefault((spot[1], ARMS[spot[1]]), Counter())[self.seen(spot, place)] += 1
        return {arm: dict(counted) for arm, counted in found.items()}

    def progress(self, study: str) -> list[ProgressRow]:
        """As `Ledger.progress`."""
        return [self._line(study, arm, Counter(counted)) for (arm, _), counted in self.counts(study).items()]

    def _line(self, study: str, arm: str, n: Counter[TrialState]) -> ProgressRow:
        going = (TrialState.LEASED, TrialState.PAUSED)
        steps = [self.trials[spot[0]].step for spot, place in self.places(study) if spot[1] == arm and self.seen(spot, place) in going]
        return ProgressRow(
            arm=arm,
            phase=ARMS[arm],
            done=n[TrialState.COMPLETE] + n[TrialState.STOPPED] + n[TrialState.DIVERGED],
            running=n[TrialState.LEASED],
            waiting=n[TrialState.PLANNED] + n[TrialState.PREEMPTED] + n[TrialState.LOST],
            paused=n[TrialState.PAUSED],
            failed=n[TrialState.FAILED],
            running_steps=sum(steps),
        )

    def unfinished(self, study: str) -> int:
        """Places that wait, and trials that the study's workers hold."""
        return len(self.queue(study)) + sum(len(self.held(worker)) for worker, row in self.workers.items() if row.study == study)

    def unwanted(self, worker: int) -> set[str]:
        """What the worker holds and no study has any more."""
        wanted = {spot[0] for _, spot, place in self.live_places() if not place.dropped}
        return {trial.key for trial in self.held(worker)} - wanted

    def troubles(self, study: str) -> set[tuple[str, int, Cause, str]]:
        """Trial, attempt, cause and worker of each attempt that ended before its time."""
        own = {spot[0] for spot in self.studies[study].places}
        return {
            (key, fence, attempt.cause, self.workers[attempt.worker].identity)
            for key in own
            for fence, attempt in enumerate(self.trials[key].attempts, 1)
            if attempt.cause is not None
        }


def wants(place: Place, trial: Trial, *, orphans: bool = False) -> bool:
    """Whether the study wants the trial to train on from where it stands."""
    return (orphans or not place.orphaned) and not place.dropped and (place.until is None or trial.step < place.until)


def company_of(losses: int, lanes: int) -> int:
    """How many trials, itself included, may share a worker with one that was lost so often: all, all, half, a quarter, … one."""
    return max(1, lanes // 2 ** max(0, losses - 1))


def _furthest(rungs: Sequence[int | None]) -> int | None:
    return None if None in rungs else max(rung for rung in rungs if rung is not None)
