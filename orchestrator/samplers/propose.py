"""The next points of a search space. Same history and seed, same points; nothing is kept between calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.axes import Distribution
from orchestrator.keys import FlatConfig, Value
from orchestrator.samplers.base import Past, SamplerKind, choose, in_order
from orchestrator.samplers.unit import place, random_rows, sobol_rows


def propose(
    axes: Mapping[str, Distribution],
    history: Sequence[Past],
    n: int,
    *,
    sampler: SamplerKind,
    seed: int,
    direction: str = "minimize",
    context: FlatConfig | None = None,
) -> list[dict[str, Value]]:
    """The n points that follow the history.

    `random` and `sobol` look at the length of the history only: point i depends on the seed and i alone, so asking for 8
    is asking for 3 and then for 5. `tpe` begins with Sobol points and is then led by the values.

    Args:
        axes: Dotted keys and what each may be. Their order has no effect.
        history: Every point proposed so far, in the order of proposal, failed ones too.
        n: How many more.
        sampler: Which way.
        seed: Fixes every draw.
        direction: Which way values are better: `minimize` or `maximize`.
        context: Values of other keys, which conditions may name.

    Returns:
        Points of active axes only, so points of a conditional space differ in their keys.
    """
    ordered, context = dict(in_order(axes)), context or {}
    if sampler is SamplerKind.TPE:
        from orchestrator.samplers.tpe import tpe_points

        return tpe_points(ordered, history, n, seed=seed, direction=direction, context=context)
    rows = sobol_rows if sampler is SamplerKind.SOBOL else random_rows
    return unit_points(ordered, rows(seed, len(history), n, len(ordered)), context)


def unit_points(axes: Mapping[str, Distribution], rows: Sequence[Sequence[float]], context: FlatConfig) -> list[dict[str, Value]]:
    """The points at positions [point, axis] of the unit cube; an inactive axis uses up its coordinate all the same."""
    column = {key: number for number, key in enumerate(axes)}
    return [choose(axes, context, lambda key, axis, row=row: place(axis, row[column[key]])) for row in rows]
