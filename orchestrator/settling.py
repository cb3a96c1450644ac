"""How many replicates the arms of a plan get when that follows from results: what `analysis.rounds` makes of its outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.planned import Outcomes, PlannedArm
from orchestrator.records import Phase, TrialState
from orchestrator.replicates import Adaptive

if TYPE_CHECKING:
    from orchestrator.analysis.rounds import Rounds, Series


def settled(rule: Adaptive, arms: Sequence[PlannedArm], outcomes: Outcomes, key_of: Callable[[PlannedArm, int], str]) -> Rounds:
    """Where the comparisons of a study stand.

    Args:
        rule: Of the study, with its metric.
        arms: With their first replicates; one of them is the baseline.
        outcomes: Of all trials that were planned.
        key_of: Key of the replicate of an arm that has a seed.
    """
    from orchestrator.analysis.rounds import rounds  # the distributions take 0.3 s to import, and most studies need none

    rows = [_series(rule, arm, outcomes, key_of) for arm in arms]
    baseline = next(number for number, arm in enumerate(arms) if arm.arm.baseline)
    others = [row for number, row in enumerate(rows) if number != baseline]
    return rounds(rule, rows[baseline], others)


def _series(rule: Adaptive, arm: PlannedArm, outcomes: Outcomes, key_of: Callable[[PlannedArm, int], str]) -> Series:
    """The replicates of an arm as far as they have ended, without a gap."""
    from orchestrator.analysis.rounds import Series

    values: dict[int, float] = {}
    ended: list[int] = []
    for index in range(rule.most if arm.selected is not None else 0):
        outcome = outcomes.get(key_of(arm, rule.first_seed + index))
        if outcome is None or not outcome.state.is_terminal or outcome.state is TrialState.STOPPED:
            break  # no look goes beyond it
        ended.append(index)
        if outcome.state is TrialState.COMPLETE:
            values[index] = outcome.metrics.get(rule.metric, math.nan)
    return Series(arm=arm.arm.name, values=values, ended=frozenset(ended), is_out=_is_out(arm, outcomes))


def _is_out(arm: PlannedArm, outcomes: Outcomes) -> bool:
    """Its tuning is over and has chosen nothing."""
    if arm.selected is not None:
        return False
    found = [outcomes.get(trial.key) for trial in (*arm.trials, *arm.held) if trial.phase is Phase.TUNE]
    return len(found) == arm.tune_trials and all(outcome is not None and outcome.state.is_terminal for outcome in found)
