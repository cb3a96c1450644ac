"""How long a plan will take: what is left to do, how fast its programs were measured to be, and who does what when.

Work is handed out here as the ledger does it, with two simplifications: a worker stays on a program until its trials of a
phase are done, and packs of one program end together. In exchange the figure behaves: a worker more never makes it longer,
a step more never shorter, and one worker takes the sum of all parts (tests/unit/test_estimate.py).
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.contract import Probe, Trainer, fastest
from orchestrator.diff import Change, Difference
from orchestrator.planned import Plan, PlannedCell, PlannedTrial, PlannedUpstream
from orchestrator.records import Phase

OVERHEAD_S = 2.0  # of a run beside its programs, where no run told: workers start, import, and end
FLOPS = "cost/train_gflops"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """Where a rule compares trials: at step `first`, and every `factor` times further; there one of `factor` goes on."""

    first: int
    factor: int

    def steps_left(self, trial: PlannedTrial) -> float:
        """Optimizer steps that a watched trial is still expected to take, on average over its cohort."""
        steps, until = trial.cell.steps, trial.until
        if trial.dropped:
            return 0.0
        if until is None:  # it passed every rung
            rung = self.first
            while rung * self.factor < steps:
                rung *= self.factor
            return float(steps - rung) if rung < steps else float(steps)
        left, share, rung = float(until - (until // self.factor if until > self.first else 0)), 1.0, until
        while rung < steps:
            share /= self.factor
            further = min(rung * self.factor, steps)
            left, rung = left + share * (further - rung), further
        return left


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Trials of one program and phase that are to be done.

    Attributes:
        signature: Of the program.
        phase: Replicates wait until the tuning of their arms is done, and all wait for what they start from.
        arms: That the trials are of, or upstreams.
        feeds: Names of arms and upstreams whose trials start from these.
        trials: How many, those that wait for a selection included.
        steps: Optimizer steps of them all; of those that a rule may stop, as many as are to be expected.
    """

    signature: str
    phase: Phase
    arms: frozenset[str]
    trials: int
    steps: int
    feeds: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done with one program.

    Attributes:
        signature: Of the program.
        cell: One of its configs.
        batches: Its trials by phase, tuning first.
        packs: Packs that hold them.
    """

    signature: str
    cell: PlannedCell
    batches: tuple[Batch, ...]
    packs: int

    @property
    def trials(self) -> int:
        """In all phases."""
        return sum(batch.trials for batch in self.batches)

    @property
    def steps(self) -> int:
        """Optimizer steps, of all trials."""
        return sum(batch.steps for batch in self.batches)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one program is on this machine.

    Attributes:
        compile_s: Seconds until it can run, in each worker that takes it.
        lane_s: Seconds that a lane costs beside its steps.
        lane_step_s: Seconds that a step of one lane costs.
        probe: The measurement; None for a figure that was inferred from other programs.
    """

    compile_s: float
    lane_s: float
    lane_step_s: float
    probe: Probe | None = None

    def alone_s(self, work: Work) -> float:
        """Seconds that one worker takes for all of it."""
        return self.compile_s + work.trials * self.lane_s + work.steps * self.lane_step_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time that is left.

    Attributes:
        seconds: Wall time on so many workers.
        workers: How many.
        covered: Trials whose program was measured on this machine.
        inferred: Trials whose program was not; its speed is inferred from those that were.
    """

    seconds: float
    workers: int
    covered: int
    inferred: int

    @property
    def is_rough(self) -> bool:
        """Some of it is inferred."""
        return self.inferred > 0


def work_left(plan: Plan, difference: Difference, trainer: Trainer, rungs: Mapping[Phase, Rungs]) -> tuple[Work, ...]:
    """What is to be done, by program, in the order of the plan.

    Args:
        plan: The trials.
        difference: Against the ledger.
        trainer: Of the study.
        rungs: Where trials of a phase are compared, if a rule does that.
    """
    cells: dict[str, PlannedCell] = {}
    parts: dict[tuple[str, Phase], list[tuple[str, int, float]]] = {}
    counted: set[str] = set()

    def count(cell: PlannedCell, phase: Phase, arm: str, n: int, steps: float) -> None:
        if n:
            cells.setdefault(cell.signature, cell)
            parts.setdefault((cell.signature, phase), []).append((arm, n, n * steps))

    for trial, change in difference.changes:
        if change not in (Change.CACHED, Change.FAILED) and trial.key not in counted:
            counted.add(trial.key)
            steps = rungs[trial.phase].steps_left(trial) if trial.watched and trial.phase in rungs else trial.cell.steps
            count(trial.cell, trial.phase, trial.arm, 1, steps)
    for row in plan.upstream:
        count(row.cell, Phase.UPSTREAM, row.name, row.pending, row.cell.steps)
    for arm in plan.arms:
        tuned = sum(trial.phase is Phase.TUNE for trial in arm.trials)
        count(arm.cell, Phase.TUNE, arm.arm.name, arm.tune_trials - tuned, arm.cell.steps)
        count(arm.cell, Phase.REPLICATE, arm.arm.name, arm.replicates - (len(arm.trials) - tuned), arm.cell.steps)
    feeds = _feeds(plan)
    rows: list[Work] = []
    for signature, cell in cells.items():
        batches = [_batch(signature, phase, parts[signature, phase], feeds) for phase in Phase if (signature, phase) in parts]
        packs = math.ceil(sum(batch.trials for batch in batches) / trainer.width(cell.config))
        rows.append(Work(signature=signature, cell=cell, batches=tuple(batches), packs=packs))
    return tuple(rows)


def device_here(probes: Sequence[Probe], known: str) -> str:
    """The device of this machine: the known one, or the only one that anything was measured on; empty where that is open."""
    devices = {probe.device for probe in probes}
    if known in devices or not devices:
        return known
    return next(iter(devices)) if len(devices) == 1 else ""


def speeds(cells: Sequence[PlannedCell], probes: Sequence[Probe], device: str) -> dict[str, Speed]:
    """How fast each program is on a device; inferred from the others where it was not measured, and empty where none was.

    Args:
        cells: One of each program.
        probes: Measurements of the programs, on any device.
        device: Whose measurements count.
    """
    here: dict[str, list[Probe]] = {}
    for probe in probes:
        if probe.device == device:
            here.setdefault(probe.signature, []).append(probe)
    found: dict[str, Speed] = {}
    for cell in cells:
        best = fastest(here.get(cell.signature, ()))
        if best is not None:
            found[cell.signature] = Speed(compile_s=best.compile_s, lane_s=best.lane_s, lane_step_s=best.lane_step_s, probe=best)
    known = [(cell, found[cell.signature]) for cell in cells if cell.signature in found]
    return found | _inferred([cell for cell in cells if cell.signature not in found], known)


def estimate(work: Sequence[Work], speed: Mapping[str, Speed], workers: int, *, overhead_s: float = OVERHEAD_S) -> Estimate | None:
    """Wall time of the work on a number of workers; None where nothing is known of its programs.

    Args:
        work: What is left.
        speed: By signature: of all of it, or empty.
        workers: At once.
        overhead_s: Of a run, beside its programs.
    """
    if not work or not speed:
        return None
    covered = sum(row.trials for row in work if speed[row.signature].probe is not None)
    return Estimate(
        seconds=overhead_s + _least_s(in_order(work), speed, workers),
        workers=workers,
        covered=covered,
        inferred=sum(row.trials for row in work) - covered,
    )


def in_order(work: Sequence[Work]) -> tuple[Batch, ...]:
    """All batches as they are handed out: upstream, tuning, replicates, each in the order of the plan."""
    return tuple(batch for phase in Phase for row in work for batch in row.batches if batch.phase is phase)


def _least_s(batches: Sequence[Batch], speed: Mapping[str, Speed], workers: int) -> float:
    """The shortest of several schedules, each of which splits other batches between workers.

    Each schedule is fixed by counts, so its length can only grow with the length of a part: Graham's anomalies, where
    more workers or shorter jobs take longer, do not arise. A worker that would only compile for itself is not used.
    """
    return min(_schedule_s(batches, speed, crew, shared) for crew in _crews(workers) for shared in _shared(len(batches)))


def _schedule_s(batches: Sequence[Batch], speed: Mapping[str, Speed], workers: int, shared: int) -> float:
    """Length of the list schedule in which all workers share each of the last `shared` batches."""
    programs = Counter(batch.phase for batch in batches)
    free = [0.0] * workers
    tuned: dict[str, float] = {}
    fed: dict[str, float] = {}
    compiled: Counter[str] = Counter()  # workers that have compiled a program: a later trial goes to any of them, or another
    for number, batch in enumerate(batches):
        each = workers if number >= len(batches) - shared else max(1, workers // programs[batch.phase])
        parts, one = min(each, batch.trials), speed[batch.signature]
        before = (fed, tuned) if batch.phase is Phase.REPLICATE else (fed,)
        ready = max((ends[name] for ends in before for name in batch.arms if name in ends), default=0.0)
        missing = 1.0 - compiled[batch.signature] / workers
        if programs[batch.phase] <= workers and parts <= compiled[batch.signature]:
            missing = 0.0  # whoever tuned waits for the replicates; with more programs than workers it went on to another
        compiled[batch.signature] = max(compiled[batch.signature], parts)
        for trials in _split(batch.trials, parts):
            steps = batch.steps * trials / batch.trials
            took = missing * one.compile_s + trials * one.lane_s + steps * one.lane_step_s
            end = max(heapq.heappop(free), ready) + took
            heapq.heappush(free, end)
            if batch.phase is Phase.TUNE:
                tuned |= {arm: max(tuned.get(arm, 0.0), end) for arm in batch.arms}
            fed |= {name: max(fed.get(name, 0.0), end) for name in batch.feeds}
    return max(free)


def _crews(workers: int) -> Iterator[int]:
    """Numbers of workers up to the one given, each of which is also looked at for a larger one."""
    yield from range(1, min(workers, 16) + 1)
    yield from itertools.takewhile(lambda n: n <= workers, (2**power for power in itertools.count(5)))


def _shared(batches: int) -> Iterator[int]:
    """How many of the last batches to share: each of the first few numbers, then ever fewer, and all."""
    yield from range(min(batches, 4))
    yield from itertools.takewhile(lambda n: n < batches, (2**power for power in itertools.count(2)))
    yield batches


def _split(trials: int, parts: int) -> list[int]:
    """Trials in parts that differ by one at most, the larger first.

    >>> _split(8, 3)
    [3, 3, 2]
    """
    return [trials // parts + (number < trials % parts) for number in range(parts)]


def _batch(signature: str, phase: Phase, parts: Sequence[tuple[str, int, float]], feeds: Mapping[str, frozenset[str]]) -> Batch:
    arms, steps = frozenset(arm for arm, _, _ in parts), round(math.fsum(steps for *_, steps in parts))
    fed = frozenset[str]().union(*(feeds[name] for name in arms)) if phase is Phase.UPSTREAM else frozenset[str]()
    return Batch(signature=signature, phase=phase, arms=arms, trials=sum(n for _, n, _ in parts), steps=steps, feeds=fed)


def _feeds(plan: Plan) -> dict[str, frozenset[str]]:
    """What starts from each upstream, at once or through another."""

    def takers(row: PlannedUpstream) -> Iterator[str]:
        yield from (arm.name for arm in plan.arms if not row.keys.isdisjoint(arm.starts))
        others = [other for other in plan.upstream if other is not row]
        yield from (other.name for other in others if not row.keys.isdisjoint(other.cell.starts))

    return {row.name: frozenset(takers(row)) for row in plan.upstream}


def _inferred(unknown: Sequence[PlannedCell], known: Sequence[tuple[PlannedCell, Speed]]) -> dict[str, Speed]:
    """A step's time from the GFLOPs of an image, by a line through what was measured; the rest as it is on average."""
    if not known:
        return {}
    points = [(flops, speed.lane_step_s) for cell, speed in known if (flops := cell.cost.get(FLOPS)) is not None]
    base, slope = _line(points)
    compile_s, lane_s, step_s = (_mean([getattr(speed, name) for _, speed in known]) for name in ("compile_s", "lane_s", "lane_step_s"))

    def speed_of(cell: PlannedCell) -> Speed:
        flops = cell.cost.get(FLOPS)
        inferred = step_s if flops is None or not points else base + slope * flops
        return Speed(compile_s=compile_s, lane_s=lane_s, lane_step_s=inferred)

    return {cell.signature: speed_of(cell) for cell in unknown}


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Offset and slope, neither below 0, of the least-squares line; through 0 where one point, or the fit, gives no offset.

    >>> _line([(1.0, 3.0), (2.0, 5.0)]), _line([(2.0, 3.0)]), _line([(1.0, 4.0), (2.0, 2.0)])
    ((1.0, 2.0), (0.0, 1.5), (3.0, 0.0))
    """
    if not points:
        return 0.0, 0.0
    x, y = (_mean(list(axis)) for axis in zip(*points, strict=True))
    spread = sum((at - x) ** 2 for at, _ in points)
    if spread > 0.0:
        slope = sum((at - x) * (value - y) for at, value in points) / spread
        if slope < 0.0:
            return y, 0.0
        if y >= slope * x:
            return y - slope * x, slope
    squares = sum(at * at for at, _ in points)
    return (0.0, sum(at * value for at, value in points) / squares) if squares else (y, 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
