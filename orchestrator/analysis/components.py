"""Shares of the variance of a metric: the rows of the table, and the values that they are computed from."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping

import numpy as np

from orchestrator.analysis.factors import Layout, Point
from orchestrator.analysis.paired import Floats
from orchestrator.analysis.summary import replicate_values
from orchestrator.records import StudyRecord

SEED, NOISE = "seed", "noise"
HIGHER, INTERACTIONS, REST = "interactions of three and more", "interactions", "interactions and noise"


class Part(enum.Enum):
    """What a share of the variance belongs to."""

    AXIS = "axis"
    INTERACTION = "interaction"
    SEED = "seed"
    NOISE = "noise"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One row of the table.

    Attributes:
        name: The axis, two of them joined by ` × `, `seed` or `noise`.
        part: What it belongs to.
        df: Degrees of freedom; 0 where the method has none.
        share: η², its share of the sum of squares. Biased upwards: noise gives every axis a share. Of a drawn design the same as below.
        unbiased: ω², its share of the variance of one trial, corrected for noise. May be below 0, which means none. NaN where cells have
            one replicate, of a design that is not drawn.
        f: Its mean square over that of noise; NaN where it is not tested so.
        p: Of that; of a drawn design, from permuted arms.
        p_holm: p corrected for the number of axes and interactions.
    """

    name: str
    part: Part
    df: int
    share: float
    unbiased: float
    f: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variance:
    """The variance of one metric over the trials of a study.

    Attributes:
        metric: The metric.
        layout: How the arms stand to each other, which decides the method.
        components: Axes in the order of their keys, interactions, then seed and noise; empty where there is nothing to tell, which a
            note then explains.
        cells: Arms with a result.
        n: Replicates of each; the most, where some are missing.
        balanced: Every cell has every replicate. Otherwise shares need not add up to 1.
        notes: What was left out, and why, in sentences.
    """

    metric: str
    layout: Layout
    components: tuple[Component, ...]
    cells: int
    n: int
    balanced: bool
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Values of the arms that have one, [cell, replicate]; NaN where one is missing."""

    points: Mapping[str, Point]
    values: Floats

    @property
    def is_whole(self) -> bool:
        """No value is missing."""
        return bool(np.isfinite(self.values).all())


def table_of(record: StudyRecord, metric: str, points: Mapping[str, Point]) -> Table:
    """The finite values of some arms, and only replicates that one of them has."""
    found = {name: {r: v for r, v in replicate_values(record, name, metric).items() if math.isfinite(v)} for name in points}
    found = {name: values for name, values in found.items() if values}
    indices = sorted({index for values in found.values() for index in values})
    table = np.full((len(found), len(indices)), math.nan)
    for row, values in enumerate(found.values()):
        table[row, [indices.index(index) for index in values]] = list(values.values())
    return Table(points={name: points[name] for name in found}, values=table)


def ratio(part: float, whole: float) -> float:
    """A share of a whole: NaN of nothing, infinite where only the whole is 0."""
    if whole == 0:
        return math.inf if part > 0 else math.nan
    return part / whole
