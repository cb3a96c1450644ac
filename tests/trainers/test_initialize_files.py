"""Weights as they are published, written here in those formats: what is read is what was written, or an error says why not."""

from __future__ import annotations

import io
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.serialization import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.contract import DataError
from tests.trainers import published
from trainers import checkpoint
from trainers.initialize import augreg, load_parameters, read, save_parameters

RNG = np.random.default_rng(0)
ARRAYS = {
    "cls": published.random(RNG, (1, 1, 6)),
    "Transformer/encoderblock_0/LayerNorm_0/scale": published.random(RNG, (6,)),
    "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": published.random(RNG, (6, 7)),
    "head/bias": published.random(RNG, (3,)).astype(np.float64),
    "head/kernel": published.random(RNG, (6, 3)).astype(ml_dtypes.bfloat16),
}


def same(found, arrays):
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def refused(path, match):
    with pytest.raises(DataError, match=match):
        read(path)


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


# ---- AugReg .npz


def test_a_vit_reads_back_as_it_was_published(tmp_path):
    np.savez(tmp_path / "vit.npz", **ARRAYS)
    assert np.load(tmp_path / "vit.npz")["head/kernel"].dtype.kind == "V"  # so NumPy keeps bfloat16
    same(read(tmp_path / "vit.npz").arrays, ARRAYS)


@pytest.mark.parametrize("root", ["opt/target/", "params/"])
def test_only_the_parameters_of_a_training_state_are_read(tmp_path, root):
    state = {f"{root}{name}": array for name, array in ARRAYS.items()} | {
        "opt/state/step": np.int64(3),
        "extra/rngs": np.zeros(2, np.uint32),
    }
    np.savez_compressed(tmp_path / "vit.npz", **state)
    same(read(tmp_path / "vit.npz").arrays, ARRAYS)


def test_arrays_in_the_order_of_columns_are_read(tmp_path):
    kernel = np.asfortranarray(ARRAYS["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"])
    np.savez(tmp_path / "vit.npz", kernel=kernel)
    same(read(tmp_path / "vit.npz").arrays, {"kernel": kernel})


def test_a_pickle_is_refused_and_not_run(tmp_path):
    np.savez(tmp_path / "vit.npz", cls=np.array([Explosive()], dtype=object))
    refused(tmp_path / "vit.npz", "cls.npy is of type object, which is no float")


def test_a_head_that_promises_more_than_there_is_makes_no_room(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(tmp_path / "vit.npz", "w") as archive:
        archive.writestr("cls.npy", content.getvalue())
    refused(tmp_path / "vit.npz", r"cls.npy has \d+ bytes, and its head says float32 \(1000000, 1000000\)")


def test_a_vit_that_claims_to_unpack_to_more_than_any_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "vit.npz", **ARRAYS)
    monkeypatch.setattr(augreg, "MOST_BYTES", 100)
    refused(tmp_path / "vit.npz", "its arrays claim .* bytes")


