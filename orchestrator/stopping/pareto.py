"""Halving by several objectives: whole fronts go on, and of the last one those that are spread furthest."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence

from orchestrator.errors import refuse
from orchestrator.stopping.cohort import Place
from orchestrator.stopping.halving import SuccessiveHalving, check_metric, check_rungs, said, words

Point = tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ParetoHalving:
    """Of `factor` candidates one goes on at each rung: those that no other is better than in every objective, first.

    Attributes:
        first: Optimizer step of the first rung; the next are at first · factor, first · factor², …
        factor: How many candidates there are for each that goes on.
        objectives: `val/…` as measured at the rung, `cost/…` as known before training. Smaller is better.
        maximize: Those of the objectives of which larger is better.

    Source:
        Schmucker et al., Multi-objective Asynchronous Successive Halving, 2021 (arXiv:2106.12639), with the order by
        epsilon-net of Salinas et al., A Multi-Objective Perspective on Jointly Tuning Hardware and Hyperparameters, 2021
        (arXiv:2106.05680).

    >>> str(ParetoHalving(first=100))
    'Pareto halving by val/nll and cost/train_gflops: 1 of 3 goes on at step 100, 300, …'
    """

    first: int
    factor: int = 3
    objectives: tuple[str, ...] = ("val/nll", "cost/train_gflops")
    maximize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "maximize", tuple(self.maximize))
        check_rungs("ParetoHalving", self.first, self.factor)
        for metric in self.objectives:
            check_metric("ParetoHalving", metric)
        if len(set(self.objectives)) < max(2, len(self.objectives)) or not any(name.startswith("val/") for name in self.objectives):
            refuse(
                "ParetoHalving weighs objectives against each other",
                found=repr(self.objectives),
                expected="two or more that differ, with a val/ metric among them",
                fix="name them, or use SuccessiveHalving for a single one",
            )
        if unknown := [name for name in self.maximize if name not in self.objectives]:
            refuse(
                "ParetoHalving maximizes what is no objective", found=repr(unknown[0]), expected=repr(self.objectives), fix="add or drop it"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives."""
        return self.objectives

    def by(self, metric: str, direction: str) -> ParetoHalving:
        """The rule itself: its objectives are its own."""
        del metric, direction
        return self

    def ranked(self, values: Sequence[Point], kept: int) -> list[Place]:
        """Front by front; within the front that is divided by spread; candidates without finite values last, in plan order."""
        signs = [-1.0 if name in self.maximize else 1.0 for name in self.objectives]
        points = [tuple(sign * value for sign, value in zip(signs, row, strict=True)) for row in values]
        places: list[Place] = []
        layers = fronts(tuple(points))
        for number, front in enumerate(layers, start=1):
            divided = len(places) < kept < len(places) + len(front)
            where = f"front {number} of {len(layers)} by " + ("spread and " if divided else "")
            order = spread_order(points, front, kept - len(places)) if divided else front
            places += [Place(position=position, why=where + said(self.objectives, values[position])) for position in order]
        lost = [position for position, point in enumerate(points) if not _is_finite(point)]
        return places + [Place(position=position, why=said(self.objectives, values[position])) for position in lost]

    def __str__(self) -> str:
        return f"Pareto halving by {' and '.join(self.objectives)}: {words(self.first, self.factor)}"


Halving = SuccessiveHalving | ParetoHalving


@functools.lru_cache(maxsize=64)
def fronts(points: tuple[Point, ...]) -> tuple[tuple[int, ...], ...]:
    """Positions of the finite points, smaller is better: those that none dominates, then those that only these dominate, …

    Within a front by values, then position.

    Source:
        Zhang et al., An Efficient Approach to Nondominated Sorting (ENS), IEEE TEC 19 (2015): in lexicographic order a point
        is dominated by earlier ones only.

    >>> fronts(((1.0, 1.0), (0.0, 2.0), (2.0, 2.0), (1.0, 1.0)))
    ((1, 0, 3), (2,))
    """
    found: list[list[int]] = []
    for position in sorted((p for p, point in enumerate(points) if _is_finite(point)), key=lambda p: (points[p], p)):
        point = points[position]

        def is_free(front: list[int], point: Point = point) -> bool:
            # With two objectives the last of a front has its smallest second value: if that one does not dominate, none does.
            rivals = front[-1:] if len(point) == 2 else reversed(front)
            return not any(dominates(points[rival], point) for rival in rivals)

        # Who is dominated in a front is dominated in every one before it.
        number = bisect.bisect_left(found, True, key=is_free)
        if number == len(found):
            found.append([])
        found[number].append(position)
    return tuple(map(tuple, found))


def dominates(a: Point, b: Point) -> bool:
    """Nowhere worse and somewhere better, where smaller is better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def spread_order(points: Sequence[Point], front: Sequence[int], n: int) -> list[int]:
    """The front with an n-point epsilon-net at its head: the best in the first objective, then always the farthest from those chosen.

    Distances are Euclidean in objectives scaled to the front's range; ties go to the earlier of the front.
    """
    lows = [min(points[p][axis] for p in front) for axis in range(len(points[front[0]]))]
    spans = [max(points[p][axis] for p in front) - low for axis, low in enumerate(lows)]
    scaled = {p: [(value - low) / span if span else 0.0 for value, low, span in zip(points[p], lows, spans, strict=True)] for p in front}
    chosen, left = [front[0]], list(front[1:])
    gaps = {p: math.inf for p in left}
    while left and len(chosen) < n:
        gaps = {p: min(gaps[p], math.dist(scaled[p], scaled[chosen[-1]])) for p in left}
        chosen.append(max(left, key=gaps.__getitem__))
        left.remove(chosen[-1])
    return chosen + left


def _is_finite(point: Point) -> bool:
    return all(map(math.isfinite, point))
