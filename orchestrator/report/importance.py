"""What explains how much of the first objective, in rows of text."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.components import Component, Variance
from orchestrator.analysis.metrics import quality_metric
from orchestrator.analysis.variance import variance
from orchestrator.records import StudyRecord
from orchestrator.report.number import UNKNOWN, fixed, p_text
from orchestrator.report.words import counted, label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceRow:
    """One source of variance, as text."""

    name: str
    df: str
    share: str
    unbiased: str
    f: str
    p: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What explains how much.

    Attributes:
        sentence: What was taken apart.
        rows: Axes and interactions, then seed and noise.
        notes: What was left out, and why.
    """

    sentence: str
    rows: tuple[ImportanceRow, ...]
    notes: tuple[str, ...]


def decomposition(record: StudyRecord) -> Variance | None:
    """The variance of the first objective; None where there is nothing to take apart."""
    metric = quality_metric(record)
    found = variance(record, metric) if metric else None
    return found if found is not None and found.components else None


def importance(record: StudyRecord) -> Importance | None:
    """None where there is nothing to take apart."""
    found = decomposition(record)
    if found is None:
        return None
    spread = f"variance of {label(found.metric)} over {counted(found.cells, 'cell')} of {counted(found.n, 'replicate')}"
    return Importance(sentence=f"Shares of the {spread}.", rows=tuple(map(_row, found.components)), notes=found.notes)


def _row(row: Component) -> ImportanceRow:
    return ImportanceRow(
        name=row.name,
        df=str(row.df) if row.df else UNKNOWN,
        share=_percent(row.share),
        unbiased=_percent(row.unbiased),
        f=fixed(row.f, 1) if math.isfinite(row.f) else UNKNOWN,
        p=p_text(row.p_holm),
    )


def _percent(share: float) -> str:
    return UNKNOWN if math.isnan(share) else f"{fixed(100 * share, 1)} %"
