"""What explains how much of the first objective: a bar for each axis, interaction, the seed and noise."""

from __future__ import annotations

import math

from orchestrator.analysis.components import Component, Part
from orchestrator.records import StudyRecord
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, alt, data, spec_of
from orchestrator.report.figures.labels import short_names
from orchestrator.report.importance import decomposition
from orchestrator.report.words import label

MOST_ROWS = 24
_WIDTH = 370
_ROW = 24
_COLORS = {Part.AXIS: theme.PALETTE[1], Part.INTERACTION: theme.PALETTE[5], Part.SEED: theme.GREY, Part.NOISE: theme.GREY}


def importance_figure(record: StudyRecord) -> Figure | None:
    """None where there is nothing to take apart, or no variance."""
    found = decomposition(record)
    if found is None or any(math.isnan(_share(row)) for row in found.components):
        return None
    shown = sorted(found.components, key=lambda row: -_share(row))[:MOST_ROWS]
    left_out = f" The {MOST_ROWS} largest of {len(found.components)} are shown." if len(found.components) > len(shown) else ""
    return Figure(
        name="importance",
        section="importance",
        title=f"What explains {label(found.metric)}",
        caption="Share of the variance of one trial, corrected for noise where cells have several replicates; below 0 means none. "
        f"Seed is what all cells share by their seed.{left_out}",
        alt=f"Shares of the variance of {label(found.metric)}: "
        + "; ".join(f"{row.name} {100 * _share(row):.1f} %" for row in shown)
        + ".",
        spec=spec_of(_chart(shown)),
    )


def _share(row: Component) -> float:
    return row.share if math.isnan(row.unbiased) else row.unbiased


def _chart(shown: list[Component]) -> object:
    short = short_names([row.name for row in shown], most=34)
    rows = [{"name": short[row.name], "share": 100 * _share(row), "color": _COLORS[row.part]} for row in shown]
    names = [short[row.name] for row in shown]
    y = alt.Y("name:N", sort=names, axis=alt.Axis(title=None, labelLimit=320, domain=False, ticks=False))
    x = alt.X("share:Q", axis=alt.Axis(title="Share of variance (%)", tickCount=5))
    bars = alt.Chart(data(rows)).mark_bar(height=_ROW - 10).encode(x=x, y=y, color=alt.Color("color:N", scale=None, legend=None))
    return bars.properties(width=_WIDTH, height=max(4 * _ROW, _ROW * len(shown)))
