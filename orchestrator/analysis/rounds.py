"""How many replicates each arm gets under `Adaptive`: a pure function of what the finished ones measured.

A look is taken when every replicate that it needs has ended, however it ended. So workers, packs, kills and their timing change no
decision, and the plan, `status` and the report come to the same ones, each from the ledger alone.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from orchestrator.analysis.paired import differences_of, special
from orchestrator.analysis.sequential import boundary, corrected, p_at, p_of_signs, pairs_at
from orchestrator.analysis.summary import mean_of
from orchestrator.keys import Json
from orchestrator.replicates import Adaptive


class Verdict(enum.StrEnum):
    """Why an arm gets no more replicates; `OPEN` is an arm that may."""

    DIFFERENT = "different"
    ALIKE = "alike"  # the difference is shown to be smaller than the study asked for
    FUTILE = "futile"
    INFINITE = "not finite"  # a paired value is not: no number of replicates settles that
    MOST = "most"
    BUDGET = "budget"
    UNTUNED = "untuned"  # none of its tuning trials has the metric that selects, or none of the baseline's
    OPEN = "open"

    @property
    def is_settled(self) -> bool:
        """The comparison has an answer."""
        return self in (Verdict.DIFFERENT, Verdict.ALIKE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The replicates of one arm.

    Attributes:
        arm: Its name.
        values: Of the metric, by index, of those that have one.
        ended: Indices of all that have ended, whatever came of them.
        is_out: It never gets any, since its tuning chose nothing.
    """

    arm: str
    values: Mapping[int, float]
    ended: Collection[int]
    is_out: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against the baseline.

    Attributes:
        arm: Its name.
        replicates: That it is to have so far.
        pairs: That the last look had.
        looks: That it was in.
        verdict: Of the last look.
        p: Sequential, corrected for all arms of the study (Holm); NaN before the first look with two pairs.
    """

    arm: str
    replicates: int
    pairs: int
    looks: int
    verdict: Verdict
    p: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Where an adaptive study stands.

    Attributes:
        comparisons: Of all arms but the baseline, in their order.
        replicates: Of the baseline.
        looks: Replicates of the baseline at each look so far.
        more: Trials at most beyond those planned.
    """

    comparisons: tuple[Comparison, ...]
    replicates: int
    looks: tuple[int, ...]
    more: int

    def __str__(self) -> str:
        settled = sum(row.verdict.is_settled for row in self.comparisons)
        going, rest = len(self.arms(Verdict.OPEN)), len(self.comparisons) - settled - len(self.arms(Verdict.OPEN))
        parts = [f"{settled} of {len(self.comparisons)} comparisons settled"]
        parts += [f"{rest} ended without"] if rest else []
        parts += [f"{going} go{'es' if going == 1 else ''} on, up to {self.more} more trials"] if going else []
        return ", ".join(parts)

    def arms(self, verdict: Verdict) -> list[str]:
        """Names of those with this verdict."""
        return [row.arm for row in self.comparisons if row.verdict is verdict]

    def json(self) -> dict[str, Json]:
        """For machines."""
        rows: list[Json] = [
            {**dataclasses.asdict(row), "verdict": row.verdict.value, "p": None if math.isnan(row.p) else row.p} for row in self.comparisons
        ]
        return {"looks": list(self.looks), "replicates": self.replicates, "more": self.more, "comparisons": rows}

    def of(self, arm: str) -> Comparison | None:
        """The comparison of an arm; None of the baseline."""
        return next((row for row in self.comparisons if row.arm == arm), None)

    def replicates_of(self, arm: str) -> int:
        """That an arm, or the baseline, is to have so far."""
        row = self.of(arm)
        return self.replicates if row is None else row.replicates


def rounds(rule: Adaptive, baseline: Series, others: Sequence[Series]) -> Rounds:
    """Every look that can be taken, and what follows.

    Args:
        rule: Of the study, with its metric.
        baseline: What the others are compared with.
        others: In their order. All share the error, those too that get no replicates.
    """
    return _Walk(rule, baseline, others).to_the_end()


