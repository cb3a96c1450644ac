"""How long a plan will take: from speeds that were measured while earlier trials of the same programs trained."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.contract import Probe, Trainer
from orchestrator.diff import Change, Difference
from orchestrator.plan import Plan, PlannedCell


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time that is left.

    Attributes:
        seconds: Wall time on the given number of workers, of the trials whose program was probed.
        probed: Trials that the figure covers.
        unprobed: Trials whose program has not run here yet.
    """

    seconds: float
    probed: int
    unprobed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Trials of one program that are still to be done.

    Attributes:
        signature: Of the program.
        trials: How many, those that wait for a selection included.
        steps: Optimizer steps of them all.
        packs: Packs that hold them.
    """

    signature: str
    trials: int
    steps: int
    packs: int


def work_left(plan: Plan, difference: Difference, trainer: Trainer) -> tuple[Work, ...]:
    """What is to be done, by program."""
    cells: dict[str, PlannedCell] = {}
    todo: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    counted: set[str] = set()

    def count(cell: PlannedCell, n: int) -> None:
        cells.setdefault(cell.signature, cell)
        todo[cell.signature] += n
        steps[cell.signature] += n * cell.steps

    for trial, change in difference.changes:
        if change not in (Change.CACHED, Change.FAILED) and trial.key not in counted:
            counted.add(trial.key)
            count(trial.cell, 1)
    for arm in plan.arms:
        if arm.pending:
            count(arm.cell, arm.pending)
    return tuple(
        Work(signature=name, trials=todo[name], steps=steps[name], packs=math.ceil(todo[name] / trainer.width(cell.config)))
        for name, cell in cells.items()
    )


def estimate(work: Sequence[Work], probes: Mapping[str, Probe], workers: int) -> Estimate:
    """Wall time of the work on a number of workers, where its programs were probed."""
    known = [row for row in work if row.signature in probes]
    busy = sum(row.steps * probes[row.signature].lane_step_s + probes[row.signature].compile_s for row in known)
    covered = sum(row.trials for row in known)
    return Estimate(seconds=busy / workers, probed=covered, unprobed=sum(row.trials for row in work) - covered)
