"""What a tracker is: it is told of a study once, and then of each trial that is finished."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from orchestrator.keys import FlatConfig
from orchestrator.records import ArmRecord, ObjectiveRecord, SpaceRecord, StudyRecord, TrialRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyHeader:
    """What trackers need to know of a study beside its trials. Fields as in `StudyRecord`."""

    name: str
    question: str
    trainer: str
    version: str
    profile: str
    objectives: tuple[ObjectiveRecord, ...]
    nuisance: Mapping[str, str]
    space: Mapping[str, SpaceRecord]
    base: FlatConfig
    arms: tuple[ArmRecord, ...]

    @classmethod
    def of(cls, study: StudyRecord) -> StudyHeader:
        """The header of a whole record."""
        return cls(**{field.name: getattr(study, field.name) for field in dataclasses.fields(cls)})


class Tracker(Protocol):
    """An outward copy of studies. Runs in a process of its own, never in the way of a trial."""

    @property
    def name(self) -> str:
        """Where copies go now, as publications are recorded. A trial published under one name may be published under another."""
        ...

    def open(self, study: StudyHeader) -> None:
        """Gets ready to publish trials of a study. Called once, before anything else."""
        ...

    def publish(self, trial: TrialRecord) -> bool:
        """Copies one finished trial as a whole: config, history, result. Doing it twice leaves one copy.

        Returns:
            Whether the copy is complete. After False, which was warned of, the same call may be made again at any time.

        Raises:
            ValueError: The trial is not finished.
        """
        ...

    def close(self) -> None:
        """Ends what was started. May be called twice."""
        ...
