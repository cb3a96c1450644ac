"""Quality against cost, with error bars and the line that joins what nothing dominates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.analysis.frontier import FrontierPoint, frontier
from orchestrator.analysis.metrics import cost_metric, direction_of, quality_metric
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, by_arm, data, ends, grey_words, in_pixels, link, linked, spec_of
from orchestrator.report.figures.labels import Box, Label, place, short_names, text_width
from orchestrator.report.number import decimals_for, decimals_of, with_error
from orchestrator.report.words import axis_title, heading, label, listed

_MARK = 6.0  # pixels from the middle of a mark to its edge
_MARGIN = 70.0  # pixels right of the plot that names may use


def frontier_figure(record: StudyRecord, colors: Mapping[str, str]) -> Figure | None:
    """None where no arm has both a cost and a finite result."""
    cost, quality = cost_metric(record), quality_metric(record)
    points = frontier(record, (cost, quality)) if cost and quality else ()
    if not points:
        return None
    decimals = [decimals_for(point.means[axis] for point in points) for axis in (0, 1)]
    texts = [(point.arm, *(with_error(mean, digits) for mean, digits in zip(point.means, decimals, strict=True))) for point in points]
    on = listed([point.arm for point in points if point.on_frontier])
    return Figure(
        name="frontier",
        section="frontier",
        title=f"{heading(quality)} against {label(cost)}",
        caption="Means over replicates; bars are ± 1 standard error. The dashed line joins the arms that no other arm beats in both, "
        f"judged by their means: {on}.{grey_words(colors)}",
        alt=f"On the frontier: {on}. " + "; ".join(f"{arm}: {reached} at {spent}" for arm, spent, reached in texts) + ".",
        spec=spec_of(_chart(points, record, cost, quality, colors)),
    )


def _chart(points: Sequence[FrontierPoint], record: StudyRecord, cost: str, quality: str, colors: Mapping[str, str]) -> object:
    xs, ys = (
        Scale.over([end for point in points for end in ends(point.means[axis])], pixels)
        for axis, pixels in enumerate([(0, theme.WIDTH), (theme.HEIGHT, 0)])
    )
    x, y = xs.x("x:Q", axis_title(cost)), ys.y("y:Q", axis_title(quality))
    best = sorted((point for point in points if point.on_frontier), key=lambda point: point.means[0].mean)
    # What was reached at one cost holds until the next point reaches better; a cost that is maximised is read from its far end.
    corner = "step-before" if direction_of(record, cost) == "maximize" else "step-after"
    line = alt.Chart(data([_row(point) for point in best])).mark_line(
        interpolate=corner, color=theme.MUTED, strokeDash=[5, 3], strokeWidth=1.5
    )
    below = sorted(points, key=lambda point: colors[point.arm] != theme.GREY)  # the grey ones are drawn first
    places = anchors(record)
    rows = [_row(point) | link(places[point.arm], _words(point, quality, cost)) for point in below]
    base, color = alt.Chart(data(rows)), by_arm(alt.Color, colors)
    shape_of = theme.shapes(colors)
    shape = alt.Shape("arm:N", legend=None, scale=alt.Scale(domain=list(shape_of), range=list(shape_of.values())))
    layers = [
        line.encode(x=x, y=y),
        base.mark_rule(strokeWidth=1.5).encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=color),
        base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=color),
        linked(base.mark_point(filled=True, size=70, opacity=1)).encode(x=x, y=y, color=color, shape=shape),
    ]
    named = sorted(
        (point for point in points if point.on_frontier or colors[point.arm] != theme.GREY), key=lambda point: not point.on_frontier
    )
    names = _names(named, [*_obstacles(points, xs, ys), *_steps([_at(point, xs, ys) for point in best], corner)], xs, ys, colors)
    return alt.layer(*layers, *names).properties(width=theme.WIDTH, height=theme.HEIGHT)


def _words(point: FrontierPoint, quality: str, cost: str) -> str:
    spent, reached = (with_error(mean, decimals_of(mean)) for mean in point.means)
    return f"{point.arm}: {label(quality)} {reached} at {label(cost)} {spent}, n = {point.means[1].n}"


def _row(point: FrontierPoint) -> dict[str, object]:
    (x, y), ((x_low, x_high), (y_low, y_high)) = point.means, (ends(mean) for mean in point.means)
    return {"arm": point.arm, "x": x.mean, "y": y.mean, "x_low": x_low, "x_high": x_high, "y_low": y_low, "y_high": y_high}


def _names(named: Sequence[FrontierPoint], obstacles: Sequence[Box], xs: Scale, ys: Scale, colors: Mapping[str, str]) -> list[Any]:
    """The names of some points, and thin lines to names that stand off."""
    spots = [_at(point, xs, ys) for point in named]
    area = Box(left=2, top=-4, right=theme.WIDTH + _MARGIN, bottom=theme.HEIGHT - 2)
    short = short_names([point.arm for point in named])
    placed = place(spots, [short[point.arm] for point in named], obstacles, area=area)
    found = [(point.arm, spot, label) for point, spot, label in zip(named, spots, placed, strict=True) if label is not None]
    texts = data([{"text": label.text, "px": label.x, "py": label.y} for _, _, label in found])
    leads = data([_lead(arm, spot, label) for arm, spot, label in found if label.leads])
    px, py, color = in_pixels(alt.X, "px:Q"), in_pixels(alt.Y, "py:Q"), by_arm(alt.Color, colors)
    return [
        alt.Chart(leads).mark_rule(strokeWidth=1).encode(x=px, y=py, x2="px2:Q", y2="py2:Q", color=color),
        alt.Chart(texts).mark_text(align="left", baseline="middle").encode(x=px, y=py, text="text:N"),
    ]


def _lead(arm: str, spot: tuple[float, float], label: Label) -> dict[str, object]:
    x, y = spot
    near = min(max(x, label.x), label.x + text_width(label.text))
    return {"arm": arm, "px": x, "py": y, "px2": near, "py2": label.y + (_MARK if y > label.y else -_MARK)}


def _at(point: FrontierPoint, xs: Scale, ys: Scale) -> tuple[float, float]:
    return xs.pixel(point.means[0].mean), ys.pixel(point.means[1].mean)


def _obstacles(points: Sequence[FrontierPoint], xs: Scale, ys: Scale) -> list[Box]:
    """The marks and the error bars of all points."""
    boxes: list[Box] = []
    for point in points:
        (x, y), ((left, right), (bottom, top)) = _at(point, xs, ys), (ends(mean) for mean in point.means)
        boxes.append(Box(left=x - _MARK, top=y - _MARK, right=x + _MARK, bottom=y + _MARK))
        boxes += [_thin((x, ys.pixel(bottom)), (x, ys.pixel(top))), _thin((xs.pixel(left), y), (xs.pixel(right), y))]
    return boxes


def _steps(line: Sequence[tuple[float, float]], corner: str) -> list[Box]:
    """The two legs of each step of the line."""
    boxes: list[Box] = []
    for (x1, y1), (x2, y2) in itertools.pairwise(line):
        turn = (x2, y1) if corner == "step-after" else (x1, y2)
        boxes += [_thin((x1, y1), turn), _thin(turn, (x2, y2))]
    return boxes


def _thin(start: tuple[float, float], end: tuple[float, float]) -> Box:
    (x1, y1), (x2, y2) = start, end
    return Box(left=min(x1, x2) - 2, top=min(y1, y2) - 2, right=max(x1, x2) + 2, bottom=max(y1, y2) + 2)
