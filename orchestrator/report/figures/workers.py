"""What the workers did with their time: one bar, a length for each part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from orchestrator.analysis.usage import usage
from orchestrator.records import StudyRecord
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, alt, data, spec_of
from orchestrator.report.number import duration
from orchestrator.report.running import PARTS, Part, parts
from orchestrator.report.words import counted

_BAR = 34
# Training is what a study is for; what keeps it from training is told apart, and losses stand out.
_COLORS = dict(
    zip(
        PARTS.values(),
        (theme.GREY, theme.PALETTE[4], theme.PALETTE[2], theme.PALETTE[5], theme.PALETTE[3], theme.GRID, theme.PALETTE[0]),
        strict=True,
    )
)


def workers_figure(record: StudyRecord) -> Figure | None:
    """None where no pack told where its time went."""
    found = usage(record)
    if found is None or found.time.total_s <= 0:
        return None
    shown = parts(found.time)
    total = f"{duration(found.time.total_s)} of {counted(found.workers, 'worker')}"
    return Figure(
        name="workers",
        section="running",
        title=f"What the workers did: {total}",
        caption="Share of the time of all workers, from the start of a run to their end. Starting ends with a worker's first "
        "program; compiling is what a pack waits for before its first step.",
        alt=f"Of {total}: " + ", ".join(f"{part.name} {part.percent}" for part in shown) + ".",
        spec=spec_of(_chart(shown)),
    )


def _chart(shown: Sequence[Part]) -> object:
    ends = list(itertools.accumulate((part.share for part in shown), initial=0.0))
    rows = [
        {"part": _name(part), "low": 100 * low, "high": 100 * high}
        for part, (low, high) in zip(shown, itertools.pairwise(ends), strict=True)
    ]
    colors = alt.Scale(domain=[_name(part) for part in shown], range=[_COLORS[part.name] for part in shown])
    bars = alt.Chart(data(rows)).mark_bar(stroke=theme.PAPER, strokeWidth=1, height=_BAR)
    x = alt.X("low:Q", scale=alt.Scale(domain=[0, 100], nice=False), axis=alt.Axis(title="Worker time (%)", tickCount=5, grid=False))
    color = alt.Color("part:N", scale=colors, legend=alt.Legend(columns=2, symbolType="square", labelLimit=220))
    return bars.encode(x=x, x2="high:Q", color=color).properties(width=theme.WIDTH, height=_BAR + 8)


def _name(part: Part) -> str:
    return f"{part.name} {part.percent}"
