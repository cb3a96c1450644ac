"""How a study was run: where the time of its workers went, how full their packs were, and how good the plan's estimate was."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from orchestrator.records import PackRecord, RunRecord, StudyRecord, WorkerRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTime:
    """Seconds of workers, by what they did.

    Attributes:
        starting_s: From the start of the run, or of a later worker's first lease, to the first program.
        compiling_s: Before the first step of a pack could start.
        training_s: In optimizer steps.
        evaluating_s: In evaluations.
        other_s: In reports, checkpoints, and lanes that enter and leave.
        waiting_s: Without a pack: nothing to lease, or on the way from one pack to the next.
        lost_s: After its last whole pack, of workers that died.
    """

    starting_s: float = 0.0
    compiling_s: float = 0.0
    training_s: float = 0.0
    evaluating_s: float = 0.0
    other_s: float = 0.0
    waiting_s: float = 0.0
    lost_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))

    def __add__(self, more: WorkerTime) -> WorkerTime:
        names = [field.name for field in dataclasses.fields(WorkerTime)]
        return WorkerTime(**{name: getattr(self, name) + getattr(more, name) for name in names})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgramUse:
    """How one program was run.

    Attributes:
        signature: Of the program.
        arms: Whose trials it trained, in the order of the study.
        packings: Strategy and places of its packs, each once.
        packs: How many there were.
        workers: That trained them, and so compiled it.
        lane_steps: Optimizer steps, over all lanes.
        compile_s: Spent on compiling it, by all workers.
        lane_step_s: Seconds of a worker for a step of one lane, without evaluations; NaN without a step.
    """

    signature: str
    arms: tuple[str, ...]
    packings: tuple[tuple[str, int], ...]
    packs: int
    workers: int
    lane_steps: int
    compile_s: float
    lane_step_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a study was run, over all of its runs.

    Attributes:
        time: Of all workers.
        lane_s: Place-seconds in which a place of a pack held a lane.
        place_s: Place-seconds in which one could have held one.
        packs: Trained to their end.
        workers: That trained them.
        programs: In the order in which they were first used.
    """

    time: WorkerTime
    lane_s: float
    place_s: float
    packs: int
    workers: int
    programs: tuple[ProgramUse, ...]

    @property
    def occupied(self) -> float | None:
        """Share of the places' time in which they held a lane, 0 to 1; None where there was none to hold."""
        return self.lane_s / self.place_s if self.place_s > 0 else None


def usage(record: StudyRecord) -> Usage | None:
    """None where no pack told where its time went, as in the ledgers of earlier versions."""
    crew = [worker for run in record.runs for worker in run.crew]
    packs = [pack for worker in crew for pack in worker.packs]
    if not packs:
        return None
    return Usage(
        time=sum((time for run in record.runs for time in _times(run)), start=WorkerTime()),
        lane_s=sum(pack.lane_s for pack in packs),
        place_s=sum(pack.place_s for pack in packs),
        packs=len(packs),
        workers=sum(bool(worker.packs) for worker in crew),
        programs=tuple(_program(record, name, crew) for name in dict.fromkeys(pack.signature for pack in packs)),
    )


def overhead_s(run: RunRecord, wall_s: float) -> float | None:
    """Seconds of a run beside its programs: until workers began their first one, on average, and from the last one's end.

    None where nobody trained. Without packs that tell, a worker's first lease stands for its first program.
    """
    starts = [_first_s(worker) for worker in run.crew[: run.workers]]
    ends = [pack.ended_s for worker in run.crew for pack in worker.packs]
    return sum(starts) / len(starts) + max(0.0, wall_s - max(ends, default=wall_s)) if starts else None


def ratio(run: RunRecord) -> float | None:
    """What a run took against what the plan said; None without the one or the other."""
    return run.wall_s / run.estimate_s if run.wall_s is not None and run.estimate_s else None


def _times(run: RunRecord) -> Iterator[WorkerTime]:
    """The first workers of a run are started with it; when a later one was started is not known, only its first lease."""
    for number, worker in enumerate(run.crew):
        yield _time(worker, 0.0 if number < run.workers else worker.leased_s, run.wall_s)


def _time(worker: WorkerRecord, began_s: float, wall_s: float | None) -> WorkerTime:
    last_s = worker.packs[-1].ended_s if worker.packs else worker.leased_s
    ended_s = max(last_s, next((end for end in (worker.ended_s, wall_s) if end is not None), last_s))
    busy_s = sum(_busy_s(pack) for pack in worker.packs)
    starting_s = max(0.0, _first_s(worker) - began_s)
    idle_s = max(0.0, ended_s - began_s - starting_s - busy_s)
    lost_s = min(idle_s, ended_s - last_s) if worker.died else 0.0
    return WorkerTime(
        starting_s=starting_s,
        compiling_s=sum(pack.compile_s for pack in worker.packs),
        training_s=sum(pack.train_s for pack in worker.packs),
        evaluating_s=sum(pack.evaluate_s for pack in worker.packs),
        other_s=sum(pack.other_s for pack in worker.packs),
        waiting_s=idle_s - lost_s,
        lost_s=lost_s,
    )


def _first_s(worker: WorkerRecord) -> float:
    """When a worker began with its first program."""
    return max(worker.leased_s, worker.packs[0].ended_s - _busy_s(worker.packs[0])) if worker.packs else worker.leased_s


def _busy_s(pack: PackRecord) -> float:
    return pack.compile_s + pack.train_s + pack.evaluate_s + pack.other_s


def _program(record: StudyRecord, signature: str, crew: Sequence[WorkerRecord]) -> ProgramUse:
    by_worker = [[pack for pack in worker.packs if pack.signature == signature] for worker in crew]
    packs = list(itertools.chain.from_iterable(by_worker))
    steps = sum(pack.lane_steps for pack in packs)
    return ProgramUse(
        signature=signature,
        arms=tuple(dict.fromkeys(trial.arm for trial in record.trials if trial.signature == signature)),
        packings=tuple(dict.fromkeys((pack.strategy, pack.width) for pack in packs)),
        packs=len(packs),
        workers=sum(bool(own) for own in by_worker),
        lane_steps=steps,
        compile_s=sum(pack.compile_s for pack in packs),
        lane_step_s=sum(pack.train_s for pack in packs) / steps if steps else float("nan"),
    )
