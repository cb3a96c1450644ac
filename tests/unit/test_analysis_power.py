"""What a number of replicates can resolve, against textbooks, scipy and simulated tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.paired import ALPHA, sign_flip_p, sign_flip_ps
from orchestrator.analysis.power import POWER, fewest_replicates, replicates_needed, sign_flip_power, smallest_effect, t_power


@given(st.floats(0.05, 3.0), st.integers(2, 40), st.sampled_from([0.05, 0.05 / 6, 0.001]))
def test_the_power_of_a_t_test_is_that_of_scipy(size: float, n: int, alpha: float) -> None:
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    assert t_power(size, n, alpha=alpha) == pytest.approx(scipy.stats.nct.sf(critical, n - 1, size * math.sqrt(n)), abs=1e-6)


@pytest.mark.parametrize(("n", "alpha"), [(6, 0.05), (7, 0.05), (8, 0.025), (8, 0.05 / 6), (9, 0.05 / 6), (10, 0.05)])
def test_the_power_of_the_sign_flip_test_is_that_of_simulated_ones(n: int, alpha: float) -> None:
    smallest = smallest_effect(1.0, n, alpha=alpha)
    draws = np.random.default_rng(n).normal(size=(6000, n))
    found = [np.mean(sign_flip_ps(draws + size) <= alpha) for size in (smallest, 1.08 * smallest)]
    assert found[0] <= POWER + 0.02
    assert found[1] >= POWER - 0.02


@settings(deadline=None)
@given(st.floats(0.05, 4.0), st.sampled_from([0.05, 0.05 / 6, 0.001]))
def test_the_replicates_needed_are_the_fewest_with_the_power(size: float, alpha: float) -> None:
    needed = int(replicates_needed(size, 1.0, alpha=alpha))
    assert sign_flip_power(size, needed, alpha=alpha) >= POWER - 1e-6
    if needed > fewest_replicates(alpha):
        assert sign_flip_power(size, needed - 1, alpha=alpha) < POWER + 1e-6


@given(st.floats(0.1, 10.0), st.integers(8, 60))
def test_the_smallest_effect_is_the_one_that_these_replicates_are_needed_for(sd: float, n: int) -> None:
    assert replicates_needed(1.0001 * smallest_effect(sd, n), sd) <= n
    assert replicates_needed(0.9 * smallest_effect(sd, n), sd) > n - 1


def test_more_replicates_resolve_less_and_the_t_test_a_little_less_still() -> None:
    sizes = [smallest_effect(1.0, n) for n in range(7, 40)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(smallest_effect(1.0, n, exact=False) <= smallest_effect(1.0, n) for n in range(2, 40))


def test_a_textbook_sample_size() -> None:
    """Cohen, Statistical Power Analysis (1988): d = 0.5, two-sided 0.05, power 0.8 takes 34 pairs."""
    assert replicates_needed(0.5, 1.0) == 34
    assert smallest_effect(1.0, 34) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [(0.0, 1.0, math.inf), (0.0, 0.0, math.inf), (1.0, 0.0, 6.0), (1e-200, 1e200, math.inf), (1e-9, 1.0, 7.8489e18), (1e9, 1e-9, 6.0)],
)
def test_extreme_differences_have_a_number_of_replicates_too(mean: float, sd: float, expected: float) -> None:
    assert replicates_needed(mean, sd) == pytest.approx(expected, rel=1e-3)


def test_an_unknown_spread_has_none() -> None:
    assert math.isnan(replicates_needed(1.0, math.nan))
    assert math.isnan(replicates_needed(math.inf, 1.0))
    assert math.isnan(smallest_effect(math.nan, 8))


def test_without_spread_every_difference_is_resolved_once_there_are_replicates_enough() -> None:
    assert [smallest_effect(0.0, n) for n in (1, 5, 6)] == [math.inf, math.inf, 0.0]


@given(st.integers(1, 10))
def test_below_the_fewest_replicates_no_p_is_small_enough(compared: int) -> None:
    alpha = ALPHA / compared
    n = fewest_replicates(alpha)
    assert sign_flip_p(np.ones(n)) <= alpha < sign_flip_p(np.ones(n - 1))
    assert smallest_effect(1.0, n, alpha=alpha) < math.inf == smallest_effect(1.0, n - 1, alpha=alpha)


def test_more_arms_than_drawn_flips_can_tell_apart_need_no_number_of_replicates() -> None:
    assert replicates_needed(0.1, 1.0, alpha=ALPHA / 600) == math.inf
    assert replicates_needed(2.0, 1.0, alpha=ALPHA / 600) < 24
