"""From a plan to the rows that put it into the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.contract import Trainer
from orchestrator.keys import Json
from orchestrator.ledger import CellRow, DecisionRow, MemberRow, PlanRows, TrialRow
from orchestrator.planned import Plan, PlannedCell, PlannedDecision, PlannedTrial, changed


def plan_rows(
    study: str, trainer: Trainer, plan: Plan, spec: Mapping[str, Json] | None, digest: str = "", *, since: Plan | None = None
) -> PlanRows:
    """A plan: its cells and trials, their places in the study, and what rules decided.

    Args:
        study: Its name.
        trainer: Of the study.
        plan: The plan.
        spec: The study's description; None where an earlier one still holds.
        digest: Of the study file and the settings that the plan was made from.
        since: An earlier plan that the ledger has: then only arms and upstreams that differ from it are spoken of. None: all.
    """
    parts = changed(plan, since)
    former = [] if since is None else changed(since, plan)
    trials = tuple(trial for part in parts for trial in part.trials)
    cells = {trial.cell.key: trial.cell for trial in trials}
    return PlanRows(
        study=study,
        spec=spec,
        cells=tuple(_cell(trainer, cell) for cell in cells.values()),
        trials=tuple(TrialRow(key=trial.key, cell=trial.cell.key, seed=trial.seed) for trial in trials),
        members=tuple(_member(trial) for trial in trials),
        decisions=tuple(_decision(decision) for decision in plan.decisions),
        digest=digest,
        arms=None if since is None else frozenset(part.name for part in (*parts, *former)),
        former=tuple(trial.key for part in former for trial in part.trials),
    )


def _cell(trainer: Trainer, cell: PlannedCell) -> CellRow:
    return CellRow(
        key=cell.key, trainer=trainer.name, version=trainer.version, config=cell.config, signature=cell.signature, cost=cell.cost
    )


def _member(trial: PlannedTrial) -> MemberRow:
    return MemberRow(
        trial=trial.key,
        arm=trial.arm,
        phase=trial.phase,
        index=trial.index,
        position=trial.position,
        point=trial.point,
        until=trial.until,
        dropped=trial.dropped,
    )


def _decision(decision: PlannedDecision) -> DecisionRow:
    made, trial = decision.made, decision.trial
    return DecisionRow(
        trial="" if trial is None else trial.key,
        arm=decision.arm,
        index=None if trial is None else trial.index,
        rung=made.step,
        metric=", ".join(decision.metrics),
        value=made.values[0] if len(made.values) == 1 else made.values,
        rank=made.place,
        of=made.of,
        kept=made.kept,
        decision="stop" if made.stops else "go on",
        reason=made.reason,
    )
