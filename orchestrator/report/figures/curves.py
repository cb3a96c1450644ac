"""Learning curves: the mean of a metric at each rung with a band of one standard error, a line for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.analysis.curves import Curve, curves
from orchestrator.analysis.metrics import curve_metric
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, by_arm, data, ends, grey_words, link, linked, spec_of
from orchestrator.report.figures.line_names import WIDTH, line_names
from orchestrator.report.number import decimals_of, with_error
from orchestrator.report.words import axis_title, counted, heading, label


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
        section="curves",
        title=f"Learning curves: {label(metric)}",
        caption=f"Mean over {over}; the band is ± 1 standard error.{grey_words(colors)}",
        alt=f"{heading(metric)} over optimizer steps. At the last step: {last}.",
        spec=spec_of(_chart(found, axis_title(metric), colors, anchors(record))),
    )


def _chart(found: Sequence[Curve], title: str, colors: Mapping[str, str], places: Mapping[str, str]) -> object:
    means = [mean.mean for curve in found for mean in curve.means]
    # A band that reaches below 0 would forbid a logarithmic axis, and is cut at its end.
    bounds = [end for curve in found for mean in curve.means for end in ends(mean) if end > 0 or min(means) <= 0]
    ys = Scale.over(bounds, (theme.HEIGHT, 0))
    steps = [step for curve in found for step in curve.steps]
    across = alt.Scale(domain=[min(0, *steps), max(1, *steps)], nice=False)
    x = alt.X("step:Q", scale=across, axis=alt.Axis(title="Optimizer steps", grid=False, tickCount=5, format=",d"))
    y = ys.y("y:Q", title)
    grey, named = ([curve for curve in found if (colors[curve.arm] == theme.GREY) is is_grey] for is_grey in (True, False))
    behind, base = (alt.Chart(data([row | _link(curve, places) for curve in some for row in _rows(curve, ys)])) for some in (grey, named))
    # Opacity of the stroke or the fill, not of the mark: the renderer would lay out a canvas for each of a thousand lines, 40 s.
    band = base.mark_area(fillOpacity=0.18).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", fill=by_arm(alt.Fill, colors), detail="arm:N")
    dots = {"size": 20} if any(len(curve.steps) == 1 for curve in found) else False
    line = linked(base.mark_line(strokeWidth=2, point=dots)).encode(x=x, y=y, color=by_arm(alt.Color, colors), detail="arm:N")
    others = linked(behind.mark_line(strokeWidth=1, strokeOpacity=0.4, color=theme.GREY)).encode(x=x, y=y, detail="arm:N")
    named_ends = [(curve.arm, float(WIDTH), ys.pixel(curve.means[-1].mean)) for curve in named]
    return alt.layer(others, band, line, *line_names(named_ends, colors)).properties(width=WIDTH, height=theme.HEIGHT)


def _link(curve: Curve, places: Mapping[str, str]) -> dict[str, object]:
    last = curve.means[-1]
    return link(places[curve.arm], f"{curve.arm}: {with_error(last, decimals_of(last))} at step {curve.steps[-1]:,}, n = {curve.n}")


def _rows(curve: Curve, ys: Scale) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step, mean in zip(curve.steps, curve.means, strict=True):
        low, high = ends(mean)
        rows.append({"arm": curve.arm, "step": step, "y": mean.mean, "low": max(low, ys.low), "high": high})
    return rows
