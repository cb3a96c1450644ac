"""How stable the order of the arms is: where each one lands when replicates are drawn again, and whether halves agree."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.paired import Floats, special
from orchestrator.analysis.resampling import Cells, cells_of, drawn_means, drawn_weights, draws_for
from orchestrator.records import StudyRecord

SPLITS = 100  # ways to halve the replicates; fewer in a large study
_AT_MOST = 20_000_000  # pairs of arms that are compared in all


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmRank:
    """Where one arm stands.

    Attributes:
        arm: The arm.
        rank: By the means, 1 the best; arms of equal means share the mean of their ranks.
        expected: Mean of the rank over draws.
        low: Better end of the 95 % interval of its rank.
        high: Worse end.
        best: Share of the draws in which it is the best; shared where several are.
    """

    arm: str
    rank: float
    expected: float
    low: float
    high: float
    best: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankStability:
    """The order of the arms in one metric.

    Attributes:
        metric: The metric.
        arms: In the order of the study file.
        tau: Kendall's τ-b between the orders by two disjoint halves of the replicates, mean over splits: 1 if halves always agree, 0
            if they agree no more than chance. What half of the replicates give, so all of them are steadier. NaN below two.
        n: Replicates drawn from; groups of them, in a study with derived arms.
        draws: How often; 0 below two replicates.
    """

    metric: str
    arms: tuple[ArmRank, ...]
    tau: float
    n: int
    draws: int


def rank_stability(record: StudyRecord, metric: str) -> RankStability | None:
    """None for a metric of which neither direction is better, and below two arms with a finite mean. Deterministic."""
    direction, cells = direction_of(record, metric), cells_of(record, (metric,))
    if not direction or len(cells.arms) < 2:
        return None
    return stability_of(cells, metric, -1.0 if direction == "maximize" else 1.0)


def stability_of(cells: Cells, metric: str, sign: float) -> RankStability:
    """The same of values; `sign` is -1 for a metric that is maximised, else 1.

    For the interval of a rank, deviations are widened further, as the t quantile is wider than the normal one: without it, ranks of arms
    within noise were held 85 % of the time at 3 replicates, with it 91 % (`benchmarks/coverage.py`).
    """
    means = sign * cells.means[:, 0]
    drawn = means[None]
    wide = 1.0
    if cells.n >= 2:
        drawn = sign * drawn_means(cells, drawn_weights(cells.n, draws_for(len(cells.arms))))[:, :, 0]
        wide = float(special.stdtrit(cells.n - 1, 0.975)) / float(special.ndtri(0.975))
    winners = drawn == drawn.min(axis=1, keepdims=True)
    best = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    low, high = np.quantile(ranks_of(means + wide * (drawn - means)), [0.025, 0.975], axis=0, method="closest_observation")
    rows = zip(cells.arms, ranks_of(means[None])[0], ranks_of(drawn).mean(axis=0), low, high, best, strict=True)
    arms = tuple(
        ArmRank(arm=arm, rank=float(rank), expected=float(mean), low=float(first), high=float(last), best=float(share))
        for arm, rank, mean, first, last, share in rows
    )
    return RankStability(metric=metric, arms=arms, tau=_halves(cells), n=cells.n, draws=len(drawn) if cells.n >= 2 else 0)


def ranks_of(values: Floats) -> Floats:
    """Ranks of [draw, cell] from 1, smallest first; equal values share the mean of their ranks.

    >>> ranks_of(np.array([[0.3, 0.1, 0.3]])).tolist()
    [[2.5, 1.0, 2.5]]
    """
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = np.broadcast_to(np.arange(1, values.shape[1] + 1, dtype=np.int64), values.shape)
    edge = np.ones((len(values), 1), dtype=np.bool_)
    changes = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=1), places, 0), axis=1)
    flipped = np.where(np.concatenate([changes, edge], axis=1), places, values.shape[1])[:, ::-1]
    last = np.minimum.accumulate(flipped, axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks


def kendall_tau(first: Floats, second: Floats) -> float:
    """Kendall's τ-b of two orders of the same cells; NaN if one of them is of one value only.

    Source:
        Kendall, The Treatment of Ties in Ranking Problems, Biometrika 33 (1945).

    >>> kendall_tau(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 3.0, 2.0]))
    0.0
    """
    ours, theirs = (np.sign(values[:, None] - values[None, :]).astype(np.int8) for values in (first, second))
    pairs = math.sqrt(np.count_nonzero(ours) * np.count_nonzero(theirs))
    return float((ours * theirs).sum(dtype=np.int64)) / pairs if pairs else math.nan


def _halves(cells: Cells) -> float:
    """Mean τ over splits of the replicates into halves; of an odd number one is left out of each split."""
    if cells.n < 2:
        return math.nan
    splits = max(4, min(SPLITS, _AT_MOST // len(cells.arms) ** 2))
    random = np.random.default_rng(0)
    taus = [_half_tau(cells, random.permutation(cells.n)) for _ in range(splits)]
    known = [tau for tau in taus if not math.isnan(tau)]
    return sum(known) / len(known) if known else math.nan


def _half_tau(cells: Cells, order: npt.NDArray[np.int64]) -> float:
    half = cells.n // 2
    one, other = (cells.values[..., 0][:, part].reshape(len(cells.arms), -1) for part in (order[:half], order[half : 2 * half]))
    both = np.isfinite(one).any(axis=1) & np.isfinite(other).any(axis=1)
    if both.sum() < 2:
        return math.nan
    return kendall_tau(np.nanmean(one[both], axis=1), np.nanmean(other[both], axis=1))
