"""Cohorts: trials or arms that a rule compares at rungs, as they stand by the outcomes so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orchestrator.expand import Cohort
from orchestrator.planned import Outcomes, PlannedArm, PlannedDecision, PlannedTrial
from orchestrator.stopping.cohort import Halved, HalvingRule, History, Member, halved


def halved_trials(
    rule: HalvingRule, trials: Sequence[PlannedTrial], outcomes: Outcomes
) -> tuple[list[PlannedTrial], list[PlannedDecision]]:
    """Tuning trials as their cohort stands."""
    found = _halved(rule, [(trial,) for trial in trials], outcomes)
    standing = [_standing(trial, found, number) for number, trial in enumerate(trials)]
    decisions = [
        PlannedDecision(arm=trials[made.member].arm, trial=trials[made.member], metrics=rule.metrics, made=made) for made in found.decisions
    ]
    return standing, decisions


def halved_arms(cohort: Cohort, arms: Sequence[PlannedArm], outcomes: Outcomes) -> tuple[list[PlannedArm], list[PlannedDecision]]:
    """Arms whose replicates stand as their cohort does."""
    rule = cohort.design.rule
    assert rule is not None, "a cohort has a rule"
    found = _halved(rule, [(*arm.trials, *arm.held) for arm in arms], outcomes)
    standing = [
        dataclasses.replace(
            arm,
            trials=tuple(_standing(trial, found, number) for trial in arm.trials),
            held=tuple(_standing(trial, found, number) for trial in arm.held),
        )
        for number, arm in enumerate(arms)
    ]
    decisions = [PlannedDecision(arm=arms[made.member].arm.name, trial=None, metrics=rule.metrics, made=made) for made in found.decisions]
    return standing, decisions


def _halved(rule: HalvingRule, cohort: Sequence[Sequence[PlannedTrial]], outcomes: Outcomes) -> Halved:
    members = [
        Member(
            steps=trials[0].cell.steps,
            cost=trials[0].cell.cost,
            trials=tuple(
                History(state=None, rungs=()) if outcome is None else History(state=outcome.state, rungs=outcome.rungs)
                for outcome in (outcomes.get(trial.key) for trial in trials)
            ),
        )
        for trials in cohort
    ]
    return halved(rule, members)


def _standing(trial: PlannedTrial, found: Halved, number: int) -> PlannedTrial:
    standing = found.standings[number]
    return dataclasses.replace(trial, watched=True, until=standing.until, dropped=standing.dropped)
