"""What each arm was given: trials, steps, and the time that workers held its trials."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.trials import trials_of
from orchestrator.records import Phase, StudyRecord, TrialRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What trials took.

    Attributes:
        arm: The arm; empty for the study, in which trials that arms share count once.
        tuning: Tuning trials.
        replicates: Replicates.
        steps: Optimizer steps that they reported.
        held_s: Seconds that workers held them, over all attempts. Lanes of one pack are held at the same time.
    """

    arm: str
    tuning: int
    replicates: int
    steps: int
    held_s: float


def spending(record: StudyRecord) -> tuple[Spending, ...]:
    """A row for each trained arm, in the order of the study file."""
    names = [arm.name for arm in record.arms if not arm.is_derived]
    return tuple(_spent(name, [trial for phase in Phase for trial in trials_of(record, name, phase)]) for name in names)


def total_spending(record: StudyRecord) -> Spending:
    """Of the whole study."""
    return _spent("", list({trial.key: trial for trial in record.trained}.values()))


def device_kinds(record: StudyRecord) -> tuple[str, ...]:
    """What trials were trained on, such as `cpu`, each once: the first part of the device that they name."""
    devices = [trial.provenance["device"] for trial in record.trained if "device" in trial.provenance]
    return tuple(dict.fromkeys(device.partition(" · ")[0] for device in devices))


def _spent(arm: str, trials: list[TrialRecord]) -> Spending:
    tuning = sum(trial.phase is Phase.TUNE for trial in trials)
    return Spending(
        arm=arm,
        tuning=tuning,
        replicates=len(trials) - tuning,
        steps=sum(trial.rungs[-1].step for trial in trials if trial.rungs),
        held_s=sum(trial.elapsed_s for trial in trials),
    )
