"""Which arms lead in a metric: the best mean, and those that the replicates cannot tell from it."""

from __future__ import annotations

import math

from orchestrator.analysis.adaptive import repeated
from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.paired import t_interval
from orchestrator.analysis.summary import mean_of, means_of, paired_values
from orchestrator.records import StudyRecord


def best_arms(record: StudyRecord, metric: str) -> tuple[str, ...]:
    """The arm of the best finite mean first, then those whose paired 95 % interval against it holds 0.

    Empty for a metric of which neither direction is better, and where fewer than two arms have a mean.
    """
    direction = direction_of(record, metric)
    means = {name: mean.mean for name, mean in means_of(record, metric).items() if math.isfinite(mean.mean)}
    if not direction or len(means) < 2:
        return ()
    lead = (max if direction == "maximize" else min)(means, key=lambda name: means[name])
    if min(means.values()) == max(means.values()):
        return ()
    return (lead, *(name for name in means if name != lead and _alike(record, lead, name, metric)))


def _alike(record: StudyRecord, lead: str, other: str, metric: str) -> bool:
    if record.adaptive is not None:
        found = repeated(record, lead, other, metric)
        return found.low <= 0 <= found.high
    ours, theirs = paired_values(record, lead, other, metric)
    if len(ours) < 2:
        return False
    low, high = t_interval(mean_of([after - before for before, after in zip(ours, theirs, strict=True)]))
    return low <= 0 <= high
