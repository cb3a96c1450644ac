"""The digits: what is in their splits, and that they are written once whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from orchestrator.contract import DataError
from trainers.config import DataConfig
from trainers.data import Split, load, prepare
from trainers.data.corruptions import KINDS
from trainers.data.digits import raw, split_examples, split_positions

ROOT = pathlib.Path(__file__).parents[2]
LOAD = "from trainers.config import DataConfig; from trainers.data import load; print(len(load(DataConfig())['test'].labels))"
CHECKSUMS = {
    "train": "d928db297bb701d1",
    "val": "3d9c72ed200c4669",
    "test": "223cd2adba34fd1a",
    "corrupted": "b552292ceb832ddc",
}


@pytest.fixture(scope="module")
def digits() -> dict[str, Split]:
    return load(DataConfig())


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_bytes_of_each_split_are_fixed(digits: dict[str, Split]) -> None:
    sums = {name: hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()[:16] for name, split in digits.items()}
    assert sums == CHECKSUMS


def test_splits_share_no_image_and_leave_none_out(digits: dict[str, Split]) -> None:
    clean = [image.tobytes() for name in ("train", "val", "test") for image in digits[name].images]
    assert len(clean) == len(set(clean)) == 1797
    assert set(clean) == {image.tobytes() for image in raw()[0]}


def test_records_come_back_in_the_order_and_with_the_values_they_were_made_with(digits: dict[str, Split]) -> None:
    made = split_examples()
    for ours, tfds_name in (("train", "train"), ("val", "validation"), ("test", "test"), ("corrupted", "test_corrupted")):
        np.testing.assert_array_equal(digits[ours].images, made[tfds_name]["image"])
        np.testing.assert_array_equal(digits[ours].labels, made[tfds_name]["label"])


def test_positions_point_at_the_source() -> None:
    images, labels = raw()
    positions = split_positions(labels)
    assert sorted(np.concatenate(list(positions.values()))) == list(range(len(images)))
    np.testing.assert_array_equal(split_examples()["train"]["image"], images[positions["train"]])


@pytest.mark.parametrize("first", [10, 100, 300, 600])
def test_the_first_training_images_hold_each_class_equally_often(digits: dict[str, Split], first: int) -> None:
    assert np.bincount(digits["train"].labels[:first]).tolist() == [first // 10] * 10


def test_training_images_are_cut_and_nothing_else_is(digits: dict[str, Split]) -> None:
    few = load(DataConfig(train_examples=300))
    np.testing.assert_array_equal(few["train"].images, digits["train"].images[:300])
    assert [len(few[name].labels) for name in ("val", "test", "corrupted")] == [297, 900, 900]


def test_corruptions_change_every_test_image_and_keep_its_label(digits: dict[str, Split]) -> None:
    clean, corrupted = digits["test"], digits["corrupted"]
    np.testing.assert_array_equal(clean.labels, corrupted.labels)
    distance = np.abs(clean.images.astype(int) - corrupted.images).mean(axis=(1, 2, 3))
    kinds = split_examples()["test_corrupted"]["corruption"]
    # an occlusion may fall where there is no ink
    assert (distance[kinds != "occlusion"] > 0).all()
    assert (distance[kinds == "occlusion"] > 0).mean() > 0.9
    per_class_and_kind = {(label, kind): np.sum((clean.labels == label) & (kinds == kind)) for label in range(10) for kind in KINDS}
    assert set(per_class_and_kind.values()) == {18}


def test_corruptions_double_to_quadruple_the_error_of_a_classifier_of_few_images() -> None:
    few = load(DataConfig(train_examples=300))
    train = few["train"].images.reshape(300, -1) / 255.0
    targets = np.eye(10)[few["train"].labels] - 0.1

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.exp(-0.05 * ((left[:, None] - right[None]) ** 2).sum(-1))

    weights = np.linalg.solve(kernel(train, train) + 1e-2 * np.eye(300), targets)  # kernel ridge regression

    def error(split: Split) -> float:
        images = split.images.reshape(len(split.labels), -1) / 255.0
        return float(np.mean((kernel(images, train) @ weights).argmax(1) != split.labels))

    assert 2 <= error(few["corrupted"]) / error(few["test"]) <= 4
    assert error(few["corrupted"]) < 0.3


def test_images_are_resized_to_the_size_of_the_config() -> None:
    resized = load(DataConfig(image_size=12, train_examples=20))
    assert resized["train"].images.shape == (20, 12, 12, 1)
    assert resized["corrupted"].images.shape == (900, 12, 12, 1)


def test_preparing_twice_writes_nothing(root: pathlib.Path) -> None:
    prepare(DataConfig())
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    prepare(DataConfig())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_preparing_prints_nothing(root: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(DataConfig())
    assert root.joinpath("digits/1.0.0/dataset_info.json").is_file()
    assert capfd.readouterr().out == ""


def test_tfds_itself_finds_what_was_prepared(root: pathlib.Path) -> None:
    prepare(DataConfig())
    script = "import trainers.data.digits, tensorflow_datasets as tfds; print(len(tfds.builder('digits').as_data_source('train')))"
    assert _run(script, root).stdout.split() == ["600"]


def test_loading_imports_neither_tensorflow_nor_jax_nor_scikit_learn(root: pathlib.Path) -> None:
    script = LOAD + "; import sys; print(sorted({'tensorflow', 'jax', 'sklearn'} & set(sys.modules)))"
    assert _run(script, root).stdout.split() == ["900", "[]"]


def test_importing_the_package_imports_no_tfds() -> None:
    script = "import trainers.data, sys; print('tensorflow_datasets' in sys.modules)"
    assert _run(script, ROOT).stdout.split() == ["False"]


def test_two_processes_that_prepare_at_once_both_end_well(root: pathlib.Path) -> None:
    both = [_start(LOAD, root) for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [out.split() for out, _ in ends] == [["900"], ["900"]]
    assert [path.name for path in root.joinpath("digits").iterdir() if path.name != ".lock"] == ["1.0.0"]


def test_what_a_killed_process_left_is_replaced(root: pathlib.Path) -> None:
    script = """