class _Walk:
    """The looks of one study, one after the other."""

    def __init__(self, rule: Adaptive, baseline: Series, others: Sequence[Series]) -> None:
        self.rule, self.baseline, self.others = rule, baseline, others
        self.n = min(rule.first, rule.most)
        self.looks: list[int] = []
        self.verdicts = {row.arm: Verdict.UNTUNED if row.is_out or baseline.is_out else Verdict.OPEN for row in others}
        self.counts = {row.arm: 0 if row.is_out else self.n for row in others}
        self.of_arm: dict[str, list[int]] = {row.arm: [] for row in others}
        self.ps = {row.arm: math.nan for row in others}
        self.spent = sum(self.counts.values()) + (0 if baseline.is_out else self.n)

    def to_the_end(self) -> Rounds:
        while self._open and self._has_ended():
            self._look()
            add = self._added()
            if not self._open or not add:
                break
            self.n += add
            self.spent += add * (1 + len(self._open))
            self.counts |= dict.fromkeys((row.arm for row in self._open), self.n)
        found = self._corrected()
        # What later rejections leave to the others may settle one that has ended.
        ended = (arm for arm, verdict in self.verdicts.items() if verdict in (Verdict.MOST, Verdict.BUDGET, Verdict.FUTILE))
        self.verdicts |= {arm: Verdict.DIFFERENT for arm in ended if found[arm] <= self.rule.alpha}
        return Rounds(
            comparisons=tuple(self._comparison(row, found[row.arm]) for row in self.others),
            replicates=0 if self.baseline.is_out else self.n,
            looks=tuple(self.looks),
            more=self._more(),
        )

    @property
    def _open(self) -> list[Series]:
        return [row for row in self.others if self.verdicts[row.arm] is Verdict.OPEN]

    def _has_ended(self) -> bool:
        return all(index in row.ended for row in (self.baseline, *self._open) for index in range(self.n))

    def _look(self) -> None:
        """Judges every open comparison by the pairs that there are."""
        self.looks.append(self.n)
        for row in self._open:
            self.of_arm[row.arm].append(self.n)
            indices, differences = self._pairs(row)
            if not all(map(math.isfinite, differences)):
                self.verdicts[row.arm] = Verdict.INFINITE
            elif len(differences) >= 2:
                looks = [pairs for pairs in pairs_at(indices, self.of_arm[row.arm]) if pairs >= 2]
                now, before = p_at(differences, looks), self.ps[row.arm]
                self.ps[row.arm] = now if math.isnan(before) else min(now, before)
        found = self._corrected()
        for row in self._open:
            self.verdicts[row.arm] = self._verdict(row, found[row.arm])

    def _verdict(self, row: Series, p: float) -> Verdict:
        indices, differences = self._pairs(row)
        looks = [pairs for pairs in pairs_at(indices, self.of_arm[row.arm]) if pairs >= 2]
        if p <= self.rule.alpha:
            return Verdict.DIFFERENT
        if looks and self._is_alike(differences, looks):
            return Verdict.ALIKE
        if self.n >= self.rule.most:
            return Verdict.MOST
        if looks and self._is_futile(differences):
            return Verdict.FUTILE
        return Verdict.OPEN

    def _is_alike(self, differences: Sequence[float], looks: Sequence[int]) -> bool:
        """The repeated interval, at the share of the error that each comparison has, is within the margin."""
        margin, level = self.rule.smaller_than, self.rule.alpha / len(self.others)
        mean = mean_of(differences)
        if margin is None or (mean.se == 0.0 and p_of_signs(mean.n) > level):  # all alike: no spread was seen
            return False
        return abs(mean.mean) + boundary(looks, level) * mean.se < margin

    def _is_futile(self, differences: Sequence[float]) -> bool:
        """Conditional power at the trend seen, against the least that `most` pairs would ever have to show.

        It may only end a comparison without an answer, so that its being approximate costs no error.
        """
        mean, most = mean_of(differences), self.rule.most
        if not self.rule.futile or mean.se == 0.0 or mean.n >= most:
            return False
        goal = float(special.stdtrit(most - 1, 1.0 - self.rule.alpha / len(self.others) / 2))
        trend = abs(mean.mean) / (mean.se * math.sqrt(mean.n)) * math.sqrt(most)
        return float(special.ndtr((trend - goal) / math.sqrt((most - mean.n) / most))) < self.rule.futile

    def _added(self) -> int:
        """Replicates of the next round: the budget may have room for a part of a step."""
        add = min(self.rule.step, self.rule.most - self.n)
        if self.rule.budget is None or not self._open:
            return add
        add = min(add, max(0, self.rule.budget - self.spent) // (1 + len(self._open)))
        if not add:
            self.verdicts |= dict.fromkeys((row.arm for row in self._open), Verdict.BUDGET)
        return add

    def _more(self) -> int:
        """Trials beyond those planned, if nothing more is settled."""
        each = 1 + len(self._open)
        more = (self.rule.most - self.n) * each if self._open else 0
        return more if self.rule.budget is None else min(more, max(0, self.rule.budget - self.spent) // each * each)

    def _pairs(self, row: Series) -> tuple[list[int], list[float]]:
        """Indices and differences of the replicates that both arms have a value of, up to this look."""
        shared = sorted(index for index in row.values.keys() & self.baseline.values.keys() if index < self.n)
        before, after = (np.array([values[index] for index in shared]) for values in (self.baseline.values, row.values))
        return shared, differences_of(before, after).tolist()

    def _corrected(self) -> dict[str, float]:
        return dict(zip(self.ps, corrected(list(self.ps.values()), len(self.others)), strict=True))

    def _comparison(self, row: Series, p: float) -> Comparison:
        looks = self.of_arm[row.arm]
        seen = [index for index in row.values.keys() & self.baseline.values.keys() if looks and index < looks[-1]]
        return Comparison(
            arm=row.arm,
            replicates=self.counts[row.arm],
            pairs=len(seen),
            looks=len(looks),
            verdict=self.verdicts[row.arm],
            p=p,
        )
