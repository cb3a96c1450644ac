"""Ends trials whose numbers are gone: training on from NaN costs as much as training, and gives nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from orchestrator.records import Rung
from orchestrator.stopping.base import GO_ON, Decision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceGuard:
    """Stops a trial that reports a number that is not finite, or a metric over its bound.

    Attributes:
        bounds: Metric and the largest value that it may have, such as `("train/loss", 20.0)`. A metric that a rung does
            not hold is not judged.

    >>> guard = DivergenceGuard(bounds=(("train/loss", 20.0),))
    >>> guard.decide([Rung(step=10, metrics={"train/loss": 31.0})]).reason
    'train/loss is 31 at step 10, over its bound of 20'
    """

    bounds: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for metric, bound in self.bounds:
            if not math.isfinite(bound):
                raise ValueError(f"the bound of {metric} is {bound}; a bound is a finite number")

    def decide(self, rungs: Sequence[Rung]) -> Decision:
        """Judges the last rung; those before it were judged when they were new."""
        if not rungs:
            return GO_ON
        last = rungs[-1]
        for metric, value in sorted(last.metrics.items()):
            if not math.isfinite(value):
                return Decision(stop=True, reason=f"{metric} is {value} at step {last.step}")
        for metric, bound in self.bounds:
            if metric in last.metrics and last.metrics[metric] > bound:
                value = last.metrics[metric]
                return Decision(stop=True, reason=f"{metric} is {value:g} at step {last.step}, over its bound of {bound:g}")
        return GO_ON
