"""Deep ensembles from saved predictions: every metric against plain NumPy, and against what trials report of themselves."""

from __future__ import annotations

import math
import pathlib

import jax
import numpy as np
import pytest

from orchestrator.contract import Combiner, DataError
from trainers import ensembles, metrics, predictions
from trainers.curves import Curves
from trainers.vision import Vision

BINS = 5
Trial = dict[str, np.ndarray]


def trial(seed: int, *, members: int = 1, n_images: int = 40, classes: int = 4, others: bool = False) -> Trial:
    draw = np.random.default_rng(seed)
    labels = np.arange(n_images, dtype=np.int32) % classes

    def said(*shape: int) -> np.ndarray:
        logits = 2 * draw.normal(size=(*shape, n_images, classes)) + 2 * np.eye(classes)[labels]
        return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)

    found = {"val/log_probabilities": said(members), "val/labels": labels, "test/log_probabilities": said(members), "test/labels": labels}
    if others:
        found |= {"corrupted/log_probabilities": said(members), "corrupted/labels": labels}
        found |= {"ood/inverted/log_probabilities": said(members), "corrupt/fog/log_probabilities": said(2, members)}
    return found


def kept(folder: pathlib.Path, trials: list[Trial]) -> tuple[list[pathlib.Path], list[str]]:
    keys = [f"key{number}" for number in range(len(trials))]
    return [folder / predictions.save(folder, key, row) for key, row in zip(keys, trials, strict=True)], keys


