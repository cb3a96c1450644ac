"""Dominance and hypervolume against definitions and Optuna; frontiers and orders under resampling of replicates."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from orchestrator.analysis.dominance import hypervolume, non_dominated
from orchestrator.analysis.frontier import frontier
from orchestrator.analysis.frontier_odds import frontier_odds
from orchestrator.analysis.ranks import kendall_tau, rank_stability, ranks_of
from orchestrator.analysis.resampling import cells_of, drawn_means, drawn_weights
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState
from tests.studyrecords import FakeArm, study_record, with_metrics, without_result

METRICS = ("cost/train_gflops", "test/nll")
TIED = st.integers(0, 4).map(float)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[TIED] * width), min_size=1, max_size=12)))
def test_the_frontier_keeps_what_nothing_dominates(rows: list[tuple[float, ...]]) -> None:
    def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    points = np.array(rows)
    expected = [not any(dominates(other, row) for other in rows) for row in rows]
    assert non_dominated(points).tolist() == expected
    assert non_dominated(np.stack([points, points[::-1]])).tolist() == [expected, expected[::-1]]


@settings(deadline=None)
@given(st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[st.floats(0, 5)] * width), min_size=1, max_size=9)))
def test_the_hypervolume_is_that_of_optuna(rows: list[tuple[float, ...]]) -> None:
    points, reference = np.array(rows), np.full(len(rows[0]), 4.0)
    inside = points[(points < 4.0).all(axis=1)]
    assert float(hypervolume(points, reference)) == pytest.approx(compute_hypervolume(inside, reference), rel=1e-9, abs=1e-12)


def test_no_points_have_no_frontier_and_no_volume() -> None:
    assert non_dominated(np.zeros((0, 2))).shape == (0,)
    assert float(hypervolume(np.zeros((0, 2)), np.ones(2))) == 0.0
    empty = study_record(change=lambda trial: without_result(trial, TrialState.PLANNED))
    assert frontier_odds(empty, METRICS).on_frontier == {}


def test_a_clear_frontier_is_sure_and_one_within_noise_is_not() -> None:
    odds = frontier_odds(study_record(), METRICS)
    assert odds.on_frontier["ViT"] == odds.on_frontier["E³"] == 1.0
    assert odds.on_frontier["Tiling"] == 0.0  # costs what E³ costs
    # V-MoE and Partitioning cost the same, and their NLL differs by less than its noise: one of them is on the frontier.
    assert odds.on_frontier["V-MoE"] + odds.on_frontier["Partitioning"] == pytest.approx(1.0)
    assert 0.05 < odds.on_frontier["Partitioning"] < 0.5
    assert odds.low < odds.hypervolume < odds.high
    assert odds == frontier_odds(study_record(), METRICS)


def test_the_share_on_the_frontier_is_the_chance_of_the_paired_difference() -> None:
    """Two cells of equal cost: the one is off the frontier where the drawn mean difference is above 0."""
    cells = cells_of(study_record(), METRICS)
    ours, theirs = (cells.values[cells.arms.index(name), :, 0, 1] for name in ("Partitioning", "V-MoE"))
    chance = scipy.stats.norm.cdf(-np.mean(ours - theirs) / (np.std(ours - theirs, ddof=1) / math.sqrt(8)))
    assert frontier_odds(study_record(), METRICS).on_frontier["Partitioning"] == pytest.approx(chance, abs=0.03)


def test_the_spread_of_drawn_means_is_the_standard_error() -> None:
    for n in (3, 5, 8):
        record = study_record(replicates=n)
        cells = cells_of(record, ("test/nll",))
        drawn = drawn_means(cells, drawn_weights(n, 20_000))
        expected = cells.values[:, :, 0].std(axis=1, ddof=1) / math.sqrt(n)
        assert drawn.std(axis=0) == pytest.approx(expected, rel=0.03)
        assert drawn.mean(axis=0) == pytest.approx(cells.means, abs=1e-3)


def test_cells_that_cannot_reach_the_frontier_change_nothing() -> None:
    random = np.random.default_rng(0)
    arms = [FakeArm(name=f"{index}", overrides={}, nll=0.3 + 0.05 * random.random(), train_gflops=random.random()) for index in range(60)]
    record = study_record(arms, tune_trials=0, rungs=1)
    odds, cells = frontier_odds(record, METRICS), cells_of(record, METRICS)
    drawn = drawn_means(cells, drawn_weights(8, 2000))
    assert list(odds.on_frontier.values()) == non_dominated(drawn).mean(axis=0).tolist()
    volumes = hypervolume(drawn, np.array(odds.reference))
    assert odds.high - odds.hypervolume == pytest.approx(scipy.stats.t.ppf(0.975, 7) * volumes.std())
    assert {name for name, share in odds.on_frontier.items() if share == 0} <= {
        point.arm for point in frontier(record, METRICS) if not point.on_frontier
    }


def test_a_metric_that_is_maximised_turns_the_frontier_and_its_reference_round() -> None:
    def mirrored(trial: TrialRecord) -> TrialRecord:
        return with_metrics(trial, {"test/accuracy": 1 - trial.metrics["test/error"]}) if trial.metrics else trial

    record = study_record(change=mirrored)
    errors, accuracies = (frontier_odds(record, ("cost/train_gflops", name)) for name in ("test/error", "test/accuracy"))
    assert accuracies.on_frontier == pytest.approx(errors.on_frontier)
    assert accuracies.hypervolume == pytest.approx(errors.hypervolume)
    assert accuracies.reference[1] == pytest.approx(1 - errors.reference[1])


def test_a_given_reference_makes_volumes_comparable() -> None:
    record = study_record()
    without = study_record(change=lambda trial: None if trial.arm == "E³" else trial)
    volumes = [frontier_odds(one, METRICS, reference=(0.01, 0.5)).hypervolume for one in (record, without)]
    assert volumes[0] > volumes[1] > 0


def test_one_replicate_gives_a_frontier_without_chances() -> None:
    odds = frontier_odds(study_record(replicates=1), METRICS)
    assert (odds.draws, odds.n) == (0, 1)
    assert set(odds.on_frontier.values()) == {0.0, 1.0}
    assert math.isnan(odds.low)


def test_a_missing_replicate_leaves_the_others_of_its_arm_in_the_draws() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        return without_result(trial, TrialState.DIVERGED) if (trial.arm, trial.index) == ("E³", 2) else trial

    record = study_record(change=change)
    assert frontier_odds(record, METRICS).on_frontier["E³"] == 1.0
    assert rank_stability(record, "test/nll").arms[2].best == 1.0  # pyright: ignore[reportOptionalMemberAccess]


@given(st.lists(TIED, min_size=1, max_size=9), st.randoms())
def test_ranks_and_tau_are_those_of_scipy(values: list[float], random: object) -> None:
    ours, theirs = np.array(values), np.array(values[::-1])
    assert ranks_of(ours[None])[0].tolist() == scipy.stats.rankdata(ours).tolist()
    if len(set(values)) > 1:
        assert kendall_tau(ours, theirs) == pytest.approx(scipy.stats.kendalltau(ours, theirs).statistic)


def test_an_order_of_noise_is_unstable_and_one_of_effects_is_stable() -> None:
    def arms(step: float) -> StudyRecord:
        return study_record([FakeArm(name=f"{index}", overrides={}, nll=0.3 + step * index, train_gflops=1.0) for index in range(8)])

    steady, noisy = (rank_stability(arms(step), "test/nll") for step in (0.1, 0.0))
    assert steady is not None
    assert noisy is not None
    assert steady.tau == 1.0
    assert abs(noisy.tau) < 0.5
    assert [(arm.rank, arm.low, arm.high) for arm in steady.arms] == [(rank, rank, rank) for rank in range(1, 9)]
    assert steady.arms[0].best == 1.0
    assert sum(arm.best for arm in noisy.arms) == pytest.approx(1.0)
    assert max(arm.best for arm in noisy.arms) < 0.9
    assert all(arm.low <= arm.expected <= arm.high for arm in noisy.arms)


def test_arms_of_equal_values_share_rank_and_the_chance_to_be_best() -> None:
    record = study_record(change=lambda trial: with_metrics(trial, {"test/nll": 0.3 + 0.01 * trial.index}))
    found = rank_stability(record, "test/nll")
    assert found is not None
    assert {arm.rank for arm in found.arms} == {4.0}
    assert [arm.best for arm in found.arms] == pytest.approx([1 / 7] * 7)
    assert math.isnan(found.tau)


def test_no_order_is_made_where_none_is_better() -> None:
    assert rank_stability(study_record(), "test/diversity") is None
    assert rank_stability(study_record(study_arms(1)), "test/nll") is None
    one = rank_stability(study_record(replicates=1), "test/nll")
    assert one is not None
    assert (one.draws, math.isnan(one.tau)) == (0, True)


def study_arms(count: int) -> list[FakeArm]:
    return [FakeArm(name=f"{index}", overrides={}, nll=0.3, train_gflops=1.0) for index in range(count)]


def test_derived_arms_are_drawn_with_the_replicates_they_are_made_of() -> None:
    record = study_record()
    arms = (*record.arms, dataclasses.replace(record.arms[0], name="×2", of=("ViT",), members=2, replicates=4))
    members = list(record.of("ViT", Phase.REPLICATE))
    pairs = [(a.metrics["test/nll"] + b.metrics["test/nll"]) / 2 for a, b in zip(members[::2], members[1::2], strict=True)]
    derived = [
        dataclasses.replace(with_metrics(trial, {"test/nll": value - 0.02}), arm="×2", index=index)
        for index, (trial, value) in enumerate(zip(members, pairs, strict=False))
    ]
    cells = cells_of(dataclasses.replace(record, arms=arms, trials=(*record.trials, *derived)), ("test/nll",))
    assert cells.n == 4
    drawn = drawn_means(cells, drawn_weights(4, 500))[:, :, 0]
    assert drawn[:, cells.arms.index("ViT")] - drawn[:, cells.arms.index("×2")] == pytest.approx(0.02)