def test_a_format_that_no_weights_were_ever_in_is_refused(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array(content, ARRAYS["cls"], version=(3, 0))
    with zipfile.ZipFile(tmp_path / "vit.npz", "w") as archive:
        archive.writestr("cls.npy", content.getvalue())
    refused(tmp_path / "vit.npz", r"cls.npy is of version \(3, 0\)")


def test_a_vit_that_was_cut_short_or_changed_is_refused(tmp_path):
    np.savez(tmp_path / "vit.npz", **ARRAYS)
    content = (tmp_path / "vit.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(content[:-30])
    refused(tmp_path / "short.npz", "File is not a zip file")
    place = content.index(ARRAYS["cls"].tobytes())
    (tmp_path / "changed.npz").write_bytes(content[:place] + b"\x99" + content[place + 1 :])
    refused(tmp_path / "changed.npz", "Bad CRC-32")


# ---- released V-MoE and E³


def test_a_release_reads_back_from_all_its_shards(tmp_path):
    published.write_released(tmp_path / "vmoe", ARRAYS, shards=3, most=4)
    same(read(tmp_path / "vmoe").arrays, ARRAYS)
    same(read(tmp_path / "vmoe.index").arrays, ARRAYS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    shards=st.integers(1, 4),
    most=st.integers(1, 9),
    dtype=st.sampled_from([np.float32, np.float16, np.float64, ml_dtypes.bfloat16]),
)
def test_however_an_array_is_cut_it_reads_back(tmp_path, shape, shards, most, dtype):
    arrays = {"a/10/b": np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype), "a/9": np.ones((2, 3), np.float32)}
    published.write_released(tmp_path / "vmoe", arrays, shards=shards, most=most)
    same(read(tmp_path / "vmoe").arrays, arrays)


def test_only_the_parameters_of_a_released_training_state_are_read(tmp_path):
    state = {f"params/{name}": array for name, array in ARRAYS.items()} | {"opt_state/0/trace": np.zeros(4, np.int32), "step": np.ones(())}
    published.write_released(tmp_path / "vmoe", state)
    same(read(tmp_path / "vmoe").arrays, ARRAYS)


def test_a_release_of_before_there_were_versions_is_read_unless_it_is_a_training_state(tmp_path):
    published.write_released(tmp_path / "vmoe", ARRAYS, version=None)
    same(read(tmp_path / "vmoe").arrays, ARRAYS)
    published.write_released(tmp_path / "state", {"params/cls": ARRAYS["cls"]}, version=None)
    refused(tmp_path / "state", "it is a training state of before June 2022")


def test_missing_shards_are_named(tmp_path):
    published.write_released(tmp_path / "vmoe", ARRAYS, shards=3)
    (tmp_path / "vmoe.data-00001-of-00003").unlink()
    refused(tmp_path / "vmoe", r"1 of 3 files of weights are missing\n.*no vmoe.data-00001-of-00003 in ")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({"shard_count": 10**9}, "it speaks of 1000000000 shards"),
        ({"shard_count": -1}, "it speaks of -1 shards"),
        ({"version": "20300101"}, "it is of version '20300101'"),
        ({"index": {}}, "it names no parameters"),
        ({"index": {"cls": 3}}, "has no attribute 'code'"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, index, match):
    published.write_released(tmp_path / "vmoe", ARRAYS, **index)
    refused(tmp_path / "vmoe", match)


@pytest.mark.parametrize(
    ("array", "cuts", "match"),
    [
        (
            np.broadcast_to(np.float32(0), (10**6, 10**6)),
            [((0, 10**6), (0, 10**6))],
            "it speaks of 4,000,000,000,000 bytes, and its shards have",
        ),
        (np.zeros((4, 4), np.float32), [((0, 2), (0, 4))], "the slices of cls do not make up"),
        (np.zeros((4, 4), np.float32), [((0, 2), (0, 4)), ((1, 3), (0, 4))], "the slices of cls do not make up"),
        (np.zeros((4, 4), np.float32), [((0, 4), (-4, 0))], "the slices of cls do not make up"),
        (np.zeros((4, 4), np.float32), [((0, 4), (0, 4))], "it has a slice .* that the index does not have there"),
        (np.zeros((4, 4), np.int32), [((0, 4), (0, 4))], r"cls \(int32\) is no array of floats"),
    ],
)
def test_an_index_that_does_not_match_its_shards_is_refused(tmp_path, array, cuts, match):
    leaf = published.packed_leaf(array, cuts, [0] * len(cuts))
    published.write_released(tmp_path / "vmoe", {"cls": np.ones((4, 4), np.float32)}, shards=1, index={"cls": leaf})
    refused(tmp_path / "vmoe", match)


def test_shards_of_another_model_are_refused(tmp_path):
    published.write_released(tmp_path / "one", {"a": np.ones((4,), np.float32), "b": np.ones((4, 4), np.float32)}, shards=1)
    published.write_released(tmp_path / "two", {"a": np.ones((4,), np.float16), "b": np.ones((4, 4), np.float32)}, shards=1)
    published.write_released(tmp_path / "few", {"a": np.ones((4,), np.float32)}, shards=1)
    for other, match in (("two", "is of another type or size"), ("few", "it lacks slices of b")):
        (tmp_path / "one.data-00000-of-00001").write_bytes((tmp_path / f"{other}.data-00000-of-00001").read_bytes())
        refused(tmp_path / "one", match)


def test_a_release_cut_short_anywhere_is_refused(tmp_path):
    published.write_released(tmp_path / "vmoe", {"a/b": np.ones((2, 3), np.float32)}, shards=1)
    for name in ("vmoe.index", "vmoe.data-00000-of-00001"):
        content = (tmp_path / name).read_bytes()
        for length in range(len(content)):
            (tmp_path / name).write_bytes(content[:length])
            refused(tmp_path / "vmoe", "a file of released weights cannot be read")
        (tmp_path / name).write_bytes(content)


def test_no_changed_byte_of_a_release_gives_anything_but_arrays_or_an_error(tmp_path):
    arrays = {"a/b": np.ones((2, 3), np.float32)}
    published.write_released(tmp_path / "vmoe", arrays, shards=1)
    for name in ("vmoe.index", "vmoe.data-00000-of-00001"):
        content = (tmp_path / name).read_bytes()
        for place in range(len(content)):
            for byte in (0, 0x7F, 0xC1, 0xDF, 0xFF):
                (tmp_path / name).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
                try:
                    found = read(tmp_path / "vmoe").arrays
                except DataError:
                    continue
                assert all(isinstance(array, np.ndarray) and array.nbytes <= 64 for array in found.values())
        (tmp_path / name).write_bytes(content)


def test_a_shard_nested_deeper_than_any_model_is_refused(tmp_path):
    published.write_released(tmp_path / "vmoe", ARRAYS, shards=1)
    (tmp_path / "vmoe.index").write_bytes(b"\x81\xa1a" * 5000 + b"\x01")
    refused(tmp_path / "vmoe", "a file of released weights cannot be read")


def test_an_index_without_its_words_is_refused(tmp_path):
    (tmp_path / "vmoe.index").write_bytes(msgpack.packb({"tree": {}}))
    refused(tmp_path / "vmoe", "shard_count")


# ---- ours


def test_parameters_are_written_once_and_read_back(tmp_path):
    tree = {"head": {"kernel": ARRAYS["head/kernel"], "bias": ARRAYS["head/bias"]}, "class_token": ARRAYS["cls"]}
    sha256 = save_parameters(tmp_path / "a.safetensors", tree, {"dataset": "digits"})
    assert save_parameters(tmp_path / "b.safetensors", tree, {"dataset": "digits"}) == sha256
    expected = {"head/kernel": ARRAYS["head/kernel"], "head/bias": ARRAYS["head/bias"], "class_token": ARRAYS["cls"]}
    same(load_parameters(tmp_path / "a.safetensors"), expected)
    same(read(tmp_path / "b.safetensors").arrays, expected)


def test_a_checkpoint_of_a_lane_gives_its_parameters(tmp_path):
    arrays = {"params/head/bias": np.ones(3, np.float32), "momentum/1/trace/head/bias": np.zeros(3, np.float32), "step": np.int32(4)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(key="k", program="p", arrays=arrays))
    same(read(tmp_path).arrays, {"head/bias": np.ones(3, np.float32)})
    same(read(tmp_path / checkpoint.LATEST).arrays, {"head/bias": np.ones(3, np.float32)})


def test_a_damaged_file_of_ours_and_one_of_strangers_are_refused(tmp_path):
    save_parameters(tmp_path / "a.safetensors", {"class_token": ARRAYS["cls"]})
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(tmp_path / "a.safetensors", "its content does not match its hash")
    safetensors.numpy.save_file({"w": np.ones(3, np.float32)}, tmp_path / "b.safetensors")
    refused(tmp_path / "b.safetensors", "it holds no hash of its content")
    checkpoint.save(tmp_path, checkpoint.Checkpoint(key="k", program="p", arrays={"step": np.zeros(())}))
    refused(tmp_path, "it holds no parameters")
    save_parameters(tmp_path / "c.safetensors", {"step": np.zeros(2, np.int32)})
    refused(tmp_path / "c.safetensors", "step is no array of floats")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    refused(tmp_path / "vmoe_s32", r"vmoe_s32: no such file\n  expected: a .npz of AugReg")
    refused("gs://vmoe_checkpoints/eee_s32_last2_ilsvrc2012", "weights are read from disks only")
    refused(tmp_path / "none.npz", "No such file")
    refused(pathlib.Path(tmp_path / "none.safetensors"), "No such file")
