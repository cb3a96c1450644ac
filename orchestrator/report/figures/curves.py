"""Learning curves: the mean of a metric at each rung with a band of one standard error, a line for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.analysis.curves import Curve, curves
from orchestrator.analysis.metrics import curve_metric
from orchestrator.records import StudyRecord
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, by_arm, data, ends, grey_words, in_pixels, spec_of
from orchestrator.report.figures.labels import short_names, spread
from orchestrator.report.number import decimals_of, with_error
from orchestrator.report.words import axis_title, counted, heading, label

_WIDTH = theme.WIDTH - 40  # names stand right of the plot


def curves_figure(record: StudyRecord, colors: Mapping[str, str]) -> Figure | None:
    """None where nothing was reported at a rung."""
    metric = curve_metric(record)
    found = curves(record, metric) if metric else ()
    if not found:
        return None
    fewest, most = min(curve.n for curve in found), max(curve.n for curve in found)
    over = counted(most, "replicate") if fewest == most else f"{fewest} to {most} replicates"
    last = "; ".join(f"{curve.arm} {with_error(curve.means[-1], decimals_of(curve.means[-1]))}" for curve in found)
    return Figure(
        name="curves",
        title=f"Learning curves: {label(metric)}",
        caption=f"Mean over {over}; the band is ± 1 standard error.{grey_words(colors)}",
        alt=f"{heading(metric)} over optimizer steps. At the last step: {last}.",
        spec=spec_of(_chart(found, axis_title(metric), colors)),
    )


def _chart(found: Sequence[Curve], title: str, colors: Mapping[str, str]) -> object:
    means = [mean.mean for curve in found for mean in curve.means]
    # A band that reaches below 0 would forbid a logarithmic axis, and is cut at its end.
    bounds = [end for curve in found for mean in curve.means for end in ends(mean) if end > 0 or min(means) <= 0]
    ys = Scale.over(bounds, (theme.HEIGHT, 0))
    steps = [step for curve in found for step in curve.steps]
    across = alt.Scale(domain=[min(0, *steps), max(1, *steps)], nice=False)
    x = alt.X("step:Q", scale=across, axis=alt.Axis(title="Optimizer steps", grid=False, tickCount=5, format=",d"))
    y = ys.y("y:Q", title)
    grey, named = ([curve for curve in found if (colors[curve.arm] == theme.GREY) is is_grey] for is_grey in (True, False))
    behind, base = (alt.Chart(data([row for curve in some for row in _rows(curve, ys)])) for some in (grey, named))
    band = base.mark_area(opacity=0.18).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", fill=by_arm(alt.Fill, colors), detail="arm:N")
    dots = {"size": 20} if any(len(curve.steps) == 1 for curve in found) else False
    line = base.mark_line(strokeWidth=2, point=dots).encode(x=x, y=y, color=by_arm(alt.Color, colors), detail="arm:N")
    others = behind.mark_line(strokeWidth=1, opacity=0.4, color=theme.GREY).encode(x=x, y=y, detail="arm:N")
    return alt.layer(others, band, line, *_names(named, ys, colors)).properties(width=_WIDTH, height=theme.HEIGHT)


def _rows(curve: Curve, ys: Scale) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step, mean in zip(curve.steps, curve.means, strict=True):
        low, high = ends(mean)
        rows.append({"arm": curve.arm, "step": step, "y": mean.mean, "low": max(low, ys.low), "high": high})
    return rows


def _names(named: Sequence[Curve], ys: Scale, colors: Mapping[str, str]) -> list[Any]:
    """The name of each curve at its end, moved apart, with a short line to it."""
    short = short_names([curve.arm for curve in named])
    from_y = [ys.pixel(curve.means[-1].mean) for curve in named]
    rows = [
        {"arm": curve.arm, "text": short[curve.arm], "px": _WIDTH + 20, "py": to, "px1": _WIDTH + 2, "py1": start, "px2": _WIDTH + 17}
        for curve, to, start in zip(named, spread(from_y, low=0, high=theme.HEIGHT), from_y, strict=True)
    ]
    base = alt.Chart(data(rows))
    lead = base.mark_rule(strokeWidth=1).encode(
        x=in_pixels(alt.X, "px1:Q"), x2="px2:Q", y=in_pixels(alt.Y, "py1:Q"), y2="py:Q", color=by_arm(alt.Color, colors)
    )
    text = base.mark_text(align="left", baseline="middle")
    return [lead, text.encode(x=in_pixels(alt.X, "px:Q"), y=in_pixels(alt.Y, "py:Q"), text="text:N")]
