"""Derived arms: what a study may ask for, which trials make a group, what it is compared with, and what a lost file costs."""

from __future__ import annotations

import argparse
import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from orchestrator import Arm, Ensemble, LogUniform, Objective, Replicates, Study, Tune
from orchestrator.analysis.best import best_arms
from orchestrator.analysis.effects import effects
from orchestrator.analysis.missing import missing
from orchestrator.analysis.paired import paired_effect
from orchestrator.analysis.summary import paired_values, summarise
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.context import plan_view, read_study
from orchestrator.contract import PREDICTIONS
from orchestrator.derived import damaged, measured, standing
from orchestrator.enqueue import plan_rows
from orchestrator.errors import StudyError, collected
from orchestrator.ledger import Entry, Ledger
from orchestrator.order import trial_folder
from orchestrator.plan import Planner
from orchestrator.plan_table import plan_json, plan_table
from orchestrator.records import Phase, StudyRecord, TrialState
from orchestrator.report import summary_json, write
from orchestrator.report.gaps import banner, mishaps
from orchestrator.report.provenance import derived_words, facts, origins
from orchestrator.spec import spec_of, study_record
from tests.ledgers import register
from tests.studyrecords import study_record as made_up
from trainers import predictions
from trainers.config import VisionConfig
from trainers.curves import Curves, CurvesConfig
from trainers.vision import Vision

CLASSES, IMAGES = 3, 24
LABELS = np.arange(IMAGES, dtype=np.int32) % CLASSES


class Alone(Curves):
    """A trainer as it was before there were ensembles."""

    name = "tests:Alone"
    combine = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


def study(*arms: Arm | Ensemble, replicates: int = 4, **others: object) -> Study:
    return Study(
        name="s",
        trainer="trainers.vision:Vision",
        base=VisionConfig(),
        arms=arms,
        protocol=Replicates(replicates),
        objectives=[Objective("test/nll"), Objective("cost/train_gflops")],
        **others,
    )


def said(seed: int, arm: str) -> dict[str, np.ndarray]:
    """What a trial says of each image."""
    draw = np.random.default_rng([seed, *arm.encode()])
    logits = draw.normal(size=(1, IMAGES, CLASSES)) + 1.5 * np.eye(CLASSES)[LABELS]
    log_probs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)
    return {f"{split}/{name}": array for split in ("val", "test") for name, array in (("log_probabilities", log_probs), ("labels", LABELS))}


