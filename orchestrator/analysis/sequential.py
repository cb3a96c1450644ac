"""A paired t test that may be looked at again and again: its boundaries, p and intervals, exact for normal differences.

Under the hypothesis of no difference, what t is after n pairs says nothing of their scale, so the path of |t| from look to look is
a Markov chain with a known law: the direction of n independent normal values is uniform on the sphere. Below, the part of its paths
that has crossed no boundary is carried from pair to pair on a grid, and each boundary is put where the part that crosses it is
the error that may be spent at that look. No simulation, no approximation by large n; tests hold it to simulation.

The error is spent by a function of n alone (`spent`), which never reaches 1. So nothing depends on looks to come, and a study that
was not settled may be given more replicates, and yet more, at the error rate that it was promised.

Source:
    Lan and DeMets, Discrete Sequential Boundaries for Clinical Trials, Biometrika 70 (1983), for spending.
    Armitage, McPherson and Rowe, Repeated Significance Tests on Accumulating Data, JRSS A 132 (1969), for the recursion.
    Jennison and Turnbull, Repeated Confidence Intervals for Group Sequential Clinical Trials, Controlled Clinical Trials 5 (1984).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.paired import Effect, Floats, holm, special
from orchestrator.analysis.summary import mean_of

PLANNED = 24  # replicates up to which most of the error is spent evenly: what studies of this kind can afford
SHARE = 0.9  # of the error, spent until then; the rest is for all that may follow
CELLS = 240
REACH = 9.0  # the grid ends at the angle of a normal value of this size; what is beyond is its last cell
FINE = 4_000  # cells of φ
LEVELS = np.concatenate([np.geomspace(1e-6, 0.05, 48), np.geomspace(0.05, 0.98, 17)[1:]])  # at which boundaries are tabled

_DEEP = 40.0  # natural logarithms that the table of caps goes on beyond the grid


def spent(n: int) -> float:
    """Part of the error that may be spent on all looks at up to n pairs, of 1.

    >>> round(spent(8), 3), round(spent(24), 3), round(spent(48), 3)
    (0.3, 0.9, 0.95)
    """
    return SHARE * n / PLANNED if n <= PLANNED else 1.0 - (1.0 - SHARE) * PLANNED / n


def boundary(looks: Sequence[int], level: float) -> float:
    """|t| from which on the last of these looks rejects, at a chance of `level` that any look ever does.

    Args:
        looks: Pairs at each look so far, growing, at least 2.
        level: Between 1e-6 and 0.98.
    """
    return math.exp(float(np.interp(math.log(level), np.log(LEVELS), np.log(_walked(tuple(looks)).boundaries))))


def nominal(looks: Sequence[int], level: float) -> float:
    """Level of a plain t test with the boundary of the last look: what that look asks for. Without a look, the level itself."""
    looks = [n for n in looks if n >= 2]
    return 2.0 * float(special.stdtr(looks[-1] - 1, -boundary(looks, level))) if looks else level


def sequential_p(differences: Sequence[float], looks: Sequence[int]) -> float:
    """The smallest level at which some look has rejected: a p that stays valid whenever, and for whatever reason, one stops.

    Differences that all are alike have no spread to measure their mean by. Then it is the signs that count: n alike ones have the
    chance 2^(1 - n), whatever their size.

    Args:
        differences: Of paired values, in the order of the replicates; finite.
        looks: How many of them each look had, growing; those at fewer than 2 say nothing.
    """
    looks = [n for n in looks if n >= 2]
    return min((p_at(differences[:n], looks[: number + 1]) for number, n in enumerate(looks)), default=1.0)


def repeated_effect(differences: Sequence[float], looks: Sequence[int], *, level: float = 0.95) -> Effect:
    """Mean difference with its interval in a series of repeated intervals, and the sequential p.

    With probability `level` the true mean is in the intervals of all looks, so in that of the look at which one stops.

    Args:
        differences: As for `sequential_p`; of the last look, or NaN where a value is not finite.
        looks: As there. Without one at 2 or more, there is no interval.
        level: Chance that all intervals hold the mean.
    """
    mean, looks = mean_of(differences), [n for n in looks if n >= 2]
    if not looks or not math.isfinite(mean.se):
        return Effect(mean=mean.mean, se=mean.se, low=math.nan, high=math.nan, p=math.nan, n=mean.n)
    half = boundary(looks, 1.0 - level) * mean.se
    return Effect(mean=mean.mean, se=mean.se, low=mean.mean - half, high=mean.mean + half, p=sequential_p(differences, looks), n=mean.n)


def p_at(differences: Sequence[float], looks: Sequence[int]) -> float:
    """The smallest level at which the last look rejects, after those before it did not. As `sequential_p` otherwise."""
    mean = mean_of(differences)
    if mean.mean == 0.0:
        return 1.0
    if mean.se == 0.0:
        return p_of_signs(mean.n)
    boundaries, t = _walked(tuple(looks)).boundaries, abs(mean.mean) / mean.se
    if t < boundaries[-1]:
        return 1.0
    return math.exp(float(np.interp(-math.log(t), -np.log(boundaries), np.log(LEVELS))))


def p_of_signs(n: int) -> float:
    """Sequential p of n differences that all are alike: what their signs alone say.

    >>> p_of_signs(8) < 0.05 < p_of_signs(6)
    True
    """
    return min(1.0, 2.0 ** (1 - n) / spent(n))


@dataclasses.dataclass(frozen=True, slots=True)
class _Walked:
    """Where the walk is after some looks.

    Attributes:
        boundaries: |t| that rejects at the last look, [level], falling.
        mass: Of the paths that have crossed no boundary, [level, cell].
    """

    boundaries: Floats
    mass: Floats


@functools.lru_cache(maxsize=128)
def _walked(looks: tuple[int, ...]) -> _Walked:
    """The boundaries of one look after those before it."""
    *before, n = looks
    if before:
        start, spendable = _walked(tuple(before)), LEVELS * (spent(n) - spent(before[-1]))
        mass = start.mass
        for pairs in range(before[-1] + 1, n):
            mass = -np.diff(mass @ _step(pairs))
        beyond = mass @ _step(n)
    else:
        spendable, beyond = LEVELS * spent(n), np.tile(_at_once(n), (len(LEVELS), 1))
    edges = _edges(n)
    # By logarithms: near its pole the chance of a cap grows with a power of its width, within the last cell too.
    widths = np.log(math.pi / 2 - edges[:-1])
    widths = np.append(widths, widths[-1] - _DEEP)
    logs = np.log(np.maximum(beyond[:, :-1], 1e-300))
    logs = np.hstack([logs, logs[:, -1:] - (n - 1) * _DEEP])
    caps = np.exp([np.interp(math.log(chance), row[::-1], widths[::-1]) for chance, row in zip(spendable, logs, strict=True)])
    mass = np.maximum(np.minimum(beyond[:, :-1] - spendable[:, None], -np.diff(beyond)), 0.0)
    return _Walked(boundaries=math.sqrt(n - 1) / np.tan(caps), mass=mass)


def _edges(n: int) -> Floats:
    """Angles arctan(|t| / √(n - 1)) between cells after n pairs, [cell + 1]: as fine as the angle is spread."""
    edges = np.linspace(0.0, min(math.pi / 2 * math.sqrt(n), REACH), CELLS + 1) / math.sqrt(n)
    edges[-1] = math.pi / 2
    return edges


def _at_once(n: int) -> Floats:
    """Chance that the angle of n pairs is beyond each edge: Student's."""
    with np.errstate(divide="ignore"):
        return 2.0 * special.stdtr(n - 1, -np.tan(_edges(n)) * math.sqrt(n - 1)) * (_edges(n) < math.pi / 2)


