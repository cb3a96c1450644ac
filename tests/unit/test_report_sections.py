"""What the sections of a report say: calibration, load, other images, order, importance, cost, failures, caveats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.calibration import calibrations
from orchestrator.analysis.load import loads
from orchestrator.analysis.spending import spending, total_spending
from orchestrator.records import Bins, Cause, Description, Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report import summary_json
from orchestrator.report.caveats import caveats
from orchestrator.report.cells import MOST_REPLICATES, cells
from orchestrator.report.cost import cost
from orchestrator.report.figures import figures
from orchestrator.report.gaps import mishap_words
from orchestrator.report.groups import beyond, members
from orchestrator.report.importance import importance
from orchestrator.report.order import order
from orchestrator.report.render import draw
from tests.studyrecords import ABLATION, FakeArm, study_record, with_descriptions, with_runs, without_result

counts = st.lists(st.integers(0, 50), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def whole() -> StudyRecord:
    return with_descriptions(study_record(replicates=6, tune_trials=4, rungs=2))


def with_bins(each: list[list[int]]) -> StudyRecord:
    """A study of one arm whose replicates have so many images in each bin, of which every second one is right."""
    confidence = (0.125, 0.375, 0.625, 0.875)

    def change(trial: TrialRecord) -> TrialRecord:
        bins = Bins(count=tuple(each[trial.index]), confidence=confidence, accuracy=(0.5,) * 4)
        return dataclasses.replace(trial, described=Description(reliability={"test": bins}, load=()))

    return study_record(ABLATION[1:2], replicates=len(each), tune_trials=0, rungs=1, change=change)


@given(st.lists(counts, min_size=1, max_size=4))
def test_bins_of_replicates_are_put_together_by_their_images(each: list[list[int]]) -> None:
    found = calibrations(with_bins(each), "test")
    total = np.sum(each, axis=0)
    if not total.sum():
        assert found == ()
        return
    (row,) = found
    assert [one.share for one in row.bins] == pytest.approx([count / total.sum() for count in total if count])
    assert all(one.accuracy.mean == 0.5 for one in row.bins)
    assert [one.accuracy.n for one in row.bins] == [sum(bins[place] > 0 for bins in each) for place in range(4) if total[place]]


def test_experts_are_compared_by_their_place_in_the_order_of_load() -> None:
    """Which expert is the busiest differs from seed to seed; how much it is sent does not."""
    layers = {0: ((0.7, 0.2, 0.1), (0.5, 0.4, 0.1)), 1: ((0.1, 0.7, 0.2), (0.1, 0.5, 0.4))}

    def change(trial: TrialRecord) -> TrialRecord:
        return dataclasses.replace(trial, described=Description(reliability={}, load=layers[trial.index]))

    (found,) = loads(study_record(ABLATION[1:2], replicates=2, tune_trials=0, rungs=1, change=change))
    assert [mean.mean for mean in found.shares] == pytest.approx([0.6, 0.3, 0.1])
    assert all(mean.se == 0 for mean in found.shares)
    assert (found.experts, found.layers, found.n) == (3, 2, 2)


def test_a_described_study_has_its_figures_and_they_name_every_arm(whole: StudyRecord) -> None:
    drawn = {figure.name: figure for figure in figures(whole)}
    assert {"reliability", "load", "importance"} <= drawn.keys()
    svg = draw(drawn["reliability"]).svg
    assert all(f">{arm.name}</text>" in svg for arm in ABLATION)
    assert "ViT" not in drawn["load"].alt  # it has no experts
    assert {"reliability", "load"}.isdisjoint(figure.name for figure in figures(study_record(rungs=2)))


def test_marks_lead_to_the_cell_of_their_arm_and_nothing_else_is_read_out(whole: StudyRecord) -> None:
    drawn = {figure.name: figure for figure in figures(whole)}
    for name in ("effects", "frontier", "curves", "load", "reliability"):
        svg = draw(drawn[name]).svg
        for number, arm in enumerate(ABLATION):
            if f'aria-label="{arm.name}:' in svg:
                assert f'<a href="#cell-{number}" aria-label="{arm.name}:' in svg
        assert svg.count("aria-label") == svg.count("<a href=") > 0
        assert "vega.github.io" not in svg


def test_other_images_stand_in_tables_of_their_own(whole: StudyRecord) -> None:
    corrupted, foreign, few = beyond(whole)
    assert [column.heading for column in corrupted.table.columns] == ["NLL under corruptions", "Error under corruptions"]
    assert corrupted.more is not None
    assert [column.heading for column in corrupted.more.columns] == ["Fog", "Gaussian noise"]
    assert all(cell.mean != "–" for row in corrupted.more.rows for cell in row.cells)
    assert [column.arrow for column in foreign.table.columns] == ["↑", "↓"]
    assert [column.heading for column in few.table.columns] == ["1-shot accuracy", "25-shot accuracy"]
    assert few.more is None  # of one data set
    assert beyond(study_record(rungs=1)) == ()


def test_members_are_those_of_arms_that_have_several(whole: StudyRecord) -> None:
    found = members(whole)
    assert found is not None
    assert [row.arm for row in found.table.rows] == ["E³", "Tiling", "Tiling (σ×2)", "Tiling (σ×4)"]
    assert members(study_record(ABLATION[:2], rungs=1)) is None


def test_the_order_says_how_sure_it_is(whole: StudyRecord) -> None:
    found = order(whole)
    assert found is not None
    rows = {row.arm: row for row in found.rows}
    assert (rows["E³"].rank, rows["E³"].best, rows["E³"].on_frontier, rows["E³"].chance) == ("1", "> 99.9 %", "yes", "> 99.9 %")
    assert rows["ViT"].rank == "7"
    assert "2,000 draws of 6 replicates" in found.note
    assert "hypervolume" in found.note
    alone = order(study_record(replicates=1, tune_trials=0, rungs=1))
    assert alone is not None
    assert {row.chance for row in alone.rows} == {"–"}
    assert order(study_record(objectives=(), rungs=1)) is None


def test_importance_takes_apart_what_seeds_and_arms_explain(whole: StudyRecord) -> None:
    found = importance(whole)
    assert found is not None
    assert [row.name for row in found.rows][-2:] == ["seed", "noise"]
    assert sum(float(row.share.removesuffix(" %")) for row in found.rows) == pytest.approx(100, abs=0.3)
    assert importance(study_record(ABLATION[:1], rungs=1)) is None


def test_trials_that_arms_share_are_paid_once() -> None:
    twins = [FakeArm(name=name, overrides={}, nll=0.3, train_gflops=1.0) for name in ("one", "two")]
    record = study_record(twins, replicates=2, tune_trials=0, rungs=2)
    first = {trial.index: trial.key for trial in record.of("one", Phase.REPLICATE)}
    shared = dataclasses.replace(record, trials=tuple(dataclasses.replace(trial, key=first[trial.index]) for trial in record.trials))
    assert [row.replicates for row in spending(shared)] == [2, 2]
    total = total_spending(shared)
    assert (total.replicates, total.steps, total.held_s) == (2, 400, 8.5)


def test_cost_is_told_in_hours_of_what_trained() -> None:
    assert "5 workers took 0.0948 CPU hours" in cost(with_runs(study_record(replicates=2, tune_trials=0, rungs=2))).sentence


def test_failures_are_told_in_the_words_of_their_causes() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        if trial.arm == "E³" and trial.index == 0:
            failed = without_result(trial, TrialState.FAILED, "no")
            return dataclasses.replace(failed, attempts=2, causes=(Cause.CRASHED, Cause.RAISED))
        return dataclasses.replace(trial, attempts=2, causes=(Cause.CRASHED,)) if trial.arm == "ViT" and trial.index == 1 else trial

    record = study_record(replicates=3, tune_trials=0, rungs=1, change=change)
    assert mishap_words(record) == "1 trial failed. 3 attempts ended early: 2 crashed, 1 raised."
    assert mishap_words(study_record(replicates=1, tune_trials=0, rungs=1)) == ""


def said(record: StudyRecord, words: str) -> bool:
    return any(words in line for line in caveats(record))


def test_caveats_say_what_holds_of_this_study_and_nothing_else(whole: StudyRecord) -> None:
    assert said(whole, "No arm has the 8 replicates that an exact test over 6 arms takes")
    assert said(whole, "Only optim.learning_rate was tuned")
    plain = study_record(replicates=8, tune_trials=8, rungs=1)
    assert not said(plain, "replicates that an exact test")
    assert not said(plain, "diverged")
    assert not said(plain, "different values")
    assert said(study_record(replicates=2, tune_trials=0, rungs=1), "Nothing was tuned")


def test_a_value_at_the_end_of_its_space_is_a_caveat() -> None:
    record = study_record(replicates=2, tune_trials=5, rungs=1)
    tried = sorted(float(str(trial.point["optim.learning_rate"])) for trial in record.of("E³", Phase.TUNE))
    for chosen, at_end in ((tried[0], True), (tried[2], False), (tried[-1], True)):
        arms = tuple(dataclasses.replace(arm, selected={"optim.learning_rate": chosen}) for arm in record.arms if arm.name == "E³")
        assert said(dataclasses.replace(record, arms=arms), "smallest or largest that was tried") is at_end


def test_gaps_unequal_budgets_and_mixed_devices_are_caveats() -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        if trial.arm == "ViT" and trial.index == 0:
            return without_result(trial, TrialState.DIVERGED, "val/nll is NaN at step 100")
        device = "gpu" if trial.index == 1 else "cpu"
        return dataclasses.replace(trial, provenance={**trial.provenance, "device": device})

    record = study_record(replicates=3, tune_trials=0, rungs=1, change=change)
    uneven = dataclasses.replace(record, arms=tuple(dataclasses.replace(arm, tune_trials=number) for number, arm in enumerate(record.arms)))
    assert said(record, "1 replicate of ViT diverged")
    assert said(record, "Replicates of ViT are missing")
    assert said(record, "different values of device")
    assert said(uneven, "Arms were tuned with 0 to 6 trials")
    assert not said(record, "Arms were tuned with")


def test_a_replicate_without_a_description_is_a_caveat(whole: StudyRecord) -> None:
    trials = tuple(dataclasses.replace(trial, described=None) if trial.index == 0 else trial for trial in whole.trials)
    silent = dataclasses.replace(whole, trials=trials)
    assert said(silent, "7 replicates left no description")
    assert not said(whole, "no description")
    assert not said(study_record(replicates=1, tune_trials=0, rungs=1), "no description")


def test_a_card_holds_the_keys_of_its_replicates_as_far_as_there_is_room() -> None:
    record = study_record(ABLATION[1:3], replicates=MOST_REPLICATES + 2, tune_trials=0, rungs=1)
    first, second = cells(record)
    assert (first.anchor, second.anchor, first.baseline) == ("cell-0", "cell-1", True)
    assert len(first.replicates) == MOST_REPLICATES
    assert first.more == 2
    keys = {trial.key for trial in record.of("E³", Phase.REPLICATE)}
    assert {row.key for row in second.replicates} <= keys


def test_the_summary_holds_the_caveats(whole: StudyRecord) -> None:
    assert summary_json(whole)["caveats"] == list(caveats(whole))
