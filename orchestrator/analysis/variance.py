"""What explains how much of a metric: axes, their interactions, what all cells share by their seed, and noise."""

from __future__ import annotations

from orchestrator.analysis.anova import crossed_variance
from orchestrator.analysis.components import Variance, table_of
from orchestrator.analysis.factors import Layout, factors_of
from orchestrator.analysis.sensitivity import drawn_variance
from orchestrator.records import StudyRecord


def variance(record: StudyRecord, metric: str) -> Variance:
    """The variance of a metric in shares, by the method that the study's design calls for; its notes say what that leaves out.

    Crossed axes and named arms are analysed with replicates as blocks (`anova`), drawn points by ranks (`sensitivity`). Tuning
    trials have no part in it.
    """
    design = factors_of(record)
    table = table_of(record, metric, design.points)
    if len(table.points) < 2:
        notes = (*design.notes, "Fewer than two cells have a result.")
        cells, n = table.values.shape
        return Variance(metric=metric, layout=design.layout, components=(), cells=cells, n=n, balanced=False, notes=notes)
    return (drawn_variance if design.layout is Layout.DRAWN else crossed_variance)(metric, design, table)
