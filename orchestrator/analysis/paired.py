"""The statistics of a paired comparison: the interval, the exact p, and its correction for the number of comparisons."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import scipy.special as _special  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.analysis.summary import ROUNDING, Mean, mean_of

Floats: TypeAlias = npt.NDArray[np.float64]

ALPHA = 0.05  # an effect is resolved when its Holm-corrected p is not above this
EXACT_REPLICATES = 24  # up to here every flip of signs is counted
RANDOM_FLIPS = 9_999  # beyond, this many are drawn from a fixed seed: p is then a multiple of 1/10,000
_LISTED = 12  # up to here the flips are one matrix, above they are put together from two halves
_AT_ONCE = 1 << 22  # sums of flips that are held at once

# scipy.stats costs 1.2 s of CPU to import; the distributions alone cost 0.3 s.
special = cast(Any, _special)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A mean paired difference, ablated minus baseline, in metric units.

    Attributes:
        mean: Of the differences.
        se: Its standard error.
        low: Lower end of the t interval.
        high: Upper end.
        p: Of the two-sided sign-flip permutation test; NaN if a difference is not finite.
        n: Paired replicates.
    """

    mean: float
    se: float
    low: float
    high: float
    p: float
    n: int

    @property
    def difference(self) -> Mean:
        """The mean difference with its standard error."""
        return Mean(mean=self.mean, se=self.se, n=self.n)

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def paired_effect(baseline: Floats, ablated: Floats, *, level: float = 0.95) -> Effect:
    """Mean change that an ablation causes, with a paired t interval and the p of a sign-flip test.

    Position r of both arrays is replicate r: same seed, same data order.

    Args:
        baseline: Final metric of the baseline arm, [replicate], metric units.
        ablated: Final metric of the ablated arm, [replicate], metric units.
        level: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The shapes differ, or there are fewer than 2 replicates.

    Source:
        Student, The Probable Error of a Mean, Biometrika 6 (1908).

    >>> print(paired_effect(np.array([0.70, 0.72, 0.71]), np.array([0.66, 0.69, 0.67])))
    -0.0367 [-0.0510, -0.0223]
    """
    if baseline.shape != ablated.shape:
        raise ValueError(f"paired arrays have one shape, not {baseline.shape} and {ablated.shape}")
    if baseline.size < 2:
        raise ValueError(f"an interval needs at least 2 paired replicates, not {baseline.size}")
    differences = differences_of(baseline, ablated)
    mean = mean_of(differences.tolist())
    # Not a bootstrap: at 5 replicates the 95 % percentile bootstrap holds the true
    # mean 84 % of the time (tests/unit/test_analysis_paired.py::test_intervals_cover).
    low, high = t_interval(mean, level=level)
    return Effect(mean=mean.mean, se=mean.se, low=low, high=high, p=sign_flip_p(differences), n=mean.n)


def t_interval(mean: Mean, *, level: float = 0.95) -> tuple[float, float]:
    """The interval that holds the true mean of normal values with this probability; NaN where the standard error is."""
    half = float(special.stdtrit(mean.n - 1, (1 + level) / 2)) * mean.se
    return mean.mean - half, mean.mean + half


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p that the differences are symmetric about 0: how often flipped signs give a mean as far from 0.

    Exact up to `EXACT_REPLICATES`, so never below 2^(1 - n); NaN if a difference is not finite.

    Source:
        Fisher, The Design of Experiments (1935), section 21.

    >>> sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0]))
    0.125
    """
    return float(sign_flip_ps(differences[None, :])[0])


def sign_flip_ps(differences: Floats) -> Floats:
    """The p of `sign_flip_p` for each row of [comparison, replicate], as [comparison]."""
    n = differences.shape[1]
    found = np.full(len(differences), math.nan)
    known = np.isfinite(differences).all(axis=1) & (n > 0)
    rows = differences[known]
    # The observed sum comes back as one of the flips, but added up in another order.
    observed = np.abs(rows.sum(axis=1)) - 1e-12 * np.abs(rows).sum(axis=1)
    if _LISTED < n <= EXACT_REPLICATES:
        found[known] = [_exact_p(row, float(far)) for row, far in zip(rows, observed, strict=True)]
    elif len(rows):
        flips = _flips(n)
        size = max(1, _AT_ONCE // len(flips))
        parts = [
            np.count_nonzero(_sums(rows[at : at + size], flips) >= observed[at : at + size, None], axis=1)
            for at in range(0, len(rows), size)
        ]
        drawn = int(n > EXACT_REPLICATES)  # the signs as they are count as one more draw
        found[known] = (np.concatenate(parts) + drawn) / (len(flips) + drawn)
    return found


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Each p corrected for their number, so that the chance of any false rejection stays at the level. NaN stays NaN.

    Source:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics 6 (1979).

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    known = sorted((p, position) for position, p in enumerate(ps) if not math.isnan(p))
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, (p, position) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[position] = largest
    return tuple(corrected)


def differences_of(baseline: Floats, ablated: Floats) -> Floats:
    """Ablated minus baseline. What rounding leaves of the difference of equal values is 0, or it would look like an effect."""
    with np.errstate(invalid="ignore"):  # inf - inf: both diverge, the difference is unknown
        differences = ablated - baseline
    rounding = ROUNDING * np.maximum(np.abs(baseline), np.abs(ablated))
    return np.where(np.isfinite(differences) & (np.abs(differences) <= rounding), 0.0, differences)


def _sums(rows: Floats, flips: Floats) -> Floats:
    return np.abs(rows @ flips.T)


def _exact_p(row: Floats, observed: float) -> float:
    """All 2^(n - 1) flips counted from two halves: sums of the one are looked up among the sorted sums of the other."""
    half = row.size // 2
    first, second = _flips(half) @ row[:half], np.sort(_signs(row.size - half) @ row[half:])
    above = second.size - np.searchsorted(second, observed - first, side="left")
    below = np.searchsorted(second, -observed - first, side="right")
    return float((above + below).sum()) / (first.size * second.size)


@functools.lru_cache(maxsize=32)
def _flips(n: int) -> Floats:
    """Signs [flip, n]. The first sign is fixed where all are listed: the mirrored half gives the same distances."""
    if n > EXACT_REPLICATES:
        return np.random.default_rng(n).choice(np.array([-1.0, 1.0]), size=(RANDOM_FLIPS, n))
    rest = _signs(n - 1)
    return np.hstack([np.ones((len(rest), 1)), rest])


@functools.lru_cache(maxsize=32)
def _signs(n: int) -> Floats:
    """All signs [2^n, n]."""
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)), dtype=np.float64).reshape(2**n, n)
