"""Fed and resident training data give the same bits, and a chunk never waits for the host."""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import Lane, Verdict, build
from tests.trainers.scripted import TINY_VISION, ScriptedHost, flat_of, lane
from trainers import feed as feed_module
from trainers import loop
from trainers import programs as programs_module
from trainers.checkpoint import content_hash, load
from trainers.config import VisionConfig
from trainers.data import Split
from trainers.data.streamed import Streamed
from trainers.feed import Ahead, Feed, block_shape, block_steps
from trainers.packing import Packing, Strategy
from trainers.restore import named_arrays
from trainers.step import LaneState, Program, TrainData, epoch_order, places_in_epoch, root_key, traced_numbers
from trainers.vision import Vision

N_IMAGES, BATCH, STEPS, BLOCK = 20, TINY_VISION["train.batch_size"], 12, 5
FLAT = flat_of(Vision(), TINY_VISION | {"augment.crop": True, "augment.mixup": 0.2})
NUMBERS = traced_numbers(FLAT)
KEY = root_key(7)


def host_data(n_images: int = N_IMAGES) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (n_images, 8, 8, 1), np.uint8)
    return Split(images, np.arange(n_images, dtype=np.int32) % 10)


def resident_data() -> TrainData:
    return TrainData(*host_data())


@functools.partial(jax.jit, static_argnums=2)
def order_of(key: jax.Array, epoch: jax.Array, n_images: int) -> jax.Array:
    return epoch_order(jax.random.wrap_key_data(key), epoch, n_images)


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    """The compiled initialisation, and chunks on resident and on fed data."""
    program, data = Program(build(VisionConfig, FLAT)), host_data()
    state = jax.eval_shape(program.init, KEY, NUMBERS)
    return {
        "init": jax.jit(program.init, compiler_options={"xla_backend_optimization_level": 0}),
        "resident": jax.jit(program.chunk).lower(state, NUMBERS, np.int32(0), resident_data()).compile(),
        "fed": jax.jit(program.chunk_fed).lower(state, NUMBERS, np.int32(0), block_shape(data, BATCH, BLOCK)).compile(),
    }


@pytest.fixture(scope="module")
def start(programs: dict[str, Any]) -> LaneState:
    return programs["init"](KEY, NUMBERS)


@pytest.fixture(scope="module")
def expected(programs: dict[str, Any], start: LaneState) -> str:
    return hash_of(programs["resident"](start, NUMBERS, np.int32(STEPS), resident_data()))


def hash_of(state: LaneState) -> str:
    return content_hash(named_arrays(jax.device_get(state)))


def fed(programs: dict[str, Any], feed: Feed, state: LaneState, n_steps: int) -> LaneState:
    ahead = {0: Ahead(KEY, int(state.step), n_steps)}
    for counts, blocks in feed.portions(ahead, together=False):
        state = programs["fed"](state, NUMBERS, np.int32(counts[0]), blocks[0])
    return state


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, STEPS - 1)))
def test_fed_and_resident_data_give_the_same_bits_wherever_chunks_begin(
    programs: dict[str, Any], start: LaneState, expected: str, cuts: set[int]
) -> None:
    feed, state = Feed(host_data(), BATCH, lanes=1, steps=BLOCK), start
    for begin, end in itertools.pairwise([0, *sorted(cuts), STEPS]):
        state = fed(programs, feed, state, end - begin)
    assert int(state.step) == STEPS
    assert hash_of(state) == expected


@pytest.mark.parametrize("steps_before", [1, BLOCK, BLOCK + 2])
def test_a_fed_lane_goes_on_from_a_checkpoint_with_a_new_feed(
    programs: dict[str, Any], start: LaneState, expected: str, steps_before: int
) -> None:
    stopped = jax.device_get(fed(programs, Feed(host_data(), BATCH, lanes=1, steps=BLOCK), start, steps_before))
    resumed = fed(programs, Feed(host_data(), BATCH, lanes=1, steps=BLOCK), stopped, STEPS - steps_before)
    assert hash_of(resumed) == expected


