"""Analysis of study records: the arm table, effects, the frontier, curves, tuning, what is missing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics

import pytest

from orchestrator.analysis.best import best_arms
from orchestrator.analysis.curves import curves
from orchestrator.analysis.effects import effects
from orchestrator.analysis.frontier import frontier
from orchestrator.analysis.metrics import columns, cost_metric, curve_metric, direction_of, quality_metric
from orchestrator.analysis.missing import NOT_PLANNED, missing
from orchestrator.analysis.power import smallest_effect
from orchestrator.analysis.summary import mean_of, replicate_values, summarise
from orchestrator.analysis.tuning import tuning
from orchestrator.records import ArmRecord, ObjectiveRecord, Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report.answer import answer
from tests.studyrecords import ABLATION, study_record, with_metrics, without_result


@pytest.fixture(scope="module")
def ablation() -> StudyRecord:
    return study_record()


def test_a_row_is_the_mean_over_finished_replicates(ablation: StudyRecord) -> None:
    row = next(row for row in summarise(ablation) if row.name == "E³")
    values = [trial.metrics["test/nll"] for trial in ablation.of("E³", Phase.REPLICATE)]
    assert row.means["test/nll"].mean == pytest.approx(statistics.fmean(values))
    assert row.means["test/nll"].se == pytest.approx(statistics.stdev(values) / math.sqrt(8))
    assert (row.n, row.planned) == (8, 8)


def test_tuning_trials_and_unfinished_ones_enter_no_mean() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        if trial.phase is Phase.TUNE:
            return with_metrics(trial, {"test/nll": 1e6})
        return dataclasses.replace(trial, state=TrialState.STOPPED) if trial.index else trial

    record = study_record(change=change)
    assert [row.n for row in summarise(record)] == [1] * 7
    assert max(row.means["test/nll"].mean for row in summarise(record)) < 1


@pytest.mark.parametrize("values", [[1.0, math.inf], [math.inf, -math.inf, 1.0]])
def test_an_infinite_value_leaves_no_standard_error(values: list[float]) -> None:
    mean = mean_of(values)
    assert not math.isfinite(mean.mean)
    assert math.isnan(mean.se)


def test_one_value_has_no_standard_error_and_none_no_mean() -> None:
    assert math.isnan(mean_of([0.3]).se)
    assert math.isnan(mean_of([]).mean)


def test_objectives_lead_the_columns_and_costs_close_them(ablation: StudyRecord) -> None:
    assert columns(ablation) == (
        "test/nll",
        "cost/train_gflops",
        "test/error",
        "test/ece",
        "test/brier",
        "test/diversity",
        "corrupted/nll",
        "corrupted/error",
        "cost/parameters",
    )


def test_a_cost_is_known_before_any_replicate_is_finished() -> None:
    record = study_record(change=lambda trial: without_result(trial, TrialState.PLANNED))
    assert columns(record) == ("test/nll", "cost/train_gflops", "cost/parameters")
    assert [set(row.means) for row in summarise(record)] == [{"cost/train_gflops", "cost/parameters"}] * 7


def test_metrics_have_a_direction_or_none(ablation: StudyRecord) -> None:
    upside_down = dataclasses.replace(ablation, objectives=(ObjectiveRecord(metric="test/nll", direction="maximize"),))
    assert direction_of(upside_down, "test/nll") == "maximize"
    assert [direction_of(ablation, name) for name in ("test/error", "test/accuracy", "test/diversity", "cost/x")] == [
        "minimize",
        "maximize",
        "",
        "minimize",
    ]


def test_the_answer_is_about_the_first_objective_that_is_no_cost(ablation: StudyRecord) -> None:
    turned = dataclasses.replace(ablation, objectives=ablation.objectives[::-1])
    assert (quality_metric(turned), cost_metric(turned), curve_metric(turned)) == ("test/nll", "cost/train_gflops", "val/nll")
    assert quality_metric(dataclasses.replace(ablation, objectives=())) == ""


def test_effects_are_paired_by_replicate(ablation: StudyRecord) -> None:
    ours, theirs = (replicate_values(ablation, name, "test/nll") for name in ("V-MoE", "E³"))
    effect = next(effect for effect in effects(ablation, "test/nll") if effect.arm == "E³")
    assert effect.effect.mean == pytest.approx(statistics.fmean(theirs[index] - ours[index] for index in range(8)))
    unpaired = math.hypot(*(statistics.stdev(values.values()) / math.sqrt(8) for values in (ours, theirs)))
    assert effect.effect.se < unpaired


def test_replicates_that_only_one_arm_finished_are_not_compared() -> None:
    gone = {("V-MoE", 0), ("E³", 3)}
    record = study_record(change=lambda trial: without_result(trial, TrialState.FAILED) if (trial.arm, trial.index) in gone else trial)
    pairs = {effect.arm: effect.effect.n for effect in effects(record, "test/nll")}
    assert (pairs["E³"], pairs["ViT"]) == (6, 7)


def with_ensemble(record: StudyRecord) -> StudyRecord:
    """The record with an arm that averages pairs of E³'s replicates, a tenth better than they are."""
    arm = ArmRecord(name="E³ ×2", baseline=False, overrides={}, tune_trials=0, replicates=4, selected={}, of=("E³",), members=2)
    groups = itertools.islice(record.of("E³", Phase.REPLICATE), 4)
    trials = [
        dataclasses.replace(
            trial, key=f"group-{trial.index}", arm=arm.name, metrics={**trial.metrics, "test/nll": trial.metrics["test/nll"] * 0.9}
        )
        for trial in groups
    ]
    return dataclasses.replace(record, arms=(*record.arms, arm), trials=(*record.trials, *trials))


