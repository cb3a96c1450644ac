"""Any other TFDS dataset: what a plan says of it, and that a prepared one is read by its name."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract import DataError
from tests import disks
from trainers.config import DataConfig
from trainers.data import data_problem, load, mapped, prepare, readable
from trainers.data.catalog import KNOWN, lookup
from trainers.data.reading import Reader
from trainers.data.resize import resize

TINY = DataConfig(dataset="tiny_shapes", classes=3, channels=3, image_size=6)
N_TRAIN, N_TEST = 20, 7


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Colour images of 6 by 4 pixels with three classes."""

    VERSION = tfds.core.Version("1.2.0")
    code_path = None  # TFDS 4.9 looks for it with importlib_resources, which it does not install

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "picture": tfds.features.Tensor(shape=(6, 4, 3), dtype=np.uint8),
            "shape": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "shape"), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {"train": self._generate_examples(N_TRAIN), "test": self._generate_examples(N_TEST)}

    def _generate_examples(self, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in range(n):
            yield row, {"picture": np.full((6, 4, 3), row, np.uint8), "shape": row % 3}


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=root).download_and_prepare(file_format="array_record")
    return root


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(tiny_root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_root))
    return tiny_root


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["tiny_shapes", "tiny_shapes:1.2.0", "tiny_shapes:1.*.*"])
def test_a_prepared_dataset_is_read_by_its_name_with_validation_at_the_tail_of_train(name: str) -> None:
    splits = load(DataConfig(dataset=name, classes=3, channels=3, image_size=6))
    assert {key: split.images[:, 0, 0, 0].tolist() for key, split in splits.items()} == {
        "train": list(range(18)),
        "val": [18, 19],
        "test": list(range(7)),
    }
    assert splits["train"].labels.tolist() == [row % 3 for row in range(18)]
    assert splits["train"].images.shape == (18, 6, 6, 3)


@pytest.mark.usefixtures("tiny")
def test_a_prepared_dataset_has_no_problem_and_is_left_as_it_is() -> None:
    assert data_problem(TINY) is None
    prepare(TINY)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("change", "what", "expected"),
    [
        ({"classes": 4}, "data.classes does not fit dataset 'tiny_shapes'", "3"),
        ({"channels": 1}, "data.channels does not fit dataset 'tiny_shapes'", "3"),
        ({"dataset": "tiny_shape"}, "dataset 'tiny_shape' is not prepared", "array_record"),
        ({"dataset": "tiny_shapes:9.9.9"}, "dataset 'tiny_shapes:9.9.9' is not prepared", "array_record"),
        ({"image_size": 3_000_000}, "an image of dataset 'tiny_shapes' does not fit here", "GiB of memory for all of them"),
    ],
)
def test_a_config_that_does_not_fit_a_prepared_dataset_is_refused_at_plan_time(change: dict[str, Any], what: str, expected: str) -> None:
    config = DataConfig(**{"dataset": "tiny_shapes", "classes": 3, "channels": 3, "image_size": 6, **change})
    problem = data_problem(config)
    assert problem is not None
    assert problem.what == what
    assert expected in problem.expected
    with pytest.raises(DataError, match=what):
        load(config)


@pytest.mark.usefixtures("tiny")
def test_a_misspelt_dataset_names_the_prepared_one() -> None:
    problem = data_problem(DataConfig(dataset="tiny_shape", classes=3, channels=3))
    assert problem is not None
    assert problem.fix == "set data.dataset to 'tiny_shapes'"


def test_images_mapped_from_a_file_are_those_read_into_memory(tiny: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, train_examples=11)
    expected = load(config)
    monkeypatch.setenv("TESSERA_INPUT", "mapped")
    with monkeypatch.context() as patch:
        patch.setattr(mapped, "write_whole", _raise_full)  # the images are written, and then the disk is full
        with pytest.raises(DataError, match=f"cannot be kept in {tiny / 'mapped'}"):
            load(config)
    for _ in range(2):
        found = load(config)
        assert all(isinstance(split.images, np.memmap) for split in found.values())
        assert found.keys() == expected.keys()
        for name, split in found.items():
            np.testing.assert_array_equal(split.images, expected[name].images)
            np.testing.assert_array_equal(split.labels, expected[name].labels)
        monkeypatch.setattr(Reader, "read_into", _raise_full)  # the second time they are only mapped


