"""How sure the order of the arms and the frontier are, in rows of text."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.frontier import frontier
from orchestrator.analysis.frontier_odds import FrontierOdds, frontier_odds
from orchestrator.analysis.metrics import cost_metric, quality_metric
from orchestrator.analysis.ranks import ArmRank, RankStability, rank_stability
from orchestrator.records import StudyRecord
from orchestrator.report.number import UNKNOWN, decimals_of_error, fixed
from orchestrator.report.words import counted, label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One arm, as text.

    Attributes:
        arm: The arm.
        on_frontier: `yes` or `no`, judged by the means; empty where there is no cost.
        chance: That it is on the frontier.
        rank: By the means, 1 the best.
        interval: The 95 % interval of its rank.
        best: Chance that it is the best.
    """

    arm: str
    on_frontier: str
    chance: str
    rank: str
    interval: str
    best: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The rows, and how to read them."""

    rows: tuple[OrderRow, ...]
    note: str


def order(record: StudyRecord) -> Order | None:
    """None for a study whose arms cannot be put in an order."""
    odds, ranks = _odds(record), _ranks(record)
    if odds is None and ranks is None:
        return None
    by_arm = {} if ranks is None else {row.arm: row for row in ranks.arms}
    on = _on_frontier(record) if odds is not None else frozenset[str]()
    names = [arm.name for arm in record.arms if arm.name in by_arm or (odds is not None and arm.name in odds.on_frontier)]
    return Order(
        rows=tuple(_row(name, odds, by_arm.get(name), ranks, is_on=name in on) for name in names),
        note=" ".join(filter(None, [_drawn(odds, ranks), _volume(record, odds), _halves(ranks)])),
    )


def _odds(record: StudyRecord) -> FrontierOdds | None:
    cost, quality = cost_metric(record), quality_metric(record)
    if not cost or not quality or not _on_frontier(record):
        return None
    return frontier_odds(record, (cost, quality))


def _ranks(record: StudyRecord) -> RankStability | None:
    quality = quality_metric(record)
    return rank_stability(record, quality) if quality else None


def _on_frontier(record: StudyRecord) -> frozenset[str]:
    points = frontier(record, (cost_metric(record), quality_metric(record)))
    return frozenset(point.arm for point in points if point.on_frontier)


def _row(name: str, odds: FrontierOdds | None, rank: ArmRank | None, ranks: RankStability | None, *, is_on: bool) -> OrderRow:
    known = odds is not None and name in odds.on_frontier
    drawn = rank is not None and ranks is not None and ranks.draws > 0
    return OrderRow(
        arm=name,
        on_frontier="" if odds is None else ("yes" if is_on else "no") if known else UNKNOWN,
        chance=_share(odds.on_frontier[name]) if odds is not None and known and odds.draws else UNKNOWN,
        rank=UNKNOWN if rank is None else f"{rank.rank:g}",
        interval=f"{rank.low:g} to {rank.high:g}" if rank is not None and drawn else UNKNOWN,
        best=_share(rank.best) if rank is not None and drawn else UNKNOWN,
    )


def _share(share: float) -> str:
    """A share of draws: none of some thousand draws is not never.

    >>> _share(0.0), _share(0.0004), _share(0.876), _share(0.9999), _share(1.0)
    ('< 0.1 %', '< 0.1 %', '88 %', '> 99.9 %', '> 99.9 %')
    """
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.999 else f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.1f} %"


def _drawn(odds: FrontierOdds | None, ranks: RankStability | None) -> str:
    draws, n = (odds.draws, odds.n) if odds is not None else (ranks.draws, ranks.n) if ranks is not None else (0, 0)
    if not draws:
        return "One replicate says nothing about chances."
    return f"Chances and intervals are over {draws:,} draws of {counted(n, 'replicate')} with replacement, the same ones for every arm."


def _volume(record: StudyRecord, odds: FrontierOdds | None) -> str:
    if odds is None or not math.isfinite(odds.low):
        return ""
    decimals = decimals_of_error((odds.high - odds.low) / 4)
    interval = f"{fixed(odds.low, decimals)} to {fixed(odds.high, decimals)}"
    first, second = odds.reference
    return (
        f"The frontier's hypervolume is {fixed(odds.hypervolume, decimals)} (95\u00a0% interval {interval}), from "
        f"{label(cost_metric(record))} {first:.3g} and {label(quality_metric(record))} {second:.3g}."
    )


def _halves(ranks: RankStability | None) -> str:
    if ranks is None or math.isnan(ranks.tau):
        return ""
    return f"Orders by two halves of the replicates agree with a Kendall τ of {fixed(ranks.tau, 2)}: 1 is always, 0 no more than chance."
