"""What goes into the ledger and what comes out of it, beside the records of `orchestrator.records`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.keys import FlatConfig, Json
from orchestrator.records import Phase, TrialState


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
        phase: Tuning or replicate.
        index: Number of the tuning trial or of the replicate in its arm, from 0.
        position: Place in the plan; workers lease in this order.
        point: Values of the nuisance axes, by dotted key.
    """

    trial: str
    arm: str
    phase: Phase
    index: int
    position: int
    point: FlatConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrialRows:
    """Cells, trials and memberships to insert. Cells and trials that the ledger has already may be left out."""

    cells: tuple[CellRow, ...]
    trials: tuple[TrialRow, ...]
    members: tuple[MemberRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanRows(TrialRows):
    """A whole plan: all that the study named `study` holds now, and its description."""

    study: str
    spec: Mapping[str, Json]


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
    state: TrialState


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
    """

    key: str
    fence: int
    config: FlatConfig
    seed: int
    signature: str
    attempt: int


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
    """

    key: str
    fence: int
    step: int
    metrics: Mapping[str, float]
    outcome: TrialState | None = None
    reason: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    artifacts: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

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
class ProgressRow:
    """One line of a live table: trials of one arm in one phase, and the steps done of those that run."""

    arm: str
    phase: Phase
    done: int
    running: int
    waiting: int
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
    """A file that a trial left behind: its name in the trial, and its path or URI."""

    trial: str
    name: str
    uri: str
