"""How evenly experts are used: the share of tokens of each, the most used one first, a line for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.analysis.load import Load, loads
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, by_arm, data, ends, grey_words, link, linked, spec_of
from orchestrator.report.figures.line_names import WIDTH, line_names
from orchestrator.report.number import decimals_of, with_error


def load_figure(record: StudyRecord, colors: Mapping[str, str]) -> Figure | None:
    """None where no finished replicate told the load of its experts."""
    found = loads(record)
    if not found:
        return None
    layers = sorted({row.layers for row in found})
    over = "" if layers == [1] else f", mean over {layers[-1]} sparse layers"
    ends_of = "; ".join(f"{row.arm} {_percent(row, 0)} to {_percent(row, -1)} of {row.experts}" for row in found)
    return Figure(
        name="load",
        section="members",
        title="Load of experts",
        caption=f"Share of the test images' tokens that each expert is sent{over}, before buffers overflow, from the most to the "
        "least used; bands are ± 1 standard error over replicates. The dashed line is an even share." + grey_words(colors),
        alt=f"Share of tokens of the most and of the least used expert: {ends_of}.",
        spec=spec_of(_chart(found, colors, anchors(record))),
    )


def _percent(row: Load, place: int) -> str:
    return f"{100 * row.shares[place].mean:.1f}\u00a0%"


def _chart(found: Sequence[Load], colors: Mapping[str, str], places: Mapping[str, str]) -> object:
    ys = Scale.over([100 * end for row in found for mean in row.shares for end in ends(mean)] + [0.0], (theme.HEIGHT, 0))
    most = max(row.experts for row in found)
    x = alt.X("place:Q", scale=alt.Scale(domain=[1, max(2, most)], nice=False), axis=_places(most))
    y = ys.y("y:Q", "Share of tokens (%)")
    even = [
        {"place": place, "y": 100 / experts, "experts": experts} for experts in {row.experts for row in found} for place in (1, experts)
    ]
    fair = alt.Chart(data(even)).mark_line(color=theme.MUTED, strokeDash=[5, 3], strokeWidth=1.5).encode(x=x, y=y, detail="experts:N")
    base = alt.Chart(data([each for row in found for each in _rows(row, places)]))
    band = base.mark_area(fillOpacity=0.18).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", fill=by_arm(alt.Fill, colors), detail="arm:N")
    line = linked(base.mark_line(strokeWidth=2)).encode(x=x, y=y, color=by_arm(alt.Color, colors), detail="arm:N")
    named = [_end(row, ys, most) for row in found if colors[row.arm] != theme.GREY]
    return alt.layer(fair, band, line, *line_names(named, colors)).properties(width=WIDTH, height=theme.HEIGHT)


def _places(most: int) -> Any:
    return alt.Axis(title="Expert, by its load", tickCount=min(8, most), format="d", grid=False)


def _rows(row: Load, places: Mapping[str, str]) -> list[dict[str, object]]:
    first = row.shares[0]
    words = f"{row.arm}: the most used of {row.experts} experts is sent {with_error(first, decimals_of(first))} of the tokens"
    rows: list[dict[str, object]] = []
    for place, mean in enumerate(row.shares, start=1):
        low, high = ends(mean)
        point: dict[str, object] = {"arm": row.arm, "place": place, "y": 100 * mean.mean, "low": 100 * low, "high": 100 * high}
        rows.append(point | link(places[row.arm], words))
    return rows


def _end(row: Load, ys: Scale, most: int) -> tuple[str, float, float]:
    return row.arm, WIDTH * (row.experts - 1) / max(1, most - 1), ys.pixel(100 * row.shares[-1].mean)
