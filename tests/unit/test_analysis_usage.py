"""Where the time of workers went: nothing is counted twice, and nothing is left out."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.usage import overhead_s, ratio, usage
from orchestrator.records import PackRecord, RunRecord, StudyRecord, WorkerRecord
from tests.studyrecords import study_record

times = st.floats(0, 100)


def pack(signature: str = "sig", *, ended_s: float, compile_s: float = 1.0, train_s: float = 4.0, strategy: str = "map") -> PackRecord:
    return PackRecord(
        signature=signature,
        strategy=strategy,
        width=4,
        lane_steps=400,
        compile_s=compile_s,
        train_s=train_s,
        evaluate_s=0.5,
        other_s=0.5,
        lane_s=18.0,
        place_s=20.0,
        ended_s=ended_s,
    )


def worker(*packs: PackRecord, leased_s: float = 1.0, ended_s: float | None = 20.0, died: bool = False) -> WorkerRecord:
    return WorkerRecord(leased_s=leased_s, ended_s=ended_s, died=died, packs=packs)


def run(*crew: WorkerRecord, workers: int = 2, estimate_s: float | None = 16.0, wall_s: float | None = 20.0) -> RunRecord:
    return RunRecord(workers=workers, trials=8, estimate_s=estimate_s, inferred=0, wall_s=wall_s, finished=8, ending="done", crew=crew)


def record(*runs: RunRecord) -> StudyRecord:
    return dataclasses.replace(study_record(), runs=runs)


def test_the_time_of_a_worker_is_split_without_rest() -> None:
    found = usage(record(run(worker(pack(ended_s=8.0), pack(ended_s=15.0)))))
    assert found is not None
    assert (found.time.starting_s, found.time.compiling_s, found.time.training_s) == (2.0, 2.0, 8.0)
    assert (found.time.evaluating_s, found.time.other_s, found.time.waiting_s, found.time.lost_s) == (1.0, 1.0, 6.0, 0.0)
    assert found.time.total_s == 20.0
    assert found.occupied == pytest.approx(0.9)


def test_what_a_dead_worker_did_after_its_last_pack_is_lost() -> None:
    found = usage(record(run(worker(pack(ended_s=8.0), died=True, ended_s=12.0), worker(leased_s=1.0, ended_s=5.0, died=True))))
    assert found is not None
    assert (found.time.lost_s, found.time.waiting_s) == (4.0 + 4.0, 0.0)
    assert found.time.starting_s == 2.0 + 1.0


def test_a_later_worker_counts_from_its_first_lease() -> None:
    found = usage(record(run(worker(pack(ended_s=8.0)), worker(pack(ended_s=19.0), leased_s=12.0), workers=1)))
    assert found is not None
    assert found.time.total_s == 20.0 + 8.0


@given(st.lists(st.tuples(times, times, times, st.booleans()), min_size=1, max_size=5), st.integers(1, 3))
def test_no_part_is_negative_and_the_parts_are_all_there_is(rows: list[tuple[float, float, float, bool]], workers: int) -> None:
    crew = [
        worker(
            pack(ended_s=leased_s + busy_s + 2.0, train_s=busy_s), leased_s=leased_s, ended_s=leased_s + busy_s + 2.0 + idle_s, died=died
        )
        for leased_s, busy_s, idle_s, died in rows
    ]
    found = usage(record(run(*crew, workers=workers)))
    assert found is not None
    assert min(dataclasses.astuple(found.time)) >= 0
    lived = [(one.ended_s or 0.0) - (0.0 if number < workers else one.leased_s) for number, one in enumerate(crew)]
    assert found.time.total_s == pytest.approx(sum(lived), abs=1e-6)


def test_programs_are_told_with_their_arms_and_every_way_they_were_run() -> None:
    signature = study_record().trials[0].signature
    packs = (pack(signature, ended_s=7.0), pack(signature, ended_s=14.0, strategy="solo"), pack("gone", ended_s=20.0))
    found = usage(record(run(worker(*packs), worker(pack(signature, ended_s=9.0)))))
    assert found is not None
    first, second = found.programs
    assert (first.arms, first.packings, first.packs, first.workers) == (("ViT",), (("map", 4), ("solo", 4)), 3, 2)
    assert (first.lane_steps, first.compile_s, first.lane_step_s) == (1200, 3.0, 0.01)
    assert (second.signature, second.arms) == ("gone", ())
    still = dataclasses.replace(pack(ended_s=7.0), lane_steps=0)
    nothing = usage(record(run(worker(still))))
    assert nothing is not None
    assert math.isnan(nothing.programs[0].lane_step_s)


def test_without_packs_there_is_nothing_to_say() -> None:
    assert usage(record()) is None
    assert usage(record(run(worker()))) is None


def test_the_ratio_is_what_it_took_against_what_was_said() -> None:
    assert ratio(run()) == 1.25
    assert ratio(run(estimate_s=None)) is None
    assert ratio(run(wall_s=None)) is None


def test_the_overhead_is_what_lies_before_the_first_program_and_after_the_last() -> None:
    assert overhead_s(run(worker(pack(ended_s=8.0)), worker(pack(ended_s=19.0), leased_s=13.0)), 20.5) == pytest.approx(
        (2.0 + 13.0) / 2 + 1.5
    )
    assert overhead_s(run(worker(leased_s=0.7)), 9.0) == 0.7
    assert overhead_s(run(), 9.0) is None
