"""Which arms lead in a metric: the best mean, and those that the replicates cannot tell from it."""

from __future__ import annotations

import math

import numpy as np

from orchestrator.analysis.metrics import direction_of
from orchestrator.analysis.paired import paired_effect
from orchestrator.analysis.summary import replicate_values, summarise
from orchestrator.records import StudyRecord


def best_arms(record: StudyRecord, metric: str) -> tuple[str, ...]:
    """The arm of the best finite mean first, then those whose paired 95 % interval against it holds 0.

    Empty for a metric of which neither direction is better, and where fewer than two arms have a mean.
    """
    direction = direction_of(record, metric)
    means = {row.name: row.means[metric].mean for row in summarise(record) if metric in row.means}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    if not direction or len(means) < 2:
        return ()
    lead = (max if direction == "maximize" else min)(means, key=lambda name: means[name])
    if min(means.values()) == max(means.values()):
        return ()
    return (lead, *(name for name in means if name != lead and _alike(record, lead, name, metric)))


def _alike(record: StudyRecord, lead: str, other: str, metric: str) -> bool:
    ours, theirs = (replicate_values(record, name, metric) for name in (lead, other))
    paired = sorted(ours.keys() & theirs.keys())
    if len(paired) < 2:
        return False
    effect = paired_effect(np.array([ours[index] for index in paired]), np.array([theirs[index] for index in paired]))
    return effect.low <= 0 <= effect.high