import sys
from trainers.data import digits, prepare
from trainers.config import DataConfig
def stuck(self, examples):
    yield 0, {name: column[0] for name, column in examples.items()}
    print("stuck", file=sys.stderr, flush=True)
    sys.stdin.read()
digits.Digits._generate_examples = stuck
prepare(DataConfig())
"""
    process = _start(script, root)
    assert process.stderr is not None
    assert any("stuck" in line for line in process.stderr)
    process.kill()
    process.communicate(timeout=60)
    assert list(root.glob("digits/incomplete.*"))
    assert len(load(DataConfig())["train"].labels) == 600
    assert not list(root.glob("digits/incomplete.*"))


@pytest.mark.parametrize("lost", ["dataset_info.json", "features.json", "digits-test.array_record-00000-of-00001"])
def test_a_folder_that_lost_a_file_is_written_again(root: pathlib.Path, lost: str) -> None:
    prepare(DataConfig())
    root.joinpath("digits/1.0.0", lost).unlink()
    assert len(load(DataConfig())["test"].labels) == 900


def test_a_damaged_record_file_is_named(root: pathlib.Path) -> None:
    prepare(DataConfig())
    root.joinpath("digits/1.0.0/digits-test.array_record-00000-of-00001").write_bytes(b"not a record file" * 100)
    with pytest.raises(DataError, match=r"cannot be read\n.*\n  fix:      delete that folder"):
        load(DataConfig())


def test_a_dataset_of_somebody_else_is_left_alone(root: pathlib.Path) -> None:
    prepare(DataConfig())
    info = root / "digits/1.0.0/dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "moduleName": "elsewhere"}))
    with pytest.raises(DataError, match="another dataset of the name digits"):
        prepare(DataConfig())
    assert info.is_file()


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(root: pathlib.Path) -> None:
    shutil.rmtree(root)
    root.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"the digits cannot be written to .*\n.*\n  fix:      set TFDS_DATA_DIR"):
        prepare(DataConfig())


def _start(script: str, root: pathlib.Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TFDS_DATA_DIR": str(root)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def _run(script: str, root: pathlib.Path) -> subprocess.CompletedProcess[str]:
    process = _start(script, root)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(script, 0, out, err)
