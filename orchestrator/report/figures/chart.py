"""What the charts are built from: axes whose ends are known here, colours by arm, data in the specification."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import altair as _altair
from altair.utils.schemapi import debug_mode

from orchestrator.analysis.summary import Mean
from orchestrator.keys import Json
from orchestrator.report.figures import theme

alt = cast(Any, _altair)  # its classes are generated, and typed only in part
Rows: TypeAlias = Sequence[Mapping[str, object]]

_LOG_FROM = 4.0  # a positive range that spans this factor is drawn on a logarithmic axis
_MARGIN = 0.06  # of the range, beyond the outermost values
_MARKS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))  # within a power of ten, coarse to fine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart and its words.

    Attributes:
        name: Of its files.
        section: Of the report that it stands in.
        title: Above it.
        caption: Below it: how to read it.
        alt: What it shows, for those who cannot see it.
        spec: Vega-Lite.
    """

    name: str
    section: str
    title: str
    caption: str
    alt: str
    spec: Mapping[str, Json]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis from `low` to `high` over some pixels, so that names can be placed where nothing else is."""

    low: float
    high: float
    log: bool
    pixels: tuple[float, float]

    @classmethod
    def over(cls, values: Sequence[float], pixels: tuple[float, float]) -> Scale:
        """An axis that holds all values with a margin; logarithmic if they are positive and far apart."""
        low, high = min(values), max(values)
        if low > 0 and high / low > _LOG_FROM:
            margin = (high / low) ** _MARGIN
            return cls(low=low / margin, high=high * margin, log=True, pixels=pixels)
        margin = _MARGIN * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low=low - margin, high=high + margin, log=False, pixels=pixels)

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        low, high, at = (math.log(end) if self.log else end for end in (self.low, self.high, value))
        return self.pixels[0] + (self.pixels[1] - self.pixels[0]) * (at - low) / (high - low)

    def x(self, field: str, title: str | None, *, ticks: int = 6, **axis: object) -> Any:
        """The horizontal axis of a field."""
        return alt.X(field, scale=self._scale(), axis=self._axis(title, ticks, axis))

    def y(self, field: str, title: str | None, *, ticks: int = 6, **axis: object) -> Any:
        """The vertical axis of a field."""
        return alt.Y(field, scale=self._scale(), axis=self._axis(title, ticks, axis))

    def _scale(self) -> Any:
        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False, zero=False)

    def _axis(self, title: str | None, ticks: int, axis: Mapping[str, object]) -> Any:
        if not self.log:
            return alt.Axis(title=title, tickCount=ticks, **axis)
        return alt.Axis(title=title, values=log_marks(self.low, self.high, about=ticks), format="~g", **axis)


def log_marks(low: float, high: float, *, about: int) -> list[float]:
    """Round values from low to high for a logarithmic axis, as many as come near to a wished number.

    >>> log_marks(0.19, 1.5, about=4)
    [0.2, 0.3, 0.5, 1.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tried = [[float(f"{mark}e{power}") for power in powers for mark in marks] for marks in _MARKS]
    inside = [[value for value in values if low <= value <= high] for values in tried]
    return min(inside, key=lambda values: abs(len(values) - about))


def by_arm(channel: Any, colors: Mapping[str, str]) -> Any:
    """A colour channel (`alt.Color`, `alt.Fill`) by arm, without a legend: arms are named where they are drawn."""
    return channel("arm:N", scale=alt.Scale(domain=list(colors), range=list(colors.values())), legend=None)


def grey_words(colors: Mapping[str, str]) -> str:
    """What a caption says of the arms that have no colour of their own."""
    count = sum(color == theme.GREY for color in colors.values())
    return f" The {len(theme.PALETTE)} best arms and the baseline are named; {count} others are grey." if count else ""


def in_pixels(channel: Any, field: str) -> Any:
    """A position channel whose field holds pixels."""
    return channel(field, scale=None, axis=None)


def linked(chart: Any) -> Any:
    """The chart with marks that can be pointed at: rows hold `cell`, from `link`, and `words`, what is said of the mark."""
    return chart.encode(href="cell:N", description="words:N", tooltip="words:N")


def link(anchor: str, words: str) -> dict[str, object]:
    """The two members of a row by which its mark leads to the cell of its arm."""
    return {"cell": f"#{anchor}", "words": words}


def data(rows: Rows) -> Any:
    """Rows as part of the specification."""
    with debug_mode(False):  # which would hold every number of every row to the schema
        return alt.InlineData(values=list(rows))


def spec_of(chart: Any) -> Mapping[str, Json]:
    """The specification of a chart, with the config that all figures share."""
    return {**cast(dict[str, Json], chart.to_dict(validate=False)), "config": cast(Json, theme.config())}


def ends(mean: Mean) -> tuple[float, float]:
    """One standard error below and above a mean; the mean itself where it has none."""
    se = mean.se if mean.se > 0 else 0.0
    return mean.mean - se, mean.mean + se
