"""Effects with their intervals, a row for each arm, the baseline at 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.analysis.effects import ArmEffect, effects
from orchestrator.analysis.metrics import direction_of, quality_metric
from orchestrator.analysis.paired import ALPHA
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure, Scale, alt, by_arm, data, link, linked, spec_of
from orchestrator.report.figures.labels import short_names
from orchestrator.report.table import effect_row
from orchestrator.report.words import label, listed, unit_of

MOST_ROWS = 40
_WIDTH = 230
_ROW = 28


def effects_figure(record: StudyRecord, colors: Mapping[str, str]) -> Figure | None:
    """None where no arm can be compared with a baseline."""
    metric = quality_metric(record)
    every = effects(record, metric) if metric else ()
    found = [effect for effect in every if math.isfinite(effect.effect.mean)]
    if not found:
        return None
    largest = sorted(found, key=lambda effect: -abs(effect.effect.mean))[:MOST_ROWS]
    shown = [effect for effect in found if effect in largest]
    infinite = [effect.arm for effect in every if effect.effect.n and not math.isfinite(effect.effect.mean)]
    left_out = f" Not shown, since not finite: {listed(infinite)}." if infinite else ""
    left_out += f" The {MOST_ROWS} largest of {len(found)} are shown." if len(found) > len(shown) else ""
    kind, test = ("t", "exact sign-flip") if record.adaptive is None else ("repeated", "sequential")
    level = ALPHA if record.adaptive is None else record.adaptive.alpha
    baseline, words = shown[0].baseline, "; ".join(f"{effect.arm} {effect_row(effect).difference}" for effect in shown)
    return Figure(
        name="effects",
        section="effects",
        title=f"Effect of each arm on {label(metric)}, against {baseline}",
        caption=f"Mean of the differences paired by seed, with the 95\u00a0% {kind} interval. A filled point is a resolved effect: "
        f"its interval does not hold 0, and its {test} p is at most {level:g} after Holm's correction.{left_out}",
        alt=f"Differences in {label(metric)} to {baseline}: {words}.",
        spec=spec_of(_chart(shown, _title(record, metric, baseline), colors, anchors(record))),
    )


def _title(record: StudyRecord, metric: str, baseline: str) -> str:
    unit = f" ({unit_of(metric)})" if unit_of(metric) else ""
    words = f"Difference in {label(metric)} to {baseline}{unit}"
    return f"{words}  → better" if direction_of(record, metric) == "maximize" else f"better ←  {words}"


def _chart(shown: list[ArmEffect], title: str, colors: Mapping[str, str], places: Mapping[str, str]) -> object:
    short = short_names([effect.arm for effect in shown], most=34)
    rows = [_row(effect, short[effect.arm], colors) | _link(effect, places) for effect in shown]
    bounds = [0.0, *(end for effect in shown for end in _interval(effect))]
    x = Scale.over([value if abs(value) > 0 else 0.0 for value in bounds], (0, _WIDTH)).x("low:Q", title, ticks=5)
    y = alt.Y("name:N", sort=[short[effect.arm] for effect in shown], axis=alt.Axis(title=None, labelLimit=320, domain=False, ticks=False))
    base, color = alt.Chart(data(rows)).encode(y=y), by_arm(alt.Color, colors)
    zero = alt.Chart(data([{"low": 0}])).mark_rule(color=theme.INK, strokeDash=[4, 3]).encode(x=x)
    bars = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", color=color)
    points = linked(base.mark_point(size=70, strokeWidth=2, opacity=1)).encode(
        x=alt.X("mean:Q"), color=color, fill=alt.Fill("fill:N", scale=None, legend=None)
    )
    text = base.mark_text(align="left").encode(x=alt.value(_WIDTH + 10), text="text:N")
    return alt.layer(zero, bars, points, text).properties(width=_WIDTH, height=max(2 * _ROW, _ROW * len(shown)))


def _row(effect: ArmEffect, name: str, colors: Mapping[str, str]) -> dict[str, object]:
    low, high = _interval(effect)
    fill = colors[effect.arm] if effect.resolved else theme.PAPER
    drawn = {"mean": effect.effect.mean, "low": low, "high": high, "fill": fill}
    return {"arm": effect.arm, "name": name, "text": effect_row(effect).difference, **drawn}


def _link(effect: ArmEffect, places: Mapping[str, str]) -> dict[str, object]:
    row = effect_row(effect)
    return link(places[effect.arm], f"{effect.arm}: {row.difference}, 95\u00a0% interval {row.interval}, {row.verdict}")


def _interval(effect: ArmEffect) -> tuple[float, float]:
    found = effect.effect
    return (found.low, found.high) if math.isfinite(found.low) else (found.mean, found.mean)
