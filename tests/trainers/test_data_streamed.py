"""Encoded images of differing sizes, read in all three ways: the same bits, one clear error, and no more memory than is asked for."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import types
from typing import Any

import jax
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import DataError
from tests.trainers import tiny_images
from tests.waiting import eventually
from trainers.config import DataConfig
from trainers.data import data_problem, load, prepared, readable, ways
from trainers.data.catalog import lookup
from trainers.data.decode import decode
from trainers.data.reading import Reader, Records
from trainers.data.resize import resize
from trainers.data.streamed import Streamed
from trainers.data.ways import Way
from trainers.feed import Feed
from trainers.step import root_key

ROOT = pathlib.Path(__file__).parents[2]
IMAGENET = DataConfig(dataset="imagenet2012", classes=1000, channels=3, image_size=24, train_size=28)
N_TRAIN, N_VAL = 396, 4  # 99 % and 1 %


@pytest.fixture(scope="module")
def prepared_root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("tfds")
    tiny_images.imagenet(root, train=N_TRAIN + N_VAL)
    for write in (tiny_images.pets, tiny_images.flowers):
        write(root)
    for classes in (10, 100):
        tiny_images.cifar(root, classes)
    return root


@pytest.fixture
def root(prepared_root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_root))
    return prepared_root


@pytest.fixture(scope="module")
def streamed(prepared_root: pathlib.Path) -> Streamed:
    """The training images of ImageNet, streamed."""
    found = prepared.describe(prepared_root / "imagenet2012" / "5.1.0")
    return Streamed(Reader(found, image_size=28, channels=3, classes=1000), "train[:99%]", at_most=0)


@pytest.fixture(scope="module")
def resident(streamed: Streamed) -> tuple[np.ndarray, np.ndarray]:
    return streamed._reader.read("train[:99%]")


# Bits.


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("dataset", "classes", "sizes"),
    [
        ("imagenet2012", 1000, {"train": N_TRAIN, "val": N_VAL, "test": 12}),
        ("oxford_iiit_pet", 37, {"train": 45, "val": 5, "test": 6}),
        ("oxford_flowers102", 102, {"train": 45, "val": 5, "test": 6}),
        ("cifar10", 10, {"train": 49, "val": 1, "test": 6}),
        ("cifar100", 100, {"train": 49, "val": 1, "test": 6}),
    ],
)
def test_each_dataset_of_the_paper_has_its_splits_and_the_same_bits_in_every_way(
    monkeypatch: pytest.MonkeyPatch, dataset: str, classes: int, sizes: dict[str, int]
) -> None:
    config = DataConfig(dataset=dataset, classes=classes, channels=3, image_size=24, train_size=28)
    found: dict[Way, dict[str, Any]] = {}
    for way in Way:
        monkeypatch.setenv(ways.VARIABLE, way)
        assert data_problem(config) is None
        splits = load(config)
        assert {name: split.shape for name, split in splits.items()} == {
            name: (n, *(28 if name == "train" else 24,) * 2, 3) for name, n in sizes.items()
        }
        found[way] = {name: split.gather(np.arange(sizes[name])) for name, split in splits.items()}
        for name, split in splits.items():
            np.testing.assert_array_equal(split.labels, found[way][name].labels)
    for way in (Way.MAPPED, Way.STREAMED):
        for name in sizes:
            np.testing.assert_array_equal(found[way][name].images, found[Way.RESIDENT][name].images)
            np.testing.assert_array_equal(found[way][name].labels, found[Way.RESIDENT][name].labels)


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, N_TRAIN - 1), min_size=3, max_size=3), min_size=1, max_size=12))
def test_rows_are_gathered_in_any_order_and_shape(
    streamed: Streamed, resident: tuple[np.ndarray, np.ndarray], rows: list[list[int]]
) -> None:
    found = streamed.gather(np.array(rows))
    np.testing.assert_array_equal(found.images, resident[0][rows])
    np.testing.assert_array_equal(found.labels, resident[1][rows])


def test_what_is_read_is_what_the_file_holds(root: pathlib.Path) -> None:
    """Decoded and resized without any code of ours, from the record file itself."""
    found = prepared.find("imagenet2012")
    assert found is not None
    train = load(dataclasses.replace(IMAGENET, train_size=0))["train"]
    by_label = {7 * seed % 1000: tiny_images.pixels(tiny_images.sized(seed)) for seed in range(N_TRAIN + N_VAL)}
    for row in range(0, N_TRAIN, 150):
        image, label = train.gather(np.array(row))
        original = by_label[int(label)]
        expected = jax.image.resize(original.astype(np.float32), (24, 24, 3), "linear", antialias=False)
        np.testing.assert_allclose(image, expected, atol=0.501)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
def test_every_kind_of_jpeg_becomes_as_many_channels_as_are_asked_for(mode: str) -> None:
    encoded = tiny_images.picture(3, rows=9, columns=7, mode=mode)
    np.testing.assert_array_equal(decode(encoded, 3), tiny_images.pixels(encoded))
    assert decode(encoded, 1).shape == (9, 7, 1)


def test_grey_is_repeated_and_transparency_dropped_as_tensorflow_does() -> None:
    grey, clear = (tiny_images.picture(3, rows=4, columns=4, mode=mode, kind="PNG") for mode in ("L", "RGBA"))
    np.testing.assert_array_equal(decode(grey, 3), np.repeat(decode(grey, 1), 3, axis=-1))
    np.testing.assert_array_equal(decode(clear, 3), decode(clear, 4)[..., :3])


@pytest.mark.parametrize(
    ("encoded", "channels", "why"),
    [
        (b"no image", 3, "cannot identify image file"),
        (tiny_images.picture(0, rows=30, columns=30)[:-30], 3, "image file is truncated"),
        (tiny_images.picture(0, rows=3, columns=3, mode="I;16", kind="PNG"), 1, "more than 8 bits a channel"),
        (tiny_images.picture(0, rows=3, columns=3), 2, "2 channels, where images have 1, 3 or 4"),
    ],
)
def test_what_is_no_image_says_why(encoded: bytes, channels: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(encoded, channels)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 140), st.integers(0, 2**32))
def test_images_are_resized_by_themselves_as_beside_others(rows: int, columns: int, size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, rows, columns, 3), np.uint8)
    np.testing.assert_array_equal(resize(images, size)[1:], resize(images[1:], size))


# Steps.


def test_blocks_are_those_of_resident_data_at_every_step_and_nothing_before_it_is_read(
    streamed: Streamed, resident: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.data import Split

    read: list[int] = []
    at = Records.at
    monkeypatch.setattr(Records, "at", lambda self, row: read.append(row) or at(self, row))
    for seed, step in ((7, 0), (7, 1003), (9, 250)):
        feeds = [Feed(data, 10, lanes=1, steps=2) for data in (streamed, Split(*resident))]
        read.clear()
        ours, expected = (jax.device_get(feed.block(root_key(seed), step)) for feed in feeds)
        for feed in feeds:
            feed.close()
        np.testing.assert_array_equal(ours.images, expected.images)
        np.testing.assert_array_equal(ours.labels, expected.labels)
        assert len(read) <= 2 * 20, "this block and the next"


def test_a_closed_feed_gives_up_what_is_being_decoded(streamed: Streamed, monkeypatch: pytest.MonkeyPatch) -> None:
    put, go, begun = Records.put, threading.Event(), threading.Event()

    def slow(self: Records, *arguments: Any) -> int:
        begun.set()
        go.wait(60)
        return put(self, *arguments)

    monkeypatch.setattr(Records, "put", slow)
    before = set(threading.enumerate())
    feed = Feed(streamed, 200, lanes=1, steps=1)
    with concurrent.futures.ThreadPoolExecutor(1) as asking:
        asked = asking.submit(feed.block, root_key(0), 0)
        assert begun.wait(60)
        feed.close()
        go.set()
        assert isinstance(asked.exception(timeout=60), concurrent.futures.CancelledError)
    eventually(lambda: not set(threading.enumerate()) - before)


# Errors.


@pytest.mark.parametrize("way", list(Way))
def test_an_image_that_does_not_decode_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(ways.VARIABLE, way)
    folder = tiny_images.imagenet(tmp_path, train=60, broken=5)
    record = ArrayRecordReader(str(folder / "imagenet2012-train.array_record-00000-of-00001"))
    [place] = [place for place, one in enumerate(record.read_all()) if b"n00000005_1" in one]
    config = dataclasses.replace(IMAGENET, train_size=0)
    told = (
        rf"example imagenet2012-train\.array_record-00000-of-00001__{place} of {folder} does not decode"
        r"\n  found:    n00000005_1\.JPEG: image file is truncated"
    )
    with pytest.raises(DataError, match=told):
        load(config)["train"].gather(np.arange(59))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("way", list(Way))
def test_a_label_that_is_no_class_is_named(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setenv(ways.VARIABLE, way)
    monkeypatch.setattr(readable, "_mismatch", lambda *_: None)  # as of a dataset whose description lacks the classes
    config = DataConfig(dataset="oxford_iiit_pet", classes=3, channels=3, image_size=25)
    told = r"example oxford_iiit_pet-train\.array_record-00000-of-00001__\d+ of .* has a label that is not a class"
    with pytest.raises(DataError, match=told):
        load(config)["train"].gather(np.arange(45))


def test_examples_are_named_as_in_their_files(tmp_path: pathlib.Path) -> None:
    folder = tiny_images.imagenet(tmp_path, train=40, n_shards=3)
    found = prepared.describe(folder)
    assert len(found.shards["train"]) == 3
    for split in ("train", "train[25%:]", "train[:9]+train[30:]"):
        records = Reader(found, image_size=8, channels=3, classes=1000).records(split)
        for row in range(len(records)):
            file, _, place = found.example_id(split, row).partition("__")
            [stored] = ArrayRecordReader(str(folder / file)).read([int(place)])
            assert records.at(row)["file_name"] in stored
    with pytest.raises(IndexError, match="train has no example 40"):
        found.example_id("train", 40)


# Ways.


@pytest.fixture
def here(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What is free on this machine, to be set."""
    free = types.SimpleNamespace(memory=2**40, disk=2**40)
    monkeypatch.delenv(ways.VARIABLE, raising=False)
    monkeypatch.setattr(ways, "free_memory", lambda: free.memory)
    monkeypatch.setattr(ways.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free.disk))
    return free


