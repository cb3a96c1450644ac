"""The trials of a study by arm and phase, sorted out once for each record."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from orchestrator.records import Phase, StudyRecord, TrialRecord


def trials_of(record: StudyRecord, arm: str, phase: Phase) -> tuple[TrialRecord, ...]:
    """What `record.of` gives. That reads all trials each time, and analysis asks for every arm, phase and metric."""
    return _sorted_out(Same(record)).get((arm, phase), ())


def members_of(record: StudyRecord, arm: str) -> int:
    """How many replicates of the study one replicate of the arm stands for: 1, or more where it is derived."""
    return _members(Same(record)).get(arm, 1)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Same:
    """A record as a key of a cache: equal to itself alone, since what it holds cannot be hashed."""

    record: StudyRecord

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.record is self.record

    def __hash__(self) -> int:
        return id(self.record)


@functools.lru_cache(maxsize=2)
def _sorted_out(same: Same) -> Mapping[tuple[str, Phase], tuple[TrialRecord, ...]]:
    groups: dict[tuple[str, Phase], list[TrialRecord]] = {}
    for trial in same.record.trials:
        groups.setdefault((trial.arm, trial.phase), []).append(trial)
    return {key: tuple(sorted(trials, key=lambda trial: trial.index)) for key, trials in groups.items()}


@functools.lru_cache(maxsize=2)
def _members(same: Same) -> Mapping[str, int]:
    return {arm.name: arm.members for arm in same.record.arms if arm.is_derived}
