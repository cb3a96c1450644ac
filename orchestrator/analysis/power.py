"""What a number of replicates can resolve: the chance of it, the smallest effect, and the replicates that an effect takes.

The test is the exact sign-flip test, whose p moves in steps: with n pairs it is a multiple of 2^(1 - n). So the level that it can
really use lies below the one asked for, and below `fewest_replicates` it can reject nothing.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import scipy.special as _special  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.analysis.paired import ALPHA, EXACT_REPLICATES, RANDOM_FLIPS

POWER = 0.8  # chance of resolving a difference that sizes and numbers here are given for

special = cast(Any, _special)


def fewest_replicates(alpha: float = ALPHA) -> int:
    """Paired replicates below which a sign-flip test cannot give p ≤ alpha, however large the effect.

    >>> fewest_replicates(0.05), fewest_replicates(0.05 / 6)
    (6, 8)
    """
    return max(2, math.ceil(1 - math.log2(alpha) - 1e-12))


def t_power(size: float, n: int, *, alpha: float = ALPHA) -> float:
    """Chance that a two-sided paired t test finds a difference: the far tail of the noncentral t.

    Args:
        size: True mean of the differences over their standard deviation, from 0.
        n: Paired replicates, at least 2.
        alpha: Level of the test.
    """
    critical, shift = float(special.stdtrit(n - 1, 1 - alpha / 2)), size * math.sqrt(n)
    above = 1.0 - float(special.nctdtr(n - 1, shift, critical))
    return 1.0 if math.isnan(above) else above  # nctdtr is NaN only where the shift is far beyond the critical value


def sign_flip_power(size: float, n: int, *, alpha: float = ALPHA) -> float:
    """Chance that the sign-flip test finds a difference of normal values; 0 where no p is small enough.

    Exact where all signs must agree. Elsewhere that of the t test at the level which the steps of p leave: the sizes that
    it takes for 80 % are then up to 7 % below those of simulations, and less from 10 replicates
    (`tests/unit/test_analysis_power.py`).

    Args:
        size: True mean of the differences over their standard deviation, from 0.
        n: Paired replicates, at least 2.
        alpha: Level of the test.
    """
    flips = 2 ** (n - 1) if n <= EXACT_REPLICATES else RANDOM_FLIPS + 1
    rejected = math.floor(alpha * flips * (1 + 1e-12))
    if rejected == 0:
        return 0.0
    if rejected == 1 and n <= EXACT_REPLICATES:
        return float(special.ndtr(size)) ** n + float(special.ndtr(-size)) ** n
    return t_power(size, n, alpha=rejected / flips)


def smallest_effect(sd: float, n: int, *, alpha: float = ALPHA, power: float = POWER, exact: bool = True) -> float:
    """The smallest true difference that n paired replicates resolve with this probability, in metric units.

    Infinite where they can resolve none, NaN where the spread is unknown.

    Args:
        sd: Standard deviation of the differences, metric units.
        n: Paired replicates.
        alpha: Level of the test; divided by their number where several arms are compared.
        power: Chance of finding it, in (alpha, 1).
        exact: Of the sign-flip test; else of the t test, which has no steps but needs normal differences.

    >>> round(smallest_effect(1.0, 8), 2), round(smallest_effect(1.0, 8, exact=False), 2), smallest_effect(1.0, 5)
    (1.17, 1.16, inf)
    """
    if n < 2:
        return math.inf
    if not math.isfinite(sd):
        return math.nan
    size = _smallest_size(n, alpha, power, exact)
    return size * sd if math.isfinite(size) else math.inf


def replicates_needed(mean: float, sd: float, *, alpha: float = ALPHA, power: float = POWER, exact: bool = True) -> float:
    """Replicates with which the sign-flip test finds a mean difference of this size and spread.

    Not below the number at which it can give p ≤ alpha at all. Infinite for a difference of 0.

    Args:
        mean: Difference to be found, metric units.
        sd: Standard deviation of the differences, metric units.
        alpha: Level of the test.
        power: Chance of finding it, in (alpha, 1).
        exact: By the sign-flip test; else by the t test, which may find it with fewer.

    >>> replicates_needed(0.5, 1.0)
    34.0
    """
    if not (math.isfinite(mean) and math.isfinite(sd)):
        return math.nan
    if mean == 0:
        return math.inf
    size = abs(mean) / sd if sd > 0 else math.inf
    for n in range(fewest_replicates(alpha) if exact else 2, EXACT_REPLICATES + 1):
        if size >= _smallest_size(n, alpha, power, exact):
            return float(n)
    return _many_needed(size, alpha, power)


@functools.lru_cache(maxsize=4096)
def _smallest_size(n: int, alpha: float, power: float, exact: bool) -> float:
    """The smallest mean over standard deviation that n pairs find with this probability; infinite where they find none."""
    chance = sign_flip_power if exact else t_power
    low, high = 0.0, 1.0
    while chance(high, n, alpha=alpha) < power:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle, n, alpha=alpha) >= power else (middle, high)
    return high


def _many_needed(size: float, alpha: float, power: float) -> float:
    """Beyond the replicates whose flips are all counted; there the power grows with every one."""
    if alpha * (RANDOM_FLIPS + 1) < 1 or size < 1e-100:
        return math.inf
    normal = ((float(special.ndtri(1 - alpha / 2)) + float(special.ndtri(power))) / size) ** 2
    if normal > 10_000:  # here the t and the normal answer differ by fewer than 3 replicates
        return float(math.ceil(normal)) if math.isfinite(normal) else math.inf
    low, high = EXACT_REPLICATES, 2 * EXACT_REPLICATES
    while sign_flip_power(size, high, alpha=alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if sign_flip_power(size, middle, alpha=alpha) >= power else (middle, high)
    return float(high)
