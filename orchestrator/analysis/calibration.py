"""How confident an arm's predictions are and how often they are right: the bins of its replicates, put together."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.summary import Mean, mean_of
from orchestrator.analysis.trials import trials_of
from orchestrator.records import Bins, Phase, StudyRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The images of one bin of confidence, over all replicates.

    Attributes:
        share: Of all images, 0 to 1.
        confidence: Mean over the images.
        accuracy: Mean and standard error over the replicates that have images in the bin; the mean is over the images.
    """

    share: float
    confidence: float
    accuracy: Mean


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One arm's bins.

    Attributes:
        arm: The arm.
        n: Replicates that described themselves.
        bins: Those that hold images, by rising confidence.
    """

    arm: str
    n: int
    bins: tuple[Bin, ...]


def calibrations(record: StudyRecord, split: str) -> tuple[Calibration, ...]:
    """The bins of each arm of which a finished replicate described any, in the order of the study file."""
    rows: list[Calibration] = []
    for arm in record.arms:
        described = [trial.described for trial in trials_of(record, arm.name, Phase.REPLICATE) if trial.described is not None]
        found = [one.reliability[split] for one in described if split in one.reliability]
        found = [bins for bins in found if len(bins.count) == len(found[0].count)]  # those of another number cannot be added
        if any(sum(bins.count) for bins in found):
            rows.append(Calibration(arm=arm.name, n=len(found), bins=_pooled(found)))
    return tuple(rows)


def _pooled(found: list[Bins]) -> tuple[Bin, ...]:
    total = sum(sum(bins.count) for bins in found)
    places = range(len(found[0].count))
    return tuple(
        _bin([bins for bins in found if bins.count[place]], place, total) for place in places if any(b.count[place] for b in found)
    )


def _bin(found: list[Bins], place: int, total: int) -> Bin:
    count = sum(bins.count[place] for bins in found)
    each = mean_of([bins.accuracy[place] for bins in found])
    return Bin(
        share=count / total,
        confidence=math.fsum(bins.count[place] * bins.confidence[place] for bins in found) / count,
        accuracy=Mean(mean=math.fsum(bins.count[place] * bins.accuracy[place] for bins in found) / count, se=each.se, n=each.n),
    )
