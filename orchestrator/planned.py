"""What a plan is made of: trials with their cells, arms, decisions, and the outcomes that they follow from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.designs import Arm
from orchestrator.keys import FlatConfig
from orchestrator.records import Phase, Rung, TrialState
from orchestrator.stopping.cohort import RungDecision

if TYPE_CHECKING:
    from orchestrator.analysis.rounds import Rounds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of a trial.

    Attributes:
        state: Where it stands, under any study.
        metrics: Final ones, when it is complete.
        rungs: What it reported, in the order of steps; needed of trials that a rule may stop (`PlannedTrial.watched`).
    """

    state: TrialState
    metrics: Mapping[str, float]
    rungs: tuple[Rung, ...] = ()


Outcomes = Mapping[str, Outcome]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """One fully resolved config.

    Attributes:
        key: Content key of trainer, version and config.
        config: Every key of the config class; what cells have in common is held once.
        signature: Of the compiled program.
        cost: `cost/parameters`, `cost/train_gflops`, …
        steps: Optimizer steps that a trial of it takes.
    """

    key: str
    config: FlatConfig
    signature: str
    cost: Mapping[str, float]
    steps: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """One trial and its place in the study.

    Attributes:
        key: Content key of cell and seed.
        cell: What it trains.
        arm: Name of its arm.
        phase: Tuning or replicate.
        index: Number in its arm and phase, from 0.
        seed: Fixes every random draw.
        point: Values of the nuisance axes.
        position: Order in which trials are handed to workers.
        watched: A rule compares it with others at rungs.
        until: Step of the rung at which it pauses next; None: it goes on to its end.
        dropped: Why a rule stopped it; empty when none did.
    """

    key: str
    cell: PlannedCell
    arm: str
    phase: Phase
    index: int
    seed: int
    point: FlatConfig
    position: int
    watched: bool = False
    until: int | None = None
    dropped: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDecision:
    """What a rule decided of a member of a cohort at one rung.

    Attributes:
        arm: The arm, or the arm of the tuning trial.
        trial: The tuning trial; None when the member is the arm with all its replicates.
        metrics: That were compared.
        made: The decision.
    """

    arm: str
    trial: PlannedTrial | None
    metrics: tuple[str, ...]
    made: RungDecision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArm:
    """One arm, as far as it can be planned.

    Attributes:
        arm: Its name and overrides.
        cell: Its config, with the nuisance axes at their selected values or, before that, at the base's.
        tune_trials: Tuning trials it gets.
        replicates: Replicates it gets.
        selected: Nuisance values chosen on validation data; None until tuning is finished.
        trials: Those that can be planned now.
        decisions: Of its tuning trials.
    """

    arm: Arm
    cell: PlannedCell
    tune_trials: int
    replicates: int
    selected: FlatConfig | None
    trials: tuple[PlannedTrial, ...]
    decisions: tuple[PlannedDecision, ...] = ()

    @property
    def pending(self) -> int:
        """Trials that wait for a selection or for an adaptive sampler."""
        return self.tune_trials + self.replicates - len(self.trials)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every arm of a study, in the order of its tables.

    Attributes:
        arms: The arms.
        cohorts: Trials that are compared with each other, as the arms and the phase that they are of.
        of_arms: Decisions on whole arms.
        rounds: Which comparisons are settled, where that decides how many replicates there are; None where it does not.
    """

    arms: tuple[PlannedArm, ...]
    cohorts: tuple[tuple[frozenset[str], Phase], ...] = ()
    of_arms: tuple[PlannedDecision, ...] = ()
    rounds: Rounds | None = None

    @property
    def trials(self) -> Iterator[PlannedTrial]:
        """Every trial that can be planned now, in plan order."""
        return (trial for arm in self.arms for trial in arm.trials)

    @property
    def decisions(self) -> tuple[PlannedDecision, ...]:
        """Every decision that follows from the outcomes."""
        return (*(decision for arm in self.arms for decision in arm.decisions), *self.of_arms)


def changed(plan: Plan, since: Plan | None) -> list[PlannedArm]:
    """Arms of a plan that are not, as they are, in an earlier one of the same planner."""
    if since is None:
        return list(plan.arms)
    if len(plan.arms) == len(since.arms):  # nearly always, and comparing places is the quicker way
        return [arm for arm, former in zip(plan.arms, since.arms, strict=True) if arm is not former]
    known = {id(arm) for arm in since.arms}
    return [arm for arm in plan.arms if id(arm) not in known]