@functools.lru_cache(maxsize=32)
def _step(n: int) -> Floats:
    """Chance that the angle of n pairs is beyond each edge, from the middle of each cell of n - 1, [cell, edge].

    The new difference over the root of the sum of squares of the others is tan φ with density ∝ cos^(n-2) φ, and
    Σx / √Σx² goes from s to s cos φ + sin φ = r cos(φ - ψ).
    """
    before, goal = _edges(n - 1), math.sqrt(n) * np.sin(_edges(n))
    s = math.sqrt(n - 1) * np.sin((before[1:] + before[:-1]) / 2)
    r, turn = np.sqrt(1.0 + s * s)[:, None], np.arctan2(1.0, s)[:, None]
    reach = np.arccos(np.minimum(goal[None, :] / r, 1.0))
    below = special.stdtr(n - 1, np.tan(np.linspace(-math.pi / 2, math.pi / 2, FINE + 1)) * math.sqrt(n - 1))
    slope = np.append(np.diff(below), 0.0)

    def chance(angle: Floats) -> Floats:
        place = np.clip((angle / math.pi + 0.5) * FINE, 0.0, FINE)
        cell = place.astype(np.intp)
        return below[cell] + slope[cell] * (place - cell)

    beyond = chance(turn + reach) - chance(turn - reach) + chance(turn - math.pi + reach)
    beyond[:, 0], beyond[:, -1] = 1.0, 0.0
    return beyond


def corrected(ps: Sequence[float], family: int) -> tuple[float, ...]:
    """Holm's correction over a family of which some are not tested yet: they count as not rejected. NaN stays NaN.

    A sequential p may be taken whenever one likes, so this holds whoever stopped when, and why.

    >>> corrected([0.01, math.nan, 0.03], 4)
    (0.04, nan, 0.09)
    """
    known = [1.0 if math.isnan(p) else p for p in ps]
    found = holm([*known, *[1.0] * (family - len(known))])
    return tuple(math.nan if math.isnan(p) else value for p, value in zip(ps, found, strict=False))


def pairs_at(indices: Sequence[int], looks: Sequence[int]) -> list[int]:
    """How many pairs each look had, of those that there are; a look that found no new one is none.

    Args:
        indices: Of the replicates that are paired, growing.
        looks: Replicates that each look had.

    >>> pairs_at([0, 1, 3, 4, 5], [2, 3, 6])
    [2, 5]
    """
    counts = (sum(index < look for index in indices) for look in looks)
    return [count for count, _ in itertools.groupby(counts) if count]