def test_a_lane_may_change_between_fed_and_resident_data(programs: dict[str, Any], start: LaneState, expected: str) -> None:
    state = programs["resident"](start, NUMBERS, np.int32(7), resident_data())
    assert hash_of(fed(programs, Feed(host_data(), BATCH, lanes=1, steps=BLOCK), state, STEPS - 7)) == expected


@settings(max_examples=30, deadline=None)
@given(n_images=st.sampled_from([1, 5, 20]), batch=st.integers(1, 12), steps=st.integers(1, 9), step=st.integers(0, 60))
def test_a_block_holds_the_images_that_the_order_of_its_epochs_names(n_images: int, batch: int, steps: int, step: int) -> None:
    data = Split(np.arange(n_images, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(n_images, dtype=np.int32))
    block = Feed(data, batch, lanes=1, steps=steps).block(KEY, step)
    epoch, place = divmod(step, max(n_images // batch, 1))
    order = np.asarray(order_of(KEY, epoch, n_images))
    seen = np.asarray(block.labels)[step % steps]
    np.testing.assert_array_equal(seen, order[places_in_epoch(place, batch, n_images)])
    np.testing.assert_array_equal(np.asarray(block.images)[step % steps].ravel(), seen)


@settings(max_examples=30, deadline=None)
@given(lanes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12)), min_size=1, max_size=4), together=st.booleans())
def test_portions_do_every_step_of_every_lane_once_and_leave_no_block(lanes: list[tuple[int, int]], together: bool) -> None:
    feed = Feed(host_data(), BATCH, lanes=4, steps=BLOCK)
    at = {place: step for place, (step, _) in enumerate(lanes)}
    wanted = {place: Ahead(KEY, step, left) for place, (step, left) in enumerate(lanes)}
    for counts, blocks in feed.portions(wanted, together=together):
        assert counts.keys() == blocks.keys()
        assert not together or len(set(counts.values())) == 1
        for place, count in counts.items():
            assert 0 < count <= BLOCK - at[place] % BLOCK
            assert blocks[place] is feed.block(KEY, at[place])
            at[place] += count
    assert at == {place: step + left for place, (step, left) in enumerate(lanes)}


def test_lanes_with_one_seed_share_their_blocks_and_a_feed_keeps_few() -> None:
    feed = Feed(host_data(), BATCH, lanes=2, steps=BLOCK)
    assert feed.block(KEY, 3) is feed.block(KEY.copy(), 4)
    for step in range(0, 40 * BLOCK, BLOCK):
        feed.block(KEY, step)
    assert len(feed._blocks) == 4


def test_the_next_block_is_gathered_before_it_is_asked_for() -> None:
    feed = Feed(host_data(), BATCH, lanes=1, steps=BLOCK)
    feed.block(KEY, 0)
    assert [number for _, number in feed._blocks] == [0, 1]
    feed._blocks[KEY.tobytes(), 1].result(timeout=30)


def test_a_closed_feed_gathers_no_more_and_ends_its_threads() -> None:
    before = set(threading.enumerate())
    feed = Feed(host_data(), BATCH, lanes=1, steps=BLOCK)
    feed.block(KEY, 0)
    threads = set(threading.enumerate()) - before
    assert threads
    feed.close()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="after shutdown"):
        feed.block(KEY, 0)


def test_a_block_has_as_many_steps_as_its_bound_holds() -> None:
    small, large = host_data(), Split(np.empty((1, 4096, 4096, 4), np.uint8), np.zeros(1, np.int32))
    assert block_steps(small, BATCH) == 256
    assert block_steps(large, 1) == 1
    assert block_steps(Split(np.empty((1, 1024, 1024, 1), np.uint8), np.zeros(1, np.int32)), 8) == 4


