"""Samplers: evenly spread or led by results, the same for the same history, and every leaf of a finite space."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.axes import Distribution, IntUniform, LogUniform, Uniform, Values
from orchestrator.keys import Value, canonical
from orchestrator.samplers import Past, SamplerKind, enumerate_space, propose
from orchestrator.samplers.tpe import BEST_KEPT, MAX_HISTORY, STARTUP

AXES: dict[str, Distribution] = {
    "optim.learning_rate": LogUniform(1e-4, 1e-1),
    "model.dropout": Uniform(0.0, 0.5),
    "model.k": IntUniform(1, 4),
    "optim.warmup_steps": IntUniform(1, 1000, log=True),
    "optim.name": Values("sgd", "adamw", None, True, 1.5),
}
FIXED = (SamplerKind.RANDOM, SamplerKind.SOBOL)
EVERY = tuple(SamplerKind)

Score: TypeAlias = Callable[[Mapping[str, Value]], float | None]


def past(points: Sequence[Mapping[str, Value]], score: Score | float | None = 0.0) -> list[Past]:
    return [Past(point=point, value=score(point) if callable(score) else score) for point in points]


def real(point: Mapping[str, Value], key: str) -> float:
    value = point[key]
    assert isinstance(value, (int, float))
    return float(value)


def in_range(axis: Distribution, value: Value) -> bool:
    if isinstance(axis, Values):
        return any(value is choice or (value == choice and type(value) is type(choice)) for choice in axis.values)
    whole = isinstance(axis, IntUniform)
    return isinstance(value, int if whole else float) and not isinstance(value, bool) and axis.low <= value <= axis.high


@pytest.mark.parametrize("sampler", EVERY)
def test_every_proposed_value_is_one_its_axis_may_have(sampler: SamplerKind) -> None:
    history = past(propose(AXES, [], STARTUP, sampler=sampler, seed=3), lambda point: real(point, "model.dropout"))
    for point in propose(AXES, history, 24, sampler=sampler, seed=3):
        assert point.keys() == AXES.keys()
        assert all(in_range(AXES[key], value) for key, value in point.items()), point


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 20), split=st.integers(0, 20), sampler=st.sampled_from(FIXED))
@settings(max_examples=40, deadline=None)
def test_asking_for_eight_is_asking_for_three_and_then_for_five(seed: int, n: int, split: int, sampler: SamplerKind) -> None:
    whole = propose(AXES, [], n, sampler=sampler, seed=seed)
    first = propose(AXES, [], min(split, n), sampler=sampler, seed=seed)
    rest = propose(AXES, past(first, None), n - len(first), sampler=sampler, seed=seed)
    assert first + rest == whole


@pytest.mark.parametrize("sampler", EVERY)
def test_the_order_of_axes_in_a_study_file_has_no_effect(sampler: SamplerKind) -> None:
    backwards = dict(reversed(AXES.items()))
    history = past(propose(AXES, [], STARTUP, sampler=sampler, seed=1), lambda point: real(point, "model.dropout"))
    assert propose(AXES, history, 4, sampler=sampler, seed=1) == propose(backwards, history, 4, sampler=sampler, seed=1)


@pytest.mark.parametrize("sampler", EVERY)
def test_another_seed_gives_other_points(sampler: SamplerKind) -> None:
    assert propose(AXES, [], 4, sampler=sampler, seed=0) != propose(AXES, [], 4, sampler=sampler, seed=1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("axis", "eighth"),
    [
        (LogUniform(1e-3, 3e-2), lambda x: math.log(x / 1e-3) / math.log(30) * 8),
        (Uniform(-1.0, 3.0), lambda x: (x + 1) / 4 * 8),
        (IntUniform(1, 8), lambda x: x - 1),
        (Values(*"abcdefgh"), "abcdefgh".index),
    ],
    ids=["log", "linear", "int", "values"],
)
def test_eight_sobol_points_lie_in_eight_different_eighths(seed: int, axis: Distribution, eighth: Callable[[Value], float]) -> None:
    points = propose({"x": axis}, [], 8, sampler=SamplerKind.SOBOL, seed=seed)
    assert sorted(min(int(eighth(point["x"])), 7) for point in points) == list(range(8))


def test_each_axis_of_a_sobol_design_is_spread_as_evenly_as_one_alone() -> None:
    points = propose({key: Uniform(0, 1) for key in "abcde"}, [], 16, sampler=SamplerKind.SOBOL, seed=5)
    for key in "abcde":
        assert sorted(int(real(point, key) * 16) for point in points) == list(range(16))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore:The balance properties of Sobol:UserWarning")
def test_sobol_points_are_those_of_optunas_sampler() -> None:
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "a": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "b": optuna.distributions.FloatDistribution(0.0, 0.5),
        "c": optuna.distributions.IntDistribution(1, 9),
        "d": optuna.distributions.IntDistribution(1, 1000, log=True),
        "e": optuna.distributions.CategoricalDistribution(["x", "y", "z"]),
    }
    axes = {"a": LogUniform(1e-4, 1e-1), "b": Uniform(0.0, 0.5), "c": IntUniform(1, 9), "d": IntUniform(1, 1000, True), "e": Values(*"xyz")}
    sampler = optuna.samplers.QMCSampler(scramble=True, seed=7)
    study = optuna.create_study(sampler=sampler)
    theirs = [sampler.sample_relative(study, study.ask()._get_latest_trial(), space) for _ in range(32)]
    ours = propose(axes, [], 32, sampler=SamplerKind.SOBOL, seed=7)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == {key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for key, value in other.items()}


def test_random_points_are_those_of_optunas_sampler() -> None:
    axes = {"a": LogUniform(1e-4, 1e-1), "b": Uniform(0.0, 0.5), "c": IntUniform(1, 9)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    for point in propose(axes, [], 32, sampler=SamplerKind.RANDOM, seed=7):
        trial = study.ask()
        theirs = (trial.suggest_float("a", 1e-4, 1e-1, log=True), trial.suggest_float("b", 0.0, 0.5), trial.suggest_int("c", 1, 9))
        assert (point["a"], point["b"], point["c"]) == (pytest.approx(theirs[0]), pytest.approx(theirs[1]), theirs[2])


def test_listed_values_keep_their_types() -> None:
    axis = Values(True, 1, 1.0, "1", None, (1, 2))
    got = {canonical(point["x"]) for point in propose({"x": axis}, [], 64, sampler=SamplerKind.SOBOL, seed=0)}
    assert got == {"true", "1", "1.0", '"1"', "null", "[1,2]"}
    history = past([{"x": value} for value in axis.values] * 2)
    got = {canonical(point["x"]) for point in propose({"x": axis}, history, 12, sampler=SamplerKind.TPE, seed=0)}
    assert got <= {"true", "1", "1.0", '"1"', "null", "[1,2]"}


CONDITIONAL: dict[str, Distribution] = {
    "a.noise": Uniform(1.0, 4.0, when={"model.tile": True}),  # sorts before the axis that it depends on
    "model.tile": Values(True, False),
    "optim.momentum": Uniform(0.8, 0.99, when={"optim.name": ("sgd", "nesterov")}),
}


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_conditional_axis_exists_exactly_where_its_conditions_hold(sampler: SamplerKind, name: str) -> None:
    history: list[Past] = []
    for _ in range(5):
        points = propose(CONDITIONAL, history, 8, sampler=sampler, seed=2, context={"optim.name": name, "model.tile": None})
        history += past(points, lambda point: real({"a.noise": 2.5, **point}, "a.noise"))
    assert {bool(row.point["model.tile"]) for row in history} == {True, False}
    for row in history:
        assert ("a.noise" in row.point) == (row.point["model.tile"] is True)
        assert ("optim.momentum" in row.point) == (name == "sgd")


def test_conditions_in_a_circle_are_refused() -> None:
    axes = {"a": Values(1, 2, when={"b": 1}), "b": Values(1, 2, when={"a": 1})}
    with pytest.raises(ValueError, match=r"conditions of axes go round in a circle: . needs . needs ."):
        propose(axes, [], 1, sampler=SamplerKind.RANDOM, seed=0)


def bowl(point: Mapping[str, Value]) -> float:
    return (math.log10(real(point, "rate")) + 2) ** 2 + (0.0 if point["name"] == "good" else 1.0)


BOWL: dict[str, Distribution] = {"rate": LogUniform(1e-5, 1e1), "name": Values("bad", "good", "worse")}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tpe_finds_the_good_region_and_random_does_not(sign: float) -> None:
    direction = "minimize" if sign > 0 else "maximize"
    mean: dict[SamplerKind, float] = {}
    for sampler in (SamplerKind.TPE, SamplerKind.RANDOM):
        history: list[Past] = []
        for _ in range(12):
            points = propose(BOWL, history, 4, sampler=sampler, seed=0, direction=direction)
            history += past(points, lambda point: sign * bowl(point))
        mean[sampler] = sum(bowl(row.point) for row in history[STARTUP:]) / (len(history) - STARTUP)
    assert mean[SamplerKind.TPE] < 0.7 * mean[SamplerKind.RANDOM], mean


def test_tpe_proposes_the_same_for_the_same_history_and_not_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    history = past(propose(BOWL, [], 20, sampler=SamplerKind.RANDOM, seed=4), bowl)
    first = propose(BOWL, history, 6, sampler=SamplerKind.TPE, seed=9)
    first[0]["rate"] = 0.0  # the caller's to change
    monkeypatch.setattr("orchestrator.samplers.tpe._remembered", {})  # as in another process
    again = propose(BOWL, history, 6, sampler=SamplerKind.TPE, seed=9)
    assert first[1:] == again[1:]
    assert propose(BOWL, history, 6, sampler=SamplerKind.TPE, seed=9) == again
    turned = [Past(point=row.point, value=-bowl(row.point)) for row in history]
    assert propose(BOWL, turned, 6, sampler=SamplerKind.TPE, seed=9) != again


def test_tpe_begins_with_the_points_of_sobol() -> None:
    assert propose(BOWL, [], STARTUP, sampler=SamplerKind.TPE, seed=3) == propose(BOWL, [], STARTUP, sampler=SamplerKind.SOBOL, seed=3)


@pytest.mark.parametrize("lost", [None, math.nan, math.inf, -math.inf])
def test_tpe_leaves_a_region_where_trials_diverge(lost: float | None) -> None:
    points = propose({"rate": LogUniform(1e-3, 1e3)}, [], 32, sampler=SamplerKind.SOBOL, seed=0)
    history = past(points, lambda point: lost if real(point, "rate") > 1 else 1.0)
    after = propose({"rate": LogUniform(1e-3, 1e3)}, history, 16, sampler=SamplerKind.TPE, seed=0)
    assert sum(real(point, "rate") > 1 for point in after) <= 4


def test_tpe_goes_on_when_every_trial_diverged() -> None:
    history = past(propose(BOWL, [], 12, sampler=SamplerKind.SOBOL, seed=0), math.nan)
    assert len(propose(BOWL, history, 4, sampler=SamplerKind.TPE, seed=0)) == 4


def test_tpe_makes_no_point_twice_while_there_are_others() -> None:
    axes: dict[str, Distribution] = {"a": Values(*range(8)), "b": Values(*range(8))}
    history: list[Past] = []
    while len(history) < 40:
        history += past(propose(axes, history, 4, sampler=SamplerKind.TPE, seed=1), lambda point: real(point, "a"))
    led = [canonical(dict(row.point)) for row in history[STARTUP:]]
    assert len(led) - len(set(led)) <= 1
    assert len(propose({"a": Values(1, 2)}, past([{"a": 1}, {"a": 2}] * 6), 3, sampler=SamplerKind.TPE, seed=1)) == 3


def test_tpe_spreads_a_batch_and_keeps_away_from_what_still_runs() -> None:
    axes: dict[str, Distribution] = {"x": Uniform(0, 1)}
    history = past(propose(axes, [], 40, sampler=SamplerKind.RANDOM, seed=1), lambda point: (real(point, "x") - 0.5) ** 2)
    batch = propose(axes, history, 8, sampler=SamplerKind.TPE, seed=1)
    assert len({round(real(point, "x"), 3) for point in batch}) == 8
    waiting = [Past(point=point, value=None, pending=True) for point in batch]
    assert propose(axes, [*history, *waiting], 2, sampler=SamplerKind.TPE, seed=1) != propose(
        axes, history, 2, sampler=SamplerKind.TPE, seed=1
    )


def test_tpe_uses_what_still_fits_after_an_axis_was_edited() -> None:
    history = past(propose(BOWL, [], 30, sampler=SamplerKind.RANDOM, seed=0), bowl)
    edited: dict[str, Distribution] = {"rate": LogUniform(1e-3, 1e-1), "name": Values("good", "new"), "extra": IntUniform(1, 3)}
    for point in propose(edited, history, 4, sampler=SamplerKind.TPE, seed=0):
        assert all(in_range(edited[key], value) for key, value in point.items())


def test_tpe_sees_the_best_and_the_newest_of_a_long_history(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    history = [Past(point={"rate": 10 ** draw.uniform(-5, 1), "name": "good"}, value=float(number)) for number in range(2000)]
    told: list[float | None] = []
    add = optuna.Study.add_trial
    monkeypatch.setattr(optuna.Study, "add_trial", lambda study, trial: (told.append(trial.value), add(study, trial))[1])
    propose(BOWL, history, 1, sampler=SamplerKind.TPE, seed=0)
    assert len(told) == MAX_HISTORY
    assert told == sorted(value for value in told if value is not None)
    assert told[:BEST_KEPT] == [float(number) for number in range(BEST_KEPT)]
    assert told[-1] == 1999.0


def test_a_direction_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match="a direction is minimize or maximize, not 'down'"):
        propose(BOWL, past([{"rate": 1.0}] * STARTUP), 1, sampler=SamplerKind.TPE, seed=0, direction="down")


def test_optunas_verbosity_and_warning_filters_are_as_before() -> None:
    before = optuna.logging.get_verbosity()
    propose(BOWL, past(propose(BOWL, [], STARTUP, sampler=SamplerKind.SOBOL, seed=0), bowl), 1, sampler=SamplerKind.TPE, seed=0)
    assert optuna.logging.get_verbosity() == before


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_independent_axes_enumerate_as_their_product(sizes: list[int]) -> None:
    def space(trial: optuna.trial.BaseTrial) -> None:
        for number, size in enumerate(sizes):
            trial.suggest_categorical(f"x{number}", [f"{number}.{choice}" for choice in range(size)])

    product = itertools.product(*([f"{number}.{choice}" for choice in range(size)] for number, size in enumerate(sizes)))
    assert [tuple(leaf.values()) for leaf in enumerate_space(space)] == list(product)


def tree(trial: optuna.trial.BaseTrial) -> float:
    if trial.suggest_categorical("kind", ["vit", "moe", "e3"]) == "vit":
        return 0.0
    experts = trial.suggest_int("experts", 4, 8, step=2)
    if trial.params["kind"] == "e3":
        if experts > 4:
            trial.suggest_categorical("members", [2, 4])
        trial.suggest_float("noise", 0.5, 1.0, step=0.25)
    trial.suggest_categorical("kind", ["vit", "moe", "e3"])  # asked again on the same path: the same answer
    return 1.0


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_conditional_tree_has_the_leaves_that_brute_force_visits() -> None:
    study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=0))
    study.optimize(tree, n_trials=100)
    theirs = {canonical(trial.params) for trial in study.trials}
    ours = [canonical(leaf) for leaf in enumerate_space(tree)]
    assert len(ours) == len(set(ours)) == 1 + 3 + (3 + 6 + 6)
    assert set(ours) == theirs


def test_a_pruned_path_is_left_out() -> None:
    def space(trial: optuna.trial.BaseTrial) -> None:
        if trial.suggest_int("k", 1, 4) > trial.suggest_int("experts", 1, 4):
            raise optuna.TrialPruned

    leaves = [(leaf["k"], leaf["experts"]) for leaf in enumerate_space(space)]
    assert leaves == [(k, experts) for k in range(1, 5) for experts in range(1, 5) if k <= experts]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (lambda trial: trial.suggest_float("x", 0, 1), "'x' cannot be enumerated: a float without a step"),
        (lambda trial: trial.suggest_categorical("x", []), "'x' has no choices"),
        (lambda trial: (trial.suggest_int("x", 0, 1), trial.suggest_int("x", 0, 2)), "'x' is suggested twice on one path"),
    ],
)
def test_a_space_that_cannot_be_enumerated_says_why(space: Callable[[optuna.trial.BaseTrial], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enumerate_space(space)


def test_a_space_that_changes_while_it_is_read_is_refused() -> None:
    sizes = iter([3, 1, 1])
    with pytest.raises(ValueError, match="a space must not change while it is read"):
        enumerate_space(lambda trial: trial.suggest_int("x", 1, next(sizes)))


def test_a_replayed_trial_has_what_a_space_may_ask_of_a_trial() -> None:
    numbers: list[int] = []

    def space(trial: optuna.trial.BaseTrial) -> None:
        numbers.append(trial.number)
        trial.suggest_int("x", 0, 1)
        trial.set_user_attr("note", 1)
        trial.set_constraint("c", -1.0)
        trial.report(0.0, 1)
        assert not trial.should_prune()
        assert trial.user_attrs == {"note": 1}
        assert trial.constraints == {"c": -1.0}
        assert trial.datetime_start is None
        assert trial.distributions == {"x": optuna.distributions.IntDistribution(0, 1)}

    enumerate_space(space)
    assert numbers == [0, 1]
