"""A study's records as Optuna studies in memory, one for each phase: what optuna-dashboard shows.

Nothing that is done to them reaches the ledger. They are made anew whenever the ledger has news.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.keys import FlatConfig, Json, Value, canonical
from orchestrator.records import Phase, SpaceRecord, StudyRecord, TrialRecord, TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

#: What a state is to Optuna.
_STATES = {
    TrialState.COMPLETE: "COMPLETE",
    TrialState.STOPPED: "PRUNED",
    TrialState.DIVERGED: "FAIL",
    TrialState.FAILED: "FAIL",
    TrialState.LEASED: "RUNNING",
    TrialState.PAUSED: "RUNNING",
    TrialState.PLANNED: "WAITING",
    TrialState.PREEMPTED: "WAITING",
    TrialState.LOST: "WAITING",
}


class Numbers:
    """The number of each trial in the browser: in the order of the plan at first, and then as they come, so that none ever changes."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, int]] = {}

    def ordered(self, study: str, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The trials that are known by the study, each once, in the order of their numbers."""
        known, found = self._of.setdefault(study, {}), dict[str, TrialRecord]()
        for trial in trials:
            found.setdefault(trial.key, trial)
            known.setdefault(trial.key, len(known))
        return sorted(found.values(), key=lambda trial: known[trial.key])


def storage_of_record(record: StudyRecord, numbers: Numbers, now: datetime.datetime) -> BaseStorage:
    """Optuna's storage with the study's phases as studies.

    Args:
        record: The study, with every rung.
        numbers: Kept from one view to the next.
        now: The time; those that train began before it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # no line for each view that is made
    storage = optuna.storages.InMemoryStorage()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for phase in dict.fromkeys(trial.phase for trial in record.trials):
            targets = _targets(record, phase)
            name = f"{record.name}: {phase.value}"
            study = optuna.create_study(study_name=name, storage=storage, directions=[direction for _, direction in targets])
            study.set_metric_names([metric for metric, _ in targets])
            spaces = _spaces(record)
            chosen = [trial for trial in record.trained if trial.phase is phase]
            frozen = [_frozen(trial, [metric for metric, _ in targets], spaces, now) for trial in numbers.ordered(name, chosen)]
            study.add_trials(frozen)
    return storage


def _targets(record: StudyRecord, phase: Phase) -> list[tuple[str, Any]]:
    """Metrics and directions that trials of a phase are judged by."""
    if phase is Phase.TUNE and record.select:
        return [(record.select, record.select_direction)]
    return [(objective.metric, objective.direction) for objective in record.objectives]


def _frozen(trial: TrialRecord, metrics: Sequence[str], spaces: Mapping[str, BaseDistribution], now: datetime.datetime) -> FrozenTrial:
    from optuna.trial import TrialState as OptunaState
    from optuna.trial import create_trial

    values = [trial.metrics[metric] for metric in metrics if metric in trial.metrics]
    state = OptunaState[_STATES[trial.state]]
    if state is OptunaState.COMPLETE and (len(values) < len(metrics) or any(math.isnan(value) for value in values)):
        state = OptunaState.FAIL  # Optuna knows no complete trial that lacks a value; its state is among the attributes
    params = {key: value for key, value in _params(trial).items() if key in spaces and _fits(spaces[key], value)}
    frozen = create_trial(
        state=OptunaState.WAITING,
        params=params,
        distributions={key: spaces[key] for key in params},
        user_attrs=_attributes(trial),
        intermediate_values=_curve(trial, metrics),
    )
    frozen.state = state
    frozen.values = values if state is OptunaState.COMPLETE else None
    if state is not OptunaState.WAITING:
        ended = datetime.datetime.fromisoformat(trial.finished_at).replace(tzinfo=None) if state.is_finished() else None
        frozen.datetime_complete = ended
        frozen.datetime_start = (ended or now) - datetime.timedelta(seconds=trial.elapsed_s)
    return frozen


def _curve(trial: TrialRecord, metrics: Sequence[str]) -> dict[int, float]:
    """One metric over steps: that of the phase if trials report it on their way, else the first of validation."""
    reported = sorted({name for rung in trial.rungs for name in rung.metrics}, key=lambda name: (not name.startswith("val/"), name))
    chosen = next((name for name in (*metrics, *reported) if name in reported), "")
    return {rung.step: rung.metrics[chosen] for rung in trial.rungs if chosen in rung.metrics}


def _params(trial: TrialRecord) -> dict[str, Any]:
    return {"arm": trial.arm, **{key: _choice(value) for key, value in {**trial.config, **trial.point}.items()}}


def _attributes(trial: TrialRecord) -> dict[str, Any]:
    """What Optuna has no place for."""
    told: dict[str, Json] = {"key": trial.key, "index": trial.index, "seed": trial.seed, "state": trial.state.value}
    told |= {"reason": trial.reason} if trial.reason else {}
    told |= {"attempts": trial.attempts, "elapsed_s": round(trial.elapsed_s, 3)}
    return {**told, **{name: value for name, value in {**trial.cost, **trial.metrics}.items() if math.isfinite(value)}}


def _spaces(record: StudyRecord) -> dict[str, BaseDistribution]:
    """The arm, every key that arms set, and every tuned axis."""
    from optuna.distributions import CategoricalDistribution

    trials = record.trained
    names = list(dict.fromkeys([*(arm.name for arm in record.arms), *(trial.arm for trial in trials)]))
    spaces: dict[str, BaseDistribution] = {"arm": CategoricalDistribution(names)}
    for key in dict.fromkeys(key for arm in record.arms for key in arm.overrides):
        choices = _choices([record.base, *(arm.overrides for arm in record.arms), *(trial.config for trial in trials)], key)
        spaces[key] = CategoricalDistribution(choices)
    for key in record.nuisance:
        if key in record.space:
            spaces[key] = _distribution(record.space[key])
    return spaces


def _choices(configs: Iterable[FlatConfig], key: str) -> list[Any]:
    """Every value that a key has somewhere, once."""
    return list({canonical(_choice(config[key])): _choice(config[key]) for config in configs if key in config}.values())


def _distribution(axis: SpaceRecord) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.low is None or axis.high is None:
        return CategoricalDistribution([_choice(value) for value in axis.values])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _choice(value: Value) -> Any:
    """A value that Optuna takes as a choice: a tuple is not one."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _fits(space: BaseDistribution, value: Any) -> bool:
    """An axis that was edited need not hold the values of earlier trials."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, CategoricalDistribution):
        return value in space.choices
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(space, IntDistribution):
        return isinstance(value, int) and space.low <= value <= space.high
    return isinstance(space, FloatDistribution) and space.low <= value <= space.high
