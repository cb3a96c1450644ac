"""The arm table for a program: CSV with twelve digits, more than float32 training gives."""

from __future__ import annotations

import csv
import io
import math

from orchestrator.analysis.effects import effects
from orchestrator.analysis.metrics import columns, quality_metric
from orchestrator.analysis.summary import summarise
from orchestrator.records import StudyRecord


def sheet(record: StudyRecord) -> str:
    """One line for each arm: mean, standard error and n of every metric, and the effect on the first objective.

    Units are those of the ledger. What is unknown is empty; an infinite value is `inf`.
    """
    metrics, quality = columns(record), quality_metric(record)
    compared = {effect.arm: effect for effect in effects(record, quality)} if quality else {}
    heads = ["arm", "baseline", "n", "planned", *(f"{metric} {part}" for metric in metrics for part in ("mean", "se", "n"))]
    heads += [f"{quality} effect {part}" for part in ("mean", "se", "low", "high", "p", "p_holm", "resolved", "needed")] if compared else []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    for row in summarise(record):
        cells: list[str] = [row.name, str(int(row.baseline)), str(row.n), str(row.planned)]
        for metric in metrics:
            mean = row.means.get(metric)
            cells += ["", "", "0"] if mean is None else [_number(mean.mean), _number(mean.se), str(mean.n)]
        if row.name in compared:
            effect = compared[row.name]
            found = (effect.effect.mean, effect.effect.se, effect.effect.low, effect.effect.high, effect.effect.p, effect.p_holm)
            cells += [*map(_number, found), str(int(effect.resolved)), _number(effect.needed)]
        elif compared:
            cells += [""] * 8
        writer.writerow(cells)
    return buffer.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.12g}"
