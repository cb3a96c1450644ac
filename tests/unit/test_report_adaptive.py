"""What tables and report say of a study whose number of replicates followed from results."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import pytest

from orchestrator import Adaptive
from orchestrator.analysis.adaptive import rounds_of
from orchestrator.analysis.effects import ArmEffect, effects
from orchestrator.analysis.rounds import Verdict
from orchestrator.analysis.sequential import boundary
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report import summary_json, write
from orchestrator.report.answer import Standing, answer
from orchestrator.report.caveats import caveats
from orchestrator.report.replicates import added
from orchestrator.report.table import effect_row
from tests.studyrecords import study_record

RULE = Adaptive(first=4, step=2, most=8, metric="test/nll")


def record(rule: Adaptive = RULE, *, upto: int = 8) -> StudyRecord:
    """The ablation with as many replicates as the rule gives, of which those from `upto` are not finished."""

    def change(trial: TrialRecord) -> TrialRecord:
        is_open = trial.phase is Phase.REPLICATE and trial.index >= upto
        return dataclasses.replace(trial, state=TrialState.LEASED, metrics={}) if is_open else trial

    whole = dataclasses.replace(study_record(change=change, replicates=rule.most), adaptive=rule)
    found = rounds_of(whole)
    assert found is not None
    arms = tuple(dataclasses.replace(arm, replicates=found.replicates_of(arm.name)) for arm in whole.arms)
    given = {arm.name: arm.replicates for arm in arms}
    trials = tuple(trial for trial in whole.trials if trial.phase is Phase.TUNE or trial.index < given[trial.arm])
    return dataclasses.replace(whole, arms=arms, trials=trials)


def effect(study: StudyRecord, arm: str, metric: str = "test/nll") -> ArmEffect:
    return next(row for row in effects(study, metric) if row.arm == arm)


def test_an_arm_that_was_settled_early_has_a_repeated_interval_over_the_pairs_it_has() -> None:
    row = effect(record(), "E³")
    assert (row.effect.n, row.resolved, row.repeated, row.verdict) == (6, True, True, Verdict.DIFFERENT)
    assert row.effect.high - row.effect.mean == pytest.approx(boundary([4, 6], 0.05) * row.effect.se)
    assert row.compared == 6
    assert math.isfinite(row.smallest)


def test_one_that_went_to_the_end_has_that_of_all_looks_in_every_metric() -> None:
    for metric in ("test/nll", "test/ece"):
        row = effect(record(), "Tiling", metric)
        assert (row.effect.n, row.repeated) == (8, True)
        assert row.effect.high - row.effect.mean == pytest.approx(boundary([4, 6, 8], 0.05) * row.effect.se)
    assert effect(record(), "Tiling").verdict is Verdict.MOST
    assert effect(record(), "Tiling", "test/ece").verdict is None


def test_a_round_that_is_not_over_is_not_looked_at() -> None:
    """Looking when it suits is what the boundaries do not allow for."""
    row = effect(record(upto=7), "Tiling")
    assert (row.effect.n, row.verdict) == (6, Verdict.OPEN)
    assert effect_row(row).verdict == "not resolved yet"
    early = effect(record(upto=3), "Tiling")
    assert early.effect.n == 3
    assert math.isnan(early.effect.low)
    assert "no look was taken" in answer(record(upto=3)).headline


def test_the_answer_and_the_page_say_that_intervals_are_repeated(tmp_path: pathlib.Path) -> None:
    found = answer(record())
    assert found.standing is Standing.RESOLVED
    assert "E³ lowers test NLL" in found.claim
    assert "repeated 95" in found.evidence
    page = write(record(), tmp_path).read_text()
    assert 'id="replicates"' in page
    assert 'href="#replicates"' in page
    assert "sequential p" in page
    assert "exact sign-flip" not in page
    assert "exact sign-flip" in write(study_record(), tmp_path / "fixed").read_text()


def test_the_section_says_what_each_arm_got_and_why_no_more() -> None:
    section = added(record())
    assert section is not None
    rows = {row.arm: row for row in section.rows}
    assert (rows["E³"].replicates, rows["E³"].looks, rows["E³"].why) == ("6", "2", "different")
    assert (rows["Tiling"].replicates, rows["Tiling"].looks, rows["Tiling"].why) == ("8", "3", "not settled with 8")
    assert "4 replicates; V-MoE, and the arms" in section.protocol
    assert "8 of each arm would have been 56" in section.protocol
    assert added(study_record()) is None


def test_a_margin_and_a_budget_are_named_where_they_ended_a_comparison() -> None:
    alike = added(record(dataclasses.replace(RULE, smaller_than=0.05)))
    assert alike is not None
    assert "alike: a difference smaller than 0.05" in {row.why for row in alike.rows}
    assert effect_row(effect(record(dataclasses.replace(RULE, smaller_than=0.05)), "Tiling")).verdict.startswith("alike")
    spent = added(record(dataclasses.replace(RULE, budget=30)))
    assert spent is not None
    assert "not settled within 30 replicates of all arms" in {row.why for row in spent.rows}


def test_the_summary_has_rule_looks_and_verdicts() -> None:
    found = summary_json(record())["adaptive"]
    assert isinstance(found, dict)
    assert found["rule"] == dataclasses.asdict(RULE)
    assert found["looks"] == [4, 6, 8]
    assert summary_json(study_record())["adaptive"] is None


def test_a_reader_is_told_that_differences_that_stopped_early_are_too_large() -> None:
    said = " ".join(caveats(record()))
    assert "a little too large" in said
    assert "exact test" not in said
    assert "a little too large" not in " ".join(caveats(study_record()))
