"""Cost-effectiveness and improvements across scales, against the paper's tables."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from orchestrator.analysis.efficiency import Bargain, cost_effectiveness, effectiveness
from orchestrator.analysis.paired import paired_effect
from orchestrator.analysis.scaling import DERIVED_PHI, Phi, fit_phi, improvements, relative, scale_weights
from orchestrator.analysis.summary import Mean, replicate_values
from orchestrator.records import StudyRecord, TrialRecord
from tests.studyrecords import FakeArm, study_record, with_metrics

COST = "cost/train_gflops"
# Allingham et al. (2022), slides of the paper: GFLOPs of a training step, improvements over ViT in per cent as printed.
GFLOPS = (23.9, 77.8, 271.4, 1149.0, 3027.0)  # S/32, B/32, L/32, L/16, H/14
PLAIN = {"E³": (9.82, 9.53, 3.76, 5.38, 4.27), "V-MoE": (7.98, 6.62, -0.60, 2.05, 0.02)}
NORMALISED = {"E³": (0.02, 0.09, 0.24, 2.35, 4.27), "V-MoE": (0.01, 0.06, -0.04, 0.89, 0.02)}
INTERVALS = ((0.00153, 0.00188), (0.00891, 0.00983), (0.06242, 0.06525), (0.43547, 0.43765), (1.0, 1.0))


def test_the_ratio_is_the_papers_formula_of_paired_means() -> None:
    record = study_record()
    found = next(one for one in cost_effectiveness(record, "test/nll", COST) if one.arm == "E³")
    ours, theirs = (replicate_values(record, name, "test/nll") for name in ("V-MoE", "E³"))
    gain = statistics.fmean(ours[index] - theirs[index] for index in range(8))
    assert found.bargain is Bargain.PAID
    assert found.log_ratio == pytest.approx(math.log(gain / (0.00684 - 0.00671)))
    effect = paired_effect(np.array(list(ours.values())), np.array(list(theirs.values())))
    assert (found.low, found.high) == pytest.approx(tuple(math.log(-end / (0.00684 - 0.00671)) for end in (effect.high, effect.low)))


@pytest.mark.parametrize(
    ("gain", "extra", "expected"),
    [
        (0.1, 2.0, Bargain.PAID),
        (0.1, 0.0, Bargain.FREE),
        (0.1, -1.0, Bargain.FREE),
        (-0.1, 1.0, Bargain.WASTED),
        (-0.1, -1.0, Bargain.SAVED),
    ],
)
def test_only_a_gain_that_is_paid_for_has_a_ratio(gain: float, extra: float, expected: Bargain) -> None:
    found = effectiveness(Mean(mean=gain, se=0.01, n=8), extra)
    assert found.bargain is expected
    assert math.isnan(found.log_ratio) is (expected is not Bargain.PAID)


def test_a_gain_that_may_be_none_has_a_ratio_without_a_lower_end() -> None:
    found = effectiveness(Mean(mean=0.1, se=0.2, n=4), 1.0)
    assert found.low == -math.inf
    assert found.log_ratio == pytest.approx(math.log(0.1))
    assert math.isnan(effectiveness(Mean(mean=0.1, se=math.nan, n=1), 1.0).low)


def test_arms_are_compared_in_the_direction_of_the_metric() -> None:
    def mirrored(trial: TrialRecord) -> TrialRecord:
        return with_metrics(trial, {"test/accuracy": 1 - trial.metrics["test/error"]})

    record = study_record(change=mirrored)
    by_error, by_accuracy = (cost_effectiveness(record, f"test/{name}", COST) for name in ("error", "accuracy"))
    assert [one.gain.mean for one in by_accuracy] == pytest.approx([one.gain.mean for one in by_error])
    assert [one.arm for one in by_error] == [arm.name for arm in record.arms if not arm.baseline]
    assert cost_effectiveness(record, "test/diversity", COST) == ()


def test_the_derived_curve_has_weights_within_the_rounding_of_the_published_table() -> None:
    weights = scale_weights(GFLOPS, DERIVED_PHI)
    assert all(low <= weight <= high for weight, (low, high) in zip(weights, INTERVALS, strict=True))


@pytest.mark.parametrize("method", ["E³", "V-MoE"])
def test_the_published_normalised_improvements_follow_from_the_plain_ones(method: str) -> None:
    """Both columns are printed with two decimals, so a product may be off by half a step of either."""
    for weight, plain, normalised in zip(scale_weights(GFLOPS, DERIVED_PHI), PLAIN[method], NORMALISED[method], strict=True):
        assert weight * plain == pytest.approx(normalised, abs=0.005 + 0.005 * weight)


def test_a_fitted_curve_gives_back_the_one_it_was_fitted_to() -> None:
    true = Phi(coefficients=(0.7, -0.08, 0.004, -0.001), unit=100.0)
    fitted = fit_phi(GFLOPS, [true(each) for each in GFLOPS])
    assert [fitted(each) for each in GFLOPS] == pytest.approx([true(each) for each in GFLOPS])
    assert [fitted.slope(each) for each in GFLOPS] == pytest.approx([true.slope(each) for each in GFLOPS])
    step = 1e-4
    assert true.slope(50.0) == pytest.approx((true(50.0 + step) - true(50.0 - step)) / (2 * step), rel=1e-6)


def test_too_few_scales_for_a_curve_are_refused() -> None:
    with pytest.raises(ValueError, match="degree 3 needs 4 scales, not 2"):
        fit_phi((1.0, 2.0, 2.0), (0.5, 0.4, 0.4))


def test_a_scale_at_which_the_curve_rises_has_no_weight() -> None:
    bowl = Phi(coefficients=(0.0, 0.0, 1.0), unit=100.0)
    assert math.isnan(scale_weights((10.0, 1000.0), bowl)[0])


def scaled(sizes: int = 4) -> StudyRecord:
    """Plain models that fall by 0.05 with each doubling of cost, and a method that is a tenth better."""
    arms = [
        FakeArm(name=f"{name} {size}", overrides={"model.experts": size, **change}, nll=nll, train_gflops=2.0**size, baseline=is_first)
        for size in range(sizes)
        for name, change, nll, is_first in (
            ("ViT", {}, 0.5 - 0.05 * size, size == 0),
            ("E³", {"model.members": 2}, 0.9 * (0.5 - 0.05 * size), False),
        )
    ]
    means = {arm.name: arm.nll for arm in arms}
    return study_record(arms, tune_trials=0, rungs=1, change=lambda trial: with_metrics(trial, {"test/nll": means[trial.arm]}))


def test_a_study_across_scales_is_normalised_by_its_own_plain_models() -> None:
    found = improvements(scaled(), "test/nll", COST, scale=["model.experts"])
    assert [(one.arm, one.baseline, one.scale) for one in found] == [(f"E³ {size}", f"ViT {size}", (size,)) for size in range(4)]
    assert [one.plain.mean for one in found] == pytest.approx([0.1] * 4)
    # NLL is a line in ln F, so φ' is 1/F.
    assert [one.weight for one in found] == pytest.approx([2.0**size / 8 for size in range(4)], rel=1e-6)
    assert [one.normalised for one in found] == pytest.approx([0.1 * 2.0**size / 8 for size in range(4)], rel=1e-6)
    given = improvements(scaled(), "test/nll", COST, scale=["model.experts"], phi=DERIVED_PHI)
    assert [one.weight for one in given] == pytest.approx(scale_weights([1.0, 2.0, 4.0, 8.0], DERIVED_PHI))


def test_one_scale_has_no_curve() -> None:
    assert improvements(scaled(1), "test/nll", COST, scale=["model.experts"]) == ()
    assert len(improvements(scaled(2), "test/nll", COST, scale=["model.experts"])) == 2


def test_a_relative_improvement_has_the_error_of_a_paired_ratio() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        shared = random.normal(0.6, 0.05, size=8)
        found.append(relative(shared, 0.9 * shared + random.normal(0.0, 0.01, size=8)))
    assert np.mean([one.mean for one in found]) == pytest.approx(0.1, abs=1e-3)
    assert np.mean([one.se for one in found]) == pytest.approx(np.std([one.mean for one in found]), rel=0.06)
    assert math.isnan(relative([], []).mean)
    assert math.isnan(relative([0.5], [0.4]).se)
