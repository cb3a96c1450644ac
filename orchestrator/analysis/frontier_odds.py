"""How sure a frontier is: how often each cell is on it when replicates are drawn again, and the volume that it dominates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.analysis.dominance import Flags, hypervolume, non_dominated
from orchestrator.analysis.frontier import signs_of
from orchestrator.analysis.paired import Floats, t_interval
from orchestrator.analysis.resampling import Cells, cells_of, drawn_means, drawn_weights, draws_for
from orchestrator.analysis.summary import Mean
from orchestrator.records import StudyRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrontierOdds:
    """A frontier under resampling of the replicates, the same ones for all cells.

    Attributes:
        metrics: What the frontier is of.
        on_frontier: Arm to the share of draws in which no other cell dominates it, in the order of the study file.
        hypervolume: Volume between the frontier of the means and the reference, in the product of the metrics' units.
        low: Lower end of its 95 % interval, from the bootstrap's standard error; NaN below two replicates.
        high: Upper end.
        reference: The point that the volume is measured from, one value for each metric, in the metrics' units.
        n: Replicates drawn from; groups of them, in a study with derived arms.
        draws: How often; 0 below two replicates, and the shares are then 0 or 1.
    """

    metrics: tuple[str, ...]
    on_frontier: Mapping[str, float]
    hypervolume: float
    low: float
    high: float
    reference: tuple[float, ...]
    n: int
    draws: int


def frontier_odds(
    record: StudyRecord, metrics: Sequence[str], *, reference: Sequence[float] | None = None, level: float = 0.95
) -> FrontierOdds:
    """The chance of each arm to be on the frontier, and the hypervolume with its interval. Deterministic.

    Args:
        record: The study.
        metrics: Of the frontier. One of no direction is minimised.
        reference: The point that the volume is measured from. By default a tenth of the means' range beyond the worst mean in each
            metric, so that every cell of the frontier adds something; volumes of two studies can only be compared with a reference given.
        level: Coverage of the interval, in (0, 1).
    """
    return odds_of(cells_of(record, metrics), metrics, signs_of(record, metrics), reference=reference, level=level)


def odds_of(
    cells: Cells, metrics: Sequence[str], signs: Floats, *, reference: Sequence[float] | None = None, level: float = 0.95
) -> FrontierOdds:
    """The same of values; `signs` has -1 for each metric that is maximised, and 1 for the others.

    The volume's interval is the t interval with the standard error that the volume has over draws. Quantiles of the draws hold the true
    volume 70 to 90 % of the time at 3 to 8 replicates, this one 92 to 96 % (`benchmarks/coverage.py`).
    """
    means = cells.means * signs
    origin = _origin(means) if reference is None else np.array(reference, dtype=np.float64) * signs
    is_drawn = cells.n >= 2 and len(cells.arms) > 0
    drawn = drawn_means(cells, drawn_weights(cells.n, draws_for(len(cells.arms)))) * signs if is_drawn else means[None]
    rivals = _rivals(drawn)
    shares = np.zeros(len(cells.arms))
    shares[rivals] = non_dominated(drawn[:, rivals]).mean(axis=0)
    se = float(hypervolume(drawn[:, rivals], origin).std()) if is_drawn else math.nan
    volume = Mean(mean=float(hypervolume(means, origin)), se=se, n=cells.n)
    low, high = t_interval(volume, level=level)
    return FrontierOdds(
        metrics=tuple(metrics),
        on_frontier=dict(zip(cells.arms, shares.tolist(), strict=True)),
        hypervolume=volume.mean,
        low=low,
        high=high,
        reference=tuple((origin * signs).tolist()),
        n=cells.n,
        draws=len(drawn) if is_drawn else 0,
    )


def _origin(means: Floats) -> Floats:
    ranges = [(column.min(), column.max()) if column.size else (0.0, 0.0) for column in means.T]
    return np.array([worst + 0.1 * ((worst - best) or abs(worst) or 1.0) for best, worst in ranges], dtype=np.float64)


def _rivals(drawn: Floats) -> Flags:
    """Cells of [draw, cell, metric] that no other one beats in every draw. The others are on no frontier and add no volume."""
    best, worst = drawn.min(axis=0), drawn.max(axis=0)
    front = worst[non_dominated(worst)]
    no_worse, better = front[:, None, :] <= best[None, :, :], front[:, None, :] < best[None, :, :]
    return np.logical_not((no_worse.all(axis=2) & better.any(axis=2)).any(axis=0))
