"""Reliability diagrams: how often predictions of some confidence are right, a panel for each arm."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.analysis.calibration import Bin, Calibration, calibrations
from orchestrator.analysis.summary import Mean, means_of
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, alt, data, ends, link, linked, spec_of
from orchestrator.report.number import decimals_of, with_error
from orchestrator.report.words import counted

SPLIT = "test"
MOST_PANELS = 24
_COLUMNS = 3
_SIZE = 122
_TICKS = [0, 0.5, 1]


def reliability_figure(record: StudyRecord) -> Figure | None:
    """None where no finished replicate described itself."""
    every = calibrations(record, SPLIT)
    if not every:
        return None
    errors = {name: with_error(mean, decimals_of(mean)) for name, mean in means_of(record, f"{SPLIT}/ece").items()}
    fewest, most = min(row.n for row in every), max(row.n for row in every)
    over = counted(most, "replicate") if fewest == most else f"{fewest} to {most} replicates"
    left_out = f" The first {MOST_PANELS} of {len(every)} arms are shown." if len(every) > MOST_PANELS else ""
    shown = every[:MOST_PANELS]
    return Figure(
        name="reliability",
        section="calibration",
        title="Reliability on test images",
        caption=f"Images are binned by their largest mean probability. Each point is a bin, as large as its share of the images of {over}; "
        f"bars are ± 1 standard error over replicates. Below the dashed line predictions are over-confident.{left_out}",
        alt="Accuracy against confidence. "
        + "; ".join(f"{row.arm}: {_gap_words(row)}{f', ECE {errors[row.arm]}' if row.arm in errors else ''}" for row in shown)
        + ".",
        spec=spec_of(_chart(record, shown, errors)),
    )


def _gap_words(row: Calibration) -> str:
    """How far confidence is from accuracy over all images."""
    gap = math.fsum(one.share * (one.confidence - one.accuracy.mean) for one in row.bins)
    return f"{'over' if gap > 0 else 'under'}-confident by {abs(gap):.3f} in the mean"


def _chart(record: StudyRecord, shown: Sequence[Calibration], errors: dict[str, str]) -> object:
    largest, places = max(one.share for row in shown for one in row.bins), anchors(record)
    panels = [
        _panel(row, largest, places[row.arm], errors.get(row.arm, ""), left=not place % _COLUMNS, below=place + _COLUMNS >= len(shown))
        for place, row in enumerate(shown)
    ]
    return alt.concat(*panels, columns=_COLUMNS, spacing=14)


def _panel(row: Calibration, largest: float, anchor: str, error: str, *, left: bool, below: bool) -> object:
    unit = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("x:Q", scale=unit, axis=alt.Axis(title="Confidence" if below else None, values=_TICKS, labels=below))
    y = alt.Y("y:Q", scale=unit, axis=alt.Axis(title="Accuracy" if left else None, values=_TICKS, labels=left))
    ideal = alt.Chart(data([{"x": 0, "y": 0}, {"x": 1, "y": 1}])).mark_line(color=theme.MUTED, strokeDash=[4, 3], strokeWidth=1)
    base = alt.Chart(data([_row(one) | link(anchor, _words(row.arm, one)) for one in row.bins]))
    bars = base.mark_rule(strokeWidth=1.5, color=theme.PALETTE[1]).encode(x=x, y=alt.Y("low:Q", scale=unit), y2="high:Q")
    size = alt.Size("share:Q", scale=alt.Scale(domain=[0, largest], range=[8, 160]), legend=None)
    points = linked(base.mark_point(filled=True, opacity=0.85, color=theme.PALETTE[1])).encode(x=x, y=y, size=size)
    title = alt.TitleParams(text=row.arm, subtitle=f"ECE {error}" if error else "", limit=_SIZE, subtitleColor=theme.MUTED)
    return alt.layer(ideal.encode(x=x, y=y), bars, points).properties(width=_SIZE, height=_SIZE, title=title)


def _row(one: Bin) -> dict[str, object]:
    low, high = ends(one.accuracy)
    return {"x": one.confidence, "y": one.accuracy.mean, "low": max(low, 0.0), "high": min(high, 1.0), "share": one.share}


def _words(arm: str, one: Bin) -> str:
    accuracy = Mean(mean=one.accuracy.mean, se=one.accuracy.se, n=one.accuracy.n)
    said = with_error(accuracy, 3 if accuracy.se > 0 else 2)
    return f"{arm}: {said} right of those with confidence {one.confidence:.2f}, {100 * one.share:.2g}\u00a0% of images"
