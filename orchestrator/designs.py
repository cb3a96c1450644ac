"""Designs: ways to write down a set of arms. An explicit arm is the smallest; the others make arms from axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

from orchestrator.axes import Distribution, Values
from orchestrator.errors import refuse
from orchestrator.keys import FlatConfig, Value
from orchestrator.stopping.halving import SuccessiveHalving
from orchestrator.stopping.pareto import Halving, ParetoHalving

Pairs: TypeAlias = tuple[tuple[str, Value], ...]
Axes: TypeAlias = Mapping[str, Distribution]
AxisPairs: TypeAlias = tuple[tuple[str, Distribution], ...]


def point_name(point: FlatConfig) -> str:
    """Readable name of a point: the last part of each key and its value.

    >>> point_name({"model.experts": 8, "optim.learning_rate": 0.01})
    'experts=8, learning_rate=0.01'
    """
    return ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Arm:
    """A named variant of the base config.

    Attributes:
        name: As shown in tables; unique in its study. Not part of any key: renaming repeats nothing.
        changes: Dotted keys and the values they take instead of the base's.
        baseline: Effects are measured against this arm. One arm at most.
    """

    name: str
    changes: Pairs
    baseline: bool

    def __init__(self, name: str, overrides: FlatConfig | None = None, *, baseline: bool = False) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "changes", tuple((overrides or {}).items()))
        object.__setattr__(self, "baseline", baseline)
        if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse("an arm has no name", found=repr(name), expected="a text that tables can show", fix='write Arm("name", {...})')

    @property
    def overrides(self) -> dict[str, Value]:
        """What the arm changes in the base config."""
        return dict(self.changes)


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Grid:
    """Every combination of the listed values (a full factorial); conditional axes drop out where they do not apply."""

    axes: AxisPairs

    def __init__(self, axes: Mapping[str, Values]) -> None:
        object.__setattr__(self, "axes", _finite("Grid", axes))


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class OneFactorAtATime:
    """The base config, and for each axis each of its values alone."""

    axes: AxisPairs
    base_name: str

    def __init__(self, axes: Mapping[str, Values], *, base_name: str = "base") -> None:
        object.__setattr__(self, "axes", _finite("OneFactorAtATime", axes))
        object.__setattr__(self, "base_name", base_name)


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class LeaveOneOut:
    """The full method, and for each component the method without it.

    Attributes:
        removals: Name of a component, and the overrides that take it out of the base config.
        full_name: Name of the arm with everything in; the baseline.
    """

    removals: tuple[tuple[str, Pairs], ...]
    full_name: str

    def __init__(self, removals: Mapping[str, FlatConfig], *, full_name: str = "full") -> None:
        object.__setattr__(self, "removals", tuple((name, tuple(overrides.items())) for name, overrides in removals.items()))
        object.__setattr__(self, "full_name", full_name)
        if not removals:
            refuse("LeaveOneOut has no components", found="{}", expected="a name and overrides for each", fix="list what to leave out")


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Sampled:
    """A number of points drawn from a space: `random`, `sobol` (evenly spread) or `tpe` (led by earlier results).

    Attributes:
        axes: Dotted key of each axis and its distribution.
        n: How many points.
        sampler: Which way.
        seed: Fixes the draw.
        select: Validation metric that leads `tpe`; its mean over an arm's replicates.
        direction: Which way `select` is better.
        stopping: Compares these arms with each other at rungs, by the mean over their replicates; all replicates of an arm
            that loses are stopped. Arms that the study names are never dropped.
    """

    axes: AxisPairs
    n: int
    sampler: str
    seed: int
    select: str
    direction: str
    stopping: Halving | None

    def __init__(
        self,
        axes: Axes,
        n: int,
        *,
        sampler: str = "sobol",
        seed: int = 0,
        select: str = "val/nll",
        direction: str = "minimize",
        stopping: Halving | None = None,
    ) -> None:
        object.__setattr__(self, "axes", tuple(axes.items()))
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "sampler", sampler)
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "select", select)
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "stopping", stopping)
        check_sampler("Sampled", sampler, n)
        check_stopping("Sampled", stopping, sampler)

    @property
    def rule(self) -> Halving | None:
        """The stopping rule, by `select` where it names no metric."""
        return None if self.stopping is None else self.stopping.by(self.select, self.direction)


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Cross:
    """Each arm of one design with each arm of the others: names joined, overrides merged (the later design wins)."""

    designs: tuple[Design, ...]

    def __init__(self, *designs: Design) -> None:
        object.__setattr__(self, "designs", designs)


Design: TypeAlias = Arm | Grid | OneFactorAtATime | LeaveOneOut | Sampled | Cross
DESIGNS = (Arm, Grid, OneFactorAtATime, LeaveOneOut, Sampled, Cross)
SAMPLERS = ("random", "sobol", "tpe")


def check_sampler(where: str, sampler: str, n: int) -> None:
    """Refuses a sampler that does not exist, and a number of points below 1."""
    if sampler not in SAMPLERS:
        refuse(
            f"{where} names a sampler that does not exist",
            found=repr(sampler),
            expected="one of " + ", ".join(SAMPLERS),
            fix="name one of them",
        )
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        refuse(f"{where} needs a number of trials", found=repr(n), expected="a whole number from 1", fix="give at least 1")


def check_stopping(where: str, stopping: Halving | None, sampler: str) -> None:
    """Refuses what is no rule that halves, and one beside a sampler that is led by results."""
    if stopping is None:
        return
    if not isinstance(stopping, (SuccessiveHalving, ParetoHalving)):  # pyright: ignore[reportUnnecessaryIsInstance]
        refuse(
            f"{where}: stopping is not a rule",
            found=repr(stopping),
            expected="SuccessiveHalving(first=...) or ParetoHalving(first=...)",
            fix="name one of the two, or drop it",
        )
    elif sampler == "tpe":
        refuse(
            f"{where}: an adaptive sampler cannot be halved",
            found=f'sampler="tpe" with {type(stopping).__name__}',
            expected="sobol or random, whose proposals are all known before the first rung",
            fix='write sampler="sobol", or drop stopping=: later proposals of tpe follow from what earlier trials end with',
        )


def _finite(design: str, axes: Mapping[str, Values]) -> AxisPairs:
    for key, axis in axes.items():
        if not isinstance(axis, Values):  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(
                f"{design}: axis {key!r} is not finite",
                found=repr(axis),
                expected="Values(...)",
                fix="list the values, or use Sampled for a distribution",
            )
    if not axes:
        refuse(f"{design} has no axes", found="{}", expected="at least one axis", fix="name a config key and its Values(...)")
    return tuple(axes.items())


def _short(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
