"""What a plan says it will cost, against what it is made of."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator import Arm, Grid, LogUniform, Replicates, Study, Tune, Values
from orchestrator.config import flatten
from orchestrator.contract import Probe
from orchestrator.diff import difference
from orchestrator.errors import Problem
from orchestrator.estimate import Batch, Estimate, Rungs, Speed, Work, device_here, estimate, speeds, work_left
from orchestrator.plan import Planner
from orchestrator.plan_table import PlanView, plan_json, plan_table, summary_lines
from orchestrator.planned import Outcome, PlannedCell
from orchestrator.records import Phase, TrialState
from orchestrator.stopping.halving import SuccessiveHalving
from orchestrator.study import roles
from trainers.curves import Curves, CurvesConfig

STUDY = Study(
    name="s",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(steps=50),
    arms=[Arm("a", baseline=True), Arm("b", {"family": "wide"})],
    nuisance={"learning_rate": LogUniform(1e-3, 1)},
    protocol=Tune(trials=4, select="val/nll", then=Replicates(2)),
)


def view_of(
    study: Study, outcomes: dict[str, Outcome] | None = None, probes: tuple[str, ...] = (), problems: tuple[Problem, ...] = ()
) -> PlanView:
    plan = Planner(study, Curves(), flatten(study.base)).plan(outcomes or {})
    found = difference(plan, [], {key: outcome.state for key, outcome in (outcomes or {}).items()})
    work = work_left(plan, found, Curves(), {})
    measured = [probe(row.signature, compile_s=3.0, lane_step_s=0.1) for row in work[: len(probes)]]
    speed = speeds([row.cell for row in work], measured, "cpu")
    return PlanView(
        study=study.name,
        profile="",
        roles=roles(study, [arm.arm for arm in plan.arms]),
        plan=plan,
        difference=found,
        work=work,
        speeds=speed,
        device="cpu" if measured else "",
        estimate=estimate(work, speed, 2, overhead_s=0.0),
        workers=2,
        data_problems=problems,
    )


def probe(
    signature: str, *, compile_s: float = 0.0, lane_step_s: float, device: str = "cpu", strategy: str = "map", width: int = 4
) -> Probe:
    return Probe(
        signature=signature,
        device=device,
        strategy=strategy,
        width=width,
        compile_s=compile_s,
        lane_step_s=lane_step_s,
        memory_bytes=1 << 27,
    )


def drawn(view: PlanView) -> str:
    text = io.StringIO()
    Console(file=text, width=200, color_system=None).print(plan_table(view))
    return text.getvalue()


def cell(signature: str, *, steps: int = 50, gflops: float | None = None) -> PlannedCell:
    cost = {} if gflops is None else {"cost/train_gflops": gflops}
    return PlannedCell(key=signature, config={}, signature=signature, cost=cost, steps=steps)


def work_of(signature: str, arms: tuple[str, ...], *, tune: int, replicates: int, steps: int) -> Work:
    counts = {Phase.TUNE: tune, Phase.REPLICATE: replicates}
    batches = [Batch(signature=signature, phase=phase, arms=frozenset(arms), trials=n, steps=n * steps) for phase, n in counts.items() if n]
    return Work(signature=signature, cell=cell(signature, steps=steps), batches=tuple(batches), packs=1)


programs = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(1, 9), st.integers(1, 500), st.floats(0, 30), st.floats(0, 2), st.floats(1e-4, 1), st.integers(0, 3)
    ),
    min_size=1,
    max_size=7,
)


def drawn_work(rows: list[tuple[int, int, int, float, float, float, int]]) -> tuple[list[Work], dict[str, Speed]]:
    """Programs whose arms overlap, as those of traced ablations do."""
    work = [
        work_of(f"p{place}", (f"a{place}", f"a{arm}"), tune=tune, replicates=n, steps=steps)
        for place, (tune, n, steps, _, _, _, arm) in enumerate(rows)
    ]
    speed = {f"p{place}": Speed(compile_s=row[3], lane_s=row[4], lane_step_s=row[5]) for place, row in enumerate(rows)}
    return work, speed


def seconds(work: list[Work], speed: dict[str, Speed], workers: int) -> float:
    found = estimate(work, speed, workers, overhead_s=2.0)
    assert found is not None
    return found.seconds


@given(programs)
def test_one_worker_takes_the_sum_of_all_parts(rows: list[tuple[int, int, int, float, float, float, int]]) -> None:
    work, speed = drawn_work(rows)
    assert seconds(work, speed, 1) == pytest.approx(2.0 + sum(speed[row.signature].alone_s(row) for row in work))


@given(programs, st.integers(1, 40), st.integers(0, 20))
def test_a_worker_more_never_takes_longer(rows: list[tuple[int, int, int, float, float, float, int]], workers: int, more: int) -> None:
    work, speed = drawn_work(rows)
    assert seconds(work, speed, workers + more) <= seconds(work, speed, workers)


@given(programs, st.integers(1, 20), st.integers(0, 6), st.integers(1, 400))
def test_a_step_more_never_takes_less(
    rows: list[tuple[int, int, int, float, float, float, int]], workers: int, which: int, more: int
) -> None:
    tune, n, steps, *rest = rows[which % len(rows)]
    longer = [*rows]
    longer[which % len(rows)] = (tune, n, steps + more, *rest)
    assert seconds(*drawn_work(longer), workers) >= seconds(*drawn_work(rows), workers) * (1 - 1e-12)


@given(programs, st.integers(1, 20))
def test_no_number_of_workers_beats_an_even_share_or_the_longest_chain(
    rows: list[tuple[int, int, int, float, float, float, int]], workers: int
) -> None:
    work, speed = drawn_work(rows)
    found = seconds(work, speed, workers) - 2.0
    assert found >= sum(speed[row.signature].alone_s(row) for row in work) / workers * (1 - 1e-9)
    for row in work:
        one = speed[row.signature]
        assert found >= max(one.lane_s + batch.steps / batch.trials * one.lane_step_s for batch in row.batches) * (1 - 1e-9)


def test_two_workers_on_one_program_each_compile_it_and_share_its_trials() -> None:
    work = [work_of("p", ("a",), tune=8, replicates=8, steps=100)]
    speed = {"p": Speed(compile_s=10.0, lane_s=1.0, lane_step_s=0.05)}
    assert seconds(work, speed, 2) == pytest.approx(2.0 + 10.0 + 8 * (1.0 + 5.0))


def test_replicates_wait_for_the_tuning_of_their_arms() -> None:
    tuned = work_of("slow", ("a",), tune=1, replicates=0, steps=1000)
    replicated = work_of("quick", ("a",), tune=0, replicates=1, steps=1000)
    speed = {"slow": Speed(compile_s=0, lane_s=0, lane_step_s=0.01), "quick": Speed(compile_s=0, lane_s=0, lane_step_s=0.002)}
    assert seconds([tuned, replicated], speed, 8) == pytest.approx(2.0 + 10.0 + 2.0)


def test_the_estimate_is_steps_times_speed_and_a_compilation_for_each_program() -> None:
    view = view_of(STUDY, probes=("first", "second"))
    assert view.estimate == Estimate(seconds=pytest.approx((2 * 6 * 50 * 0.1 + 2 * 3.0) / 2), workers=2, covered=12, inferred=0)
    assert summary_lines(view)[-1] == "time: about 33 s on 2 workers"


def test_trials_of_a_program_that_was_never_measured_make_the_estimate_rough() -> None:
    view = view_of(STUDY, probes=("first",))
    assert view.estimate is not None
    assert (view.estimate.covered, view.estimate.inferred) == (6, 6)
    said = "time: about 33 s on 2 workers, roughly: the programs of 6 trials were not measured here (`plan --probe` does)"
    assert summary_lines(view)[-1] == said
    unknown = summary_lines(view_of(STUDY))[-1]
    assert unknown == "time: unknown on 2 workers, no program was measured here yet; `plan --probe` measures them"


def test_a_program_that_was_not_measured_is_inferred_from_its_gflops() -> None:
    cells = [cell("a", gflops=1.0), cell("b", gflops=3.0), cell("c", gflops=2.0)]
    measured = [probe("a", lane_step_s=0.2, compile_s=2.0), probe("b", lane_step_s=0.4, compile_s=4.0)]
    inferred = speeds(cells, measured, "cpu")["c"]
    assert (inferred.lane_step_s, inferred.compile_s, inferred.probe) == (pytest.approx(0.3), 3.0, None)
    assert speeds(cells, measured[:1], "cpu")["b"].lane_step_s == pytest.approx(0.6)
    assert speeds([cell("a"), cell("b")], measured[:1], "cpu")["b"].lane_step_s == 0.2
    assert speeds(cells, measured, "another device") == {}


def test_trials_that_a_rule_may_stop_count_with_the_steps_to_be_expected_of_them() -> None:
    """Nine trials to 100 steps, three of them on to 300, one of these to 900."""
    tune = Tune(trials=9, select="val/nll", then=Replicates(1), stopping=SuccessiveHalving(first=100))
    study = Study(
        name="s",
        trainer="trainers.curves:Curves",
        base=CurvesConfig(steps=900),
        arms=[Arm("a", baseline=True)],
        nuisance={"learning_rate": LogUniform(1e-3, 1)},
        protocol=tune,
    )
    plan = Planner(study, Curves(), flatten(study.base)).plan({})
    (row,) = work_left(plan, difference(plan, [], {}), Curves(), {Phase.TUNE: Rungs(first=100, factor=3)})
    assert [batch.steps for batch in row.batches] == [9 * 100 + 3 * 200 + 1 * 600, 900]
    rungs, trial = Rungs(first=100, factor=3), next(plan.trials)
    left = [rungs.steps_left(dataclasses.replace(trial, until=until)) for until in (100, 300, None)]
    assert left == pytest.approx([100 + 200 / 3 + 600 / 9, 200 + 600 / 3, 600])
    assert rungs.steps_left(dataclasses.replace(trial, dropped="place 3 of 3")) == 0


def test_the_fastest_way_on_this_machine_counts() -> None:
    measured = [
        probe("a", lane_step_s=0.2),
        probe("a", lane_step_s=0.1, strategy="solo", width=8),
        probe("a", lane_step_s=0.01, device="H100", strategy="vmap"),
    ]
    found = speeds([cell("a")], measured, "cpu")["a"].probe
    assert found is not None
    assert (found.strategy, found.device) == ("solo", "cpu")


def test_the_device_of_this_machine_is_the_known_one_or_the_only_one() -> None:
    here, there = probe("a", lane_step_s=0.1), probe("a", lane_step_s=0.1, device="H100")
    assert device_here([here], "") == "cpu"
    assert device_here([here, there], "") == ""
    assert device_here([here, there], "H100") == "H100"
    assert device_here([here], "H100") == "cpu"
    assert device_here([], "") == ""


def test_the_table_shows_each_program_with_how_it_is_run() -> None:
    rows = drawn(view_of(STUDY, probes=("first",))).splitlines()
    (measured,) = (row for row in rows if re.search(r" a +6 +300 +map", row))
    assert re.search(r"map +4 +100 ms +3\.0 s +134\.2 MB +33 s$", measured.rstrip())
    (inferred,) = (row for row in rows if re.search(r" b +6 +300 +not measured", row))
    assert re.search(r"~100 ms +~3\.0 s +~33 s$", inferred.rstrip())
    assert max(len(row.rstrip()) for row in rows) <= 140


def test_the_document_has_the_programs_and_the_estimate() -> None:
    document = json.loads(json.dumps(plan_json(view_of(STUDY, probes=("first",)))))
    assert document["estimate_s"] == document["estimate"]["seconds"]
    first, second = document["programs"]
    assert (first["arms"], first["trials"], first["probe"]["strategy"]) == (["a"], 6, "map")
    assert (second["probe"], second["lane_step_s"]) == (None, 0.1)


def test_what_is_finished_costs_nothing() -> None:
    trials = list(Planner(STUDY, Curves(), flatten(STUDY.base)).plan({}).trials)
    done = {trial.key: Outcome(state=TrialState.COMPLETE, metrics={"val/nll": 1.0}) for trial in trials if trial.arm == "a"}
    view = view_of(STUDY, done)
    assert sum(row.trials for row in view.work) == 2 + 6
    assert "4 new, 2" not in summary_lines(view)[0]
    everything = dict(done)
    while True:
        plan = Planner(STUDY, Curves(), flatten(STUDY.base)).plan(everything)
        missing = [trial for trial in plan.trials if trial.key not in everything]
        if not missing:
            break
        everything |= {trial.key: Outcome(state=TrialState.COMPLETE, metrics={"val/nll": 1.0}) for trial in missing}
    assert summary_lines(view_of(STUDY, everything))[-1] == "nothing to do"


def test_the_table_shows_each_arm_with_its_program_its_packs_and_its_cost() -> None:
    text = drawn(view_of(STUDY))
    assert "a *" in text
    for name in ("signature", "packs", "parameters", "GFLOPs"):
        assert name in text
    assert "s: 8 new, 4 to follow from tuning" in text


def test_arms_that_share_a_program_share_its_packs() -> None:
    arms = [Arm("first"), Arm("second", {"floor": 0.1})]
    rows = drawn(view_of(Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=arms, protocol=Replicates(3))))
    assert re.search(r"first .* 2 +3", rows)
    assert re.search(r"second .* \+ +3", rows)


def test_the_document_has_every_trial_and_the_same_totals() -> None:
    document = json.loads(json.dumps(plan_json(view_of(STUDY))))
    assert document["totals"]["new"] == len(document["trials"]) == 8
    assert document["totals"]["pending"] == 4
    assert document["roles"] == {"family": "scientific", "learning_rate": "nuisance"}
    assert {trial["change"] for trial in document["trials"]} == {"new"}


def test_a_long_table_is_cut_and_says_so() -> None:
    long = Study(
        name="s",
        trainer="trainers.curves:Curves",
        base=CurvesConfig(),
        arms=[Grid({"size": Values(*range(1, 260))})],
        protocol=Replicates(1),
    )
    assert "… and 59 more arms; --json has them all" in drawn(view_of(long))
