"""Two studies side by side: which arms they share, and what is said of the difference."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics

import pytest

from orchestrator.analysis.compare import differences, joined, matches
from orchestrator.analysis.summary import replicate_values
from orchestrator.cli import main
from orchestrator.keys import content_key
from orchestrator.records import Phase, StudyRecord, TrialRecord
from orchestrator.report import write_comparison
from orchestrator.report.comparison import Compared, verdict
from tests.studyrecords import ABLATION, study_record, with_metrics

LONGER = 2000
BETTER = 0.05


def longer(trial: TrialRecord) -> TrialRecord:
    """The trial as trained for twice the steps, a little better, unless it is a ViT."""
    if trial.arm == "ViT":
        return trial
    better = with_metrics(trial, {"test/nll": trial.metrics["test/nll"] - BETTER - trial.index / 1000})
    return dataclasses.replace(better, key=content_key(f"longer {trial.key}"), config={**trial.config, "train.steps": LONGER})


@pytest.fixture(scope="module")
def first() -> StudyRecord:
    return study_record(ABLATION[:4], name="short")


@pytest.fixture(scope="module")
def second(first: StudyRecord) -> StudyRecord:
    record = study_record((*ABLATION[:3], ABLATION[6]), name="long", change=longer)
    arms = tuple(dataclasses.replace(arm, name="Dense") if arm.name == "ViT" else arm for arm in record.arms)
    trials = tuple(dataclasses.replace(trial, arm="Dense") if trial.arm == "ViT" else trial for trial in record.trials)
    return dataclasses.replace(record, base={**record.base, "train.steps": LONGER}, arms=arms, trials=trials)


def test_arms_are_matched_by_name_and_else_by_their_trials(first: StudyRecord, second: StudyRecord) -> None:
    found = {row.first: row for row in matches(first, second)}
    assert {name: row.second for name, row in found.items()} == {
        "ViT · short": "Dense · long",
        "V-MoE · short": "V-MoE · long",
        "E³ · short": "E³ · long",
    }
    assert found["ViT · short"].same_trials
    assert found["E³ · short"].changes == {"train.steps": (1000, LONGER)}


def test_a_difference_is_paired_by_seed_and_corrected_over_the_pairs(first: StudyRecord, second: StudyRecord) -> None:
    found = differences(joined(first, second), matches(first, second), "test/nll")
    assert [(effect.baseline, effect.arm, effect.compared) for effect in found] == [
        ("V-MoE · short", "V-MoE · long", 2),
        ("E³ · short", "E³ · long", 2),
    ]
    ours, theirs = (replicate_values(record, "E³", "test/nll") for record in (second, first))
    expected = statistics.fmean(ours[index] - theirs[index] for index in range(8))
    assert math.isclose(found[1].effect.mean, expected, rel_tol=1e-12)
    assert found[1].resolved
    assert "E³ · long lower by" in verdict(Compared.of(first, second)).claim


def test_trials_of_other_seeds_are_not_paired(first: StudyRecord, second: StudyRecord) -> None:
    moved = dataclasses.replace(second, trials=tuple(dataclasses.replace(trial, seed=trial.seed + 100) for trial in second.trials))
    assert not differences(joined(first, moved), matches(first, moved), "test/nll")
    assert "none is resolved to differ" in verdict(Compared.of(first, moved)).claim


def test_studies_without_a_common_arm_are_described_together(first: StudyRecord) -> None:
    other = study_record(ABLATION[4:], name="other")
    found = verdict(Compared.of(first, other))
    assert found.claim.startswith("E³ · short has the lowest test NLL of 7 arms")
    assert found.detail.startswith("No arm is in both studies.")


def test_the_record_of_both_has_every_arm_and_replicate_once(first: StudyRecord, second: StudyRecord) -> None:
    both = joined(first, second)
    names = [arm.name for arm in both.arms]
    assert names[:2] == ["ViT · short", "Dense · long"]
    assert len(set(names)) == len(names) == 8
    assert len(both.trials) == 8 * 8
    assert {trial.phase for trial in both.trials} == {Phase.REPLICATE}
    overrides = {arm.name: arm.overrides for arm in both.arms}
    assert (overrides["V-MoE · short"], overrides["V-MoE · long"]) == ({"train.steps": 1000}, {"train.steps": LONGER})


def test_the_page_shows_pairs_first_and_escapes_names(first: StudyRecord, second: StudyRecord, tmp_path: pathlib.Path) -> None:
    done = write_comparison(first, dataclasses.replace(second, name="<script>"), tmp_path)
    page = pathlib.Path(str(done["report"])).read_text("utf-8")
    assert page.index('<section id="pairs">') < page.index('<section id="arms">')
    assert "the same trials" in page
    assert "train.steps: 1000 → 2000" in page
    assert "· <script>" not in page
    assert "· &lt;script&gt;" in page
    again = write_comparison(first, dataclasses.replace(second, name="<script>"), tmp_path)
    assert (again, pathlib.Path(str(again["report"])).read_text("utf-8")) == (done, page)


STUDY = """
from orchestrator import Arm, Objective, Replicates, Study
from trainers.curves import CurvesConfig

STUDY = Study(
    name={name!r}, trainer="trainers.curves:Curves", base=CurvesConfig(steps=20),
    arms=[Arm("a", {{}}, baseline=True)], protocol=Replicates(2), objectives=[Objective("test/nll")],
)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--compare", "one.py"], "a study cannot be compared with itself"),
        (["report", "--compare", "three.py"], "three.py"),
        (["report", "--compare", "two.py"], "there is no ledger here"),
    ],
)
def test_what_cannot_be_compared_is_one_message(
    arguments: list[str], message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        pathlib.Path(f"{name}.py").write_text(STUDY.format(name=name), "utf-8")
    assert main(["one.py", *arguments, "--json"]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(json.loads(said.out)["errors"]) == 1
