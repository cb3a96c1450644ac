"""A cohort: candidates with equal rights that a halving rule compares at rungs, and what comes of it for each of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.records import Rung, TrialState

# These say nothing more. STOPPED is not among them: a stopped trial goes on when its cohort wants it to.
_OVER = (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one trial of a candidate has said so far.

    Attributes:
        state: Where the trial stands; None when nobody has begun it.
        rungs: What it reported, in the order of steps.
    """

    state: TrialState | None
    rungs: tuple[Rung, ...]

    def at(self, step: int) -> Rung | None:
        """Its report at a rung: the first one at or past the step; None when it is still to come.

        Of a trial that is complete before the step it is the last report, and of one that diverged or failed before it,
        a report without metrics.
        """
        for rung in self.rungs:
            if rung.step >= step:
                return rung
        if self.state is TrialState.COMPLETE and self.rungs:
            return self.rungs[-1]
        return Rung(step=step, metrics={}) if self.state in _OVER else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One candidate: a tuning trial, or an arm with its replicates.

    Attributes:
        steps: Optimizer steps that each of its trials takes.
        cost: Known before training: `cost/train_gflops`, …
        trials: One, or a replicate each. Never empty.
    """

    steps: int
    cost: Mapping[str, float]
    trials: tuple[History, ...]

    def values(self, metrics: Sequence[str], step: int) -> tuple[float, ...] | None:
        """The metrics at a rung, means over the trials; NaN where one has none; None until every trial has reported."""
        found = [trial.at(step) for trial in self.trials]
        rungs = [rung for rung in found if rung is not None]
        if len(rungs) < len(found):
            return None
        return tuple(self._value(metric, rungs) for metric in metrics)

    def _value(self, metric: str, rungs: Sequence[Rung]) -> float:
        if metric in self.cost:
            return self.cost[metric]
        known = [rung.metrics[metric] for rung in rungs if metric in rung.metrics]
        whole = len(known) == len(rungs) and all(map(math.isfinite, known))
        return math.fsum(known) / len(known) if whole else math.nan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a candidate stands among those of a rung: its position in the sequence that was given, and why."""

    position: int
    why: str


class HalvingRule(Protocol):
    """How candidates are ordered at a rung, and where rungs are."""

    @property
    def first(self) -> int:
        """Optimizer step of the first rung."""
        ...

    @property
    def factor(self) -> int:
        """Of so many candidates one goes on, and so many times further is the next rung."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """What candidates are compared by: `val/…` as measured at the rung, `cost/…` as known before training."""
        ...

    def ranked(self, values: Sequence[tuple[float, ...]], kept: int) -> list[Place]:
        """All candidates, best first. What the order beyond place `kept` is, decides nothing."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RungDecision:
    """What is decided of one candidate at one rung.

    Attributes:
        member: Its number in the cohort, from 0.
        step: Of the rung.
        values: Of the rule's metrics.
        place: Among the candidates of this rung, from 1.
        of: Candidates at this rung.
        kept: How many of them go on.
        reason: The figures that decided, in words.
    """

    member: int
    step: int
    values: tuple[float, ...]
    place: int
    of: int
    kept: int
    reason: str

    @property
    def stops(self) -> bool:
        """The candidate ends here."""
        return self.place > self.kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a candidate may train.

    Attributes:
        until: Step at which it pauses next, to wait for the others; None: to its end.
        dropped: Why it was stopped; empty while it is in.
    """

    until: int | None = None
    dropped: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Halved:
    """A whole cohort: how each member stands, in its order, and every decision so far, by rung and place."""

    standings: tuple[Standing, ...]
    decisions: tuple[RungDecision, ...]


def rungs(rule: HalvingRule, steps: int) -> list[int]:
    """Steps at which trials of so many steps are compared: first, first · factor, first · factor², … before their end."""
    found: list[int] = []
    step = rule.first
    while step < steps:
        found.append(step)
        step *= rule.factor
    return found


def halved(rule: HalvingRule, members: Sequence[Member]) -> Halved:
    """Decides on a cohort: at each rung the best `len // factor` (1 at least) go on, as soon as all have reported it.

    A pure function of what was reported: a rung that lacks a report is left undecided, so timing, packs, workers and
    kills cannot change a decision.
    """
    standings = [Standing()] * len(members)
    decisions: list[RungDecision] = []
    alive = list(range(len(members)))
    for step in rungs(rule, max((member.steps for member in members), default=0)):
        if len(alive) < 2:
            break  # a lone survivor waits for nobody
        values = [members[number].values(rule.metrics, step) for number in alive]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            for number in alive:
                standings[number] = Standing(until=step if members[number].steps > step else None)
            break
        kept = max(1, len(alive) // rule.factor)
        decided = [
            RungDecision(
                member=alive[place.position],
                step=step,
                values=known[place.position],
                place=rank,
                of=len(alive),
                kept=kept,
                reason=f"{place.why} at step {step}: place {rank} of {len(alive)}, of which {kept} {'goes' if kept == 1 else 'go'} on",
            )
            for rank, place in enumerate(rule.ranked(known, kept), start=1)
        ]
        decisions += decided
        for decision in decided[kept:]:
            standings[decision.member] = Standing(dropped=decision.reason)
        alive = sorted(decision.member for decision in decided[:kept])
    return Halved(standings=tuple(standings), decisions=tuple(decisions))
