"""What the ledger knows of a study, as values: the input of analysis, reports, stopping rules and trackers.

Ports are handed these and return decisions or files; they never see the ledger, the study or the driver.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from orchestrator.keys import FlatConfig, Value
from orchestrator.replicates import Adaptive


class TrialState(enum.StrEnum):
    """Where a trial stands. PREEMPTED and LOST wait for a worker as PLANNED does; they say why they wait.

    PAUSED waits for other trials, not for a worker: at a rung, until the rest of its cohort has reached it.
    """

    PLANNED = "planned"
    LEASED = "leased"
    PAUSED = "paused"
    COMPLETE = "complete"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    PREEMPTED = "preempted"
    LOST = "lost"

    @property
    def is_waiting(self) -> bool:
        """A worker may lease the trial."""
        return self in (TrialState.PLANNED, TrialState.PREEMPTED, TrialState.LOST)

    @property
    def is_terminal(self) -> bool:
        """Nothing more happens to the trial by itself."""
        return self in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED, TrialState.FAILED)


class Cause(enum.StrEnum):
    """Why an attempt at a trial ended before its time. Each cause has its own bound on how often a trial is tried again."""

    RAISED = "raised"  # the trainer raised, or returned without a result
    OUT_OF_MEMORY = "out of memory"  # of the device or the machine: it raised so, or the kernel killed the process for it
    CRASHED = "crashed"  # the process ended itself: a signal such as SIGSEGV, or an exit code
    KILLED = "killed"  # SIGKILL by somebody
    LOST = "lost"  # nothing was heard of the worker until its lease had expired
    ORPHANED = "orphaned"  # the worker died with its launcher, so the trial is not to blame
    PREEMPTED = "preempted"  # the worker was asked to end, and gave it back with a checkpoint

    @property
    def blames_trial(self) -> bool:
        """It counts against the trial: often enough, and the trial has failed."""
        return self not in (Cause.ORPHANED, Cause.PREEMPTED)


class Phase(enum.StrEnum):
    """Why a trial is in a study. What stands first is trained first."""

    UPSTREAM = "upstream"  # others start from it
    TUNE = "tune"
    REPLICATE = "replicate"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What a trial reported at one step.

    Attributes:
        step: Optimizer steps done.
        metrics: `split/name` to value.
    """

    step: int
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """A split's images by how confident their predictions are, in bins of equal width on [0, 1].

    Attributes:
        count: Images in each bin, [bin].
        confidence: Mean confidence of those, [bin].
        accuracy: Share of those that are classified right, [bin].
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a finished trial says of itself that is no single number.

    Attributes:
        reliability: Bins of each split, `test` for one.
        load: Share of tokens that each expert of each sparse layer is sent, [layer, expert]; empty where that was not measured.
    """

    reliability: Mapping[str, Bins]
    load: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial of a study, with all that was recorded of it.

    Attributes:
        key: Content key.
        cell: Key of its cell.
        arm: Name of its arm, or of its upstream, in this study.
        phase: Upstream, tuning or replicate.
        index: Its number, from 0, in its arm and phase.
        seed: The seed that fixes every random draw.
        config: The resolved config.
        point: Values of the nuisance axes, by dotted key.
        state: Where it stands.
        reason: Why it was stopped, diverged or failed; empty otherwise.
        signature: Of its compiled program.
        cost: Known before training: `cost/parameters`, `cost/train_gflops`.
        metrics: Final metrics with the costs merged in; empty unless complete.
        rungs: Learning curve, in the order of steps.
        attempts: How often it was leased.
        pauses: How many of the attempts ended at a rung, where it waited for others.
        elapsed_s: Seconds it was held by workers, over all attempts.
        finished_at: UTC, ISO 8601; empty unless terminal.
        provenance: Of the attempt that finished it: versions, device, strategy, commit.
        causes: Why attempts ended before their time, oldest first; empty where that is not asked for.
        described: What it says of itself; None where it left no description that can be read, or that is not asked for.
    """

    key: str
    cell: str
    arm: str
    phase: Phase
    index: int
    seed: int
    config: FlatConfig
    point: FlatConfig
    state: TrialState
    reason: str
    signature: str
    cost: Mapping[str, float]
    metrics: Mapping[str, float]
    rungs: tuple[Rung, ...]
    attempts: int
    elapsed_s: float
    finished_at: str
    provenance: Mapping[str, str]
    pauses: int = 0
    causes: tuple[Cause, ...] = ()
    described: Description | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """One arm of a study.

    Attributes:
        name: As the study file writes it.
        baseline: The arm that effects are measured against.
        overrides: What it changes in the base config.
        tune_trials: Tuning trials that the protocol gives it.
        replicates: Replicates that the protocol gives it.
        selected: Values of the nuisance axes chosen on validation data; None until tuning is finished.
        of: The trained arms that a derived arm averages; empty for a trained one.
        members: Replicates of each of these arms that one replicate of a derived arm is made of: number g of the groups that
            they form in their order.
    """

    name: str
    baseline: bool
    overrides: FlatConfig
    tune_trials: int
    replicates: int
    selected: FlatConfig | None
    of: tuple[str, ...] = ()
    members: int = 1

    @property
    def is_derived(self) -> bool:
        """Nothing is trained for it."""
        return bool(self.of)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRecord:
    """Trials that others start from. They are in no table of arms.

    Attributes:
        name: As the study file writes it; `TrialRecord.arm` of its trials.
        overrides: What it changes in the base config.
        seeds: `shared`, one trial for all that start from it, or `paired`, one for each of their seeds.
        trials: How many the study has of it.
        arms: Names of the arms whose trials start from it, at once or through another upstream.
    """

    name: str
    overrides: FlatConfig
    seeds: str
    trials: int
    arms: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveRecord:
    """A metric that the study reports, and which way is better: `minimize` or `maximize`."""

    metric: str
    direction: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRecord:
    """What an axis may be: listed values, or anything between two bounds.

    Attributes:
        values: Listed ones, in their order; empty where there are bounds.
        low: Smallest value; None where values are listed.
        high: Largest value; None where values are listed.
        log: Drawn on a logarithmic scale.
        whole: Whole numbers only.
    """

    values: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """Where the time of one pack went, as its trainer told; see `orchestrator.contract.Usage`.

    Attributes:
        ended_s: Seconds from the start of the run to the end of the pack.
    """

    signature: str
    strategy: str
    width: int
    lane_steps: int
    compile_s: float
    train_s: float
    evaluate_s: float
    other_s: float
    lane_s: float
    place_s: float
    ended_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker of a run, in seconds from the start of the run.

    Attributes:
        leased_s: When it was given its first trial.
        ended_s: When it ended; None while it runs, as far as anybody knows.
        died: It ended otherwise than by being asked to.
        packs: That it trained to their end, in their order.
    """

    leased_s: float
    ended_s: float | None
    died: bool
    packs: tuple[PackRecord, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a study that had something to train.

    Attributes:
        workers: That it was to have at once.
        trials: That were left to do.
        estimate_s: What the plan said that it would take; None where nothing was known.
        inferred: Trials whose program had not been measured when the plan said so.
        wall_s: What it took; None for a run that was killed, or still goes on.
        finished: Trials that it finished; None as above.
        ending: `done`, `interrupted`, `stuck`; empty as above.
        crew: The workers that trained, in the order in which they were given work.
    """

    workers: int
    trials: int
    estimate_s: float | None
    inferred: int
    wall_s: float | None
    finished: int | None
    ending: str
    crew: tuple[WorkerRecord, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A study and everything recorded of it.

    Attributes:
        name: Its name, as the study file gives it.
        question: Docstring of the study file.
        trainer: `module:Class`.
        version: Of the trainer.
        profile: `laptop`, `paper`, … as chosen on the command line.
        select: Validation metric that tuning minimises or maximises; empty without tuning.
        select_direction: `minimize` or `maximize`.
        nuisance: Dotted key of each tuned axis to its search space in words, such as `log-uniform 0.001 to 0.03`.
        sampler: Name of the sampler that proposed tuning trials; empty without tuning.
        objectives: In the order of the study file; the first is the one tables are led by.
        base: The resolved base config.
        arms: In the order of the study file.
        trials: In the order of the plan; orphaned ones are left out.
        provenance: Versions, commit, platform of the launcher.
        stopping: Rules that stop trials at rungs, in words; empty without any.
        adaptive: How many replicates follow from what they measure, with its metric; None where their number is fixed.
        space: The nuisance axes as data, by dotted key; empty for a study that was planned before they were kept.
        runs: How the study was run, oldest first; empty where that is not asked for, or was not written down.
        upstreams: What its trials start from, each after what it starts from itself.
    """

    name: str
    question: str
    trainer: str
    version: str
    profile: str
    select: str
    select_direction: str
    nuisance: Mapping[str, str]
    sampler: str
    objectives: tuple[ObjectiveRecord, ...]
    base: FlatConfig
    arms: tuple[ArmRecord, ...]
    trials: tuple[TrialRecord, ...]
    provenance: Mapping[str, str]
    stopping: str = ""
    adaptive: Adaptive | None = None
    space: Mapping[str, SpaceRecord] = dataclasses.field(default_factory=dict[str, SpaceRecord])
    runs: tuple[RunRecord, ...] = ()
    upstreams: tuple[UpstreamRecord, ...] = ()

    def of(self, arm: str, phase: Phase) -> Iterator[TrialRecord]:
        """The trials of one arm in one phase, in the order of their index."""
        rows = [row for row in self.trials if row.arm == arm and row.phase is phase]
        return iter(sorted(rows, key=lambda row: row.index))

    @property
    def trained(self) -> tuple[TrialRecord, ...]:
        """The trials that the ledger has: those of arms that are not derived."""
        derived = {arm.name for arm in self.arms if arm.is_derived}
        return tuple(trial for trial in self.trials if trial.arm not in derived) if derived else self.trials
