"""What a run would do: the plan held against what the ledger has."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence

from orchestrator.planned import Plan, PlannedTrial
from orchestrator.records import Phase, TrialState


class Change(enum.StrEnum):
    """What a planned trial is to the ledger."""

    NEW = "new"  # nobody asked for it yet
    CHANGED = "changed"  # new, in the place of a trial whose config was edited
    WAITING = "waiting"  # in the ledger, not finished: in a queue, at work, or at a rung
    CACHED = "cached"  # finished: nothing to do
    FAILED = "failed"  # finished without a result; `retry` would run it again


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A trial's place in a study, as the ledger remembers it.

    Attributes:
        key: Content key of the trial that has the place.
        arm: Name of its arm when it was planned.
        phase: Tuning or replicate.
        index: Number in its arm and phase.
        state: Where the trial stands.
    """

    key: str
    arm: str
    phase: Phase
    index: int
    state: TrialState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A plan against the ledger.

    Attributes:
        changes: What each planned trial is, in plan order.
        orphaned: Places whose trial the study no longer has. Kept, never deleted.
    """

    changes: tuple[tuple[PlannedTrial, Change], ...]
    orphaned: tuple[Place, ...]

    @functools.cached_property
    def counts(self) -> Mapping[tuple[str, Change], int]:
        """Distinct trials of each arm and kind; of all arms under the empty name. Two arms may share a trial."""
        keys: dict[tuple[str, Change], set[str]] = collections.defaultdict(set)
        for trial, change in self.changes:
            keys[trial.arm, change].add(trial.key)
            keys["", change].add(trial.key)
        return collections.Counter({place: len(found) for place, found in keys.items()})

    def count(self, change: Change, arm: str = "") -> int:
        """Distinct trials of one kind, of one arm or of all."""
        return self.counts[arm, change]

    @property
    def orphaned_keys(self) -> frozenset[str]:
        """Trials that no arm has any more."""
        return frozenset(place.key for place in self.orphaned)


def difference(plan: Plan, places: Sequence[Place], states: Mapping[str, TrialState]) -> Difference:
    """Holds a plan against the ledger.

    Args:
        plan: All that the study needs.
        places: Of this study's former plan, without those orphaned before.
        states: Of every planned trial that the ledger has, under any study.
    """
    former = {(place.arm, place.phase, place.index): place.key for place in places}
    trials = tuple(plan.trials)
    planned = {trial.key for trial in (*trials, *plan.held)}
    changes = tuple((trial, _change(trial, former, states)) for trial in trials)
    return Difference(changes=changes, orphaned=tuple(place for place in places if place.key not in planned))


def _change(trial: PlannedTrial, former: Mapping[tuple[str, Phase, int], str], states: Mapping[str, TrialState]) -> Change:
    state = states.get(trial.key)
    if state is None:
        moved = former.get((trial.arm, trial.phase, trial.index), trial.key) != trial.key
        return Change.CHANGED if moved else Change.NEW
    if state is TrialState.FAILED:
        return Change.FAILED
    # One that was stopped is finished for a study that drops it; another one takes it up again.
    finished = state.is_terminal and state is not TrialState.STOPPED
    return Change.CACHED if finished or trial.dropped else Change.WAITING
