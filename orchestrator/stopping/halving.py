"""Successive halving by one metric: at each rung the better part of a cohort goes on, three times as far as before.

Rung-synchronous: a rung is decided when every member has reported it, unlike ASHA, which decides as reports arrive and so
depends on their order (`docs/how-it-works.md`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from orchestrator.errors import refuse
from orchestrator.stopping.cohort import Place


@dataclasses.dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """Of `factor` candidates one goes on at each rung.

    Attributes:
        first: Optimizer step of the first rung; the next are at first · factor, first · factor², …
        factor: How many candidates there are for each that goes on.
        metric: What they are compared by; empty is the metric that selects.
        direction: Which way `metric` is better; empty is that of the selection.

    Source:
        Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.

    >>> str(SuccessiveHalving(first=100, factor=3, metric="val/nll"))
    'successive halving by val/nll: 1 of 3 goes on at step 100, 300, …'
    """

    first: int
    factor: int = 3
    metric: str = ""
    direction: str = ""

    def __post_init__(self) -> None:
        check_rungs("SuccessiveHalving", self.first, self.factor)
        if self.metric:
            check_metric("SuccessiveHalving", self.metric)
        if self.direction not in ("", "minimize", "maximize"):
            refuse(
                "SuccessiveHalving has no direction",
                found=repr(self.direction),
                expected="minimize or maximize, or nothing for that of the selection",
                fix="use one of the two words",
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one metric."""
        return (self.metric,)

    def by(self, metric: str, direction: str) -> SuccessiveHalving:
        """The rule with its metric and direction filled in from the selection, where it has none of its own."""
        return dataclasses.replace(self, metric=self.metric or metric, direction=self.direction or direction)

    def ranked(self, values: Sequence[tuple[float, ...]], kept: int) -> list[Place]:
        """Best first, ties by plan order, candidates without a finite value last."""
        del kept
        sign = -1.0 if self.direction == "maximize" else 1.0

        def order(position: int) -> tuple[bool, float, int]:
            (value,) = values[position]
            return (False, sign * value, position) if math.isfinite(value) else (True, 0.0, position)

        return [Place(position=position, why=said(self.metrics, values[position])) for position in sorted(range(len(values)), key=order)]

    def __str__(self) -> str:
        return f"successive halving by {self.metric}: {words(self.first, self.factor)}"


def said(metrics: Sequence[str], values: Sequence[float]) -> str:
    """Figures for a reason.

    >>> said(["val/nll", "cost/train_gflops"], [0.51234, 12.0])
    'val/nll 0.5123, cost/train_gflops 12'
    >>> said(["val/nll"], [float("nan")])
    'no finite val/nll'
    """
    return ", ".join(
        f"{name} {value:.4g}" if math.isfinite(value) else f"no finite {name}" for name, value in zip(metrics, values, strict=True)
    )


def words(first: int, factor: int) -> str:
    """Where rungs are and who passes them."""
    return f"1 of {factor} goes on at step {first}, {first * factor}, …"


def check_rungs(where: str, first: int, factor: int) -> None:
    """Refuses rungs that do not exist, and a factor that stops nobody."""
    for name, value, least, fix in (
        ("first", first, 1, "name the optimizer step of the first comparison"),
        ("factor", factor, 2, "3 is usual: one of three goes on, three times as far"),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(f"{where}: {name} is out of range", found=repr(value), expected=f"a whole number from {least}", fix=fix)


def check_metric(where: str, metric: str) -> None:
    """Refuses what candidates may not be compared by."""
    if not metric.startswith(("val/", "cost/")):
        refuse(
            f"{where} must compare by validation data or cost",
            found=repr(metric),
            expected="a val/ metric, such as val/nll, or a cost/, such as cost/train_gflops",
            fix="choosing on test or training data makes the reported numbers optimistic: name a val/ metric",
        )
