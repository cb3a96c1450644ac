"""What the statistics promise, by simulation; and that the saved table is the one that is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest

from benchmarks.coverage import RESULTS, SHAPES, Row, false_effects, intervals, powers, ranks, text, volumes

USED = "sign flips, Holm, and the interval (used)"


@pytest.fixture(scope="module")
def normal() -> list[Row]:
    return list(intervals(sizes=(3, 5, 8), shapes=("normal",)))


@pytest.fixture(scope="module")
def families() -> list[Row]:
    return list(false_effects(2000, sizes=(5, 8, 12), families=(1, 6)))


def of(rows: Iterable[Row], method: str) -> list[Row]:
    return [row for row in rows if row.method == method]


@pytest.mark.parametrize("place", range(3))
def test_95_percent_intervals_hold_the_truth_95_percent_of_the_time(normal: list[Row], place: int) -> None:
    assert of(normal, "paired t")[place].found == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_that_is_not_used_holds_it_less_often(normal: list[Row]) -> None:
    assert [row.found for row in of(normal, "percentile bootstrap (not used)")] == pytest.approx([0.75, 0.84, 0.89], abs=0.02)


def test_skewed_differences_are_covered_less_and_the_table_says_so() -> None:
    skewed = of(intervals(4000, sizes=(3, 8), shapes=("skewed (exponential)",)), "paired t")
    assert all(0.85 < row.found < 0.935 for row in skewed)


@pytest.mark.parametrize("shape", ["normal", "very skewed (log-normal)"])
@pytest.mark.parametrize("method", [USED, "t test, Holm"])
def test_arms_that_change_nothing_are_called_effects_in_5_percent_of_studies_at_most(families: list[Row], method: str, shape: str) -> None:
    mine = [row for row in of(families, method) if row.shape == shape]
    assert len(mine) == 6
    assert all(row.found <= 0.05 + 3 * row.error for row in mine)


def test_without_correction_six_arms_are_called_effects_far_more_often(families: list[Row]) -> None:
    assert next(row.found for row in of(families, "sign flips, not corrected") if (row.n, row.arms, row.shape) == (8, 6, "normal")) > 0.15


def test_a_mean_of_0_with_one_sided_noise_is_a_known_gap(families: list[Row]) -> None:
    """Why the page says to look at the replicates: symmetry is assumed, and this noise has none."""
    assert max(row.found for row in of(families, USED) if row.shape == "very skewed arms, even baseline") > 0.1


def test_what_five_replicates_cannot_resolve_is_never_resolved(families: list[Row]) -> None:
    assert {row.found for row in of(families, USED) if row.n == 5} == {0.0}


def test_the_smallest_effect_is_found_four_times_of_five() -> None:
    assert all(0.75 <= row.found <= 0.83 for row in powers(4000))


def test_the_interval_of_the_hypervolume_holds_the_true_one() -> None:
    assert all(row.found == pytest.approx(0.95, abs=0.03 + 3 * row.error) for row in volumes(80))


def test_the_interval_of_a_rank_holds_the_true_one_from_five_replicates_on() -> None:
    """At three, of arms within noise, 91 %."""
    found = list(ranks(100))
    assert all(row.found >= 0.95 - 3 * row.error for row in found if row.n >= 5)
    assert all(row.found >= 0.91 - 3 * row.error for row in found)


def test_the_saved_table_is_the_one_that_is_computed(normal: list[Row]) -> None:
    saved = [Row(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]]
    kept = {(row.claim, row.method, row.shape, row.n, row.arms): row.found for row in saved}
    for row in normal:
        assert kept[row.claim, row.method, row.shape, row.n, row.arms] == pytest.approx(row.found, abs=5e-4)
    assert "n = 16" in text(saved)


def test_the_page_shows_the_saved_figures() -> None:
    page = (RESULTS.parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    saved = [Row(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]]
    for shape in SHAPES:
        shares = [f"{100 * row.found:.1f}" for row in of(saved, "paired t") if row.shape == shape]
        assert f"| {shape} | paired t | {' | '.join(shares)} |" in page
    for shape in ("normal", "very skewed (log-normal)", "very skewed arms, even baseline"):
        for arms in (1, 6, 12):
            shares = [f"{100 * row.found:.1f}" for row in of(saved, USED) if (row.shape, row.arms) == (shape, arms) and row.n > 3]
            assert f"| {shape} | {arms} | {' | '.join(shares)} |" in page


def test_the_program_prints_its_table() -> None:
    command = [sys.executable, str(RESULTS.parents[1] / "coverage.py"), "--studies", "80"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hypervolume's interval holds the truth, %" in done.stdout
    assert "Monte Carlo standard error" in done.stdout