@pytest.fixture
def own_tiny(root: pathlib.Path, tiny_root: pathlib.Path) -> pathlib.Path:
    """A copy that may be damaged."""
    shutil.copytree(tiny_root / "tiny_shapes", root / "tiny_shapes")
    return root


@pytest.mark.parametrize("damage", [disks.tear, disks.flip, lambda path: disks.flip(path, 20), pathlib.Path.unlink])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_mapped_split_that_lost_bytes_is_written_again(
    own_tiny: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str, damage: Callable[[pathlib.Path], None]
) -> None:
    expected = load(TINY)
    monkeypatch.setenv("TESSERA_INPUT", "mapped")
    load(TINY)
    for path in (own_tiny / "mapped").glob(f"*-{kind}.[ns]*"):  # not the lock
        if damage is not disks.flip or kind == "labels":  # a pixel is not looked at
            damage(path)
    for name, split in load(TINY).items():
        np.testing.assert_array_equal(split.images, expected[name].images)
        np.testing.assert_array_equal(split.labels, expected[name].labels)


def test_a_damaged_description_is_named(own_tiny: pathlib.Path) -> None:
    [features] = own_tiny.rglob("features.json")
    features.write_text(features.read_text().replace("class_label_feature", "class_lacel_feature"))
    with pytest.raises(DataError, match=rf"the description of dataset {features.parent} cannot be read"):
        load(TINY)


def _raise_full(*arguments: Any) -> None:
    raise OSError("no space left on device")


def test_a_format_that_needs_tensorflow_is_refused_with_the_command_that_converts(root: pathlib.Path) -> None:
    folder = _describe(root, "shapes", {"fileFormat": "tfrecord"})
    problem = data_problem(DataConfig(dataset="shapes", classes=3, channels=3))
    assert problem is not None
    assert problem.expected == "array_record"
    assert problem.fix == f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    _describe(root, "shapes", {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]})
    assert data_problem(DataConfig(dataset="shapes", classes=3, channels=3)) is None


def test_the_default_config_of_a_dataset_is_the_one_tfds_noted(root: pathlib.Path) -> None:
    _describe(root, "shapes/small", {})
    assert data_problem(DataConfig(dataset="shapes", classes=3, channels=3)) is not None
    assert data_problem(DataConfig(dataset="shapes/small", classes=3, channels=3)) is None
    root.joinpath("shapes/.config").mkdir()
    root.joinpath("shapes/.config/metadata.json").write_text(json.dumps({"default_config_name": "small"}))
    assert data_problem(DataConfig(dataset="shapes", classes=3, channels=3)) is None


