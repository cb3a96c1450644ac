"""The figures of a report: one declarative chart each, with the words that go with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.analysis.effects import baseline_of
from orchestrator.analysis.metrics import direction_of, quality_metric
from orchestrator.analysis.summary import means_of
from orchestrator.records import StudyRecord
from orchestrator.report.figures import theme
from orchestrator.report.figures.chart import Figure
from orchestrator.report.figures.curves import curves_figure
from orchestrator.report.figures.effects import effects_figure
from orchestrator.report.figures.frontier import frontier_figure
from orchestrator.report.figures.importance import importance_figure
from orchestrator.report.figures.load import load_figure
from orchestrator.report.figures.reliability import reliability_figure
from orchestrator.report.figures.tuning import tuning_figure
from orchestrator.report.figures.workers import workers_figure

__all__ = ["Figure", "figures"]


def figures(record: StudyRecord) -> tuple[Figure, ...]:
    """Every figure that the record has data for."""
    colors = _colors(record)
    names = ["tuning", *(f"tuning-{number}" for number in range(2, len(record.nuisance) + 1))]
    tuned = [tuning_figure(record, axis, name=name) for axis, name in zip(record.nuisance, names, strict=False)]
    found = [
        effects_figure(record, colors),
        frontier_figure(record, colors),
        curves_figure(record, colors),
        reliability_figure(record),
        load_figure(record, colors),
        importance_figure(record),
        *tuned,
        workers_figure(record),
    ]
    return tuple(figure for figure in found if figure is not None)


def _colors(record: StudyRecord) -> Mapping[str, str]:
    metric = quality_metric(record)
    sign = -1.0 if direction_of(record, metric) == "maximize" else 1.0
    ranked = sorted((sign * mean.mean, name) for name, mean in means_of(record, metric).items())
    leading = [name for value, name in ranked if math.isfinite(value)]
    return theme.colors([arm.name for arm in record.arms], baseline_of(record), leading)
