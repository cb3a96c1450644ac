"""Datasets beside the learned one: sets from formulas, other TFDS datasets, and what a plan says where they are missing."""

from __future__ import annotations

import pathlib
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from orchestrator.contract import DataError, flatten
from trainers.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, VisionConfig
from trainers.data import Split, beside, generated, load
from trainers.data.catalog import KNOWN, lookup
from trainers.vision import Vision

DIGITS = DataConfig()


class Shades(tfds.core.GeneratorBasedBuilder):
    """Colour images of 5 by 5 pixels, each of one shade, without a validation split."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Tensor(shape=(5, 5, 3), dtype=np.uint8), "label": tfds.features.ClassLabel(num_classes=20)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label"), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {"train": self._generate_examples(40), "test": self._generate_examples(6)}

    def _generate_examples(self, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in range(n):
            yield row, {"image": np.full((5, 5, 3), (row, 2 * row, 3 * row), np.uint8), "label": row % 20}


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("tfds")
    Shades(data_dir=root).download_and_prepare(file_format="array_record")
    return root


@pytest.fixture
def root(shades: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(shades))
    return shades


@pytest.mark.usefixtures("root")
def test_any_prepared_dataset_serves_in_the_size_and_channels_of_the_learned_one() -> None:
    assert beside.problem(DIGITS, EvalConfig(ood=("shades",), few_shot=("shades",))) is None
    found = beside.other("shades", DIGITS)
    assert found.shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(found.gather(np.arange(6)).images[:, 0, 0, 0], np.rint(np.arange(6) * (0.299 + 2 * 0.587 + 3 * 0.114)))
    train = beside.few_shot_split("shades", "train", DIGITS)
    assert train.labels.tolist() == [row % 20 for row in range(40)]  # all of it, validation images too


@pytest.mark.usefixtures("root")
def test_grey_images_are_repeated_for_a_model_of_colours() -> None:
    digits = beside.read("digits", "test", DataConfig(image_size=12, channels=3))
    assert digits.shape == (900, 12, 12, 3)
    images = digits.gather(np.arange(900)).images
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize("name", sorted(generated.OTHER))
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (12, 3)])
def test_sets_from_formulas_are_the_same_each_time_and_differ_image_by_image(name: str, size: int, channels: int) -> None:
    found = generated.other(name, size, channels)
    assert found.shape == (generated.N_OTHER, size, size, channels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, generated.other(name, size, channels))
    assert len({image.tobytes() for image in found}) > 200


def test_gratings_have_eight_classes_that_can_be_told_apart() -> None:
    (images, labels), (test, test_labels) = (generated.gratings(split, 8, 1) for split in ("train", "test"))
    assert np.bincount(labels).tolist() == [40] * 8
    assert np.bincount(test_labels).tolist() == [60] * 8
    # By their spectra, where phase is no matter; nearest mean.
    spectra = [np.abs(np.fft.fft2(some[..., 0].astype(float) - 127.5)).reshape(len(some), -1) for some in (images, test)]
    means = np.stack([spectra[0][labels == label].mean(axis=0) for label in range(8)])
    nearest = ((spectra[1][:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == test_labels).mean() > 0.5


def test_inverted_images_are_those_of_the_test_split() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    turned = beside.inverted(Split(images, np.zeros(1, np.int32)))
    np.testing.assert_array_equal(turned.gather(np.arange(1)).images, 255 - images)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("config", "what", "fix"),
    [
        (EvalConfig(ood=("waves", "svhn_cropped")), "eval.ood: dataset 'svhn_cropped' is not prepared", "builder('svhn_cropped')"),
        (EvalConfig(few_shot=("shade",)), "eval.few_shot: dataset 'shade' is not prepared", "name 'shades' in eval.few_shot"),
        (EvalConfig(corruptions="published"), "eval.corruptions: no corrupted images are published for dataset 'digits'", "'generated'"),
    ],
)
def test_a_set_that_is_not_here_is_named_at_plan_time_with_the_way_to_it(config: EvalConfig, what: str, fix: str) -> None:
    found = Vision().data_problem(flatten(VisionConfig(eval=config)))
    assert found is not None
    assert found.what == what
    assert fix in found.fix


@pytest.mark.usefixtures("root")
def test_missing_published_sets_are_told_of_once() -> None:
    found = beside.problem(DataConfig(dataset="cifar10", channels=3, image_size=32), EvalConfig(corruptions="published"))
    assert found is not None
    assert found.what == "eval.corruptions: 75 of the 75 published sets cannot be measured on"
    assert found.found.startswith("cifar10_corrupted/gaussian_noise_1: no dataset_info.json under")
    [code] = re.findall(r'python -c "(.*)"$', found.fix)
    asked: list[str] = []
    module = types.ModuleType("tensorflow_datasets")
    module.builder = lambda name: types.SimpleNamespace(download_and_prepare=lambda **_: asked.append(name))  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_datasets", module)
        exec(code, {})
    assert sorted(asked) == sorted(name for _, _, name in beside.published("cifar10"))


def test_published_names_are_those_of_tfds() -> None:
    for dataset in beside.PUBLISHED:
        known = {config.name for config in tfds.builder_cls(beside.PUBLISHED[dataset]).BUILDER_CONFIGS}
        names = [name.partition("/")[2] for _, _, name in beside.published(dataset)]
        assert len(set(names)) == 75
        assert set(names) <= known


@pytest.mark.usefixtures("root")
def test_a_set_that_went_away_is_refused_when_it_is_read() -> None:
    with pytest.raises(DataError, match="dataset 'gone' is not prepared"):
        beside.read("gone", "test", DIGITS)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (VisionConfig(data=DataConfig(image_size=4), eval=EvalConfig(corruptions="generated")), "eval.corruptions cannot be made"),
        (VisionConfig(eval=EvalConfig(ood=("digits",))), "eval.ood names the dataset itself"),
        (VisionConfig(eval=EvalConfig(few_shot=("a", "a"))), "eval.few_shot holds what is no name of a dataset, or one twice"),
        (VisionConfig(eval=EvalConfig(ood=(3,))), "eval.ood holds what is no name of a dataset"),  # type: ignore[arg-type]
        (VisionConfig(data=DataConfig(train_size=16)), "data.train_size is of use to crops"),
    ],
)
def test_mistakes_of_several_fields_are_found_at_plan_time(config: VisionConfig, what: str) -> None:
    assert [problem.what for problem in Vision().problems(flatten(config)) if problem.what.startswith(what)]


def test_a_dense_arm_of_a_study_that_measures_load_is_no_mistake() -> None:
    assert not Vision().problems(flatten(VisionConfig(model=ModelConfig(moe_placement="none"), eval=EvalConfig(load=True))))


@pytest.mark.usefixtures("root")
def test_training_images_are_kept_larger_for_crops() -> None:
    config = DataConfig(dataset="shades", classes=20, channels=3, image_size=4, train_size=5)
    splits = load(config)
    assert [splits[name].images.shape[1] for name in ("train", "val", "test")] == [5, 4, 4]
    assert not Vision().problems(flatten(VisionConfig(data=DataConfig(train_size=16), augment=AugmentConfig(crop=True))))


def test_splits_are_those_of_the_paper() -> None:
    parts = {"imagenet2012": 99, "cifar10": 98, "cifar100": 98, "oxford_iiit_pet": 90, "oxford_flowers102": 90}
    for name, percent in parts.items():
        dataset = lookup(name)
        assert (dataset.train, dataset.val) == (f"train[:{percent}%]", f"train[{percent}%:]")
        assert dataset.test == ("validation" if name == "imagenet2012" else "test")
    assert len({dataset.name for dataset in KNOWN}) == len(KNOWN)
