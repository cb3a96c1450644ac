"""A trial's final predictions: exact, whole, its own, and told of clearly where they are not."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest

from orchestrator.contract import DataError
from tests import disks
from trainers import predictions
from trainers.metrics import ensemble_log_probs


def made(n_images: int = 6, classes: int = 3) -> dict[str, np.ndarray]:
    logits = np.random.default_rng(0).normal(size=(2, n_images, classes)).astype(np.float32)
    said = predictions.log_probabilities([logits], n_images)
    labels = np.arange(n_images, dtype=np.int32) % classes
    return {f"{split}/{name}": array for split in ("val", "test") for name, array in (("log_probabilities", said), ("labels", labels))}


def test_what_is_loaded_is_what_was_saved(tmp_path: pathlib.Path) -> None:
    name = predictions.save(tmp_path, "trial", made())
    loaded = predictions.load(tmp_path / name, "trial")
    assert loaded.keys() == made().keys()
    for path, array in made().items():
        assert loaded[path].dtype == array.dtype
        np.testing.assert_array_equal(loaded[path], array)


def test_the_same_predictions_are_the_same_file_and_others_another(tmp_path: pathlib.Path) -> None:
    name = predictions.save(tmp_path, "trial", made())
    before = (tmp_path / name).read_bytes()
    assert predictions.save(tmp_path, "trial", made()) == name
    assert (tmp_path / name).read_bytes() == before
    assert predictions.save(tmp_path, "trial", made(n_images=7)) != name
    assert (tmp_path / name).read_bytes() == before


def test_probabilities_of_each_member_sum_to_one_and_those_of_all_are_the_metrics(tmp_path: pathlib.Path) -> None:
    del tmp_path
    logits = 30 * np.random.default_rng(1).normal(size=(3, 8, 5)).astype(np.float32)
    said = predictions.log_probabilities([logits[:, :5], logits[:, 3:]], 8)
    assert said.shape == (3, 8, 5)
    whole = predictions.log_probabilities([logits], 8)
    np.testing.assert_allclose(np.exp(whole.astype(np.float64)).sum(axis=-1), 1.0, rtol=1e-6)
    mean = np.log(np.exp(whole.astype(np.float64)).mean(axis=0))
    np.testing.assert_allclose(mean, jax.device_get(ensemble_log_probs(logits)), rtol=1e-5, atol=1e-5)


def test_images_behind_the_last_one_are_cut_off() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    whole = predictions.log_probabilities([logits], 6)
    np.testing.assert_array_equal(predictions.log_probabilities([logits[:, :4], logits[:, 4:], logits], 6), whole)


def test_a_large_trial_takes_half_the_room_and_keeps_three_digits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (tmp_path / predictions.save(tmp_path, "trial", made(n_images=400))).stat().st_size
    monkeypatch.setattr(predictions, "MOST_BYTES", 1000)
    name = predictions.save(tmp_path, "trial", made(n_images=400))
    assert (tmp_path / name).stat().st_size < 0.7 * small
    loaded = predictions.load(tmp_path / name, "trial")
    assert {array.dtype.name for array in loaded.values()} == {"float32", "int32"}
    for path, array in made(n_images=400).items():
        np.testing.assert_allclose(loaded[path], array, rtol=1e-3)


@pytest.mark.parametrize("damage", ["torn", "gone", "foreign"])
def test_predictions_that_cannot_be_used_name_the_trial_and_the_way_back(tmp_path: pathlib.Path, damage: str) -> None:
    path = tmp_path / predictions.save(tmp_path, "other" if damage == "foreign" else "trial", made())
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    if damage == "gone":
        path.unlink()
    with pytest.raises(DataError, match=r"(?s)predictions of trial trial cannot be read.*back in the queue with `retry`"):
        predictions.load(path, "trial")


def test_predictions_that_cannot_be_written_say_so_and_leave_nothing(tmp_path: pathlib.Path) -> None:
    with disks.full(after_bytes=100), pytest.raises(DataError, match=r"(?s)of trial trial cannot be written.*File too large"):
        predictions.save(tmp_path, "trial", made())
    assert not list(tmp_path.iterdir())
