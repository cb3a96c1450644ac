"""A lane's checkpoint survives kills, torn files and foreign files."""

from __future__ import annotations

import logging
import pathlib

import ml_dtypes
import numpy as np
import pytest

from tests import disks
from trainers.checkpoint import LATEST, PREVIOUS, Checkpoint, Saver, content_hash, load, remove, save


def made(step: int, key: str = "lane") -> Checkpoint:
    arrays = {
        "params/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T * step,
        "momentum": np.full((2,), step, ml_dtypes.bfloat16),
        "step": np.asarray(step, np.int32),
        "key": np.array([1, 2], np.uint32),
        "nothing": np.zeros((0, 3), np.float32),
    }
    return Checkpoint(key=key, program="cpu", arrays=arrays)


def step_of(checkpoint: Checkpoint | None) -> int:
    assert checkpoint is not None
    return int(checkpoint.arrays["step"])


def test_what_is_loaded_is_what_was_saved(tmp_path: pathlib.Path) -> None:
    save(tmp_path / "lane", made(7))
    loaded = load(tmp_path / "lane", "lane")
    assert loaded is not None
    assert {name: (array.shape, array.dtype) for name, array in loaded.arrays.items()} == {
        name: (array.shape, array.dtype) for name, array in made(7).arrays.items()
    }
    assert content_hash(loaded.arrays) == content_hash(made(7).arrays)
    assert (loaded.key, loaded.program) == ("lane", "cpu")


def test_without_a_checkpoint_there_is_none(tmp_path: pathlib.Path) -> None:
    assert load(tmp_path / "nowhere", "lane") is None


@pytest.mark.parametrize("at", [0, 8, 100, -1])
def test_a_torn_file_falls_back_to_the_one_before(tmp_path: pathlib.Path, at: int, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, made(1))
    save(tmp_path, made(2))
    whole = (tmp_path / LATEST).read_bytes()
    (tmp_path / LATEST).write_bytes(whole[:at])
    with caplog.at_level(logging.WARNING):
        assert step_of(load(tmp_path, "lane")) == 1
    assert "is passed over" in caplog.text


def test_a_damaged_file_never_takes_the_place_of_the_one_before(tmp_path: pathlib.Path) -> None:
    save(tmp_path, made(1))
    save(tmp_path, made(2))
    (tmp_path / LATEST).write_bytes((tmp_path / LATEST).read_bytes()[:-1])
    assert step_of(load(tmp_path, "lane")) == 1
    save(tmp_path, made(3))
    (tmp_path / LATEST).unlink()
    assert step_of(load(tmp_path, "lane")) == 1
    remove(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: pathlib.Path) -> None:
    files = []
    for _ in range(8):
        save(tmp_path, made(1))
        files.append((tmp_path / LATEST).read_bytes())
    assert len(set(files)) == 1


def test_a_full_disk_costs_a_warning_and_leaves_the_one_before_and_no_more(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, made(1))
    with caplog.at_level(logging.WARNING), disks.full(after_bytes=100), Saver() as saver:
        saver.save(tmp_path, made(2))
    assert "could not be written" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == [LATEST]
    assert step_of(load(tmp_path, "lane")) == 1


def test_one_flipped_bit_anywhere_in_the_data_is_noticed(tmp_path: pathlib.Path) -> None:
    save(tmp_path, made(1))
    save(tmp_path, made(2))
    whole = bytearray((tmp_path / LATEST).read_bytes())
    header = int.from_bytes(whole[:8], "little") + 8
    for place in range(header, len(whole)):
        (tmp_path / LATEST).write_bytes(bytes(byte ^ (4 if index == place else 0) for index, byte in enumerate(whole)))
        assert step_of(load(tmp_path, "lane")) == 1


def test_another_lanes_checkpoint_is_never_taken_up(tmp_path: pathlib.Path) -> None:
    save(tmp_path, made(1, key="other"))
    assert load(tmp_path, "lane") is None


def test_killed_between_its_two_renames_the_one_before_is_there(tmp_path: pathlib.Path) -> None:
    save(tmp_path, made(1))
    (tmp_path / LATEST).rename(tmp_path / PREVIOUS)
    assert step_of(load(tmp_path, "lane")) == 1


def test_remove_leaves_nothing(tmp_path: pathlib.Path) -> None:
    save(tmp_path, made(1))
    save(tmp_path, made(2))
    (tmp_path / "checkpoint.123.tmp").touch()
    (tmp_path / "predictions.npz").touch()
    remove(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.npz"]
    remove(tmp_path)


def test_the_saver_keeps_the_order_of_its_calls(tmp_path: pathlib.Path) -> None:
    with Saver() as saver:
        for step in range(1, 30):
            saver.save(tmp_path / "kept", made(step))
            saver.save(tmp_path / "gone", made(step))
        saver.remove(tmp_path / "gone")
    assert step_of(load(tmp_path / "kept", "lane")) == 29
    assert load(tmp_path / "gone", "lane") is None


def test_a_disk_that_cannot_be_written_costs_a_warning(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), Saver() as saver:
        saver.save(tmp_path / "file" / "lane", made(1))
    assert "could not be written" in caplog.text


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(tmp_path: pathlib.Path) -> None:
    saver = Saver()
    saver.save(tmp_path, Checkpoint(key="lane", program="cpu", arrays={"words": np.array(["a"])}))
    with pytest.raises(Exception, match=r"(?i)dtype|str"):
        saver.__exit__()


def test_the_hash_knows_names_types_and_shapes() -> None:
    array = np.zeros((2, 2), np.float32)
    hashes = [{"a": array}, {"b": array}, {"a": array.reshape(4)}, {"a": array.view(np.int32)}, {"a": -array}]
    assert len({content_hash(arrays) for arrays in hashes}) == len(hashes)
