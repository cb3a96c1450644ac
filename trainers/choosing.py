"""Choosing how to run the lanes of a signature: the fastest way known here, after trying further ones where that pays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from orchestrator.contract import FlatConfig, Host, Probe, build, fastest
from trainers import backend
from trainers.config import VisionConfig
from trainers.pack import Pack, make_pack
from trainers.packing import Packing, candidates, default, free_memory, worth_trying
from trainers.programs import signature

PROBE_S = 0.5  # of steps that a way is timed by
PROBE_SHARE = 0.05  # of the time that a signature's trials will take, for finding a faster way


def choose(host: Host, flat: FlatConfig, sign: str, *, width: int, n_lanes: int) -> Packing:
    """The fastest way that is known here. Further ways are measured while that costs little beside the work that waits.

    Args:
        host: Knows earlier measurements, and keeps new ones.
        flat: Config of one lane.
        sign: Its signature.
        width: Places of a pack whose lanes take turns.
        n_lanes: Trials of the signature that there are to train.
    """
    here = backend.describe()
    known = [probe for probe in host.probes() if probe.device == here]
    steps = n_lanes * build(VisionConfig, flat).train.steps
    if known and (best := fastest(known, memory_bytes=free_memory())) is not None:
        budget = PROBE_SHARE * steps * best.lane_step_s
        for way in worth_trying(candidates(width, n_lanes), known):
            if best.compile_s + PROBE_S > budget or host.stopping:
                break
            budget -= best.compile_s + PROBE_S
            known.append(measure(flat, sign, way))
            host.probed(known[-1])
        found = fastest(known, memory_bytes=free_memory())
        return default(width) if found is None else Packing.of(found)
    return default(width)


def probe(flat: FlatConfig, *, program: str, width: int) -> Iterator[Probe]:
    """Measures every way that may be the fastest here, for a plan that is not run yet."""
    backend.prepare()
    sign = signature(flat, program)
    measured: list[Probe] = []
    for way in worth_trying(candidates(width, max(width, 64)), measured):
        measured.append(measure(flat, sign, way))
        yield measured[-1]


def measure(flat: FlatConfig, sign: str, packing: Packing) -> Probe:
    """Compiles a way to run lanes, fills its places, and times training steps and evaluations."""
    with contextlib.closing(make_pack(flat, sign, packing)) as pack:
        return _measured(pack, build(VisionConfig, flat), flat, sign)


def _measured(pack: Pack, config: VisionConfig, flat: FlatConfig, sign: str) -> Probe:
    packing = pack.packing
    places = range(packing.width)
    entering = -time.monotonic()
    for place in places:
        pack.enter(place, flat, place, None)
    pack.advance(dict.fromkeys(places, 1))  # the first call of a program is slower
    entering += time.monotonic()
    steps, training = 0, 0.0
    chunk = 1
    while training < PROBE_S and steps < config.train.steps * packing.width:
        started = time.monotonic()
        pack.advance(dict.fromkeys(places, chunk))
        training += time.monotonic() - started
        steps, chunk = steps + chunk * packing.width, 2 * chunk
    step_s = training / steps
    rung_s, final_s = (_evaluation_s(pack, splits, list(places)) for splits in (["val"], pack.splits))
    return Probe(
        signature=sign,
        device=backend.describe(),
        strategy=packing.strategy.value,
        width=packing.width,
        compile_s=pack.programs.compile_s,
        lane_step_s=step_s + rung_s / min(config.train.rung_steps, config.train.steps),
        lane_s=max(entering / packing.width - step_s, 0.0) + final_s - rung_s,
        memory_bytes=pack.memory_bytes,
    )


def _evaluation_s(pack: Pack, splits: Sequence[str], places: Sequence[int]) -> float:
    """Seconds a lane that measuring these splits takes."""
    pack.measure(splits[0], places)
    started = time.monotonic()
    for split in splits:
        pack.measure(split, places)
    return (time.monotonic() - started) / len(places)