def test_a_missing_split_and_a_missing_label_are_named(root: pathlib.Path) -> None:
    _describe(root, "shapes", {"splits": [{"name": "train", "shardLengths": ["10"]}]})
    problem = data_problem(DataConfig(dataset="shapes", classes=3, channels=3))
    assert problem is not None
    assert (problem.found, problem.expected) == ("train", "train, test")
    _describe(root, "shapes", {"supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "elsewhere"}]}}})
    problem = data_problem(DataConfig(dataset="shapes", classes=3, channels=3))
    assert problem is not None
    assert "not a classification" in problem.what


def test_a_damaged_description_is_a_problem_and_no_traceback(root: pathlib.Path) -> None:
    _describe(root, "shapes", {}).joinpath("dataset_info.json").write_text("{")
    problem = data_problem(DataConfig(dataset="shapes", classes=3, channels=3))
    assert problem is not None
    assert problem.what == "dataset 'shapes' is damaged"


def test_encoded_images_need_a_decoder(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _describe(root, "shapes", {}, encoded=True)
    monkeypatch.setattr(readable, "is_installed", {"PIL": False}.__getitem__)
    problem = data_problem(DataConfig(dataset="shapes", classes=3, channels=3))
    assert problem is not None
    assert problem.fix == "pip install pillow"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("dataset", [entry.name for entry in KNOWN if entry.name != "digits"])
def test_what_is_not_prepared_says_how_to_prepare_it(dataset: str) -> None:
    known = lookup(dataset)
    assert known.classes is not None
    assert known.channels is not None
    problem = data_problem(DataConfig(dataset=dataset, classes=known.classes, channels=known.channels))
    assert problem is not None
    assert problem.what == f"dataset {dataset!r} is not prepared"
    assert f"tfds.builder('{dataset}').download_and_prepare(file_format='array_record')" in problem.fix
    assert problem.fix.startswith("put ILSVRC2012_img_train.tar and") == (dataset == "imagenet2012")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("missing", [("tensorflow",), ()])
def test_without_a_network_a_small_dataset_is_an_error_that_says_how(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]) -> None:
    from trainers.data import download

    monkeypatch.setattr(download, "missing_to_prepare", lambda: missing)
    monkeypatch.setattr(download, "REACHABLE_WITHIN_S", 0.5)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    found = "not installed: tensorflow" if missing else "cannot be reached from here"
    with pytest.raises(DataError, match=rf"dataset 'cifar10' is not prepared\n.*{found}.*\n.*\n  fix: .*tfds.builder\('cifar10'\)"):
        prepare(DataConfig(dataset="cifar10", channels=3))


@pytest.mark.usefixtures("root")
def test_nothing_large_is_downloaded_unasked() -> None:
    for entry in KNOWN:
        assert bool(entry.url) == (entry.name in {"cifar10", "cifar100"})
    with pytest.raises(DataError, match="'imagenet2012' is not prepared"):
        prepare(DataConfig(dataset="imagenet2012", classes=1000, channels=3))


def test_the_splits_are_those_of_the_paper() -> None:
    assert lookup("imagenet2012").splits() == {"train": "train[:99%]", "val": "train[99%:]", "test": "validation"}
    for name, share in (("cifar10", 98), ("cifar100", 98), ("oxford_iiit_pet", 90), ("oxford_flowers102", 90), ("anything_else", 90)):
        assert lookup(name).splits() == {"train": f"train[:{share}%]", "val": f"train[{share}%:]", "test": "test"}


@pytest.mark.parametrize(("rows", "columns", "size"), [(8, 8, 8), (8, 8, 12), (9, 5, 4), (1, 3, 7)])
def test_resizing_is_plain_bilinear(rows: int, columns: int, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, rows, columns, 3), np.uint8)
    expected = jax.image.resize(images.astype(np.float32), (2, size, size, 3), "linear", antialias=False)
    np.testing.assert_allclose(resize(images, size), expected, atol=0.501)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(0, 255))
def test_resizing_keeps_one_colour(rows: int, columns: int, size: int, value: int) -> None:
    assert (resize(np.full((1, rows, columns, 1), value, np.uint8), size) == value).all()


def _describe(root: pathlib.Path, name: str, changes: dict[str, Any], *, encoded: bool = False) -> pathlib.Path:
    """A folder as TFDS describes a prepared dataset, without its records."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True, exist_ok=True)
    splits = [{"name": "train", "shardLengths": ["10"]}, {"name": "test", "shardLengths": ["5"]}]
    folder.joinpath("dataset_info.json").write_text(json.dumps({"fileFormat": "array_record", "splits": splits, **changes}))
    kind = {"image" if encoded else "tensor": {"shape": {"dimensions": ["-1", "-1", "3"]}}}
    features = {"image": kind, "label": {"classLabel": {"numClasses": "3"}}}
    folder.joinpath("features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return folder
