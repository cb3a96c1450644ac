"""What a finished trial is measured by beside its splits: once with everything on, and against a trial with nothing on."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from orchestrator.contract import Report, read_row
from tests.trainers.scripted import TINY_VISION, ScriptedHost, lane
from trainers import backend, beyond, ensembles, fewshot, predictions
from trainers.corruptions import KINDS
from trainers.data import Split
from trainers.evaluate import EvalSplit
from trainers.vision import Vision

SHORT = {**TINY_VISION, "train.steps": 3, "train.rung_steps": 3}
ASKED = {
    "eval.corrupted": True,
    "eval.corruptions": "generated",
    "eval.ood": ["inverted", "waves"],
    "eval.few_shot": ["gratings", "digits"],
    "eval.few_shot_draws": 2,
    "eval.load": True,
}


def trained(folder: pathlib.Path, overrides: dict[str, object]) -> tuple[Report, pathlib.Path]:
    one = lane(Vision(), folder, {**SHORT, **overrides})
    host = ScriptedHost([one])
    Vision().train(host)
    return host.calls[-1][0], one.folder


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, pathlib.Path]:
    backend.prepare()
    with pytest.MonkeyPatch.context() as patch:
        # All five severities of three kinds, one of each compile time: the others have tests of their own.
        patch.setattr("trainers.corruptions.KINDS", ("contrast", "pixelate", "brightness"))
        return trained(tmp_path_factory.mktemp("everything"), ASKED)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, pathlib.Path]:
    return trained(tmp_path_factory.mktemp("nothing"), {})


def test_what_is_asked_for_changes_no_other_number(everything: tuple[Report, pathlib.Path], nothing: tuple[Report, pathlib.Path]) -> None:
    assert nothing[0].metrics.items() <= everything[0].metrics.items()
    assert {name.partition("/")[0] for name in nothing[0].metrics} == {"train", "val", "test"}


def test_each_evaluation_reports_its_metrics(everything: tuple[Report, pathlib.Path], nothing: tuple[Report, pathlib.Path]) -> None:
    found = everything[0].metrics
    groups = {name.partition("/")[0] for name in found.keys() - nothing[0].metrics.keys()}
    assert groups == {"corrupt", "corrupted", "ood", "fewshot", "test"}
    assert {"corrupt/nll", "corrupt/contrast/error", "ood/waves/auroc", "ood/inverted/fpr95", "test/load_cv"} <= found.keys()
    assert {f"fewshot/gratings/{shots}shot_accuracy" for shots in (1, 5, 10, 25)} <= found.keys()
    assert all(np.isfinite(value) for value in found.values())


def test_under_corruption_the_mean_is_over_kinds_alike(everything: tuple[Report, pathlib.Path]) -> None:
    found = everything[0].metrics
    each = [found[f"corrupt/{kind}/nll"] for kind in ("contrast", "pixelate", "brightness")]
    assert found["corrupt/nll"] == pytest.approx(np.mean(each))
    assert found["corrupt/brightness/error"] >= found["test/error"] - 0.1


def test_saved_predictions_give_every_metric_that_they_decide_again(everything: tuple[Report, pathlib.Path]) -> None:
    report, folder = everything
    again = ensembles.scores([predictions.load(folder / report.artifacts["predictions"], report.key)], bins=15)
    decided = {name for name in report.metrics if name.partition("/")[0] not in ("train", "fewshot")} - {"test/load_cv"}
    assert again.keys() == decided
    for name in decided:
        # Where two classes are as likely but for the last digit, rounding decides what the answer is.
        counts_answers = name.rpartition("/")[2] in ("error", "ece", "disagreement", "normalised_disagreement")
        assert again[name] == pytest.approx(report.metrics[name], rel=1e-4, abs=2 / 297 if counts_answers else 1e-5), name


def test_an_ensemble_measures_all_that_its_members_kept(everything: tuple[Report, pathlib.Path]) -> None:
    report, folder = everything
    said = predictions.load(folder / report.artifacts["predictions"], report.key)
    twice, members = ensembles.scores([said, said], bins=15), ("diversity", "disagreement", "normalised_disagreement", "cosine")
    assert twice.keys() == {name for name in report.metrics if name.partition("/")[0] not in ("train", "fewshot")} - {"test/load_cv"}
    for name in (name for name in twice if name.rpartition("/")[2] not in members):
        rounding = 2 / 297 if name.rpartition("/")[2] in ("error", "ece") else 1e-5
        assert twice[name] == pytest.approx(report.metrics[name], rel=1e-4, abs=rounding), name


def test_the_description_holds_diagrams_and_loads(everything: tuple[Report, pathlib.Path], nothing: tuple[Report, pathlib.Path]) -> None:
    (report, folder), (plain, other) = everything, nothing
    found = read_row(folder / report.artifacts["description"])
    assert sum(found["reliability"]["test"]["count"]) == 900
    count, confidence, accuracy = (np.array(found["reliability"]["test"][name]) for name in ("count", "confidence", "accuracy"))
    assert (count * abs(accuracy - confidence)).sum() / 900 == pytest.approx(report.metrics["test/ece"], abs=1e-5)
    shares = np.array(found["load"])
    assert shares.shape == (1, 4)  # one sparse layer, four experts
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0)
    assert report.metrics["test/load_cv"] == pytest.approx((shares.std(axis=-1) / shares.mean(axis=-1)).mean())
    assert read_row(other / plain.artifacts["description"]).keys() == {"key", "reliability"}


def test_corrupted_batches_know_an_image_by_its_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    split = EvalSplit.cut(Split(images, np.zeros(5, np.int32)), 2)
    whole = EvalSplit.cut(Split(images, np.zeros(5, np.int32)), 5)
    batches = np.concatenate([np.asarray(batch) for batch in beyond.Corrupted(split, "impulse_noise", 5)])
    np.testing.assert_array_equal(batches[:5], beyond.Corrupted(whole, "impulse_noise", 5)[0])
    np.testing.assert_array_equal(batches[5], batches[0])


def test_all_kinds_are_counted_in_a_trial() -> None:
    assert len(KINDS) == 15
    assert len(fewshot.L2S) == 30
