"""Which ways to run lanes are tried and which is taken."""

from __future__ import annotations

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract import Probe, fastest
from trainers import packing
from trainers.packing import Packing, Strategy, candidates, worth_trying

VMAP = Strategy.VMAP


def measured(way: Packing, lane_step_s: float, *, memory_bytes: int = 0) -> Probe:
    return Probe(
        signature="sig",
        device="cpu",
        strategy=way.strategy.value,
        width=way.width,
        compile_s=1.0,
        lane_step_s=lane_step_s,
        memory_bytes=memory_bytes,
    )


@given(st.sampled_from(Strategy), st.integers(1, 10_000), st.text())
def test_a_packing_is_read_back_from_the_end_of_any_text(strategy: Strategy, width: int, before: str) -> None:
    way = Packing(strategy, width)
    assert Packing.parse(str(way)) == Packing.parse(f"{before} · {way}") == way


@pytest.mark.parametrize("text", ["", "cpu · jax 0.10.2", "cpu · map", "cpu · wave × 4", "cpu · map × four", "map × -4"])
def test_what_is_no_packing_is_not_read_as_one(text: str) -> None:
    assert Packing.parse(text) is None


def test_on_a_cpu_only_ways_that_keep_the_bits_are_candidates() -> None:
    assert jax.default_backend() == "cpu"
    ways = candidates(4, 1000)
    assert ways[0] == packing.default(4)
    assert all(way.is_exact and way.keeps_bits_of(ways[0]) for way in ways)
    assert not Packing(VMAP, 4).keeps_bits_of(Packing(VMAP, 8))
    assert Packing(VMAP, 4).keeps_bits_of(Packing(VMAP, 4))


def test_an_accelerator_tries_wider_packs_than_there_are_lanes_for_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert packing.default(4) == Packing(VMAP, 4)
    assert [way.width for way in candidates(4, 10) if way.strategy is VMAP] == [4, 8, 16]
    assert {way.strategy for way in candidates(4, 10)} == set(Strategy)


def test_doubling_ends_where_it_stopped_paying() -> None:
    ways = [Packing(VMAP, width) for width in (4, 8, 16, 32)]
    seconds = {4: 1.0, 8: 0.5, 16: 0.49, 32: 0.1}
    tried: list[Probe] = []
    for way in worth_trying(ways, tried):
        tried.append(measured(way, seconds[way.width]))
    assert [probe.width for probe in tried] == [4, 8, 16]


def test_what_was_measured_is_not_measured_again() -> None:
    ways = candidates(4, 8)
    assert list(worth_trying(ways, [measured(ways[0], 1.0)])) == list(ways[1:])


def test_the_fastest_that_fits_in_memory_is_taken() -> None:
    narrow, wide = measured(Packing(VMAP, 4), 0.2, memory_bytes=10), measured(Packing(VMAP, 64), 0.1, memory_bytes=1000)
    assert fastest([narrow, wide]) == wide
    assert fastest([narrow, wide], memory_bytes=500) == narrow
    assert fastest([narrow, wide], memory_bytes=5) is None
    assert fastest([]) is None


def test_there_is_memory_for_a_pack_here() -> None:
    assert packing.free_memory() > 1e6
