"""What tuning found along one axis: a panel for each arm, a point for each trial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

from orchestrator.analysis.tuning import ArmTuning, TuningPoint, tuning
from orchestrator.records import StudyRecord
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, data, spec_of
from orchestrator.report.number import plain, short
from orchestrator.report.words import heading, label

MOST_PANELS = 24
_COLUMNS = 3
_WIDTH, _HEIGHT = 122, 104
_CROSS = "M-.7,-1L0,-.3L.7,-1L1,-.7L.3,0L1,.7L.7,1L0,.3L-.7,1L-1,.7L-.3,0L-1,-.7Z"
_KINDS = {"tried": (theme.GREY, "circle"), "selected": (theme.PALETTE[0], "diamond"), "ended without a value": (theme.INK, _CROSS)}


def tuning_figure(record: StudyRecord, axis: str, *, name: str) -> Figure | None:
    """None where no tuning trial has a value."""
    every = [row for row in tuning(record) if _ended(row, axis)]
    arms = every[:MOST_PANELS]
    if not any(point.value is not None for arm in arms for point in _ended(arm, axis)):
        return None
    chosen = [f"{arm.arm} {plain(short(arm.selected[axis]))}" for arm in arms if arm.selected is not None and axis in arm.selected]
    left_out = f" The first {MOST_PANELS} of {len(every)} arms are shown." if len(every) > len(arms) else ""
    return Figure(
        name=name,
        section="tuning",
        title=f"Tuning: {label(record.select)} over {axis}",
        caption=f"Each point is one tuning trial. The one with the best {label(record.select)} gives the arm's replicates their "
        f"{axis}.{left_out}",
        alt=f"{heading(record.select)} of every tuning trial over {axis}. Selected: {'; '.join(chosen) if chosen else 'nothing yet'}.",
        spec=spec_of(_chart(record, arms, axis)),
    )


def _chart(record: StudyRecord, arms: Sequence[ArmTuning], axis: str) -> object:
    points = [point for arm in arms for point in _ended(arm, axis)]
    ys = Scale.over([point.value for point in points if point.value is not None], (_HEIGHT, 0))
    worst = ys.low if record.select_direction == "maximize" else ys.high
    numeric = all(isinstance(point.point[axis], (int, float)) and not isinstance(point.point[axis], bool) for point in points)
    xs = Scale.over([cast(float, point.point[axis]) for point in points], (0, _WIDTH)) if numeric else None
    kinds = [kind for kind in _KINDS if any(_kind(point) == kind for point in points)]
    axes = _Axes(x=xs, y=ys, worst=worst, x_title=axis, y_title=heading(record.select), kinds=kinds)
    panels = [_panel(arm, axes, left=place % _COLUMNS == 0, below=place + _COLUMNS >= len(arms)) for place, arm in enumerate(arms)]
    return alt.concat(*panels, columns=_COLUMNS, spacing=14)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """What all panels share. `x` is None for an axis of names; `worst` is where trials without a value are drawn."""

    x: Scale | None
    y: Scale
    worst: float
    x_title: str
    y_title: str
    kinds: Sequence[str]


def _panel(arm: ArmTuning, axes: _Axes, *, left: bool, below: bool) -> object:
    rows = [_row(point, axes) for point in sorted(_ended(arm, axes.x_title), key=lambda point: point.selected)]
    x_axis = {"labels": below, "titleLimit": _WIDTH}
    x_title = axes.x_title if below else None
    x = axes.x.x("x:Q", x_title, ticks=3, **x_axis) if axes.x else alt.X("x:N", axis=alt.Axis(title=x_title, **x_axis))
    y = axes.y.y("y:Q", axes.y_title if left else None, ticks=4, labels=left, titleLimit=_HEIGHT)
    look = [_KINDS[kind] for kind in axes.kinds]
    color = alt.Scale(domain=list(axes.kinds), range=[color for color, _ in look])
    encoded = {
        "color": alt.Color("kind:N", scale=color, title=None),
        "fill": alt.Fill("kind:N", scale=color, title=None),
        "shape": alt.Shape("kind:N", scale=alt.Scale(domain=list(axes.kinds), range=[shape for _, shape in look]), title=None),
    }
    marks = alt.Chart(data(rows)).mark_point(size=50, opacity=1).encode(x=x, y=y, **encoded)
    return marks.properties(width=_WIDTH, height=_HEIGHT, title=alt.TitleParams(text=arm.arm, limit=_WIDTH))


def _row(point: TuningPoint, axes: _Axes) -> dict[str, object]:
    value = point.point[axes.x_title]
    return {"x": value if axes.x else plain(value), "y": axes.worst if point.value is None else point.value, "kind": _kind(point)}


def _ended(arm: ArmTuning, axis: str) -> list[TuningPoint]:
    points = [point for point in arm.points if axis in point.point]
    return [point for point in points if point.state.is_terminal and (point.value is None or math.isfinite(point.value))]


def _kind(point: TuningPoint) -> str:
    if point.value is None:
        return "ended without a value"
    return "selected" if point.selected else "tried"