def test_a_derived_arm_unsettles_no_trained_one_and_is_not_the_answer(ablation: StudyRecord) -> None:
    alone, beside = (effects(record, "test/nll") for record in (ablation, with_ensemble(ablation)))
    assert beside[:-1] == alone
    assert (beside[-1].arm, beside[-1].effect.n, beside[-1].compared) == ("E³ ×2", 4, 1)
    assert answer(with_ensemble(ablation)).headline == answer(ablation).headline


def test_a_clear_effect_is_resolved_and_a_small_one_says_what_it_would_take(ablation: StudyRecord) -> None:
    found = {effect.arm: effect for effect in effects(ablation, "test/nll")}
    assert found["E³"].resolved
    assert found["E³"].p_holm == pytest.approx(6 * 2**-7)
    assert not found["Tiling"].resolved
    assert 8 < found["Tiling"].needed < math.inf


def test_an_effect_says_what_its_replicates_could_have_found(ablation: StudyRecord) -> None:
    found = next(effect for effect in effects(ablation, "test/nll") if effect.arm == "Tiling")
    sd = found.effect.se * math.sqrt(8)
    assert (found.smallest, found.smallest_t) == (
        smallest_effect(sd, 8, alpha=0.05 / 6),
        smallest_effect(sd, 8, alpha=0.05 / 6, exact=False),
    )
    assert abs(found.effect.mean) < found.smallest_t < found.smallest
    assert found.more == found.needed - 8
    assert next(effect for effect in effects(ablation, "test/nll") if effect.arm == "E³").more == 0
    assert effects(study_record(replicates=5), "test/nll")[0].smallest == math.inf


def test_replicates_that_diverged_are_told_beside_the_effect_they_are_missing_from() -> None:
    gone = {("E³", 3), ("E³", 5)}
    record = study_record(change=lambda trial: without_result(trial, TrialState.DIVERGED) if (trial.arm, trial.index) in gone else trial)
    found = {effect.arm: effect for effect in effects(record, "test/nll")}
    assert (found["E³"].diverged, found["E³"].effect.n, found["ViT"].diverged) == (2, 6, 0)


def test_one_replicate_gives_a_difference_and_no_interval() -> None:
    effect = effects(study_record(replicates=1), "test/nll")[1]
    assert effect.effect.mean < 0
    assert math.isnan(effect.effect.low)
    assert math.isnan(effect.needed)
    assert effect.smallest == math.inf
    assert not effect.resolved


def test_arms_of_one_config_differ_by_nothing() -> None:
    record = study_record(change=lambda trial: with_metrics(trial, {"test/nll": 0.3}))
    effect = effects(record, "test/nll")[0]
    assert (effect.effect.mean, effect.effect.se, effect.effect.p, effect.needed) == (0.0, 0.0, 1.0, math.inf)


def test_arms_that_follow_each_other_exactly_have_no_spread_of_rounding() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        ours = 0.3 + 0.0137 * trial.index
        return with_metrics(trial, {"test/nll": ours - (0.1 if trial.arm == "E³" else 0.0)})

    effect = next(effect for effect in effects(study_record(change=change), "test/nll") if effect.arm == "E³")
    assert effect.effect.se == 0
    assert effect.effect.mean == pytest.approx(-0.1)
    assert effect.resolved


