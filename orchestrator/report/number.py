"""Numbers as text: as many digits as the standard error supports, a true minus, and a word for what is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchestrator.analysis.summary import Mean
from orchestrator.keys import Value

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "\N{EN DASH}"
_MOST_DECIMALS = 8


def decimals_for(means: Iterable[Mean]) -> int:
    """Decimals of a column: the median standard error keeps one digit, or two if it starts with 1.

    Errors below a thousandth of the largest are zeros with rounding, and not asked. Without a standard error, four digits
    of the largest value, less the zeros that all values end with.
    """
    rows = [row for row in means if math.isfinite(row.mean)]
    largest_error = max((row.se for row in rows), default=0.0)
    errors = sorted(row.se for row in rows if row.se > 1e-3 * largest_error)
    if errors:
        return decimals_of_error(errors[len(errors) // 2])
    values = [row.mean for row in rows]
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0 or all(value == int(value) for value in values):
        return 0
    decimals = _clamp(3 - math.floor(math.log10(largest)))
    while decimals and all(f"{value:.{decimals}f}".endswith("0") for value in values):
        decimals -= 1
    return decimals


def decimals_of_error(se: float) -> int:
    """Decimals with which a standard error has one digit, or two if it starts with 1.

    >>> decimals_of_error(0.0031), decimals_of_error(0.0014), decimals_of_error(20.0)
    (3, 4, 0)
    """
    if not (math.isfinite(se) and se > 0):
        return 4
    exponent = math.floor(math.log10(se))
    return _clamp((1 if se / 10.0**exponent < 2 else 0) - exponent)


def decimals_of(mean: Mean) -> int:
    """Decimals of one mean: those of its standard error, or four digits where it has none.

    >>> decimals_of(Mean(mean=0.638, se=0.003, n=8)), decimals_of(Mean(mean=0.000123, se=0.0, n=8))
    (3, 7)
    """
    if mean.se > 0 or not math.isfinite(mean.mean) or mean.mean == 0:
        return decimals_of_error(mean.se)
    return _clamp(3 - math.floor(math.log10(abs(mean.mean))))


def decimals_in(mean: Mean, decimals: int) -> int:
    """The column's decimals, or fewer for a mean whose standard error would show three digits or more."""
    return min(decimals, decimals_of_error(mean.se)) if mean.se >= 100 * 10.0**-decimals else decimals


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """A value with a number of decimals.

    >>> fixed(-1234.5678, 1), fixed(float("inf"), 2), fixed(float("nan"), 2), fixed(-0.001, 1), fixed(0.5, 1, sign=True)
    ('−1,234.6', '∞', '–', '0.0', '+0.5')
    """
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def with_error(mean: Mean, decimals: int) -> str:
    """A mean with its standard error, where it has one.

    >>> with_error(Mean(mean=0.6381, se=0.0034, n=8), 3)
    '0.638 ± 0.003'
    """
    error = error_text(mean, decimals)
    return f"{fixed(mean.mean, decimals)} ± {error}" if error else fixed(mean.mean, decimals)


def error_text(mean: Mean, decimals: int) -> str:
    """A standard error; empty where it is unknown, or 0 as that of a cost is."""
    return fixed(mean.se, decimals) if mean.se > 0 else ""


def p_text(p: float) -> str:
    """A p with two digits.

    >>> p_text(0.0078125), p_text(0.00001), p_text(1.0), p_text(0.25)
    ('0.0078', '< 0.001', '1', '0.25')
    """
    if math.isnan(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def needed_text(needed: float) -> str:
    """A number of replicates, rounded up to two digits.

    >>> needed_text(8.0), needed_text(676.0), needed_text(3e7), needed_text(float("inf"))
    ('8', '680', 'more than a million', 'no number of')
    """
    if math.isnan(needed):
        return UNKNOWN
    if math.isinf(needed):
        return "no number of"
    if needed > 1e6:
        return "more than a million"
    step = 10 ** max(0, len(str(int(needed))) - 2)
    return f"{math.ceil(needed / step) * step:,}"


def plain(value: object) -> str:
    """A config value as a study file writes it."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else repr(value)


def short(value: Value) -> Value:
    """Four digits of a number, which are enough to read it by; every digit stands with the arm's cell.

    >>> short(0.0034159699035523424), short("adam")
    (0.003416, 'adam')
    """
    return float(f"{value:.4g}") if isinstance(value, float) else value


def duration(seconds: float) -> str:
    """A span of time.

    >>> duration(4.2), duration(310.0), duration(9000.0)
    ('4.2 s', '5.2 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _clamp(decimals: int) -> int:
    return max(0, min(_MOST_DECIMALS, decimals))
