"""How much each axis of a drawn design explains: points of a space, no two alike, so that no level comes back.

Points whose values of one axis lie close together differ at random in all others. So the variance between the means of such bins, less
what noise and the other axes alone would make of it, is what the axis explains by itself. Noise is known from replicates and
stands in a row of its own, where importances that are fitted to single trials blame it on axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.analysis.components import INTERACTIONS, NOISE, REST, SEED, Component, Part, Table, Variance, ratio
from orchestrator.analysis.factors import Factors
from orchestrator.analysis.paired import Floats, holm
from orchestrator.keys import Value

FEWEST_POINTS = 10
MOST_BINS = 10  # of 10 points at least; an effect that is a straight line loses 1/bins² of its share
PERMUTATIONS = 1_999
_AT_MOST = 4_000_000  # permuted means that are held at once


def drawn_variance(metric: str, design: Factors, table: Table) -> Variance:
    """First-order shares of the axes of a drawn design, with a permutation test for each.

    Source:
        Plischke, Borgonovo and Smith, Global Sensitivity Measures from Given Data, European J. Operational Research 226 (2013); the
        share between bins is corrected as in Kelley, An Unbiased Correlation Ratio Measure, PNAS 21 (1935).
    """
    notes = list(design.notes)
    if missing := len(design.points) - len(table.points):
        notes.append(
            f"{missing} of {len(design.points)} points have no result: this holds for the others, which a stopping rule may have selected."
        )
    whole = [bool(row.all()) for row in np.isfinite(table.values)]
    if not all(whole):
        notes.append(f"{whole.count(False)} points are left out, as they lack a replicate.")
    means = table.values[whole]
    components: tuple[Component, ...] = ()
    if len(means) < FEWEST_POINTS:
        notes.append(f"{len(means)} points are too few: at least {FEWEST_POINTS} are needed.")
    else:
        axes = {
            factor.name: [point[factor.keys[0]] for point in itertools.compress(table.points.values(), whole)] for factor in design.factors
        }
        components = _components(axes, means)
        if means.shape[1] < 2:
            notes.append("Points have one replicate, so noise is part of what no axis explains.")
        notes.append(f"With {len(means)} points a share is known to ±{1.54 / math.sqrt(len(means)):.2f} at worst.")
    return Variance(
        metric=metric,
        layout=design.layout,
        components=components,
        cells=len(means),
        n=means.shape[1],
        balanced=table.is_whole,
        notes=tuple(notes),
    )


def _components(axes: Mapping[str, Sequence[Value]], values: Floats) -> tuple[Component, ...]:
    means = values.mean(axis=1) - values.mean()
    between, seed, noise = _variances(values)
    whole = between + seed + noise
    permuted = np.random.default_rng(0).permuted(np.tile(means, (min(PERMUTATIONS, _AT_MOST // len(means)), 1)), axis=1)
    explained = [float(_explained(axis, means[None])[0]) for axis in axes.values()]
    ps = [
        (1 + np.count_nonzero(_explained(axis, permuted) >= own)) / (1 + len(permuted))
        for axis, own in zip(axes.values(), explained, strict=True)
    ]
    shares = [ratio(own, whole) for own in explained]
    found = [
        Component(name=name, part=Part.AXIS, df=0, share=share, unbiased=share, p=p, p_holm=p_holm)
        for name, share, p, p_holm in zip(axes, shares, ps, holm(ps), strict=True)
    ]
    others = [(INTERACTIONS, Part.INTERACTION, between - sum(explained)), (SEED, Part.SEED, seed), (NOISE, Part.NOISE, noise)]
    if values.shape[1] < 2:
        others = [(REST, Part.INTERACTION, between - sum(explained))]
    return (
        *found,
        *(Component(name=name, part=part, df=0, share=ratio(own, whole), unbiased=ratio(own, whole)) for name, part, own in others),
    )


def _variances(values: Floats) -> tuple[float, float, float]:
    """Variance between points, of what points share by their seed, and of noise, from [point, replicate]; all of it is between for one."""
    cells, n = values.shape
    means, seeds = values.mean(axis=1), values.mean(axis=0)
    between = float(means.var(ddof=1))
    if n < 2:
        return between, 0.0, 0.0
    left = values - means[:, None] - seeds[None, :] + values.mean()
    noise = float((left**2).sum()) / ((cells - 1) * (n - 1))
    return between - noise / n, float(seeds.var(ddof=1)) - noise / cells, noise


def _explained(axis: Sequence[Value], means: Floats) -> Floats:
    """Variance that an axis explains, for each row of centred [permutation, point]."""
    level = _binned(axis)
    count, levels = len(level), int(level.max()) + 1
    indicators = (level[:, None] == np.arange(levels, dtype=np.int64)).astype(np.float64)
    between = ((means @ indicators) ** 2 / indicators.sum(axis=0)).sum(axis=1)
    within = (means**2).sum(axis=1) - between
    return (between - (levels - 1) * within / max(1, count - levels)) / count


def _binned(axis: Sequence[Value]) -> npt.NDArray[np.int64]:
    """The bin of each point: one for each value where these are few or no numbers, else bins of equal counts."""
    bins, values = max(3, min(MOST_BINS, len(axis) // 10)), list(dict.fromkeys(axis))
    if len(values) <= bins or not all(isinstance(value, (int, float)) for value in values):
        return np.array([values.index(value) for value in axis], dtype=np.int64)
    ranks = np.argsort(np.argsort(np.array(axis, dtype=np.float64), kind="stable"), kind="stable")
    return (ranks * bins // len(axis)).astype(np.int64)
