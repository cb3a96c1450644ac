"""Means of all arms over replicates that are drawn again: the same replicates for every arm, since these are paired."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.paired import Floats
from orchestrator.analysis.summary import means_of, replicate_values
from orchestrator.analysis.trials import members_of
from orchestrator.records import StudyRecord

DRAWS = 2000  # fewer in a large study: see `draws_for`
_AT_MOST = 1_000_000  # means drawn of one metric


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """Values of arms in some metrics over the replicates of a study.

    Attributes:
        arms: Names, in the order of the study file: those with a finite mean in every metric.
        values: [cell, group, place, metric]. What is drawn are groups: single replicates, or as many as follow one another as an arm
            that is derived takes for one of its own. NaN where there is no value. A cost that is known without replicates is in all.
    """

    arms: tuple[str, ...]
    values: Floats

    @property
    def n(self) -> int:
        """Groups that any arm has a value in."""
        return self.values.shape[1]

    @property
    def means(self) -> Floats:
        """[cell, metric]."""
        return _averages(self.values)[0]


def cells_of(record: StudyRecord, metrics: Sequence[str]) -> Cells:
    """The arms with a finite mean in every metric."""
    known = [{name for name, mean in means_of(record, metric).items() if math.isfinite(mean.mean)} for metric in metrics]
    names = tuple(arm.name for arm in record.arms if all(arm.name in found for found in known))
    size = math.lcm(*(members_of(record, name) for name in names))
    found = {(name, metric): _by_replicate(record, name, metric) for name in names for metric in metrics}
    n = 1 + max((index // size for values in found.values() for index in values), default=0)
    values = np.full((len(names), n * size, len(metrics)), math.nan)
    for row, name in enumerate(names):
        for column, metric in enumerate(metrics):
            own = found[name, metric]
            if own:
                values[row, list(own), column] = list(own.values())
            else:  # a cost before the first replicate is finished
                values[row, :, column] = means_of(record, metric)[name].mean
    grouped = values.reshape(len(names), n, size, len(metrics))
    return Cells(arms=names, values=grouped[:, np.isfinite(grouped).any(axis=(0, 2, 3))])


def _by_replicate(record: StudyRecord, arm: str, metric: str) -> dict[int, float]:
    """A derived arm's value stands at the first replicate that it is made of."""
    return {members_of(record, arm) * index: value for index, value in replicate_values(record, arm, metric).items()}


def draws_for(cells: int) -> int:
    """Draws that a study with so many cells gets: `DRAWS`, or as many as take a moment, but never fewer than 200."""
    return max(200, min(DRAWS, _AT_MOST // max(1, cells)))


def drawn_weights(n: int, draws: int, *, seed: int = 0) -> Floats:
    """How often each of n groups is drawn, [draw, group]: n of n with replacement."""
    picks = np.random.default_rng(seed).integers(0, n, size=(draws, n))
    return np.stack([(picks == index).sum(axis=1) for index in range(n)], axis=1).astype(np.float64)


def drawn_means(cells: Cells, weights: Floats) -> Floats:
    """Means of every cell over drawn groups, [draw, cell, metric]; the mean of all where none of a cell's own is drawn.

    Deviations from the cell's mean are made larger by √(n / (n - 1)). Without it, the spread over draws is that of means whose
    variance was divided by n instead of n - 1: at 3 replicates a fifth too small.

    Args:
        cells: What is averaged.
        weights: From `drawn_weights`.

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 2.4, on the rescaled bootstrap.
    """
    plain, constant = _averages(cells.values)
    is_known = np.isfinite(cells.values)
    known = is_known.sum(axis=2).astype(np.float64)
    deviations = np.nan_to_num(cells.values - plain[:, None, None, :]).sum(axis=2)
    share = np.einsum("dr,crm->dcm", weights, known, optimize=True)
    away = np.einsum("dr,crm->dcm", weights, deviations, optimize=True)
    groups = is_known.any(axis=2).sum(axis=1).astype(np.float64)
    width = np.sqrt(groups / np.maximum(groups - 1.0, 1.0))
    return plain + np.logical_not(constant) * width * away / np.maximum(share, 1.0)


def _averages(values: Floats) -> tuple[Floats, Floats]:
    """Means of [cell, group, place, metric] as [cell, metric], and 1 where all values are one: equal costs must stay equal."""
    plain, constant = (np.empty((values.shape[0], values.shape[3])) for _ in range(2))
    for cell, metric in np.ndindex(plain.shape):
        own = values[cell, :, :, metric]
        own = own[np.isfinite(own)]
        constant[cell, metric] = own.min() == own.max()
        plain[cell, metric] = own[0] if constant[cell, metric] else math.fsum(own) / own.size
    return plain, constant
