"""Every source that a study names, wherever it stands: in the base, in arms, on axes, and in what others start from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.axes import Distribution, Values
from orchestrator.designs import Arm, Cross, Design, Grid, LeaveOneOut, OneFactorAtATime, Sampled
from orchestrator.keys import FlatConfig, Value
from orchestrator.study import Study, nuisance_axes
from orchestrator.upstream import File, Source, Upstream


def sources_of(study: Study, base: FlatConfig) -> tuple[Source, ...]:
    """Each source once, after those that it starts from itself.

    Args:
        study: Whose profile was chosen.
        base: Its base config, flat.
    """
    designs = (*study.arms, *(() if study.axes is None else (study.axes,)))
    axes = (axis for _, axis in nuisance_axes(study))
    values = (*base.values(), *(value for design in designs for value in _values(design)), *(value for axis in axes for value in _of(axis)))
    return tuple(dict.fromkeys(_with_own(values)))


def upstreams_in(sources: Iterable[Source]) -> tuple[Upstream, ...]:
    """Those that are trained."""
    return tuple(source for source in sources if isinstance(source, Upstream))


def files_in(sources: Iterable[Source]) -> tuple[File, ...]:
    """Those that are files."""
    return tuple(source for source in sources if isinstance(source, File))


def _with_own(values: Iterable[Value]) -> Iterator[Source]:
    for value in values:
        if isinstance(value, Upstream):
            yield from _with_own(value.overrides.values())
        if isinstance(value, Source):
            yield value


def _values(design: Design) -> Iterator[Value]:
    match design:
        case Arm():
            yield from design.overrides.values()
        case Grid() | OneFactorAtATime() | Sampled():
            for _, axis in design.axes:
                yield from _of(axis)
        case LeaveOneOut():
            for _, changes in design.removals:
                yield from dict(changes).values()
        case Cross():
            for part in design.designs:
                yield from _values(part)


def _of(axis: Distribution) -> tuple[Value, ...]:
    return axis.values if isinstance(axis, Values) else ()
