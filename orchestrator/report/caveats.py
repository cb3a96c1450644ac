"""What a reader should hold against the study: fixed choices, gaps, unequal budgets, few replicates. Each in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.analysis.effects import baseline_of
from orchestrator.analysis.missing import missing
from orchestrator.analysis.paired import ALPHA
from orchestrator.analysis.power import fewest_replicates
from orchestrator.analysis.stopping import tuning_steps
from orchestrator.analysis.tuning import ArmTuning, tuning
from orchestrator.records import Phase, StudyRecord, TrialState
from orchestrator.report.words import counted, listed

_MOST_NAMES = 6


def caveats(record: StudyRecord) -> tuple[str, ...]:
    """The sentences that hold for this study, most weighty first."""
    rows = (_gaps, _diverged, _few_replicates, _followed_results, _unequal, _fixed, _edges, _mixed, _undescribed, _scope)
    return tuple(sentence for row in rows for sentence in row(record))


def _gaps(record: StudyRecord) -> Iterator[str]:
    lacking = [entry.arm for entry in missing(record) if entry.phase is Phase.REPLICATE]
    if lacking:
        yield f"Replicates of {_names(lacking)} are missing, so their means are over fewer seeds than planned, or unknown."


def _diverged(record: StudyRecord) -> Iterator[str]:
    gone = [trial.arm for trial in record.trained if trial.phase is Phase.REPLICATE and trial.state is TrialState.DIVERGED]
    if gone:
        yield f"{counted(len(gone), 'replicate')} of {_names(gone)} diverged and stand in no mean and no pair, which flatters these arms."


def _few_replicates(record: StudyRecord) -> Iterator[str]:
    trained = [arm for arm in record.arms if not arm.is_derived]  # derived ones are corrected for apart
    compared = sum(not arm.baseline for arm in trained)
    if not baseline_of(record) or not compared or record.adaptive is not None:
        return
    fewest = fewest_replicates(ALPHA / compared)
    pairs = {arm.name: arm.replicates for arm in trained}
    few = [name for name, replicates in pairs.items() if replicates < fewest]
    if few:
        yield (
            f"{'No arm has' if len(few) == len(pairs) else f'{_names(few)} lack'} the {fewest} replicates that an exact test over "
            f"{counted(compared, 'arm')} takes to resolve anything: read the intervals, not the verdicts."
        )


def _followed_results(record: StudyRecord) -> Iterator[str]:
    if record.adaptive is not None:
        yield (
            "How many replicates an arm got followed from what they measured. Intervals and tests allow for that; a difference itself is a "
            "little too large, on average, where a comparison stopped early because it was large."
        )


def _unequal(record: StudyRecord) -> Iterator[str]:
    trained = [arm for arm in record.arms if not arm.is_derived]
    budgets = sorted({arm.tune_trials for arm in trained})
    if len(budgets) > 1:
        yield f"Arms were tuned with {budgets[0]} to {budgets[-1]} trials: an arm with more had a better chance to find good values."
    steps = sorted(set(tuning_steps(record).values()))
    if len(budgets) == 1 and len(steps) > 1:
        yield f"Tuning spent {steps[0]:,} to {steps[-1]:,} steps on an arm, though each had as many trials."
    replicates = sorted({arm.replicates for arm in trained})
    if len(replicates) > 1:
        yield f"Arms have {replicates[0]} to {replicates[-1]} replicates; effects use the seeds that both sides have."


def _fixed(record: StudyRecord) -> Iterator[str]:
    varied = {key for arm in record.arms for key in arm.overrides} | set(record.nuisance)
    untouched = len([key for key in record.base if key not in varied])
    if record.nuisance:
        tuned = f"Only {listed(list(record.nuisance))} {'was' if len(record.nuisance) == 1 else 'were'} tuned for each arm"
    else:
        tuned = "Nothing was tuned: a value that suits one arm may not suit another"
    yield f"{tuned}; {counted(untouched, 'key')} of the base config were fixed, the same for every arm (listed under Provenance)."


def _edges(record: StudyRecord) -> Iterator[str]:
    for axis in record.nuisance:
        at_end = [row.arm for row in tuning(record) if _is_at_an_end(row, axis)]
        if at_end:
            yield (
                f"The {axis} selected for {_names(at_end)} is the smallest or largest that was tried: "
                "a better one may lie outside the space."
            )


def _is_at_an_end(row: ArmTuning, axis: str) -> bool:
    tried = [point.point[axis] for point in row.points if axis in point.point]
    numbers = [value for value in tried if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if row.selected is None or axis not in row.selected or len(set(numbers)) < 3:
        return False
    return row.selected[axis] in (min(numbers), max(numbers))


def _mixed(record: StudyRecord) -> Iterator[str]:
    done = [trial for trial in record.trained if trial.state is TrialState.COMPLETE]
    keys = dict.fromkeys(key for trial in done for key in trial.provenance)
    # How lanes were packed changes no number that a report shows; what computed them may.
    mixed = [key for key in keys if key not in ("strategy", "width") and len({trial.provenance.get(key, "") for trial in done}) > 1]
    if mixed:
        yield f"Trials were trained with different values of {listed(mixed)} (under Provenance), which pairing by seed does not take out."


def _undescribed(record: StudyRecord) -> Iterator[str]:
    done = [trial for trial in record.trained if trial.phase is Phase.REPLICATE and trial.state is TrialState.COMPLETE]
    silent = sum(trial.described is None for trial in done)
    if 0 < silent < len(done):
        yield f"{counted(silent, 'replicate')} left no description that can be read: calibration and load are over the others."


def _scope(record: StudyRecord) -> Iterator[str]:
    if baseline_of(record) and any(trial.state is TrialState.COMPLETE for trial in record.trials):
        yield (
            "Replicates differ in their seed alone, so intervals and tests speak of other seeds of these very configs and data, "
            "not of other data sets or sizes. Holm's correction is over the arms in one metric, not over metrics."
        )


def _names(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return listed(names if len(names) <= _MOST_NAMES else [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"])
