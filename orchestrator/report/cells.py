"""One card for each arm: its config, its cells, and each of its replicates with seed, result and key. Figures point at them."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.metrics import quality_metric
from orchestrator.analysis.summary import Mean, means_of
from orchestrator.analysis.trials import trials_of
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report.anchors import anchors
from orchestrator.report.number import decimals_of, fixed, with_error
from orchestrator.report.provenance import settings
from orchestrator.report.words import label, listed, state_words

MOST_REPLICATES = 40


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateRow:
    """One replicate; `result` is its state where it has no value."""

    index: int
    seed: str
    result: str
    key: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellCard:
    """One arm, as text.

    Attributes:
        anchor: Its id on the page.
        arm: Its name.
        baseline: It is what others are measured against.
        summary: Metric, mean ± standard error, n.
        made: What a derived arm is made of; empty for a trained one.
        overrides: What it changes in the base config, `key = value`.
        selected: Values that tuning chose, `key = value`.
        cells: Keys of the cells that its replicates are of.
        metric: That the replicates' results are of.
        replicates: The first of them.
        more: How many are not listed.
    """

    anchor: str
    arm: str
    baseline: bool
    summary: str
    made: str
    overrides: tuple[str, ...]
    selected: tuple[str, ...]
    cells: tuple[str, ...]
    metric: str
    replicates: tuple[ReplicateRow, ...]
    more: int


def cells(record: StudyRecord) -> tuple[CellCard, ...]:
    """A card for each arm, in the order of the study file."""
    metric, places = quality_metric(record), anchors(record)
    means = means_of(record, metric) if metric else {}
    return tuple(_card(record, arm, metric, means.get(arm.name), places[arm.name]) for arm in record.arms)


def _card(record: StudyRecord, arm: ArmRecord, metric: str, mean: Mean | None, anchor: str) -> CellCard:
    replicates = trials_of(record, arm.name, Phase.REPLICATE)
    return CellCard(
        anchor=anchor,
        arm=arm.name,
        baseline=arm.baseline,
        summary="" if mean is None else f"{label(metric)} {with_error(mean, decimals_of(mean))}, n = {mean.n}",
        made=f"mean prediction of {listed(list(arm.of))}" if arm.is_derived else "",
        overrides=settings(arm.overrides),
        selected=() if arm.selected is None or arm.is_derived else settings(arm.selected),
        cells=tuple(dict.fromkeys(trial.cell for trial in replicates if trial.cell)),
        metric=label(metric) if metric else "",
        replicates=tuple(_replicate(trial, metric) for trial in replicates[:MOST_REPLICATES]),
        more=max(0, len(replicates) - MOST_REPLICATES),
    )


def _replicate(trial: TrialRecord, metric: str) -> ReplicateRow:
    known = trial.state is TrialState.COMPLETE and metric in trial.metrics
    result = fixed(trial.metrics[metric], 4) if known else state_words(trial.state.value)
    return ReplicateRow(index=trial.index, seed=str(trial.seed), result=result, key=trial.key)
