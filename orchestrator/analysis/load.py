"""How evenly an arm's routers use their experts."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.summary import Mean, mean_of
from orchestrator.analysis.trials import trials_of
from orchestrator.records import Phase, StudyRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the experts of an arm are sent, the most used one first.

    Which expert that is differs from seed to seed and from layer to layer, so experts are compared by their place in that order.

    Attributes:
        arm: The arm.
        n: Replicates that described themselves.
        experts: In a layer.
        layers: Sparse ones.
        shares: Of all tokens, 0 to 1, mean over the layers; mean and standard error over replicates, [place].
    """

    arm: str
    n: int
    experts: int
    layers: int
    shares: tuple[Mean, ...]


def loads(record: StudyRecord) -> tuple[Load, ...]:
    """The load of each arm of which a finished replicate described any, in the order of the study file."""
    rows = (_load(record, arm.name) for arm in record.arms)
    return tuple(row for row in rows if row is not None)


def _load(record: StudyRecord, arm: str) -> Load | None:
    described = [trial.described for trial in trials_of(record, arm, Phase.REPLICATE) if trial.described is not None]
    found = [one.load for one in described if one.load]
    found = [layers for layers in found if len(layers) == len(found[0]) and all(len(layer) == len(found[0][0]) for layer in layers)]
    if not found:
        return None
    ranked = [[sorted(layer, reverse=True) for layer in layers] for layers in found]
    experts = len(found[0][0])
    shares = [[math.fsum(layer[place] for layer in layers) / len(layers) for layers in ranked] for place in range(experts)]
    return Load(arm=arm, n=len(found), experts=experts, layers=len(found[0]), shares=tuple(map(mean_of, shares)))