def test_without_a_baseline_there_are_no_effects() -> None:
    assert effects(study_record([dataclasses.replace(arm, baseline=False) for arm in ABLATION]), "test/nll") == ()


def test_an_infinite_value_resolves_nothing() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        return with_metrics(trial, {"test/nll": math.inf}) if trial.arm == "E³" and trial.index == 0 else trial

    record = study_record(change=change)
    found = {effect.arm: effect for effect in effects(record, "test/nll")}
    assert not found["E³"].resolved
    assert found["ViT"].p_holm == pytest.approx(5 * 2**-7)  # corrected for the five arms that can be compared
    assert "E³" not in best_arms(record, "test/nll")


def test_the_best_arm_comes_first_and_what_cannot_be_told_from_it_after(ablation: StudyRecord) -> None:
    assert best_arms(ablation, "test/nll") == ("E³",)
    assert best_arms(ablation, "cost/train_gflops") == ("ViT",)
    assert best_arms(ablation, "test/diversity") == ()
    without = study_record([arm for arm in ABLATION if arm.name != "E³"])
    assert set(best_arms(without, "test/nll")) == {"V-MoE", "Tiling", "Tiling (σ×2)", "Partitioning"}


def test_the_frontier_of_a_study_follows_the_directions(ablation: StudyRecord) -> None:
    metrics = ("cost/train_gflops", "test/nll")
    assert [point.arm for point in frontier(ablation, metrics) if point.on_frontier] == ["ViT", "V-MoE", "E³"]
    worse = dataclasses.replace(ablation, objectives=(ObjectiveRecord(metric="test/nll", direction="maximize"),))
    assert [point.arm for point in frontier(worse, metrics) if point.on_frontier] == ["ViT"]


def test_a_curve_is_the_mean_at_each_rung(ablation: StudyRecord) -> None:
    curve = next(curve for curve in curves(ablation, "val/nll") if curve.arm == "V-MoE")
    values = [trial.rungs[2].metrics["val/nll"] for trial in ablation.of("V-MoE", Phase.REPLICATE)]
    assert curve.steps[2] == 300
    assert curve.means[2].mean == pytest.approx(statistics.fmean(values))
    assert curve.n == 8


def test_a_trial_under_way_bends_no_curve() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        if trial.phase is Phase.TUNE or trial.index < 4:
            return trial
        return dataclasses.replace(without_result(trial, TrialState.LEASED), rungs=trial.rungs[:3])

    assert {curve.n for curve in curves(study_record(change=change), "val/nll")} == {4}
    assert curves(study_record(change=change), "no/such") == ()


def test_tuning_shows_budget_states_and_the_selected_point() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        if trial.phase is Phase.TUNE and trial.arm == "ViT":
            if trial.index == 1:
                return without_result(trial, TrialState.DIVERGED, "val/nll is NaN at step 100")
            if trial.index == 2:
                return dataclasses.replace(without_result(trial, TrialState.STOPPED), rungs=trial.rungs[:4])
        return trial

    record = study_record(change=change)
    row, stopped = tuning(record)[0], next(trial for trial in record.trials if trial.state is TrialState.STOPPED)
    assert (row.arm, row.planned, row.spent, row.steps) == ("ViT", 8, 8, 7400)
    assert row.points[1].value is None
    assert row.points[2].value == stopped.rungs[-1].metrics["val/nll"]
    assert [point.point for point in row.points if point.selected] == [row.selected]


def test_a_study_without_tuning_has_none() -> None:
    record = study_record(tune_trials=0)
    assert tuning(record) == ()
    assert missing(record) == ()


def test_what_is_missing_is_named_with_its_reasons() -> None:
    def change(trial: TrialRecord) -> TrialRecord | None:
        if trial.arm == "E³" and trial.phase is Phase.REPLICATE:
            if trial.index < 3:
                return without_result(trial, TrialState.FAILED, "out of memory\nTraceback …")
            return without_result(trial, TrialState.DIVERGED, "NaN") if trial.index == 3 else None
        if trial.arm == "ViT" and trial.phase is Phase.TUNE and trial.index < 2:
            return without_result(trial, TrialState.DIVERGED, "NaN")
        return trial

    (entry,) = missing(study_record(change=change))
    assert (entry.arm, entry.phase, entry.count, entry.planned) == ("E³", Phase.REPLICATE, 8, 8)
    assert [(cause.state, cause.reason, cause.count) for cause in entry.causes] == [
        (NOT_PLANNED, "", 4),
        ("failed", "out of memory", 3),
        ("diverged", "NaN", 1),
    ]
