"""The statistics of a paired comparison, against closed forms, scipy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.paired import (
    EXACT_REPLICATES,
    holm,
    paired_effect,
    sign_flip_p,
    sign_flip_ps,
)

finite = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
pairs = st.lists(st.tuples(finite, finite), min_size=2, max_size=9)


@given(pairs)
def test_the_interval_is_that_of_a_paired_t_test(rows: list[tuple[float, float]]) -> None:
    before, after = np.array(rows).T
    effect = paired_effect(before, after)
    differences = after - before
    if np.ptp(differences) < 1e-9:
        assert effect.low == pytest.approx(effect.high, abs=1e-9)
        return
    expected = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high), rel=1e-7, abs=1e-9)
    assert effect.se == pytest.approx(differences.std(ddof=1) / math.sqrt(len(rows)))


@given(pairs)
def test_swapping_the_arms_turns_the_effect_round(rows: list[tuple[float, float]]) -> None:
    before, after = np.array(rows).T
    there, back = paired_effect(before, after), paired_effect(after, before)
    assert (back.mean, back.se, back.p) == (pytest.approx(-there.mean), pytest.approx(there.se), there.p)


@given(pairs, st.floats(-1e3, 1e3))
def test_what_replicates_share_does_not_move_the_effect(rows: list[tuple[float, float]], shared: float) -> None:
    before, after = np.array(rows).T
    drift = shared * np.arange(len(rows))
    assert paired_effect(before + drift, after + drift).mean == pytest.approx(paired_effect(before, after).mean, abs=1e-8)


def test_intervals_cover() -> None:
    """95 % of the time at 5 replicates, where the percentile bootstrap covers 84 %."""
    random = np.random.default_rng(0)
    samples = random.normal(0.3, 1.0, size=(4000, 5))
    effects = [paired_effect(np.zeros(5), sample) for sample in samples]
    t_covers = np.mean([effect.low <= 0.3 <= effect.high for effect in effects])
    means = samples[np.arange(4000)[:, None, None], random.integers(0, 5, size=(4000, 300, 5))].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    bootstrap_covers = np.mean((low <= 0.3) & (high >= 0.3))
    assert t_covers == pytest.approx(0.95, abs=0.012)
    assert bootstrap_covers == pytest.approx(0.84, abs=0.02)


@given(st.lists(finite, min_size=1, max_size=8))
def test_the_p_counts_every_flip_of_signs(values: list[float]) -> None:
    observed = abs(sum(values)) - 1e-9 * sum(map(abs, values))
    sums = [abs(sum(map(lambda a, b: a * b, values, signs))) for signs in itertools.product((1, -1), repeat=len(values))]
    assert sign_flip_p(np.array(values)) == sum(value >= observed for value in sums) / len(sums)


def test_the_p_is_that_of_scipy() -> None:
    values = np.array([0.4, -0.1, 0.3, 0.7, -0.2, 0.9, 0.05])
    expected = scipy.stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(expected.pvalue)


def test_many_replicates_are_flipped_at_random_but_the_same_way_each_time() -> None:
    values = np.random.default_rng(1).normal(0.4, 1.0, size=EXACT_REPLICATES + 8)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_gives_no_p(value: float) -> None:
    effect = paired_effect(np.array([1.0, value, 2.0]), np.array([1.5, value, 2.0]))
    assert math.isnan(effect.p)
    assert math.isnan(effect.low)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps: list[float]) -> None:
    corrected = holm(ps)
    assert all(p <= after <= min(1.0, len(ps) * p) for p, after in zip(ps, corrected, strict=True))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_holm_leaves_out_what_has_no_p() -> None:
    corrected = holm([math.nan, 0.02, 0.5])
    assert math.isnan(corrected[0])
    assert corrected[1:] == (0.04, 0.5)


@pytest.mark.parametrize("n", [13, EXACT_REPLICATES])
def test_halves_count_what_the_whole_list_of_flips_would(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1.0, size=n).round(1)  # rounded, so that sums tie
    exact, drawn = sign_flip_p(values), np.random.default_rng(0).choice([-1.0, 1.0], size=(200_000, n)) @ values
    assert exact == pytest.approx(np.mean(np.abs(drawn) >= abs(values.sum()) - 1e-9), abs=0.005)
    assert (exact * 2 ** (n - 1)).is_integer()
    if n == 13:
        sums = np.array(list(itertools.product((1, -1), repeat=n))) @ values
        assert exact == np.mean(np.abs(sums) >= abs(values.sum()) - 1e-9)


def test_rows_have_the_p_that_each_has_alone() -> None:
    for n in (1, 5, 14, 26):
        rows = np.random.default_rng(n).normal(0.2, 1.0, size=(7, n))
        rows[3, 0] = math.nan
        assert sign_flip_ps(rows).tolist() == pytest.approx([sign_flip_p(row) for row in rows], nan_ok=True)
    assert sign_flip_ps(np.zeros((0, 5))).shape == (0,)
    assert math.isnan(sign_flip_p(np.zeros(0)))


def test_what_rounding_leaves_of_equal_values_is_no_effect() -> None:
    shared = np.array([0.1, 0.7, 1.3, 2.9, 0.3, 5.1])
    rounded = shared + 0.1 - 0.1
    effect = paired_effect(shared, rounded)
    assert (shared != rounded).any()
    assert (effect.mean, effect.se, effect.p) == (0.0, 0.0, 1.0)


def test_arrays_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_effect(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="at least 2 paired replicates, not 1"):
        paired_effect(np.zeros(1), np.zeros(1))
