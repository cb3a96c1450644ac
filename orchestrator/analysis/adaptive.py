"""What follows from a study's record when its number of replicates follows from results: where it stands, and valid intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence

import numpy as np

from orchestrator.analysis.paired import Effect, differences_of
from orchestrator.analysis.rounds import Rounds, Series, Verdict, rounds
from orchestrator.analysis.sequential import pairs_at, repeated_effect
from orchestrator.analysis.summary import paired_by_number
from orchestrator.analysis.trials import Same, trials_of
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialState


def rounds_of(record: StudyRecord) -> Rounds | None:
    """Where the comparisons of an adaptive study stand; None for a study of which the number of replicates is fixed."""
    return _rounds(Same(record))


def verdict_of(record: StudyRecord, arm: str) -> Verdict | None:
    """Why an arm gets no more replicates; None of the baseline and of derived arms."""
    found = rounds_of(record)
    row = None if found is None else found.of(arm)
    return None if row is None else row.verdict


def repeated(record: StudyRecord, first: str, second: str, metric: str) -> Effect:
    """Second minus first over the replicates that the looks had, with an interval and a p that stay valid after stopping.

    Of an adaptive study. Before its first look the interval and the p are NaN, and the mean is over what there is.
    """
    width, pairs = paired_by_number(record, first, second, metric)
    numbers, looks = _seen(pairs.keys(), width, _looks(record, first, second))
    before, after = (np.array([pairs[number][place] for number in numbers]) for place in (0, 1))
    return repeated_effect(differences_of(before, after).tolist(), looks)


def pairs_at_looks(record: StudyRecord, first: str, second: str, metric: str) -> list[int]:
    """How many pairs of the two arms each look had."""
    width, pairs = paired_by_number(record, first, second, metric)
    return _seen(pairs.keys(), width, _looks(record, first, second))[1]


def _seen(numbers: Collection[int], width: int, looks: Sequence[int]) -> tuple[list[int], list[int]]:
    """The pairs that the looks had, all where there was none yet, and how many each had.

    >>> _seen([0, 1, 2, 3], 2, [4, 6])
    ([0, 1, 2], [2, 3])
    """
    lasts = {number: (number + 1) * width - 1 for number in sorted(numbers)}  # the last replicate of the study in each pair
    seen = {number: last for number, last in lasts.items() if not looks or last < looks[-1]}
    return list(seen), pairs_at(list(seen.values()), looks)


def _looks(record: StudyRecord, first: str, second: str) -> list[int]:
    """The looks up to which both arms, and all that they are derived from, have their replicates."""
    found = rounds_of(record)
    assert found is not None, "the study is adaptive"
    arms = {arm.name: arm for arm in record.arms}
    made_of = {part for name in (first, second) for part in (arms[name].of or (name,))}
    least = min(found.replicates_of(name) for name in made_of)
    return [look for look in found.looks if look <= least]


@functools.lru_cache(maxsize=2)
def _rounds(same: Same) -> Rounds | None:
    record = same.record
    trained = [arm for arm in record.arms if not arm.is_derived]
    baseline = next((arm for arm in trained if arm.baseline), None)
    if record.adaptive is None or baseline is None:
        return None
    others = [_series(record, arm, record.adaptive.metric) for arm in trained if arm is not baseline]
    return rounds(record.adaptive, _series(record, baseline, record.adaptive.metric), others)


def _series(record: StudyRecord, arm: ArmRecord, metric: str) -> Series:
    trials = trials_of(record, arm.name, Phase.REPLICATE)
    tuned = trials_of(record, arm.name, Phase.TUNE)
    is_tuned = len(tuned) == arm.tune_trials and all(trial.state.is_terminal for trial in tuned)
    return Series(
        arm=arm.name,
        values={trial.index: trial.metrics.get(metric, math.nan) for trial in trials if trial.state is TrialState.COMPLETE},
        ended=frozenset(trial.index for trial in trials if trial.state.is_terminal and trial.state is not TrialState.STOPPED),
        is_out=arm.selected is None and is_tuned,
    )
