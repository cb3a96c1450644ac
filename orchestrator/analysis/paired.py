"""The statistics of a paired comparison: the interval, the exact p, its correction, and how many replicates it would take."""

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

from orchestrator.analysis.summary import Mean, mean_of

Floats: TypeAlias = npt.NDArray[np.float64]

ALPHA = 0.05  # an effect is resolved when its Holm-corrected p is not above this
POWER = 0.8  # chance of resolving the observed difference that `replicates_needed` asks for
EXACT_REPLICATES = 16  # up to here all sign flips are enumerated: 2^15 of them
RANDOM_FLIPS = 9_999  # beyond, this many are drawn from a fixed seed: p is then a multiple of 1/10,000

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
    with np.errstate(invalid="ignore"):  # inf - inf: both diverge, the difference is unknown
        differences = ablated - baseline
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
    if differences.size == 0 or not np.isfinite(differences).all():
        return math.nan
    sums = np.abs(_flips(differences.size) @ differences)
    # The observed sum comes back as one of the flips, but added up in another order.
    as_far = int(np.count_nonzero(sums >= abs(float(differences.sum())) - 1e-12 * float(np.abs(differences).sum())))
    if differences.size <= EXACT_REPLICATES:
        return as_far / sums.size
    return (as_far + 1) / (sums.size + 1)


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


def replicates_needed(mean: float, sd: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Replicates with which a two-sided paired t test finds a mean difference of this size and spread.

    Not below the number at which an exact sign-flip test can give p ≤ alpha at all. Infinite for a difference of 0.

    Args:
        mean: Difference to be found, metric units.
        sd: Standard deviation of the differences, metric units.
        alpha: Level of the test.
        power: Chance of finding it, in (alpha, 1).

    >>> replicates_needed(0.5, 1.0)
    34.0
    """
    if not (math.isfinite(mean) and math.isfinite(sd)):
        return math.nan
    if mean == 0:
        return math.inf
    floor = fewest_replicates(alpha)
    size = abs(mean) / sd if sd > 0 else math.inf
    if not math.isfinite(size):
        return float(floor)
    with np.errstate(over="ignore"):
        normal = ((float(special.ndtri(1 - alpha / 2)) + float(special.ndtri(power))) / size) ** 2 if size > 1e-100 else math.inf
    if normal > 10_000:  # here the t and the normal answer differ by fewer than 3 replicates
        return float(math.ceil(normal)) if math.isfinite(normal) else math.inf
    low, high = 1, 2
    while _power(size, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(size, middle, alpha) >= power else (middle, high)
    return float(max(high, floor))


def fewest_replicates(alpha: float = ALPHA) -> int:
    """Paired replicates below which a sign-flip test cannot give p ≤ alpha, however large the effect.

    >>> fewest_replicates(0.05), fewest_replicates(0.05 / 6)
    (6, 8)
    """
    return max(2, math.ceil(1 - math.log2(alpha) - 1e-12))


def _power(size: float, n: int, alpha: float) -> float:
    """Of the two-sided one-sample t test at a standardised mean of `size`: the far tail of the noncentral t."""
    critical, shift = float(special.stdtrit(n - 1, 1 - alpha / 2)), size * math.sqrt(n)
    above = 1.0 - float(special.nctdtr(n - 1, shift, critical))
    return 1.0 if math.isnan(above) else above  # nctdtr is NaN only where the shift is far beyond the critical value


@functools.lru_cache(maxsize=32)
def _flips(n: int) -> Floats:
    """Signs [flip, n]. The first sign is fixed where all are enumerated: the mirrored half gives the same distances."""
    if n > EXACT_REPLICATES:
        return np.random.default_rng(n).choice(np.array([-1.0, 1.0]), size=(RANDOM_FLIPS, n))
    rest = np.array(list(itertools.product((1.0, -1.0), repeat=n - 1)), dtype=np.float64).reshape(2 ** (n - 1), n - 1)
    return np.hstack([np.ones((2 ** (n - 1), 1)), rest])
