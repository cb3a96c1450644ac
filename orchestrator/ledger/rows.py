"""What goes into the ledger and what comes out of it, beside the records of `orchestrator.records`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.keys import FlatConfig, Json
from orchestrator.records import Cause, Phase, TrialState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellRow:
    """One resolved config of one trainer; `cost` is what is known of it before training."""

    key: str
    trainer: str
    version: str
    config: FlatConfig
    signature: str
    cost: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One cell with the seed that a replicate fixes."""

    key: str
    cell: str
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A trial's place in a study.

    Attributes:
        trial: Key of the trial.
        arm: Name of the arm, as the study file writes it now.
        phase: Upstream, tuning or replicate.
        index: Number of the trial in its arm and phase, from 0.
        position: Place in the plan; workers lease in this order.
        point: Values of the nuisance axes, by dotted key.
        until: Step at which it pauses, until a later plan says otherwise; None: it goes on to its end.
        dropped: Why this study stopped it; empty when it did not.
    """

    trial: str
    arm: str
    phase: Phase
    index: int
    position: int
    point: FlatConfig
    until: int | None = None
    dropped: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """What a stopping rule decided of one member of a cohort at one rung; an event of kind `decision`.

    Attributes:
        trial: Key of the tuning trial; empty when the member is an arm with its replicates.
        arm: Its arm.
        index: Of the tuning trial in its arm; None for an arm.
        rung: Step of the rung.
        metric: What was compared; names joined by commas.
        value: Of the metric, or of each of them.
        rank: Among the members, from 1.
        of: Members at this rung.
        kept: How many of them go on.
        decision: `go on` or `stop`.
        reason: The figures in words.
    """

    trial: str
    arm: str
    index: int | None
    rung: int
    metric: str
    value: float | tuple[float, ...]
    rank: int
    of: int
    kept: int
    decision: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRows:
    """Cells, trials and memberships to insert. Cells and trials that the ledger has already may be left out."""

    cells: tuple[CellRow, ...]
    trials: tuple[TrialRow, ...]
    members: tuple[MemberRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanRows(TrialRows):
    """A plan: all that the study named `study`, or some arms of it, hold now, and every decision that led to it.

    Attributes:
        study: Its name.
        spec: Its description, from which reports are made; None leaves that of an earlier plan.
        decisions: Of its stopping rules.
        digest: Of the study file and the settings that the plan was made from: plans of one digest are of one edition.
        arms: The plan speaks of these arms only, and leaves others as they are; None: of all.
        former: Trials that these arms had in the plan before it.
    """

    study: str
    spec: Mapping[str, Json] | None
    decisions: tuple[DecisionRow, ...] = ()
    digest: str = ""
    arms: frozenset[str] | None = None
    former: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A membership as the ledger has it.

    A trial is orphaned when *every* membership of it in the study is: a renamed arm leaves an orphaned membership behind,
    while its trials live on under the new name.
    """

    key: str
    cell: str
    arm: str
    phase: Phase
    index: int
    position: int
    point: FlatConfig
    orphaned: bool
    state: TrialState  # as this study sees it: STOPPED where it stopped the trial, though another may train it on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A trial that a worker now holds.

    Attributes:
        key: Content key.
        fence: Fencing token; larger than that of any earlier lease of the trial.
        config: The resolved config.
        seed: Fixes every random draw.
        signature: Of its compiled program.
        attempt: Which lease of the trial this is, from 1.
        until: Step at which the study wants it to pause; None: at its end.
    """

    key: str
    fence: int
    config: FlatConfig
    seed: int
    signature: str
    attempt: int
    until: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a worker records of one trial at one step.

    Attributes:
        key: Content key.
        fence: Token of the lease under which it was measured.
        step: Optimizer steps done. What was recorded of this step and of later ones is replaced.
        metrics: `split/name` to value; NaN and infinities are kept. When empty, what is known of the step is left alone.
        outcome: The terminal state that the trial reaches now, if any.
        reason: Why it stopped or diverged.
        provenance: Versions, device, strategy, …; kept with the attempt when there is an outcome.
        artifacts: Name to path or URI of files that the trial leaves behind.
        sha256: Name to the hash of what such a file holds, in hex digits, of those that others read.
    """

    key: str
    fence: int
    step: int
    metrics: Mapping[str, float]
    outcome: TrialState | None = None
    reason: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    artifacts: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if self.outcome is not None and not self.outcome.is_terminal:
            raise ValueError(f"an outcome is a terminal state, not {self.outcome}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker that has not ended, as far as the ledger knows.

    Attributes:
        id: Number that leases are held under.
        identity: Name that its executor knows it by, for re-attaching.
        host: Machine it runs on.
        pid: Process there.
        started: Tells this process from a later one of the same pid.
        seen_s: Seconds since it was last heard of.
        signature: Of the trials it leased last; empty before that.
        leases: Trials it holds, expired leases included.
    """

    id: int
    identity: str
    host: str
    pid: int
    started: str
    seen_s: float
    signature: str
    leases: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """An attempt at a trial that ended before its time.

    Attributes:
        trial: Content key.
        attempt: Which lease of the trial it was, from 1.
        cause: Its class.
        reason: In words.
        worker: Identity of the worker that held the trial.
        host: Machine of that worker.
        at: When it ended: UTC, ISO 8601.
    """

    trial: str
    attempt: int
    cause: Cause
    reason: str
    worker: str
    host: str
    at: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRow:
    """One line of a live table: trials of one arm in one phase.

    Attributes:
        arm: Name of the arm.
        phase: Upstream, tuning or replicate.
        done: Complete, diverged, or stopped by this study.
        running: Held by a worker, on their way.
        waiting: In the queue.
        paused: At a rung of this study, where they wait for others; their worker may still be writing a checkpoint.
        failed: For good.
        running_steps: Steps done of those that run or pause.
    """

    arm: str
    phase: Phase
    done: int
    running: int
    waiting: int
    paused: int
    failed: int
    running_steps: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened to a study. Ids grow; `at` is UTC, ISO 8601; `trial` is empty when no trial is meant."""

    id: int
    at: str
    kind: str
    trial: str
    payload: Mapping[str, Json]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRow:
    """A file that a trial left behind: its name in the trial, its path or URI, and the hash of what it holds, empty where not known."""

    trial: str
    name: str
    uri: str
    sha256: str = ""
