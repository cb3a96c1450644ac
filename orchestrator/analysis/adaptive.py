"""What follows from a study's record when its number of replicates follows from results: where it stands, and valid intervals."""

from __future__ import annotations

import functools
import math

from orchestrator.analysis.paired import Effect
from orchestrator.analysis.rounds import Rounds, Series, rounds
from orchestrator.analysis.sequential import pairs_at, repeated_effect
from orchestrator.analysis.summary import paired_by_number
from orchestrator.analysis.trials import Same, trials_of
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialState


def rounds_of(record: StudyRecord) -> Rounds | None:
    """Where the comparisons of an adaptive study stand; None for a study of which the number of replicates is fixed."""
    return _rounds(Same(record))


def family_of(record: StudyRecord) -> int:
    """Comparisons with the baseline that share the error."""
    return sum(not arm.baseline for arm in record.arms)


def repeated(record: StudyRecord, first: str, second: str, metric: str) -> Effect:
    """Second minus first over the replicates that the looks had, with an interval and a p that stay valid after stopping.

    Of an adaptive study. Before its first look the interval and the p are NaN, and the mean is over what there is.
    """
    width, pairs = paired_by_number(record, first, second, metric)
    looks = _looks(record, first, second)
    lasts = {number: (number + 1) * width - 1 for number in pairs}  # the last replicate of the study in each pair
    numbers = sorted(number for number in pairs if not looks or lasts[number] < looks[-1])
    differences = [after - before for before, after in (pairs[number] for number in numbers)]
    if not differences:
        return Effect(mean=math.nan, se=math.nan, low=math.nan, high=math.nan, p=math.nan, n=0)
    return repeated_effect(differences, pairs_at([lasts[number] for number in numbers], looks))


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
    return rounds(record.adaptive, _series(record, baseline, record.adaptive.metric), others, family=family_of(record))


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
