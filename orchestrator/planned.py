"""What a plan is made of: trials with their cells, arms, decisions, and the outcomes that they follow from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.designs import Arm
from orchestrator.keys import FlatConfig
from orchestrator.records import Phase, Rung, TrialState
from orchestrator.stopping.cohort import RungDecision
from orchestrator.upstream import Upstream

if TYPE_CHECKING:
    from orchestrator.analysis.rounds import Rounds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of a trial.

    Attributes:
        state: Where it stands, under any study.
        metrics: Final ones, when it is complete.
        rungs: What it reported, in the order of steps; needed of trials that a rule may stop (`PlannedTrial.watched`).
        kept: The ledger has its parameters; needed of upstream trials.
    """

    state: TrialState
    metrics: Mapping[str, float]
    rungs: tuple[Rung, ...] = ()
    kept: bool = False

    @property
    def is_start(self) -> bool:
        """Trials may start from it."""
        return self.state is TrialState.COMPLETE and self.kept


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
        starts: Keys of the upstream trials that a trial of it starts from.
    """

    key: str
    config: FlatConfig
    signature: str
    cost: Mapping[str, float]
    steps: int
    starts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """One trial and its place in the study.

    Attributes:
        key: Content key of cell and seed.
        cell: What it trains.
        arm: Name of its arm, or of its upstream.
        phase: Upstream, tuning or replicate.
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
        trials: Those that can be trained now, or were.
        decisions: Of its tuning trials.
        held: Those that wait until what they start from is trained.
        starts: Keys of all upstream trials that it takes, each after those that it starts from itself.
    """

    arm: Arm
    cell: PlannedCell
    tune_trials: int
    replicates: int
    selected: FlatConfig | None
    trials: tuple[PlannedTrial, ...]
    decisions: tuple[PlannedDecision, ...] = ()
    held: tuple[PlannedTrial, ...] = ()
    starts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the arm."""
        return self.arm.name

    @property
    def pending(self) -> int:
        """Trials that wait for others: for a selection, an adaptive sampler, or what they start from."""
        return self.tune_trials + self.replicates - len(self.trials)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUpstream:
    """Trials that others start from.

    Attributes:
        upstream: As the study file writes it.
        trials: Those that can be trained now, or were; one for each seed that is asked for.
        held: Those that wait until what they start from themselves is trained.
    """

    upstream: Upstream
    trials: tuple[PlannedTrial, ...]
    held: tuple[PlannedTrial, ...]

    @property
    def name(self) -> str:
        """Of the upstream."""
        return self.upstream.name

    @property
    def keys(self) -> frozenset[str]:
        """Of all its trials."""
        return frozenset(trial.key for trial in (*self.trials, *self.held))

    @property
    def cell(self) -> PlannedCell:
        """Of its first trial."""
        return (*self.trials, *self.held)[0].cell

    @property
    def pending(self) -> int:
        """Trials that wait for others."""
        return len(self.held)


Part: TypeAlias = PlannedUpstream | PlannedArm  # of a plan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every arm of a study, in the order of its tables.

    Attributes:
        arms: The arms.
        cohorts: Trials that are compared with each other, as the arms and the phase that they are of.
        of_arms: Decisions on whole arms.
        rounds: Which comparisons are settled, where that decides how many replicates there are; None where it does not.
        upstream: What trials of the arms start from, each after what it starts from itself.
    """

    arms: tuple[PlannedArm, ...]
    cohorts: tuple[tuple[frozenset[str], Phase], ...] = ()
    of_arms: tuple[PlannedDecision, ...] = ()
    rounds: Rounds | None = None
    upstream: tuple[PlannedUpstream, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that has trials, in the order in which it is trained."""
        return (*self.upstream, *self.arms)

    @property
    def trials(self) -> Iterator[PlannedTrial]:
        """Every trial that can be trained now, or was, in plan order."""
        return (trial for part in self.parts for trial in part.trials)

    @property
    def held(self) -> Iterator[PlannedTrial]:
        """Every trial that waits until what it starts from is trained."""
        return (trial for part in self.parts for trial in part.held)

    @property
    def programs(self) -> dict[str, PlannedCell]:
        """One cell of each signature, of trials that are to follow too."""
        cells = (cell for part in self.parts for cell in (*(trial.cell for trial in (*part.trials, *part.held)), part.cell))
        return {cell.signature: cell for cell in cells}

    @property
    def decisions(self) -> tuple[PlannedDecision, ...]:
        """Every decision that follows from the outcomes."""
        return (*(decision for arm in self.arms for decision in arm.decisions), *self.of_arms)


def changed(plan: Plan, since: Plan | None) -> list[Part]:
    """Parts of a plan that are not, as they are, in an earlier one of the same planner."""
    if since is None:
        return list(plan.parts)
    now, before = plan.parts, since.parts
    if len(now) == len(before):  # nearly always, and comparing places is the quicker way
        return [part for part, former in zip(now, before, strict=True) if part is not former]
    known = {id(part) for part in before}
    return [part for part in now if id(part) not in known]
