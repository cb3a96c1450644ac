"""A t test that is looked at again and again keeps what it promises, at every look and after stopping."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.paired import Floats, special
from orchestrator.analysis.sequential import boundary, corrected, p_of_signs, pairs_at, repeated_effect, sequential_p, spent

LOOKS = tuple(range(4, 25, 2))
ARMS = 5
STUDIES = 12_000


def boundaries(looks: tuple[int, ...], level: float) -> Floats:
    return np.array([boundary(looks[: number + 1], level) for number in range(len(looks))])


def at_looks(differences: Floats, looks: tuple[int, ...] = LOOKS) -> tuple[Floats, Floats]:
    """Means and standard errors at each look, of [..., replicate]."""
    n = np.array(looks)
    sums, squares = (np.cumsum(values, axis=-1)[..., n - 1] for values in (differences, differences**2))
    return sums / n, np.sqrt(np.maximum(squares - sums**2 / n, 0.0) / (n - 1) / n)


def size(differences: Floats, looks: tuple[int, ...] = LOOKS) -> Floats:
    mean, error = at_looks(differences, looks)
    return np.abs(mean) / error


@functools.cache
def draws(*shape: int) -> Floats:
    return np.random.default_rng(7).normal(size=shape)


@pytest.mark.parametrize("looks", [LOOKS, (2, 3, 4, 5), (6, 24), (3, 17, 40)])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_no_more_than_the_error_of_each_look_is_spent(looks: tuple[int, ...], level: float) -> None:
    crossed = np.logical_or.accumulate(size(draws(150_000, 40), looks) >= boundaries(looks, level), axis=1).mean(axis=0)
    promised = level * np.array([spent(n) for n in looks])
    error = np.sqrt(promised / 150_000)
    assert (crossed <= promised + 4 * error).all()
    assert (crossed >= 0.95 * promised - 4 * error).all(), "nor much less: that would cost power"


def test_a_first_look_is_students_test() -> None:
    for n in (2, 3, 4, 12, 60):
        level = 0.05 * spent(n)
        assert boundary([n], 0.05) == pytest.approx(float(special.stdtrit(n - 1, 1 - level / 2)), rel=2e-3)


def test_boundaries_depend_on_no_look_to_come_and_the_error_is_never_all_spent() -> None:
    spendings = [spent(n) for n in range(1, 400)]
    assert all(before < after < 1.0 for before, after in itertools.pairwise(spendings))
    assert spent(10**9) == pytest.approx(1.0)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5, unique=True).map(sorted), st.floats(1e-4, 0.4))
@settings(max_examples=25, deadline=None)
def test_a_stricter_level_has_a_farther_boundary(looks: list[int], level: float) -> None:
    assert boundary(looks, level / 2) > boundary(looks, level) > 0


Draw = str
DRAWS = ("normal", "lognormal arms", "exponential arms", "one skewed arm", "heavy tails")


def null(kind: Draw, studies: int = STUDIES) -> Floats:
    """Differences of arms from a baseline that they do not differ from in mean, [study, arm, replicate]."""
    rng = np.random.default_rng(11)
    arms, base = (studies, ARMS, LOOKS[-1]), (studies, 1, LOOKS[-1])
    if kind == "normal":
        return rng.normal(size=arms) - rng.normal(size=base)
    if kind == "lognormal arms":
        return rng.lognormal(sigma=0.5, size=arms) - rng.lognormal(sigma=0.5, size=base)
    if kind == "exponential arms":
        return rng.exponential(size=arms) - rng.exponential(size=base)
    if kind == "one skewed arm":  # the differences themselves are skewed: 0.7
        return rng.exponential(size=arms) - 1.0 - rng.normal(size=base)
    return rng.standard_t(3, size=arms) - rng.standard_t(3, size=base)


@pytest.mark.parametrize("kind", DRAWS)
def test_five_arms_that_change_nothing_are_all_left_alone_in_19_of_20_studies(kind: Draw) -> None:
    # Holm's first step is what decides whether any is called different.
    called = (size(null(kind)) >= boundaries(LOOKS, 0.05 / ARMS)).any(axis=(1, 2)).mean()
    assert called <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)


def test_arms_that_are_settled_leave_their_share_of_the_error_to_the_others() -> None:
    differences = null("normal")[:, 1:]  # the first arm is different at the first look, and gets no more replicates
    called = (size(differences) >= boundaries(LOOKS, 0.05 / (ARMS - 1))).any(axis=(1, 2)).mean()
    assert called <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("effect", [0.0, 0.4, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_interval_at_the_look_where_one_stops_holds_the_effect(effect: float, level: float) -> None:
    """Stopped at the first look that settles it, which is where a plain interval would be off."""
    mean, error = at_looks(draws(60_000, 24) + effect)
    hits = np.abs(mean) >= boundaries(LOOKS, level) * error
    last = np.where(hits.any(axis=1), hits.argmax(axis=1), len(LOOKS) - 1)[:, None]
    reach = boundaries(LOOKS, 0.05) * error
    held = np.take_along_axis(np.abs(mean - effect) <= reach, last, axis=1).mean()
    assert held >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 60_000)


def test_plain_t_intervals_do_not_survive_looking() -> None:
    """What the boundaries are for."""
    mean, error = at_looks(draws(60_000, 24))
    plain = np.array([float(special.stdtrit(n - 1, 0.975)) for n in LOOKS])
    assert (np.abs(mean) >= plain * error).any(axis=1).mean() > 0.15


def test_the_sequential_p_is_the_level_at_which_it_would_have_stopped() -> None:
    differences = (draws(40, 24) + 0.8)[:, :24]
    for row in differences:
        p = sequential_p(row.tolist(), LOOKS)
        if 1e-5 < p < 0.5:
            crossed = [level for level in (p * 0.97, p * 1.03) if (size(row[None])[0] >= boundaries(LOOKS, level)).any()]
            assert crossed == [p * 1.03]


def test_more_looks_never_raise_the_sequential_p() -> None:
    row = (draws(1, 24)[0] + 0.7).tolist()
    ps = [sequential_p(row[: LOOKS[number]], LOOKS[: number + 1]) for number in range(len(LOOKS))]
    assert all(after <= before for before, after in itertools.pairwise(ps))


def test_differences_that_are_all_alike_are_judged_by_their_signs() -> None:
    assert sequential_p([0.5] * 4, [4]) == p_of_signs(4) > 0.5
    assert sequential_p([0.5] * 12, [4, 8, 12]) == p_of_signs(12) < 0.01
    assert sequential_p([0.0] * 12, [12]) == 1.0


def test_an_interval_needs_a_look_and_finite_values() -> None:
    before = repeated_effect([0.1, 0.2, 0.3], [])
    assert (before.n, before.mean) == (3, pytest.approx(0.2))
    assert math.isnan(before.low)
    assert math.isnan(repeated_effect([0.1, math.inf, 0.3], [3]).p)
    found = repeated_effect([0.1, 0.2, 0.3, 0.2], [4])
    assert found.high - found.mean == pytest.approx(boundary([4], 0.05) * found.se)


def test_a_look_that_finds_no_new_pair_is_none() -> None:
    assert pairs_at([0, 1, 2, 3, 6], [4, 6, 8]) == [4, 5]
    assert pairs_at([], [4]) == []


def test_holm_counts_arms_that_are_not_tested_yet() -> None:
    assert corrected([0.02], 3) == (pytest.approx(0.06),)
    assert corrected([0.02, math.nan, math.nan], 3)[0] == pytest.approx(0.06)