@pytest.mark.parametrize("how", ["resident", "fed"])
def test_a_chunk_moves_nothing_between_host_and_device(programs: dict[str, Any], start: LaneState, how: str) -> None:
    data = resident_data() if how == "resident" else Feed(host_data(), BATCH, lanes=1, steps=BLOCK).block(KEY, 0)
    arguments = jax.device_put((start, NUMBERS, np.int32(4), data))
    with jax.transfer_guard("disallow"):
        after = programs[how](*arguments)
        jax.block_until_ready(after.step)
    assert int(after.step) == 4
    with jax.transfer_guard("disallow"), pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        programs[how](start, NUMBERS, np.int32(4), data)  # the guard would have seen it


@pytest.mark.parametrize("how", ["resident", "fed"])
def test_a_chunk_is_one_program_that_never_calls_the_host(programs: dict[str, Any], how: str) -> None:
    text = programs[how].as_text()
    assert text.count("\nENTRY ") == 1
    operations = set(re.findall(r"\s([a-z][a-z0-9-]*)\(", text))
    assert "while" in operations
    assert not operations & {"infeed", "outfeed", "send", "send-done", "recv", "recv-done"}
    targets = set(re.findall(r'custom_call_target="([^"]+)"', text))
    assert not [target for target in targets if "callback" in target.lower() or "host" in target.lower()]


OTHERS = ({"optim.learning_rate": 2e-2, "train.steps": 7}, {"model.router_noise": 3.0, "train.steps": 17})


@pytest.fixture(params=["resident", "streamed"])
def way(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """No split is put on the device as a whole; images are in memory, or are read again whenever they are needed."""
    monkeypatch.setenv("TESSERA_INPUT", request.param)
    monkeypatch.setattr(programs_module, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(feed_module, "BLOCK_BYTES", BLOCK * BATCH * 8 * 8)
    monkeypatch.setattr(programs_module, "_kept", {})
    programs_module.data_of.cache_clear()
    yield request.param
    programs_module.data_of.cache_clear()


def trained(folder: pathlib.Path, packing: Packing, *neighbours: Lane, **script: Any) -> tuple[Lane, ScriptedHost]:
    """Our lane, which comes after these neighbours."""
    ours = lane(Vision(), folder, TINY_VISION, seed=11)
    host = ScriptedHost([*neighbours, ours], answer=lambda report: Verdict.LOST if report.final else Verdict.CONTINUE, **script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_SHARE", 1e9)  # every rung is saved
        loop.train(host, program="test 1", width=2, packing=packing)
    return ours, host


@pytest.fixture(scope="module")
def resident_lane(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    ours, host = trained(tmp_path_factory.mktemp("resident"), Packing(Strategy.SOLO, 2))
    return hash_on_disk(ours), host.curve(ours.key)


def hash_on_disk(ours: Lane) -> str:
    found = load(ours.folder, ours.key)
    assert found is not None
    return content_hash(found.arrays)


@pytest.mark.parametrize("strategy", [Strategy.SOLO, Strategy.MAP])
def test_a_pack_that_is_fed_gives_its_lanes_the_bits_of_resident_data(
    tmp_path: pathlib.Path, resident_lane: tuple[str, Any], strategy: Strategy, way: str
) -> None:
    # Stopped in a block, and gone on with beside lanes that enter, leave and change blocks at other steps.
    ours, stopped = trained(tmp_path, Packing(strategy, 2), stop_when=lambda host: host.looks > 4)
    assert not stopped.curve(ours.key)
    assert load(ours.folder, ours.key) is not None
    neighbours = [lane(Vision(), tmp_path, TINY_VISION | overrides, seed=seed) for seed, overrides in zip((11, 3), OTHERS, strict=True)]
    ours, resumed = trained(tmp_path, Packing(strategy, 2), *neighbours)
    assert isinstance(programs_module.data_of(*data_key(ours)).fed, Streamed if way == "streamed" else Split)
    assert resumed.curve(ours.key) == resident_lane[1]
    assert hash_on_disk(ours) == resident_lane[0]


def data_key(ours: Lane) -> tuple[Any, Any]:
    config = build(VisionConfig, ours.config)
    return config.data, config.eval
