"""What an axis may be: listed values, or a distribution to draw from; each may depend on the value of another axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias

from orchestrator.errors import refuse
from orchestrator.keys import FlatConfig, Value

Conditions: TypeAlias = tuple[tuple[str, tuple[Value, ...]], ...]
When: TypeAlias = Mapping[str, Value]


def _conditions(when: When | Conditions) -> Conditions:
    pairs = when.items() if isinstance(when, Mapping) else when
    return tuple((key, values if isinstance(values, tuple) else (values,)) for key, values in pairs)


def is_active(conditions: When | Conditions, context: FlatConfig) -> bool:
    """Whether an axis with these conditions exists where the other keys have the values of `context`."""
    return all(key in context and context[key] in values for key, values in _conditions(conditions))


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Values:
    """Listed values, in the order in which they are planned.

    Attributes:
        values: At least one, no value twice.
        when: The axis exists only where each named key has one of the values.

    >>> Values(2, 4, when={"model.tile": True})
    Values(values=(2, 4), when=(('model.tile', (True,)),))
    """

    values: tuple[Value, ...]
    when: Conditions = ()

    def __init__(self, *values: Value, when: When | Conditions = ()) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", _conditions(when))
        if not values:
            refuse("an axis has no values", found="Values()", expected="at least one value", fix="list the values, as in Values(1, 2)")
        for index, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:index]):
                refuse("an axis lists a value twice", found=f"{value!r} in {self}", expected="each value once", fix="drop one of them")

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


@dataclasses.dataclass(frozen=True, slots=True)
class Uniform:
    """Real numbers, equally likely between two bounds."""

    low: float
    high: float
    when: When | Conditions = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", _conditions(self.when))
        _check_bounds(self, positive=False)

    def __str__(self) -> str:
        return f"uniform {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True, slots=True)
class LogUniform:
    """Positive real numbers whose logarithm is equally likely between two bounds."""

    low: float
    high: float
    when: When | Conditions = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", _conditions(self.when))
        _check_bounds(self, positive=True)

    def __str__(self) -> str:
        return f"log-uniform {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True, slots=True)
class IntUniform:
    """Whole numbers between two bounds, both included; on a logarithmic scale if `log`."""

    low: int
    high: int
    log: bool = False
    when: When | Conditions = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", _conditions(self.when))
        _check_bounds(self, positive=self.log)
        if {type(self.low), type(self.high)} != {int}:
            refuse("the bounds of IntUniform are whole numbers", found=repr(self), expected="int", fix="use Uniform for real numbers")

    def __str__(self) -> str:
        return f"{'log-' if self.log else ''}integers {self.low} to {self.high}"


Distribution: TypeAlias = Values | Uniform | LogUniform | IntUniform


def edges(axis: Distribution) -> tuple[Value, ...]:
    """The values that must be allowed by a config field for the whole axis to be: all listed ones, or both bounds."""
    return axis.values if isinstance(axis, Values) else (axis.low, axis.high)


def _check_bounds(axis: Uniform | LogUniform | IntUniform, *, positive: bool) -> None:
    low, high = float(axis.low), float(axis.high)
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not positive)):
        expected = "0 < low < high" if positive else "low < high, both finite"
        refuse("an axis has impossible bounds", found=repr(axis), expected=expected, fix="correct the bounds, or use Values for one value")
