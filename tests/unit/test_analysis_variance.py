"""Shares of variance: against exact decompositions, the paired t test, brute-force least squares, and designs read from overrides."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis import anova
from orchestrator.analysis.anova import crossed_variance
from orchestrator.analysis.components import Component, Part, Table, Variance
from orchestrator.analysis.factors import ARM, Factor, Factors, Layout, factors_of
from orchestrator.analysis.variance import variance
from orchestrator.keys import FlatConfig
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState
from tests.studyrecords import FakeArm, study_record, with_metrics, without_result

METRIC = "test/nll"
GRID = [{"model.k": k, "model.experts": experts, "train.steps": steps} for k in (1, 2, 4) for experts in (8, 16) for steps in (10, 20)]


def study(points: list[FlatConfig], result: Callable[[FlatConfig, int], float], *, replicates: int = 4) -> StudyRecord:
    """A study of one arm for each point, and a result of each replicate."""
    arms = [FakeArm(name=f"#{number}", overrides=point, nll=0.0, train_gflops=1.0) for number, point in enumerate(points)]
    overrides = {arm.name: arm.overrides for arm in arms}

    def change(trial: TrialRecord) -> TrialRecord:
        return with_metrics(trial, {METRIC: result(overrides[trial.arm], trial.index)})

    return study_record(arms, tune_trials=0, rungs=1, replicates=replicates, change=change)


def row(found: Variance, name: str) -> Component:
    return next(one for one in found.components if one.name == name)


def noise(point: FlatConfig, index: int) -> float:
    return float(np.random.default_rng([abs(hash(tuple(point.values()))) % 2**32, index]).normal())


def test_shares_are_those_that_results_were_made_of() -> None:
    """Two axes, an interaction and a seed, no noise: variances 6, 1, 2 and 4 by construction."""
    scaled = {1: -math.sqrt(9.0), 2: 0.0, 4: math.sqrt(9.0)}

    def result(point: FlatConfig, index: int) -> float:
        experts = 1.0 if point["model.experts"] == 8 else -1.0
        steps = 1.0 if point["train.steps"] == 10 else -1.0
        assert isinstance(point["model.k"], int)
        return 5.0 + scaled[point["model.k"]] + experts + math.sqrt(2.0) * experts * steps + (2.0 if index % 2 else -2.0)

    found = variance(study(GRID, result), METRIC)
    expected = {
        "model.k": 6,
        "model.experts": 1,
        "train.steps": 0,
        "model.experts × train.steps": 2,
        "model.k × model.experts": 0,
        "seed": 4,
    }
    assert {name: row(found, name).share for name in expected} == pytest.approx({name: part / 13 for name, part in expected.items()})
    assert found.layout is Layout.CROSSED
    assert (found.cells, found.n, found.balanced, found.notes) == (12, 4, True, ())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_whole_tables_have_the_same_squares_by_means_and_by_least_squares(seed: int, replicates: int) -> None:
    record = study(GRID, lambda *_: 0.0, replicates=replicates)
    design = factors_of(record)
    values = np.random.default_rng(seed).normal(size=(12, replicates))
    terms = anova._terms(design.factors)  # pyright: ignore[reportPrivateUsage]
    codes, contained = [anova._codes(design.points, keys) for _, keys in terms], anova._contained(terms)  # pyright: ignore[reportPrivateUsage]
    by_means, by_fit = (way(values, codes, contained) for way in (anova._balanced, anova._least_squares))  # pyright: ignore[reportPrivateUsage]
    assert [one.df for one in by_means[0]] == [one.df for one in by_fit[0]]
    assert [one.ss for one in by_means[0]] == pytest.approx([one.ss for one in by_fit[0]])
    assert (by_means[1].ss, by_means[2].ss, by_means[2].df) == pytest.approx((by_fit[1].ss, by_fit[2].ss, by_fit[2].df))


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_corrected_shares_add_up_to_one(seed: int, replicates: int) -> None:
    found = crossed_variance(METRIC, DESIGN, Table(points=DESIGN.points, values=np.random.default_rng(seed).normal(size=(12, replicates))))
    assert math.fsum(one.unbiased for one in found.components) == pytest.approx(1.0)
    assert math.fsum(one.share for one in found.components) == pytest.approx(1.0)
    assert sum(one.df for one in found.components) == 12 * replicates - 1


DESIGN = Factors(
    layout=Layout.CROSSED,
    factors=tuple(Factor(name=key, keys=(key,)) for key in ("model.k", "model.experts", "train.steps")),
    points={f"#{number}": point for number, point in enumerate(GRID)},
    notes=(),
)


def test_of_two_arms_the_f_is_the_square_of_the_paired_t() -> None:
    record = study([{"model.k": 1}, {"model.k": 2}], noise, replicates=6)
    ours, theirs = ([trial.metrics[METRIC] for trial in record.of(f"#{arm}", Phase.REPLICATE)] for arm in (0, 1))
    expected = scipy.stats.ttest_rel(ours, theirs)
    found = row(variance(record, METRIC), "model.k")
    assert (found.f, found.p, found.p_holm) == pytest.approx((expected.statistic**2, expected.pvalue, expected.pvalue))


def test_what_an_axis_adds_where_values_are_missing_is_that_of_least_squares() -> None:
    gone = {("#0", index) for index in range(4)} | {("#5", 1), ("#7", 3)}
    whole = study(GRID, noise)
    trials = tuple(without_result(one, TrialState.DIVERGED) if (one.arm, one.index) in gone else one for one in whole.trials)
    found = variance(dataclasses.replace(whole, trials=trials), METRIC)
    kept = [(one.config, one.index, one.metrics[METRIC]) for one in trials if one.metrics]
    y = np.array([value for *_, value in kept])

    def columns(*keys: str) -> list[np.ndarray]:
        levels = [tuple(index if key == "seed" else config[key] for key in keys) for config, index, _ in kept]
        return [np.array([level == own for own in levels], dtype=float) for level in dict.fromkeys(levels)]

    def left(*terms: tuple[str, ...]) -> float:
        matrix = np.stack([one for term in [("seed",), *terms] for one in columns(*term)], axis=1)
        return float(np.sum((y - matrix @ np.linalg.lstsq(matrix, y)[0]) ** 2))

    k, experts, steps = ("model.k",), ("model.experts",), ("train.steps",)
    without = left(experts, steps, experts + steps)
    total = float(((y - y.mean()) ** 2).sum())
    assert row(found, "model.k").share == pytest.approx((without - left(k, experts, steps, experts + steps)) / total)
    pairs = (k + experts, k + steps, experts + steps)
    assert row(found, "model.k × train.steps").share == pytest.approx((left(k + experts, experts + steps) - left(*pairs)) / total)
    assert row(found, "noise").share == pytest.approx(left(k + experts + steps) / total)
    assert not found.balanced
    assert found.notes == ("1 of 12 cells have no result.", "Values are missing: shares need not add up to 1.")


def test_no_axis_is_found_where_there_is_only_noise_more_often_than_the_level() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(400):
        values = random.normal(size=(12, 3)) + random.normal(size=(1, 3))
        hits += any(one.p_holm <= 0.05 for one in crossed_variance(METRIC, DESIGN, Table(points=DESIGN.points, values=values)).components)
    assert hits / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_the_corrected_share_of_an_axis_is_its_share_on_average() -> None:
    """k explains 2/3 of the variance of a trial whose noise is 1/3; η² says more."""
    effect = np.array([0.0, math.sqrt(3.0), -math.sqrt(3.0)]).repeat(4)[:, None]
    random = np.random.default_rng(1)
    tables = [Table(points=DESIGN.points, values=effect + random.normal(size=(12, 3))) for _ in range(300)]
    rows = [row(crossed_variance(METRIC, DESIGN, table), "model.k") for table in tables]
    assert np.mean([one.unbiased for one in rows]) == pytest.approx(2 / 3, abs=0.02)
    assert np.mean([one.share for one in rows]) > 2 / 3 + 0.01


def test_one_replicate_tells_no_noise() -> None:
    found = variance(study(GRID, noise, replicates=1), METRIC)
    assert [one.name for one in found.components][-1] == "interactions and noise"
    assert all(math.isnan(one.p) and math.isnan(one.unbiased) for one in found.components)
    assert "noise is unknown" in found.notes[0]


def test_a_cost_has_no_noise_and_all_of_it_is_explained() -> None:
    found = variance(study(GRID, lambda point, _: float(str(point["model.k"]))), METRIC)
    assert (row(found, "model.k").share, row(found, "model.k").p, row(found, "noise").share) == (pytest.approx(1.0), 0.0, 0.0)
    assert math.isnan(row(found, "train.steps").p)


def test_equal_results_have_no_shares() -> None:
    found = variance(study(GRID, lambda *_: 0.3), METRIC)
    assert all(math.isnan(one.share) for one in found.components)


def test_named_arms_are_one_factor() -> None:
    found = variance(study_record(), METRIC)
    assert (found.layout, [one.name for one in found.components]) == (Layout.LISTED, [ARM, "seed", "noise"])
    assert row(found, ARM).unbiased > 0.7


def test_a_conditional_axis_is_told_within_what_it_depends_on() -> None:
    points: list[FlatConfig] = [
        {"model.tile": True, "train.steps": steps, "model.router_noise": sigma} for steps in (10, 20) for sigma in (1.0, 2.0, 4.0)
    ]
    points += [{"model.tile": False, "train.steps": steps} for steps in (10, 20)]

    def result(point: FlatConfig, index: int) -> float:
        sigma = point["model.router_noise"] if point["model.tile"] else 0.0
        assert isinstance(sigma, float)
        return sigma + index

    found = variance(study(points, result), METRIC)
    names = ["model.tile", "train.steps", "model.router_noise", "model.tile × train.steps", "model.router_noise × train.steps"]
    assert {one.name for one in found.components} == {*names, "seed", "noise"}
    assert found.notes == ("model.router_noise exists in 6 of 8 arms; its share is of those.",)
    tile, sigma = row(found, "model.tile"), row(found, "model.router_noise")
    assert (tile.df, sigma.df) == (1, 2)
    # Means of tile: 7/3 over 6 cells, 0 over 2; of noise within: 1, 2 and 4 around 7/3.
    assert sigma.share / tile.share == pytest.approx(2 * (16 / 9 + 1 / 9 + 25 / 9) / (6 * (7 / 3) ** 2 - 8 * (7 / 4) ** 2))


def test_an_axis_may_depend_on_two_others() -> None:
    points: list[FlatConfig] = []
    for tile, partition in itertools.product((True, False), repeat=2):
        sigmas = (1.0, 2.0, 4.0) if tile and partition else (None,)
        points += [{"model.tile": tile, "model.partition": partition} | ({"model.router_noise": one} if one else {}) for one in sigmas]
    record = study(points, noise)
    found = variance(record, METRIC)
    names = ["model.tile", "model.partition", "model.tile × model.partition", "model.router_noise", "seed", "noise"]
    assert sorted(one.name for one in found.components) == sorted(names)
    assert row(found, "model.router_noise").df == 2
    # (True, True) has three cells and the other combinations one: means of tile are no longer free of partition.
    assert found.notes[-1] == "Levels of one axis have unequal shares of those of another: shares need not add up to 1."
    values = {name: [trial.metrics[METRIC] for trial in record.of(name, Phase.REPLICATE)] for name in ("#0", "#1", "#2")}
    table = np.array(list(values.values()))
    within = 4 * ((table.mean(axis=1) - table.mean()) ** 2).sum()
    everything = np.array([trial.metrics[METRIC] for trial in record.trials])
    assert row(found, "model.router_noise").share == pytest.approx(within / ((everything - everything.mean()) ** 2).sum())


def test_arms_crossed_with_an_axis_are_a_factor_beside_it() -> None:
    arms = [
        {"model.k": 4},
        {"model.k": 2, "model.members": 2, "model.tile": True},
        {"model.k": 2, "model.members": 2, "model.partition": True},
    ]
    points = [{**arm, "model.experts": experts} for arm in arms for experts in (8, 16)]
    found = variance(study(points, noise), METRIC)
    assert [one.name for one in found.components] == ["arm", "model.experts", "arm × model.experts", "seed", "noise"]
    assert found.notes == (
        "model.k, model.members, model.tile, model.partition are one factor, arm: not every combination of their values is there.",
    )


def test_keys_that_move_together_are_one_factor() -> None:
    points = [{"model.k": k, "model.members": 4 // k, "model.experts": experts} for k in (1, 2, 4) for experts in (8, 16)]
    assert [one.name for one in factors_of(study(points, noise)).factors] == ["model.k + model.members", "model.experts"]


def test_a_plain_baseline_beside_a_grid_is_no_part_of_it() -> None:
    found = factors_of(study([{}, *GRID], noise))
    assert [one.name for one in found.factors] == ["model.k", "model.experts", "train.steps"]
    assert found.notes == ("Left out, as no part of the design: #0.",)


def test_one_factor_at_a_time_and_leave_one_out_are_lists_of_arms() -> None:
    apart: list[FlatConfig] = [{}, {"model.k": 1}, {"model.k": 2}, {"model.experts": 16}, {"model.experts": 32}]
    left_out: list[FlatConfig] = [{}, {"model.tile": True}, {"model.partition": True}]
    assert [factors_of(study(points, noise)).layout for points in (apart, left_out)] == [Layout.LISTED] * 2


def drawn(count: int, result: Callable[[FlatConfig, int], float], *, replicates: int = 3) -> StudyRecord:
    random = np.random.default_rng(0)
    points: list[FlatConfig] = [
        {"optim.learning_rate": float(x), "model.dropout": float(y), "augment.mixup": float(z), "model.k": int(k)}
        for (x, y, z), k in zip(random.random((count, 3)), random.choice([1, 2, 4], count), strict=True)
    ]
    return study(points, result, replicates=replicates)


def test_drawn_points_are_told_apart_from_seeds_and_noise() -> None:
    """Learning rate 1/12, k 0.12 of variance, an interaction of dropout and mixup 1/144, seeds 0.05, noise 0.04."""

    def result(point: FlatConfig, index: int) -> float:
        x, y, z, k = (float(str(value)) for value in point.values())
        shared = math.sqrt(0.05) * noise({"seed": index}, 0)
        return x + 0.28 * k + (y - 0.5) * (z - 0.5) + shared + 0.2 * noise(point, index)

    found = variance(drawn(300, result, replicates=8), METRIC)
    assert found.layout is Layout.DRAWN
    parts = {one.name: one.unbiased for one in found.components}
    assert math.fsum(parts.values()) == pytest.approx(1.0)
    known = 1 / 12 + 0.0784 * 14 / 9 + 1 / 144 + 0.04
    whole = known / (1 - parts["seed"])  # 8 seeds do not tell what a seed's variance is
    assert parts["optim.learning_rate"] == pytest.approx(1 / 12 / whole, abs=0.06)
    assert parts["model.k"] == pytest.approx(0.0784 * 14 / 9 / whole, abs=0.06)
    assert parts["noise"] == pytest.approx(0.04 / whole, abs=0.02)
    assert [row(found, name).p_holm <= 0.05 for name in parts if "." in name] == [True, False, False, True]
    assert found.notes == ("With 300 points a share is known to ±0.09 at worst.",)


def test_noise_alone_is_blamed_on_no_drawn_axis() -> None:
    found = variance(drawn(200, noise), METRIC)
    assert row(found, "noise").unbiased == pytest.approx(1.0, abs=0.1)
    assert all(abs(one.unbiased) < 0.1 for one in found.components if one.part is Part.AXIS)
    assert min(one.p_holm for one in found.components if one.part is Part.AXIS) > 0.05


def test_drawn_points_that_were_stopped_and_conditional_axes_are_named() -> None:
    whole = drawn(60, noise, replicates=1)
    arms = tuple(
        dataclasses.replace(arm, overrides={**arm.overrides, "model.tile": True}) if number % 3 == 0 else arm
        for number, arm in enumerate(whole.arms)
    )
    trials = tuple(without_result(one, TrialState.STOPPED) if number >= 40 else one for number, one in enumerate(whole.trials))
    found = variance(dataclasses.replace(whole, arms=arms, trials=trials), METRIC)
    assert found.cells == 40
    assert found.notes[0] == "model.tile is left out: it exists in 20 of 60 arms only."
    assert "20 of 60 points have no result" in found.notes[1]
    assert found.components[-1].name == "interactions and noise"


def test_few_drawn_points_are_refused_with_the_reason() -> None:
    found = variance(drawn(9, noise), METRIC)
    assert found.components == ()
    assert "9 points are too few" in found.notes[-1]


def test_a_study_without_results_has_no_shares() -> None:
    planned = study_record(change=lambda trial: without_result(trial, TrialState.PLANNED))
    assert variance(planned, METRIC).components == ()
    assert variance(study_record(arms=[]), METRIC).components == ()


def test_derived_arms_are_no_cells() -> None:
    record = study_record()
    derived = dataclasses.replace(record.arms[0], name="×2", of=("ViT",), members=2, replicates=4)
    assert "Derived arms are left out" in factors_of(dataclasses.replace(record, arms=(*record.arms, derived))).notes[0]


def test_large_grids_with_holes_are_fitted_without_interactions() -> None:
    points: list[FlatConfig] = [{"model.k": k, "model.experts": e} for k, e in itertools.product(range(20), range(20))]
    record = study(points, noise, replicates=2)
    found = variance(dataclasses.replace(record, trials=record.trials[1:]), METRIC)
    assert [one.name for one in found.components] == ["model.k", "model.experts", "interactions of three and more", "seed", "noise"]
    assert "Interactions are left out" in found.notes[0]
