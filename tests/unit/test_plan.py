"""From designs to trials: what each word of a study file means, and what an edit changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Arm, Cross, Grid, LeaveOneOut, LogUniform, OneFactorAtATime, Replicates, Sampled, Study, Tune, Values
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.designs import Design
from orchestrator.diff import Change, Place, difference
from orchestrator.expand import arms_of
from orchestrator.plan import Planner
from orchestrator.planned import Outcome, Plan, PlannedTrial
from orchestrator.records import Phase, TrialState
from orchestrator.replicates import TUNING_SEED
from orchestrator.study import Protocol
from trainers.curves import Curves, CurvesConfig

BASE = flatten(CurvesConfig())


def study(arms: Sequence[Design], protocol: Protocol = Replicates(2), **more: object) -> Study:  # noqa: B008
    return Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=arms, protocol=protocol, **more)  # type: ignore[arg-type]


def planner(arms: Sequence[Design], protocol: Protocol = Replicates(2), **more: object) -> Planner:  # noqa: B008
    return Planner(study(arms, protocol, **more), Curves(), BASE)


def complete(trials: Sequence[PlannedTrial], value: Mapping[str, float] | None = None) -> dict[str, Outcome]:
    """Outcomes in which trial i scores i, or as told."""
    scores = value or {trial.key: float(number) for number, trial in enumerate(trials)}
    return {trial.key: Outcome(state=TrialState.COMPLETE, metrics={"val/nll": scores[trial.key]}) for trial in trials}


def names(*designs: Design, axes: Design | None = None) -> list[str]:
    return [arm.name for arm in arms_of(designs, axes, BASE)]


def test_a_grid_is_every_combination() -> None:
    arms = arms_of([Grid({"size": Values(1, 2), "floor": Values(0.1, 0.2, 0.3)})], None, BASE)
    points = [tuple(arm.overrides.values()) for arm in arms]
    assert points == list(itertools.product((1, 2), (0.1, 0.2, 0.3)))
    assert arms[0].name == "size=1, floor=0.1"


def test_a_conditional_axis_exists_only_where_its_condition_holds() -> None:
    grid = Grid({"family": Values("plain", "wide"), "size": Values(10, 20, when={"family": "wide"})})
    assert [arm.overrides for arm in arms_of([grid], None, BASE)] == [
        {"family": "plain"},
        {"family": "wide", "size": 10},
        {"family": "wide", "size": 20},
    ]
    by_base = Grid({"size": Values(10, 20, when={"family": "deep"}), "floor": Values(0.5)})
    assert [arm.overrides for arm in arms_of([by_base], None, BASE)] == [{"floor": 0.5}]


def test_one_factor_at_a_time_changes_one_key_an_arm() -> None:
    arms = arms_of([OneFactorAtATime({"size": Values(1, 2), "floor": Values(0.1)})], None, BASE)
    assert [arm.overrides for arm in arms] == [{}, {"size": 1}, {"size": 2}, {"floor": 0.1}]
    assert [arm.baseline for arm in arms] == [True, False, False, False]


def test_leave_one_out_has_the_whole_and_the_whole_without_each_part() -> None:
    arms = arms_of([LeaveOneOut({"noise": {"noise": 0.0}, "floor": {"floor": 0.0}})], None, BASE)
    assert [(arm.name, arm.overrides) for arm in arms] == [("full", {}), ("− noise", {"noise": 0.0}), ("− floor", {"floor": 0.0})]


def test_designs_compose() -> None:
    crossed = Cross(Arm("big", {"size": 9}), Grid({"floor": Values(0.1, 0.2)}))
    assert names(Arm("first"), crossed) == ["first", "big · floor=0.1", "big · floor=0.2"]
    assert names(Arm("a"), Arm("b"), axes=Grid({"size": Values(1, 2)})) == ["a · size=1", "a · size=2", "b · size=1", "b · size=2"]


def test_crossing_keeps_one_baseline() -> None:
    arms = arms_of([Arm("a", baseline=True), Arm("b")], Grid({"size": Values(1, 2)}), BASE)
    assert [arm.name for arm in arms if arm.baseline] == ["a · size=1"]


def test_a_sampled_design_is_the_same_each_time_and_a_longer_one_begins_with_it() -> None:
    def points(n: int) -> list[dict[str, object]]:
        return [dict(arm.overrides) for arm in arms_of([Sampled({"learning_rate": LogUniform(1e-3, 1)}, n)], None, BASE)]

    assert points(8)[:5] == points(5) == points(5)


def test_replicates_fix_the_seeds_and_tuning_uses_none_of_them() -> None:
    plan = planner([Arm("a"), Arm("b", {"size": 2})], Replicates(3, first_seed=7)).plan({})
    assert [(trial.arm, trial.seed) for trial in plan.trials] == [(arm, seed) for arm in "ab" for seed in (7, 8, 9)]
    tuned = planner([Arm("a")], Tune(trials=2, select="val/nll", then=Replicates(2)), nuisance={"learning_rate": Values(0.1, 0.2)})
    assert {trial.seed for trial in tuned.plan({}).trials} == {TUNING_SEED}


def tuned(trials: int = 4, sampler: str = "sobol") -> Planner:
    protocol = Tune(trials=trials, select="val/nll", then=Replicates(3), sampler=sampler)
    return planner([Arm("a"), Arm("b", {"size": 2})], protocol, nuisance={"learning_rate": LogUniform(1e-3, 1)})


def test_every_arm_gets_the_same_tuning_points_and_budget() -> None:
    plan = tuned().plan({})
    assert [arm.pending for arm in plan.arms] == [3, 3]
    points = [[trial.point for trial in arm.trials] for arm in plan.arms]
    assert points[0] == points[1]
    assert len(points[0]) == 4


def test_replicates_follow_when_tuning_is_finished_with_the_best_point() -> None:
    subject = tuned()
    first = subject.plan({}).arms[0].trials
    scores = dict(zip([trial.key for trial in first], [3.0, math.nan, 1.0, 2.0], strict=True))
    known = complete(first, scores)
    assert subject.plan(dict(list(known.items())[:3])).arms[0].selected is None
    arm, other = subject.plan(known).arms
    assert arm.selected == first[2].point
    assert [(trial.phase, trial.seed) for trial in arm.trials[4:]] == [(Phase.REPLICATE, seed) for seed in range(3)]
    assert arm.cell.config["learning_rate"] == first[2].point["learning_rate"]
    assert other.selected is None


def test_an_arm_whose_tuning_all_failed_has_no_replicates() -> None:
    subject = tuned()
    failed = {trial.key: Outcome(state=TrialState.FAILED, metrics={}) for trial in subject.plan({}).arms[0].trials}
    assert subject.plan(failed).arms[0].selected is None


def test_an_adaptive_sampler_asks_in_batches_that_timing_cannot_change() -> None:
    subject = tuned(trials=10, sampler="tpe")
    first = subject.plan({}).arms[0].trials
    assert len(first) == 4
    assert subject.plan(complete(first[:3])).arms[0].trials == first
    second = subject.plan(complete(first)).arms[0].trials
    assert second[:4] == first
    assert len(second) == 8
    assert subject.plan(complete(first)).arms[0].trials == second


def _changes(plan: Plan, former: Plan, done: bool = True) -> tuple[dict[str, int], int]:
    state = TrialState.COMPLETE if done else TrialState.PLANNED
    places = [Place(key=trial.key, arm=trial.arm, phase=trial.phase, index=trial.index, state=state) for trial in former.trials]
    found = difference(plan, places, {place.key: state for place in places})
    return {change.value: found.count(change) for change in Change if found.count(change)}, len(found.orphaned_keys)


ARMS = [Arm("a"), Arm("b", {"size": 2}), Arm("c", {"floor": 0.1})]


@pytest.mark.parametrize(
    ("edited", "changes", "orphaned"),
    [
        (ARMS, {"cached": 6}, 0),
        ([Arm("renamed"), *ARMS[1:]], {"cached": 6}, 0),
        (ARMS[::-1], {"cached": 6}, 0),
        (ARMS[:2], {"cached": 4}, 2),
        ([*ARMS, Arm("d", {"size": 3})], {"new": 2, "cached": 6}, 0),
        ([*ARMS[:2], Arm("c", {"floor": 0.2})], {"changed": 2, "cached": 4}, 2),
        ([*ARMS, Arm("same as b", {"size": 2})], {"cached": 6}, 0),
    ],
)
def test_an_edit_changes_just_what_it_says(edited: list[Arm], changes: dict[str, int], orphaned: int) -> None:
    assert _changes(planner(edited).plan({}), planner(ARMS).plan({})) == (changes, orphaned)


def test_one_more_replicate_is_one_more_trial_an_arm() -> None:
    assert _changes(planner(ARMS, Replicates(3)).plan({}), planner(ARMS).plan({})) == ({"new": 3, "cached": 6}, 0)


def test_a_wider_grid_runs_only_what_is_new() -> None:
    def plan(*sizes: int) -> Plan:
        return planner([Grid({"size": Values(*sizes)})]).plan({})

    assert _changes(plan(1, 2, 3), plan(1, 2)) == ({"new": 2, "cached": 4}, 0)


@given(st.permutations(range(4)), st.integers(1, 3))
def test_keys_do_not_depend_on_order_or_names(order: Sequence[int], replicates: int) -> None:
    arms = [Arm(f"arm {number}", {"size": number + 1, "floor": 0.1}) for number in range(4)]
    shuffled = [Arm(f"other {n}", {"floor": 0.1, "size": n + 1}) for n in order]
    keys = [{trial.key for trial in planner(chosen, Replicates(replicates)).plan({}).trials} for chosen in (arms, shuffled)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 4 * replicates


def test_two_arms_that_resolve_to_one_config_share_their_trials() -> None:
    plan = planner([Arm("a"), Arm("b", {"size": 100})]).plan({})
    assert len(list(plan.trials)) == 4
    assert len({trial.key for trial in plan.trials}) == 2


def test_arms_that_differ_in_traced_values_share_a_program() -> None:
    arms = [Arm("a"), Arm("b", {"learning_rate": 0.5}), Arm("c", {"family": "wide"})]
    cells = [arm.cell.signature for arm in planner(arms).plan({}).arms]
    assert cells[0] == cells[1] != cells[2]


def test_an_axis_that_collides_with_an_arm_is_refused() -> None:
    tune = Tune(trials=2, select="val/nll", then=Replicates(1))
    subject = study([Arm("a", {"learning_rate": 0.1})], tune, nuisance={"learning_rate": LogUniform(1e-3, 1)})
    [problem] = study_problems(subject, Curves(), BASE)
    assert problem.what == "nuisance axis 'learning_rate' collides with an arm"
    both = study([Arm("a")], tune, axes=Grid({"size": Values(1, 2)}), nuisance={"size": Values(3, 4)})
    assert [problem.what for problem in study_problems(both, Curves(), BASE)] == ["'size' is both a scientific and a nuisance axis"]


def test_nuisance_axes_and_tuning_need_each_other() -> None:
    idle = study([Arm("a")], Tune(trials=2, select="val/nll", then=Replicates(1)))
    assert [problem.what for problem in study_problems(idle, Curves(), BASE)] == ["Tune has nothing to tune"]
    untuned = study([Arm("a")], nuisance={"size": Values(1, 2)})
    assert [problem.what for problem in study_problems(untuned, Curves(), BASE)] == ["nuisance axes need a protocol that tunes them"]