def plain(trials: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Slowly, one image and one pair of members at a time."""
    probs = [np.exp(row.astype(np.float64)) for row in trials]
    rows: dict[str, list[float]] = {name: [] for name in ("nll", "error", "brier", "member_nll", "diversity", "disagreement", "cosine")}
    bins: dict[int, list[tuple[float, float]]] = {}
    for image, label in enumerate(labels):
        members = [member[image] for row in probs for member in row]
        mean = sum(row[:, image].mean(axis=0) for row in probs) / len(probs)
        rows["nll"].append(-math.log(mean[label]))
        rows["error"].append(float(mean.argmax() != label))
        rows["brier"].append(sum((p - (k == label)) ** 2 for k, p in enumerate(mean)))
        rows["member_nll"].append(float(np.mean([-math.log(member[label]) for member in members])))
        pairs = [(a, b) for i, a in enumerate(members) for j, b in enumerate(members) if i != j]
        rows["diversity"].append(float(np.mean([(a * np.log(a / b)).sum() for a, b in pairs])))
        rows["disagreement"].append(float(np.mean([a.argmax() != b.argmax() for a, b in pairs])))
        rows["cosine"].append(float(np.mean([a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in pairs])))
        bins.setdefault(math.ceil(np.float32(mean.max()) * BINS), []).append((mean.max(), float(mean.argmax() == label)))
    found = {name: float(np.mean(values)) for name, values in rows.items()}
    found["ece"] = sum(abs(sum(hit - confidence for confidence, hit in row)) for row in bins.values()) / len(labels)
    found["normalised_disagreement"] = found["disagreement"] / (found["error"] + 1e-7)
    return found


@pytest.mark.parametrize("members", [[1, 1], [1, 1, 1], [2, 2], [1, 3]], ids=str)
def test_every_metric_is_that_of_the_mean_probability(members: list[int]) -> None:
    trials = [trial(seed, members=count) for seed, count in enumerate(members)]
    found = ensembles.scores(trials, bins=BINS)
    for split in ("val", "test"):
        wanted = plain([row[f"{split}/log_probabilities"] for row in trials], trials[0][f"{split}/labels"])
        assert {name: found[f"{split}/{name}"] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert len(found) == 2 * len(wanted)


def test_metrics_are_those_that_a_trial_of_all_members_would_report() -> None:
    trials = [trial(seed, members=2) for seed in range(3)]
    logits = np.concatenate([row["test/log_probabilities"] for row in trials])
    wanted = jax.device_get(metrics.evaluate(logits, trials[0]["test/labels"], bins=BINS))
    found = ensembles.scores(trials, bins=BINS)
    assert {name: found[f"test/{name}"] for name in wanted} == pytest.approx(
        {name: float(value) for name, value in wanted.items()}, rel=1e-4
    )


def test_an_ensemble_of_one_trial_twice_is_that_trial() -> None:
    found = ensembles.scores([trial(0), trial(0)], bins=BINS)
    alone = ensembles.scores([trial(0)], bins=BINS)
    assert {name: found[name] for name in alone} == pytest.approx(alone)
    assert "test/diversity" not in alone
    assert (found["test/diversity"], found["test/disagreement"]) == (0.0, 0.0)
    assert found["test/cosine"] == pytest.approx(1.0)


def test_no_mean_prediction_is_worse_than_its_members_on_average() -> None:
    """Jensen: −log is convex."""
    for seed in range(5):
        found = ensembles.scores([trial(seed), trial(seed + 100), trial(seed + 200)], bins=BINS)
        assert found["test/nll"] < found["test/member_nll"]


def test_images_are_worked_on_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial(seed, others=True) for seed in range(2)]
    whole = ensembles.scores(trials, bins=BINS)
    monkeypatch.setattr(ensembles, "CHUNK", 28)  # seven images of four classes
    assert ensembles.scores(trials, bins=BINS) == pytest.approx(whole)


def test_members_that_are_all_sure_of_something_else_give_a_finite_nll() -> None:
    sure = np.array([[[0.0, -2000.0]]], np.float32)
    found = ensembles.evaluated([sure, sure], np.array([1]), bins=BINS)
    assert found["nll"] == pytest.approx(2000.0)


def test_other_and_corrupted_images_are_measured_too() -> None:
    trials = [trial(seed, members=2, others=True) for seed in range(2)]
    found = ensembles.scores(trials, bins=BINS)
    names = set(ensembles.scores([trial(0, members=2), trial(1, members=2)], bins=BINS))
    of_test = {name.partition("/")[2] for name in names if name.startswith("test/")}
    added = {f"ood/inverted/{name}" for name in ("auroc", "aupr", "fpr95")}
    added |= {f"{where}/{name}" for where in ("corrupted", "corrupt", "corrupt/fog") for name in of_test}
    assert set(found) == names | added
    severities = [plain([row["corrupt/fog/log_probabilities"][place] for row in trials], trials[0]["test/labels"]) for place in range(2)]
    assert found["corrupt/fog/nll"] == pytest.approx(np.mean([row["nll"] for row in severities]), rel=1e-5)
    assert found["corrupt/nll"] == found["corrupt/fog/nll"]
    corrupted = plain([row["corrupted/log_probabilities"] for row in trials], trials[0]["corrupted/labels"])
    assert found["corrupted/nll"] == pytest.approx(corrupted["nll"], rel=1e-5)
    assert not any(name.startswith("corrupt/") for name in ensembles.scores(trials, bins=BINS, corrupted=False))
    assert not any(name.startswith("ood/") for name in ensembles.scores([trials[0], trial(1, members=2)], bins=BINS))


def test_what_was_saved_is_what_is_combined(tmp_path: pathlib.Path) -> None:
    trials = [trial(seed) for seed in range(3)]
    files, keys = kept(tmp_path, trials)
    config = {"eval.ece_bins": BINS}
    flat = flat_config() | config
    assert Vision().combine(files, keys, flat) == ensembles.scores(trials, bins=BINS)


def test_what_cannot_be_combined_says_why(tmp_path: pathlib.Path) -> None:
    files, keys = kept(tmp_path, [trial(0), trial(1)])
    with pytest.raises(DataError, match=r"the predictions of trial key0 cannot be read\n  found: .*it belongs to trial key1"):
        Vision().combine(files[::-1], keys, flat_config())
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"the predictions of trial key1 cannot be read\n  found: .*its content does not match its hash"):
        Vision().combine(files, keys, flat_config())
    files[1].unlink()
    with pytest.raises(DataError, match=r"the predictions of trial key1 cannot be read\n  found: .*No such file"):
        Vision().combine(files, keys, flat_config())


@pytest.mark.parametrize("other", [trial(1, n_images=39), trial(1, classes=5)], ids=["images", "classes"])
def test_trials_on_other_images_are_no_ensemble(tmp_path: pathlib.Path, other: Trial) -> None:
    files, keys = kept(tmp_path, [trial(0), other])
    with pytest.raises(DataError, match="trials key0 and key1 speak of other val images\n  found:    40 images of 4 classes and"):
        Vision().combine(files, keys, flat_config())


def test_both_trainers_can_combine() -> None:
    assert isinstance(Vision(), Combiner)
    assert isinstance(Curves(), Combiner)


def flat_config() -> dict[str, object]:
    from orchestrator.contract import flatten
    from trainers.config import VisionConfig

    return dict(flatten(VisionConfig()))
