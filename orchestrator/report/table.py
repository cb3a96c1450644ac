"""The arm table and the effects table as text in cells, which every format sets in its own way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from orchestrator.analysis.best import best_arms
from orchestrator.analysis.effects import ArmEffect
from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.rounds import Verdict
from orchestrator.analysis.stopping import stopped_arms
from orchestrator.analysis.summary import ArmSummary, summarise
from orchestrator.records import StudyRecord
from orchestrator.report.number import UNKNOWN, decimals_for, decimals_in, decimals_of, error_text, fixed, needed_text, p_text
from orchestrator.report.words import short_heading, unit_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A metric at the head of a column; the arrow points to better, and is empty where neither way is."""

    metric: str
    heading: str
    unit: str
    arrow: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A mean and its standard error as text; `n` is set where it differs from the row's."""

    mean: str
    error: str
    best: bool
    n: str

    @property
    def text(self) -> str:
        """Mean and standard error in one."""
        return f"{self.mean} ± {self.error}" if self.error else self.mean


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm. `n` is the number of finished replicates, `8` or `5 of 8`."""

    arm: str
    baseline: bool
    n: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The arm table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow:
    """What one arm changes against the baseline, as text."""

    arm: str
    difference: str
    interval: str
    n: str
    p: str
    p_holm: str
    smallest: str
    verdict: str
    resolved: bool


def arm_table(record: StudyRecord, metrics: Sequence[str]) -> Table:
    """The table of all arms in some metrics, without those that a rule stopped: they have no result, and are listed apart."""
    gone = stopped_arms(record)
    rows = [row for row in summarise(record, metrics) if row.baseline or row.n or row.name not in gone]
    decimals = {metric: decimals_for(row.means[metric] for row in rows if metric in row.means) for metric in metrics}
    best = {metric: frozenset(best_arms(record, metric)) for metric in metrics}

    def cell(row: ArmSummary, metric: str) -> Cell:
        if metric not in row.means:
            return Cell(mean=UNKNOWN, error="", best=False, n="")
        mean = row.means[metric]
        differs = mean.n != row.n and row.n > 0
        digits = decimals_in(mean, decimals[metric])
        return Cell(
            mean=fixed(mean.mean, digits),
            error=error_text(mean, digits),
            best=row.name in best[metric],
            n=f"n = {mean.n}" if differs else "",
        )

    return Table(
        columns=tuple(column(record, metric) for metric in metrics),
        rows=tuple(
            Row(
                arm=row.name,
                baseline=row.baseline,
                n=str(row.n) if row.n == row.planned else f"{row.n} of {row.planned}",
                cells=tuple(cell(row, metric) for metric in metrics),
            )
            for row in rows
        ),
    )


def column(record: StudyRecord, metric: str) -> Column:
    """The head of a metric's column."""
    arrow = {"minimize": "↓", "maximize": "↑", "": ""}[direction_of(record, metric)]
    return Column(metric=metric, heading=short_heading(metric), unit=unit_of(metric), arrow=arrow)


def effect_row(effect: ArmEffect) -> EffectRow:
    """One arm against the baseline."""
    found = effect.effect
    decimals = decimals_of(found.difference)
    difference, error = fixed(found.mean, decimals, sign=True), error_text(found.difference, decimals)
    known = not math.isnan(found.low)
    return EffectRow(
        arm=effect.arm,
        difference=f"{difference} ± {error}" if error else difference,
        interval=f"{fixed(found.low, decimals, sign=True)} to {fixed(found.high, decimals, sign=True)}" if known else UNKNOWN,
        n=str(found.n),
        p=p_text(found.p),
        p_holm=p_text(effect.p_holm),
        smallest=_smallest(effect, decimals),
        verdict=verdict(effect),
        resolved=effect.resolved,
    )


def _smallest(effect: ArmEffect, decimals: int) -> str:
    """The smallest true difference that could be resolved."""
    return "none" if math.isinf(effect.smallest) else fixed(effect.smallest, decimals)


def verdict(effect: ArmEffect) -> str:
    """What the comparison has shown, in a few words."""
    found = effect.effect
    if effect.resolved:
        return "lower" if found.mean < 0 else "higher"
    if found.n == 0:
        return "no replicate in common with the baseline"
    if math.isnan(found.mean) or math.isinf(found.mean):
        return "not resolved: a value is not finite"
    if found.n == 1:
        return "not resolved: one replicate has no interval"
    if effect.verdict is Verdict.ALIKE:
        return "alike: smaller than what would matter"
    if effect.verdict is Verdict.OPEN:
        return "not resolved yet"
    if math.isinf(effect.needed):
        return "not resolved: no difference"
    if math.isnan(effect.needed):
        return "not resolved: no look was taken yet"
    return f"not resolved: it would take about {needed_text(effect.needed)} replicates"
