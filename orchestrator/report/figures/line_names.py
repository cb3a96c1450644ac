"""The name of each line right of its end, moved apart from the others, with a short line that leads to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import alt, by_arm, data, in_pixels
from orchestrator.report.figures.labels import short_names, spread

WIDTH = theme.WIDTH - 40  # of a plot whose lines are named: the names stand right of it


def line_names(ends: Sequence[tuple[str, float, float]], colors: Mapping[str, str]) -> list[Any]:
    """The layers that name lines, from arm and pixels (across, down) of each line's end."""
    short = short_names([arm for arm, _, _ in ends]) if ends else {}
    rows = [
        {"arm": arm, "text": short[arm], "px": WIDTH + 20, "py": to, "px1": across + 2, "py1": down, "px2": WIDTH + 17}
        for (arm, across, down), to in zip(ends, spread([down for _, _, down in ends], low=0, high=theme.HEIGHT), strict=True)
    ]
    base = alt.Chart(data(rows))
    lead = base.mark_rule(strokeWidth=1).encode(
        x=in_pixels(alt.X, "px1:Q"), x2="px2:Q", y=in_pixels(alt.Y, "py1:Q"), y2="py:Q", color=by_arm(alt.Color, colors)
    )
    text = base.mark_text(align="left", baseline="middle")
    return [lead, text.encode(x=in_pixels(alt.X, "px:Q"), y=in_pixels(alt.Y, "py:Q"), text="text:N")]