def chosen(config: DataConfig) -> dict[str, str]:
    found = prepared.find(config.dataset)
    assert found is not None
    return {name: way.value for name, way in ways.ways(config, lookup(config.dataset), found).items()}


LARGE = dataclasses.replace(IMAGENET, image_size=384, train_size=384)
BYTES = 384 * 384 * 3


def test_the_way_follows_what_is_free(here: types.SimpleNamespace) -> None:
    assert set(chosen(LARGE).values()) == {"resident"}
    here.memory = 3 * (N_TRAIN + N_VAL + 12) * BYTES  # of which a quarter
    assert set(chosen(LARGE).values()) == {"mapped"}
    here.disk = 4 * (N_TRAIN + 12) * BYTES
    assert chosen(LARGE) == {"train": "streamed", "val": "mapped", "test": "mapped"}, "what is measured on is read at every rung"
    here.disk = 4 * N_VAL * BYTES
    assert chosen(LARGE) == {"train": "streamed", "val": "mapped", "test": "streamed"}
    here.disk = 0
    assert set(chosen(LARGE).values()) == {"streamed"}
    assert data_problem(LARGE) is None, "there is always a way"
    assert set(chosen(dataclasses.replace(LARGE, image_size=8, train_size=0)).values()) == {"resident"}


@pytest.mark.parametrize(
    ("asked", "what", "found", "expected"),
    [
        ("streaming", "TESSERA_INPUT names no way to read data", "streaming", "auto, resident, mapped, streamed"),
        ("resident", "dataset 'imagenet2012' does not fit here", "5 GiB at 2048 px", "at most 3 GiB of memory, and TESSERA_INPUT=resident"),
        ("mapped", "dataset 'imagenet2012' does not fit here", "5 GiB at 2048 px", "at most 1 GiB in .*, and TESSERA_INPUT=mapped"),
        ("streamed", None, "", ""),
        ("auto", None, "", ""),
    ],
)
def test_a_way_that_is_asked_for_is_taken_or_refused(
    here: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch, asked: str, what: str | None, found: str, expected: str
) -> None:
    here.memory, here.disk = 3 * 2**30, 2**30
    monkeypatch.setenv(ways.VARIABLE, asked)
    problem = data_problem(dataclasses.replace(IMAGENET, image_size=2048, train_size=2048))
    assert (problem.what if problem else None) == what
    if problem is not None:
        assert problem.found == found
        assert re.search(expected, problem.expected)


