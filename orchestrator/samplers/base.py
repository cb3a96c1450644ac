"""What a sampler is told and how axes depend on each other."""

from __future__ import annotations

import dataclasses
import enum
import graphlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.axes import Conditions, Distribution, is_active
from orchestrator.keys import FlatConfig, Value


class SamplerKind(enum.StrEnum):
    """How further points are found."""

    RANDOM = "random"
    SOBOL = "sobol"
    TPE = "tpe"

    @property
    def is_adaptive(self) -> bool:
        """Its points depend on earlier results."""
        return self is SamplerKind.TPE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A point proposed earlier, and what came of it.

    Attributes:
        point: Dotted keys of the axes that were active, and their values.
        value: Of the metric that selects; None or not finite if the trial diverged, failed or has no result yet.
        pending: It still runs: keep away from it, but do not call it bad.
    """

    point: FlatConfig
    value: float | None
    pending: bool = False

    @property
    def measured(self) -> float | None:
        """The value where it is a number that can be compared."""
        return self.value if not self.pending and self.value is not None and math.isfinite(self.value) else None


def in_order(axes: Mapping[str, Distribution]) -> tuple[tuple[str, Distribution], ...]:
    """Axes by key, each after the axes that its conditions name: the order in which a study file lists them has no effect.

    Raises:
        ValueError: Conditions go round in a circle.
    """
    needs = {key: {name for name, _ in conditions(axes[key]) if name in axes} for key in sorted(axes)}
    graph = graphlib.TopologicalSorter(needs)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"the conditions of axes go round in a circle: {' needs '.join(reversed(error.args[1]))}") from error
    order: list[str] = []
    while graph.is_active():
        ready = sorted(graph.get_ready())
        order += ready
        graph.done(*ready)
    return tuple((key, axes[key]) for key in order)


def choose(axes: Mapping[str, Distribution], context: FlatConfig, pick: Callable[[str, Distribution], Value]) -> dict[str, Value]:
    """The point that `pick` gives, asked for the active axes only.

    Args:
        axes: Already in order.
        context: Values of the other keys, for conditions on them. An axis of the same name stands before it.
        pick: From a key and its axis to a value.
    """
    point: dict[str, Value] = {}
    for key, axis in axes.items():
        if not axis.when or is_active(conditions(axis), {**context, **point}):
            point[key] = pick(key, axis)
    return point


def conditions(axis: Distribution) -> Conditions:
    """What must hold for the axis to exist. An axis takes a mapping too and keeps pairs."""
    when: Any = axis.when
    return when