def nll(*rows: dict[str, np.ndarray]) -> float:
    """Of the mean probability, in NumPy."""
    mean = np.mean([np.exp(row["test/log_probabilities"][0].astype(np.float64)) for row in rows], axis=0)
    return float(-np.log(mean[np.arange(IMAGES), LABELS]).mean())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A study of which trials were run, as far as the ledger can tell.

    Attributes:
        ledger: Has their results.
        out: Has their predictions.
    """

    ledger: Ledger
    out: pathlib.Path

    @property
    def record(self) -> StudyRecord:
        spec = self.ledger.study_spec("s")
        assert spec is not None
        return study_record(spec, self.ledger.trial_records("s"))

    @property
    def whole(self) -> StudyRecord:
        return measured(self.record, Vision(), self.ledger, self.out)

    def file(self, arm: str, index: int) -> pathlib.Path:
        [trial] = [trial for trial in self.record.trials if (trial.arm, trial.index) == (arm, index)]
        [row] = self.ledger.artifacts([trial.key])
        return self.out / row.uri


def ran(folder: pathlib.Path, asked: Study, *, unfinished: Sequence[tuple[str, int]] = (), silent: Sequence[tuple[str, int]] = ()) -> Ran:
    """Runs every trial but the unfinished ones; silent ones leave no predictions."""
    ledger, trainer, base = Ledger.open(folder / "ledger.db"), Vision(), flatten(asked.base)
    plan = Planner(asked, trainer, base).plan({})
    ledger.insert_plan(plan_rows("s", trainer, plan, spec_of(asked, trainer, base, "", plan, {})))
    places = {trial.key: (trial.arm, trial.index, trial.seed) for trial in plan.trials}
    worker = register(ledger, study="s")
    while leases := ledger.lease("s", worker, 100, lease_s=600.0):
        for lease in leases:
            arm, index, seed = places[lease.key]
            if (arm, index) in unfinished:
                continue
            row = said(seed, arm)
            inner = trial_folder(pathlib.PurePosixPath(), lease.key)
            artifacts = {} if (arm, index) in silent else {PREDICTIONS: str(inner / predictions.save(folder / inner, lease.key, row))}
            metrics = {"test/nll": nll(row), "val/nll": nll(row)}
            entry = Entry(key=lease.key, fence=lease.fence, step=10, metrics=metrics, outcome=TrialState.COMPLETE, artifacts=artifacts)
            assert all(ledger.record(worker, [entry]).values())
    return Ran(ledger=ledger, out=folder)


BASE = Arm("V-MoE", baseline=True)
OTHER = Arm("ViT", {"model.moe_placement": "none"})
TWO = Ensemble("V-MoE ×2", of="V-MoE", members=2)


@pytest.fixture
def five(tmp_path: pathlib.Path) -> Ran:
    """Five replicates: two pairs and one left over."""
    return ran(tmp_path, study(BASE, TWO, OTHER, Ensemble("both", of=["V-MoE", "ViT"]), replicates=5))


# What a study may ask for


def complaints(asked: Study, trainer: object | None = None) -> str:
    return "\n\n".join(map(str, study_problems(asked, trainer or Vision(), flatten(asked.base))))


def test_an_ensemble_that_can_be_made_is_no_problem() -> None:
    assert not complaints(study(BASE, TWO, OTHER, Ensemble("both", of=("V-MoE", "ViT"), members=2), Ensemble("all", of="ViT", members=4)))


def test_every_mistake_in_ensembles_is_told_at_once() -> None:
    asked = study(
        BASE,
        OTHER,
        Arm("same", {"model.moe_placement": "none"}),
        Ensemble("a", of="V-MoEE", members=2),
        Ensemble("b", of="V-MoE", members=5),
        Ensemble("ViT", of="V-MoE", members=2),
        Ensemble("c", of="b", members=2),
        Ensemble("d", of=["ViT", "same"]),
        Ensemble("e", of=["ViT", "ViT"]),
    )
    found = complaints(asked)
    assert "2 arms are named 'ViT'" in found
    assert (
        "ensemble 'a' is made of 'V-MoEE', which is no arm\n  found:    V-MoEE\n  expected: one of 3 trained arms; closest: V-MoE" in found
    )
    assert "ensemble 'b' has more members than there are replicates\n  found:    members=5\n  expected: at most the 4 replicates" in found
    assert "ensemble 'c' is made of 'b', which is derived itself" in found
    assert "ensemble 'd' averages the same trials twice\n  found:    ViT, same" in found
    assert "ensemble 'e' averages the same trials twice" in found
    assert found.count("fix:") == 6


def test_a_word_that_means_nothing_is_refused_where_it_is_written() -> None:
    with collected() as problems:
        Ensemble(" ", of="V-MoE", members=2)
        Ensemble("a", of="V-MoE")
        Ensemble("b", of=[], members=2)
        Ensemble("c", of="V-MoE", members=2.0)  # pyright: ignore[reportArgumentType]
        Ensemble("d", of="V-MoE", members=0)
        Ensemble("e", of="V-MoE", members=2, baseline=True)
    assert [problem.what for problem in problems] == [
        "an ensemble has no name",
        "ensemble 'a' has fewer than 2 members",
        "ensemble 'b' has fewer than 2 members",
        "ensemble 'c' needs a number of members",
        "ensemble 'd' needs a number of members",
        "ensemble 'e' cannot be the baseline",
    ]
    with pytest.raises(StudyError, match="has no arms"):
        study(TWO)


def test_a_trainer_that_cannot_average_says_so_at_plan_time() -> None:
    asked = Study(
        name="s",
        trainer="tests:Alone",
        base=CurvesConfig(),
        arms=[Arm("a"), Ensemble("a ×2", of="a", members=2)],
        protocol=Replicates(2),
    )
    assert "the trainer tests:Alone cannot make ensembles" in complaints(asked, Alone())
    assert not complaints(asked, Curves())


def test_an_ensemble_adds_no_trial_and_survives_a_profile() -> None:
    without, asked = study(BASE), study(TWO, BASE)
    first, second = (Planner(row, Vision(), flatten(row.base)).plan({}) for row in (without, asked))
    assert list(first.trials) == list(second.trials)
    assert asked.following(Replicates(8)).ensembles == asked.asking("why?").ensembles == (TWO,)


FILE = """
from orchestrator import *
from trainers.curves import CurvesConfig

