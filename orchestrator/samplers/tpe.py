"""Points led by earlier results: Optuna's TPE, on a study that is built in memory from the history at every call."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast

from orchestrator.axes import Distribution, IntUniform, LogUniform, Values
from orchestrator.keys import FlatConfig, Value, canonical, content_key
from orchestrator.samplers.base import Past, choose

if TYPE_CHECKING:
    import optuna

STARTUP = 10  # points from Sobol before results lead; with fewer the model of the space is mostly its prior
MAX_HISTORY = 200  # building the study and asking 4 times takes 30 ms on 200 points, and would take 1.4 s on 10,000
BEST_KEPT = 50
MAX_ASKS = 6  # for one point, while it repeats an earlier one
MAX_REMEMBERED = 4096  # answers kept by this process


_remembered: dict[str, list[dict[str, Value]]] = {}


def tpe_points(
    axes: Mapping[str, Distribution], history: Sequence[Past], n: int, *, seed: int, direction: str, context: FlatConfig
) -> list[dict[str, Value]]:
    """The n points that follow the history; axes are already in order."""
    # A plan asks for every batch of a study again at each look at the ledger, and only the last one is new. The text tells
    # 1 from True, which equal each other.
    question = hashlib.sha256(repr((axes, history, n, seed, direction, context)).encode()).hexdigest()
    if question not in _remembered:
        if len(_remembered) >= MAX_REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[question] = _points(axes, history, n, seed=seed, direction=direction, context=context)
    return [dict(point) for point in _remembered[question]]


def _points(
    axes: Mapping[str, Distribution], history: Sequence[Past], n: int, *, seed: int, direction: str, context: FlatConfig
) -> list[dict[str, Value]]:
    from orchestrator.samplers.propose import unit_points
    from orchestrator.samplers.unit import sobol_rows

    ahead = min(max(STARTUP - len(history), 0), n)
    points = unit_points(axes, sobol_rows(seed, len(history), ahead, len(axes)), context)
    if ahead == n:
        return points
    running = [Past(point=point, value=None, pending=True) for point in points]
    with _quiet():
        study = _study(axes, [*history, *running], seed=seed, direction=direction)
        seen = {frozenset(past.point.items()) for past in (*history, *running)}
        for _ in range(n - ahead):
            points.append(_new_point(study, axes, context, seen))
            seen.add(frozenset(points[-1].items()))
    return points


def _new_point(
    study: optuna.Study, axes: Mapping[str, Distribution], context: FlatConfig, seen: set[frozenset[tuple[str, Value]]]
) -> dict[str, Value]:
    # A point that repeats one stays in the study as running, which pushes the next ask away from it. In a small finite
    # space that is used up a repeated point is all there is.
    for _ in range(MAX_ASKS):
        point = choose(axes, context, _suggestion(study.ask()))
        if frozenset(point.items()) not in seen:
            break
    return point  # pyright: ignore[reportPossiblyUnboundVariable]


def _suggestion(trial: optuna.Trial) -> Callable[[str, Distribution], Value]:
    def pick(key: str, axis: Distribution) -> Value:
        if isinstance(axis, Values):
            choices = [canonical(value) for value in axis.values]
            return axis.values[choices.index(trial.suggest_categorical(key, choices))]
        if isinstance(axis, IntUniform):
            return trial.suggest_int(key, axis.low, axis.high, log=axis.log)
        return trial.suggest_float(key, axis.low, axis.high, log=isinstance(axis, LogUniform))

    return pick


def _study(axes: Mapping[str, Distribution], history: Sequence[Past], *, seed: int, direction: str) -> optuna.Study:
    import optuna
    from optuna.trial import TrialState, create_trial

    # The sampler's own seed moves with the history; otherwise every call would start on the same draws.
    draws = int(content_key([seed, len(history)]), 16) % 2**32
    sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, group=True, constant_liar=True, seed=draws)
    study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner(), direction=_checked(direction))
    kept, spaces = _capped(history, direction), {key: _space(axis) for key, axis in axes.items()}
    penalty = _penalty([past.measured for past in kept], direction)
    for past in kept:
        params = {key: past.point[key] for key, axis in axes.items() if key in past.point and _fits(axis, past.point[key])}
        params = {key: _as_told(axes[key], value) for key, value in params.items()}
        value = None if past.pending else penalty if past.measured is None else past.measured
        state = TrialState.RUNNING if past.pending else TrialState.COMPLETE
        if params:
            study.add_trial(create_trial(state=state, params=params, distributions={key: spaces[key] for key in params}, value=value))
    return study


def _space(axis: Distribution) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Values):
        return CategoricalDistribution([canonical(value) for value in axis.values])
    if isinstance(axis, IntUniform):
        return IntDistribution(axis.low, axis.high, log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=isinstance(axis, LogUniform))


def _fits(axis: Distribution, value: Value) -> bool:
    """Whether an earlier value lies on the axis of today, which may have been edited since."""
    if isinstance(axis, Values):
        return value in axis.values
    return isinstance(value, (int, float)) and axis.low <= value <= axis.high


def _as_told(axis: Distribution, value: Value) -> Value:
    if isinstance(axis, Values):
        # The text of the same value if it is listed, else of an equal one: a field of type float turns a listed 1 into 1.0.
        same = [canonical(choice) for choice in axis.values if type(choice) is type(value) and choice == value]
        return same[0] if same else canonical(axis.values[axis.values.index(value)])
    return int(cast(float, value)) if isinstance(axis, IntUniform) else float(cast(float, value))


def _capped(history: Sequence[Past], direction: str) -> list[Past]:
    """The best and the newest points, in the order of proposal."""
    if len(history) <= MAX_HISTORY:
        return list(history)
    sign = 1.0 if direction == "minimize" else -1.0
    ranked = sorted((sign * past.measured, number) for number, past in enumerate(history) if past.measured is not None)
    kept = {number for _, number in ranked[:BEST_KEPT]}
    newest = (number for number in reversed(range(len(history))) if number not in kept)
    kept |= {number for number, _ in zip(newest, range(MAX_HISTORY - len(kept)), strict=False)}
    return [history[number] for number in sorted(kept)]


def _penalty(values: Sequence[float | None], direction: str) -> float:
    """Worse than the worst measured value: what a diverged or failed point counts as, since NaN would hide it from TPE."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0
    span = max(known) - min(known) or 1.0
    return max(known) + span if direction == "minimize" else min(known) - span


def _checked(direction: str) -> Literal["minimize", "maximize"]:
    if direction == "minimize" or direction == "maximize":
        return direction
    raise ValueError(f"a direction is minimize or maximize, not {direction!r}")


@contextmanager
def _quiet() -> Generator[None]:
    """Without Optuna's lines about every study it creates, and without its notes on what is still experimental there."""
    import warnings

    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
