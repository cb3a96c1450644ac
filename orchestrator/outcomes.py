"""A plan that follows from what the ledger has: planned and asked in turn, until nothing that is asked is new."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from orchestrator.ledger import Ledger
from orchestrator.plan import Outcome, Outcomes, Plan, Planner


def planned(planner: Planner, ledger: Ledger | None) -> tuple[Plan, Outcomes]:
    """The plan that follows from what the ledger has, under any study, and the outcomes that led to it.

    Args:
        planner: Of the study.
        ledger: None where there is none yet.
    """
    outcomes: dict[str, Outcome] = {}
    asked: set[str] = set()
    while True:
        plan = planner.plan(outcomes)
        unknown = {trial.key: trial.watched for trial in plan.trials if trial.key not in asked}
        if not unknown or ledger is None:
            return plan, outcomes
        asked |= unknown.keys()
        found = _outcomes(ledger, unknown, [key for key, watched in unknown.items() if watched], planner.watches)
        if not found:
            return plan, outcomes
        outcomes |= found


def _outcomes(ledger: Ledger, keys: Iterable[str], watched: Collection[str], metrics: Collection[str]) -> dict[str, Outcome]:
    found = {key: Outcome(state=state, metrics=finals) for key, (state, finals) in ledger.outcomes(keys).items()}
    # After the states: a report that comes in between belongs to a trial that is taken to be running, not to a finished one.
    rungs = ledger.rungs([key for key in watched if key in found], metrics) if watched else {}
    return found | {key: dataclasses.replace(found[key], rungs=curve) for key, curve in rungs.items()}