STUDY = Study(
    name="s",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(),
    arms=[Ensemble("a ×3", of="a", members=3), Arm("a"), Arm("b", {"size": 50}), Ensemble("all", of=["a", "b"], members=4)],
    protocol=Replicates(8),
)
"""


def test_the_plan_shows_what_an_ensemble_is_made_of_and_costs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "study.py").write_text(FILE)
    options = argparse.Namespace(study=str(tmp_path / "study.py"), profile="", set=[], out=tmp_path / "runs", storage="")
    view = plan_view(read_study(options), None, 2)
    text = io.StringIO()
    Console(file=text, width=200, color_system=None).print(plan_table(view))
    assert "a ×3: derived, 0 trials, from 6 of a (2 left over), in 2 groups of 3\n" in text.getvalue()
    assert "all: derived, 0 trials, from 8 of a and b, in 2 groups of 8\n" in text.getvalue()
    document = cast(Any, plan_json(view))
    assert [row["cost"]["cost/parameters"] for row in document["derived"]] == [3e4, 4 * (1e4 + 2.5e3)]
    assert [row["replicates"] for row in document["derived"]] == [2, 2]
    assert len(document["trials"]) == document["totals"]["new"] == 16


# Groups


def test_groups_are_disjoint_and_in_the_order_of_the_replicates(five: Ran) -> None:
    trials = list(five.whole.of("V-MoE ×2", Phase.REPLICATE))
    wanted = [nll(said(first, "V-MoE"), said(first + 1, "V-MoE")) for first in (0, 2)]
    assert [trial.metrics["test/nll"] for trial in trials] == pytest.approx(wanted, rel=1e-6)
    assert [(trial.index, trial.state) for trial in trials] == [(0, TrialState.COMPLETE), (1, TrialState.COMPLETE)]
    assert {"test/diversity", "test/error", "test/ece", "test/brier", "val/nll"} <= trials[0].metrics.keys()


def test_an_ensemble_of_several_arms_takes_the_same_replicate_of_each(five: Ran) -> None:
    trials = list(five.whole.of("both", Phase.REPLICATE))
    wanted = [nll(said(seed, "V-MoE"), said(seed, "ViT")) for seed in range(5)]
    assert [trial.metrics["test/nll"] for trial in trials] == pytest.approx(wanted, rel=1e-6)


def test_all_replicates_can_be_one_group(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE, Ensemble("all", of="V-MoE", members=4)))
    [row] = [row for row in summarise(done.whole) if row.name == "all"]
    assert (row.n, row.planned) == (1, 1)
    assert row.means["test/nll"].mean == pytest.approx(nll(*(said(seed, "V-MoE") for seed in range(4))), rel=1e-6)
    [effect] = effects(done.whole, "test/nll")
    assert effect.effect.n == 1
    assert effect.effect.mean == pytest.approx(row.means["test/nll"].mean - np.mean([nll(said(seed, "V-MoE")) for seed in range(4)]))


def test_an_ensemble_costs_as_much_as_all_of_its_members(five: Ran) -> None:
    alone, two, both = (next(five.whole.of(name, Phase.REPLICATE)).cost for name in ("V-MoE", "V-MoE ×2", "both"))
    assert two == {name: 2 * value for name, value in alone.items()}
    dense = next(five.whole.of("ViT", Phase.REPLICATE)).cost
    assert both == {name: value + dense[name] for name, value in alone.items()}


# Statistics


def test_a_group_is_compared_with_the_mean_of_the_baseline_over_the_same_replicates(five: Ran) -> None:
    found = {effect.arm: effect for effect in effects(five.whole, "test/nll")}
    alone = np.array([nll(said(seed, "V-MoE")) for seed in range(5)])
    ours = np.array([nll(said(first, "V-MoE"), said(first + 1, "V-MoE")) for first in (0, 2)])
    wanted = paired_effect(alone[:4].reshape(2, 2).mean(axis=1), ours)
    assert found["V-MoE ×2"].effect.mean == pytest.approx(wanted.mean, rel=1e-5)
    assert found["V-MoE ×2"].effect.se == pytest.approx(wanted.se, rel=1e-5)
    assert found["V-MoE ×2"].effect.n == 2
    assert found["both"].effect.n == found["ViT"].effect.n == 5


def test_ensembles_of_two_sizes_are_compared_over_what_both_are_made_of(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE, TWO, Ensemble("×3", of="V-MoE", members=3), Ensemble("×4", of="V-MoE", members=4), replicates=8))
    two = [trial.metrics["test/nll"] for trial in done.whole.of("V-MoE ×2", Phase.REPLICATE)]
    four = [trial.metrics["test/nll"] for trial in done.whole.of("×4", Phase.REPLICATE)]
    three = [trial.metrics["test/nll"] for trial in done.whole.of("×3", Phase.REPLICATE)]
    assert paired_values(done.whole, "V-MoE ×2", "×4", "test/nll") == ([(two[0] + two[1]) / 2, (two[2] + two[3]) / 2], four)
    assert paired_values(done.whole, "×3", "V-MoE ×2", "test/nll") == ([(three[0] + three[1]) / 2], [(two[0] + two[1] + two[2]) / 3])
    assert best_arms(done.whole, "test/nll")[0] in ("×3", "×4")


def test_what_an_effect_would_take_is_said_in_replicates_of_the_study(five: Ran) -> None:
    found = {effect.arm: effect for effect in effects(five.whole, "test/nll")}["V-MoE ×2"]
    assert found.members == 2
    assert found.needed % 2 == 0
    assert found.needed >= 2 * 6, "an exact test takes six pairs, and each is of two replicates"


def test_pairing_trained_arms_is_what_it_was() -> None:
    record = made_up()
    ours, theirs = paired_values(record, "V-MoE", "E³", "test/nll")
    wanted = [[trial.metrics["test/nll"] for trial in record.of(name, Phase.REPLICATE)] for name in ("V-MoE", "E³")]
    assert [ours, theirs] == wanted


# What is not there


def test_a_damaged_file_costs_its_group_and_says_how_to_get_it_back(five: Ran) -> None:
    file = five.file("V-MoE", 3)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    [row] = [row for row in summarise(five.whole) if row.name == "V-MoE ×2"]
    assert (row.n, row.planned) == (1, 2)
    entry, other = missing(five.whole)
    assert (entry.arm, entry.count, entry.causes[0].state) == ("V-MoE ×2", 1, "failed")
    assert (other.arm, other.count) == ("both", 1)
    reason = entry.causes[0].reason
    assert re.match(
        r"the predictions of trial \w+ cannot be read: .*\.safetensors: its content does not match its hash; to get it back: ", reason
    )
    found = banner(five.whole)
    assert found is not None
    assert reason in found.lines[0]
    assert not mishaps(five.whole), "nothing is wrong with a trial"


def test_only_complete_trials_whose_file_cannot_be_read_are_damaged(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE, TWO, OTHER), unfinished=[("V-MoE", 1)], silent=[("V-MoE", 2)])
    assert damaged(done.record, Vision(), done.ledger, done.out) == {}
    gone, torn = done.file("V-MoE", 0), done.file("ViT", 3)
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-9])
    keys = {trial.key for trial in done.record.trials if (trial.arm, trial.index) in (("V-MoE", 0), ("ViT", 3))}
    found = damaged(done.record, Vision(), done.ledger, done.out)
    assert found.keys() == keys
    assert damaged(done.record, Alone(), done.ledger, done.out) == {}
    assert done.ledger.redo(found) == 2
    assert {trial.key for trial in done.record.trials if trial.state is TrialState.PLANNED} == keys


def test_a_report_is_written_whatever_became_of_the_files(five: Ran, tmp_path: pathlib.Path) -> None:
    for index in range(4):
        five.file("V-MoE", index).unlink()
    write(five.whole, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"\| V-MoE ×2 \| 0 of 2 \| – \|", text)
    assert "to get it back: put it back in the queue with `retry`" in text.replace("\\", "")
    assert "V-MoE ×2,0,0,2,,,0" in (tmp_path / "report" / "table.csv").read_text()


def test_predictions_of_another_version_of_the_trainer_are_not_read(five: Ran) -> None:
    older = dataclasses.replace(five.record, version="0")
    found = [trial for trial in measured(older, Vision(), five.ledger, five.out).trials if trial.arm == "V-MoE ×2"]
    assert {trial.state for trial in found} == {TrialState.FAILED}
    assert all("trained by version 0 of trainers.vision:Vision" in trial.reason for trial in found)
    assert damaged(older, Vision(), five.ledger, five.out) == {}


def test_a_trial_without_predictions_is_told_of(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE, TWO), silent=[("V-MoE", 1)])
    [entry] = missing(done.whole)
    assert re.match(r"trial \w+ left no predictions: no such artifact in the ledger", entry.causes[0].reason)


def test_a_group_waits_for_all_of_its_members(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE, TWO), unfinished=[("V-MoE", 1)])
    for record in (done.whole, standing(done.record)):
        assert [trial.state for trial in record.of("V-MoE ×2", Phase.REPLICATE)] == [TrialState.PLANNED, TrialState.COMPLETE]
    assert [trial.metrics for trial in standing(done.record).of("V-MoE ×2", Phase.REPLICATE)][1].keys() == {*done.record.trials[0].cost}


@pytest.mark.parametrize(
    ("state", "follows", "words"),
    [
        (TrialState.FAILED, TrialState.FAILED, "replicate 1 of V-MoE failed"),
        (TrialState.DIVERGED, TrialState.FAILED, "replicate 1 of V-MoE diverged"),
        (TrialState.STOPPED, TrialState.STOPPED, "replicate 1 of V-MoE was stopped"),
    ],
)
def test_a_group_ends_with_a_member_that_ends_without_a_result(five: Ran, state: TrialState, follows: TrialState, words: str) -> None:
    trials = [
        dataclasses.replace(trial, state=state, reason="so", metrics={}) if (trial.arm, trial.index) == ("V-MoE", 1) else trial
        for trial in five.record.trials
    ]
    record = measured(dataclasses.replace(five.record, trials=tuple(trials)), Vision(), five.ledger, five.out)
    first, second = record.of("V-MoE ×2", Phase.REPLICATE)
    assert (first.state, first.reason) == (follows, words)
    assert second.state is TrialState.COMPLETE


def test_nothing_is_planned_for_an_ensemble_before_its_members_are(tmp_path: pathlib.Path) -> None:
    tuned = Tune(trials=2, select="val/nll", then=Replicates(4))
    asked = study(BASE, TWO, nuisance={"optim.learning_rate": LogUniform(1e-3, 1e-1)}).following(tuned)
    done = ran(tmp_path, asked)
    assert not list(done.whole.of("V-MoE ×2", Phase.REPLICATE))
    assert ("V-MoE ×2", 2) in [(entry.arm, entry.count) for entry in missing(done.whole)]


# The rest of the report


def test_a_study_without_derived_arms_is_left_as_it_is(tmp_path: pathlib.Path) -> None:
    done = ran(tmp_path, study(BASE))
    record = done.record
    assert measured(record, Vision(), done.ledger, done.out) is record
    assert not derived_words(record)


def test_a_spec_of_a_version_without_ensembles_is_read(five: Ran) -> None:
    spec = dict(five.ledger.study_spec("s") or {})
    assert [arm.name for arm in study_record(spec, ()).arms] == ["V-MoE", "ViT", "V-MoE ×2", "both"]
    del spec["derived"]
    assert [arm.name for arm in study_record(spec, ()).arms] == ["V-MoE", "ViT"]


def test_what_was_derived_is_not_counted_as_trained(five: Ran) -> None:
    told = dict(facts(five.whole))
    assert told["trials"] == "0 tuning trials; 10 replicates (10 complete)"
    assert told["signatures"] == "2 compiled programs"
    assert [row.arm for row in origins(five.whole)] == ["V-MoE", "ViT"]
    first, second = derived_words(five.whole)
    assert first.startswith("V-MoE ×2: the mean prediction of 2 replicates of V-MoE; nothing was trained for it.")
    assert "The last 1 of 5 replicates fill no group" in first
    assert second == "both: the mean prediction of the same replicate of V-MoE and ViT; nothing was trained for it."


def test_derived_arms_are_rows_of_every_table(five: Ran, tmp_path: pathlib.Path) -> None:
    write(five.whole, tmp_path / "report")
    names = ["V-MoE", "ViT", "V-MoE ×2", "both"]
    assert [row.split(",")[0] for row in (tmp_path / "report" / "table.csv").read_text().splitlines()[1:]] == names
    assert "V-MoE $\\times$2 & 2 &" in (tmp_path / "report" / "table.tex").read_text()
    document = summary_json(five.whole)
    assert [arm["arm"] for arm in cast(Any, document)["arms"]] == names
    assert document["missing"] == []
    page = (tmp_path / "report" / "index.html").read_text()
    assert "V-MoE ×2: the mean prediction of 2 replicates of V-MoE; nothing was trained for it." in page