def test_a_folder_that_cannot_be_written_is_streamed_from(here: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    here.memory = 0
    monkeypatch.setattr(ways.os, "access", lambda *_: False)
    assert set(chosen(LARGE).values()) == {"streamed"}


def test_a_split_without_examples_is_refused_at_plan_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tiny_images.imagenet(tmp_path, train=40)
    problem = data_problem(IMAGENET)
    assert problem is not None
    assert (problem.what, problem.found) == ("dataset 'imagenet2012' has too few examples for its splits", "none in train[99%:]")


def test_without_grain_the_plan_says_what_to_install(here: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readable, "is_installed", lambda module: module != "grain")
    assert data_problem(LARGE) is None
    here.memory = here.disk = 2**26
    problem = data_problem(LARGE)
    assert problem is not None
    assert problem.fix == "pip install grain, or make room"


STREAM = """
import json, sys
import numpy as np
from trainers.config import DataConfig
from trainers.data import load
splits = load(DataConfig(dataset="imagenet2012", classes=1000, channels=3, image_size=24))
grain = "grain" in sys.modules
splits["train"].gather(np.arange(40))
print(json.dumps([grain, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("way", ["resident", "streamed"])
def test_grain_is_imported_where_data_are_streamed_and_tensorflow_and_torch_nowhere(way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STREAM], cwd=ROOT, env=os.environ | {ways.VARIABLE: way}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    grain, modules = json.loads(done.stdout)
    assert grain == (way == "streamed")
    assert not {"tensorflow", "torch"} & set(modules)
    assert {"PIL", "tensorflow_datasets"} <= set(modules)
