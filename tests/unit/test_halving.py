"""Halving: the rules alone, what they make of a plan, and how a study may ask for them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import (
    Arm,
    Cross,
    LogUniform,
    ParetoHalving,
    Replicates,
    Sampled,
    Study,
    SuccessiveHalving,
    Tune,
    Values,
)
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.diff import Change, difference
from orchestrator.errors import StudyError
from orchestrator.plan import Planner
from orchestrator.planned import Outcome, Plan, PlannedTrial
from orchestrator.records import Phase, Rung, TrialState
from orchestrator.stopping.cohort import Halved, HalvingRule, History, Member, halved, rungs
from orchestrator.stopping.pareto import dominates, fronts, spread_order
from trainers.curves import Curves, CurvesConfig

BY_NLL = SuccessiveHalving(first=10, factor=3, metric="val/nll", direction="minimize")
BY_BOTH = ParetoHalving(first=10, factor=2)
STEPS = 100
nlls = st.floats(0.0, 10.0) | st.just(math.nan)
pairs = st.tuples(st.integers(0, 6).map(float), st.integers(1, 6).map(float))


def member(nll: float | None, gflops: float = 1.0, *, steps: Sequence[int] = (10, 30, 90), state: TrialState | None = None) -> Member:
    """A trial that says the same at every rung; None: that has said nothing."""
    said = () if nll is None else tuple(Rung(step=step, metrics={"val/nll": nll}) for step in steps)
    history = History(state=state or TrialState.PAUSED, rungs=said)
    return Member(steps=STEPS, cost={"cost/train_gflops": gflops}, trials=(history,))


def dropped(found: Halved) -> list[bool]:
    return [bool(standing.dropped) for standing in found.standings]


# The rules


def test_rungs_are_powers_of_the_factor_before_the_end() -> None:
    assert rungs(BY_NLL, 90) == [10, 30]
    assert rungs(BY_NLL, 91) == [10, 30, 90]
    assert rungs(BY_NLL, 10) == []


def test_the_best_third_goes_on_and_the_others_stop_with_the_figures_that_decided() -> None:
    found = halved(BY_NLL, [member(nll, steps=(10,)) for nll in (0.9, 0.1, 0.5, 0.7, 0.3, 0.8)])
    assert dropped(found) == [True, False, True, True, False, True]
    assert [standing.until for standing in found.standings] == [None, 30, None, None, 30, None]
    assert found.standings[2].dropped == "val/nll 0.5 at step 10: place 3 of 6, of which 2 go on"
    assert [(decision.member, decision.place, decision.stops) for decision in found.decisions[:3]] == [
        (1, 1, False),
        (4, 2, False),
        (2, 3, True),
    ]


def test_a_lone_survivor_waits_for_nobody() -> None:
    found = halved(BY_NLL, [member(nll) for nll in (0.2, 0.1, 0.3)])
    assert [(standing.until, bool(standing.dropped)) for standing in found.standings] == [(None, True), (None, False), (None, True)]
    assert halved(BY_NLL, [member(None)]).standings[0].until is None


def test_equals_go_on_in_the_order_of_the_plan() -> None:
    assert dropped(halved(BY_NLL, [member(0.5)] * 6))[:3] == [False, True, True]
    assert [decision.member for decision in halved(BY_NLL, [member(0.5)] * 6).decisions if not decision.stops] == [0, 1, 0]


def test_what_diverged_or_failed_before_a_rung_is_last_and_keeps_nobody_waiting() -> None:
    cohort = [
        member(None, state=TrialState.DIVERGED),
        member(0.4),
        member(math.nan, state=TrialState.DIVERGED),
        member(0.5),
        member(None, state=TrialState.FAILED),
        member(0.6),
    ]
    found = halved(BY_NLL, cohort)
    assert [decision.member for decision in found.decisions[:6]] == [1, 3, 5, 0, 2, 4]
    assert "no finite val/nll at step 10: place 4 of 6" in found.standings[0].dropped


def test_who_diverges_after_a_rung_changes_nothing_that_was_decided_at_it() -> None:
    cohort = [member(0.1, steps=(10,)), *(member(nll, steps=(10,)) for nll in (0.2, 0.3, 0.4, 0.5, 0.6))]
    before = halved(BY_NLL, cohort)
    lost = History(state=TrialState.DIVERGED, rungs=(*cohort[0].trials[0].rungs, Rung(step=20, metrics={"val/nll": math.nan})))
    after = halved(BY_NLL, [dataclasses.replace(cohort[0], trials=(lost,)), *cohort[1:]])
    assert after.decisions == before.decisions


def test_a_rung_that_one_trial_has_not_reported_is_undecided_for_all() -> None:
    cohort = [member(nll) for nll in (0.1, 0.2, 0.3, 0.4, 0.5)]
    for absent in (None, TrialState.LEASED, TrialState.PAUSED, TrialState.STOPPED, TrialState.PLANNED):
        found = halved(BY_NLL, [*cohort, dataclasses.replace(member(None), trials=(History(state=absent, rungs=()),))])
        assert not found.decisions
        assert {standing.until for standing in found.standings} == {10}


def test_the_value_at_a_rung_is_the_first_report_at_or_past_it() -> None:
    late = History(state=TrialState.PAUSED, rungs=tuple(Rung(step=step, metrics={"val/nll": step / 100}) for step in (8, 12, 16)))
    found = halved(BY_NLL, [Member(steps=STEPS, cost={}, trials=(late,)), member(0.2), member(0.3)])
    assert found.decisions[0].values == (0.12,)


def test_an_arm_is_worth_the_mean_of_its_replicates_and_waits_for_the_last_of_them() -> None:
    def arm(*values: float | None) -> Member:
        return Member(steps=STEPS, cost={}, trials=tuple(member(value).trials[0] for value in values))

    found = halved(BY_NLL, [arm(0.1, 0.9), arm(0.4, 0.4), arm(0.0, math.nan)])
    assert [decision.values[0] for decision in found.decisions[:2]] == [0.4, 0.5]
    assert math.isnan(found.decisions[2].values[0])
    assert not halved(BY_NLL, [arm(0.1, 0.9), arm(0.4, 0.4), arm(math.nan, None)]).decisions


def test_the_larger_is_the_better_where_the_rule_says_so() -> None:
    by_accuracy = dataclasses.replace(BY_NLL, direction="maximize")
    assert dropped(halved(by_accuracy, [member(0.2), member(0.9), member(0.3)])) == [True, False, True]


@given(st.lists(nlls, max_size=30), st.integers(2, 5), st.sampled_from([BY_NLL, BY_BOTH]))
def test_no_rung_lets_more_go_on_than_its_share(values: list[float], factor: int, rule: HalvingRule) -> None:
    found = halved(dataclasses.replace(rule, factor=factor), [member(value, number % 4) for number, value in enumerate(values)])  # type: ignore[type-var]
    at_rung: dict[int, list[bool]] = {}
    for decision in found.decisions:
        at_rung.setdefault(decision.step, []).append(decision.stops)
        assert decision.of == len([other for other in found.decisions if other.step == decision.step])
    for stops in at_rung.values():
        assert stops.count(False) == max(1, len(stops) // factor)
    assert sum(not standing.dropped for standing in found.standings) >= min(1, len(values))


@given(st.lists(st.floats(0.0, 10.0), unique=True, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_cohort_decides_nothing_among_unequals(values: list[float], shuffle: random.Random) -> None:
    def kept(order: Sequence[float]) -> set[float]:
        found = halved(BY_NLL, [member(value) for value in order])
        return {value for value, standing in zip(order, found.standings, strict=True) if not standing.dropped}

    assert kept(values) == kept(shuffle.sample(values, len(values)))


@given(st.lists(pairs, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_cohort_decides_nothing_between_different_points(
    points: list[tuple[float, float]], shuffle: random.Random
) -> None:
    def kept(order: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        found = halved(BY_BOTH, [member(*point) for point in order])
        return sorted(point for point, standing in zip(order, found.standings, strict=True) if not standing.dropped)

    assert kept(points) == kept(shuffle.sample(points, len(points)))


@given(st.lists(pairs, min_size=1, max_size=20))
def test_the_dominated_are_stopped_before_those_that_dominate_them(points: list[tuple[float, float]]) -> None:
    found = halved(BY_BOTH, [member(*point, steps=(10,)) for point in points])
    place = {decision.member: decision.place for decision in found.decisions}
    for one, better in enumerate(points):
        for other, worse in enumerate(points):
            if place and dominates(better, worse):
                assert place[one] < place[other]


@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=20) | st.lists(pairs, max_size=20))
def test_fronts_are_those_of_the_definition(points: list[tuple[float, ...]]) -> None:
    left, layers = set(range(len(points))), []
    while left:
        free = {p for p in left if not any(dominates(points[q], points[p]) for q in left)}
        layers.append(free)
        left -= free
    assert [set(front) for front in fronts(tuple(points))] == layers


def test_of_the_last_front_those_spread_furthest_go_on() -> None:
    points = [(0.0, 10.0), (1.0, 9.0), (2.0, 8.0), (5.0, 5.0), (9.0, 1.0), (10.0, 0.0)]
    assert spread_order(points, range(6), 3) == [0, 5, 3, 1, 2, 4]
    found = halved(BY_BOTH, [member(*point, steps=(10,)) for point in points])
    assert dropped(found) == [False, True, True, False, True, False]
    assert "front 1 of 1 by spread and val/nll 1, cost/train_gflops 9 at step 10: place 4 of 6" in found.standings[1].dropped


# In a study


BASE = flatten(CurvesConfig())


def planner(arms: Sequence[object], protocol: object, **more: object) -> Planner:
    study = Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=arms, protocol=protocol, **more)  # type: ignore[arg-type]
    return Planner(study, Curves(), BASE)


def tuned(stopping: SuccessiveHalving | ParetoHalving | None = SuccessiveHalving(first=20)) -> Planner:  # noqa: B008
    protocol = Tune(trials=6, select="val/nll", then=Replicates(2), stopping=stopping)
    return planner([Arm("a"), Arm("b", {"size": 2})], protocol, nuisance={"learning_rate": LogUniform(1e-3, 1)})


def heard(values: Mapping[str, Sequence[float]], state: TrialState = TrialState.PAUSED) -> dict[str, Outcome]:
    """Outcomes of trials that reported these values at steps 20, 60, …"""
    return {
        key: Outcome(
            state=state,
            metrics={"val/nll": said[-1]} if state is TrialState.COMPLETE else {},
            rungs=tuple(Rung(step=20 * 3**number, metrics={"val/nll": value}) for number, value in enumerate(said)),
        )
        for key, said in values.items()
    }


def of_arm(plan: Plan, name: str, phase: Phase = Phase.TUNE) -> list[PlannedTrial]:
    return [trial for trial in plan.trials if trial.arm == name and trial.phase is phase]


def test_tuning_pauses_at_the_first_rung_and_a_cohort_is_an_arm() -> None:
    plan = tuned().plan({})
    assert {trial.until for trial in plan.trials} == {20}
    assert plan.cohorts == ((frozenset({"a"}), Phase.TUNE), (frozenset({"b"}), Phase.TUNE))
    first = of_arm(plan, "a")
    decided = tuned().plan(heard({trial.key: [number / 10] for number, trial in enumerate(first)}))
    assert [trial.until for trial in of_arm(decided, "a")] == [60, 60, None, None, None, None]
    assert [bool(trial.dropped) for trial in of_arm(decided, "a")] == [False, False, True, True, True, True]
    assert {trial.until for trial in of_arm(decided, "b")} == {20}
    assert [decision.trial and decision.trial.key for decision in decided.decisions] == [trial.key for trial in first]


def test_replicates_follow_the_survivor_as_soon_as_it_is_complete() -> None:
    first = of_arm(tuned().plan({}), "a")
    known = heard({trial.key: [number / 10] for number, trial in enumerate(first)}, TrialState.STOPPED)
    known |= heard({first[0].key: [0.0, 0.5], first[1].key: [0.1, 0.4]})
    assert [bool(trial.dropped) for trial in of_arm(tuned().plan(known), "a")] == [True, False, True, True, True, True]
    known |= heard({first[1].key: [0.1, 0.4, 0.4]}, TrialState.COMPLETE)
    arm = tuned().plan(known).arms[0]
    assert arm.selected == first[1].point
    assert len([trial for trial in arm.trials if trial.phase is Phase.REPLICATE]) == 2


def test_a_dropped_trial_is_no_candidate_though_another_study_trained_it_to_a_better_end() -> None:
    first = of_arm(tuned().plan({}), "a")
    known = heard({trial.key: [number / 10, 0.5, 1.0 - number / 10] for number, trial in enumerate(first)}, TrialState.COMPLETE)
    assert tuned().plan(known).arms[0].selected == first[0].point
    assert tuned(None).plan(known).arms[0].selected == first[5].point


def test_a_trial_that_another_study_stopped_is_not_finished_for_one_without_the_rule() -> None:
    first = of_arm(tuned(None).plan({}), "a")
    known = heard({trial.key: [0.1] for trial in first}, TrialState.STOPPED)
    plan = tuned(None).plan(known)
    assert plan.arms[0].selected is None
    found = difference(plan, [], {key: outcome.state for key, outcome in known.items()})
    assert [change for trial, change in found.changes if trial.arm == "a"] == [Change.WAITING] * 6


def sampled(**stopping: object) -> Planner:
    rule = SuccessiveHalving(first=20, factor=2)
    return planner([Arm("named"), Sampled({"learning_rate": LogUniform(1e-3, 1)}, 4, stopping=rule)], Replicates(2), **stopping)


def test_drawn_arms_are_compared_by_their_mean_and_named_ones_are_never_dropped() -> None:
    plan = sampled().plan({})
    drawn = [arm for arm in plan.arms if arm.arm.name != "named"]
    assert plan.cohorts == ((frozenset(arm.arm.name for arm in drawn), Phase.REPLICATE),)
    assert {trial.until for arm in drawn for trial in arm.trials} == {20}
    assert {trial.until for trial in plan.arms[0].trials} == {None}
    worth = {trial.key: [number + (-1) ** trial.index * 5.0] for number, arm in enumerate(drawn) for trial in arm.trials}
    worth |= {trial.key: [99.0] for trial in plan.arms[0].trials}
    after = sampled().plan(heard(worth))
    assert [{(trial.until, bool(trial.dropped)) for trial in arm.trials} for arm in after.arms] == [
        {(None, False)},
        {(40, False)},
        {(40, False)},
        {(None, True)},
        {(None, True)},
    ]
    assert [(decision.trial, decision.made.values) for decision in after.decisions][:2] == [(None, (0.0,)), (None, (1.0,))]


def test_arms_drawn_beside_another_are_compared_with_those_beside_it() -> None:
    drawn = Sampled({"learning_rate": LogUniform(1e-3, 1)}, 4, stopping=SuccessiveHalving(first=20))
    for made in (
        planner([Cross(Arm("a"), drawn), Cross(Arm("b", {"size": 2}), drawn)], Replicates(1)),
        planner([Arm("a"), Arm("b", {"size": 2})], Replicates(1), axes=drawn),
    ):
        cohorts = made.plan({}).cohorts
        assert [{name.split(" · ")[0] for name in names} for names, _ in cohorts] == [{"a"}, {"b"}]


def problems(arms: Sequence[object], protocol: object, **more: object) -> list[str]:
    subject = planner(arms, protocol, **more)
    return [str(problem) for problem in study_problems(subject.study, Curves(), BASE)]


RATE = {"learning_rate": LogUniform(1e-3, 1)}


def test_rules_that_cannot_be_are_refused() -> None:
    for make, said in (
        (lambda: SuccessiveHalving(first=0), "first is out of range"),
        (lambda: SuccessiveHalving(first=10, factor=1), "factor is out of range"),
        (lambda: SuccessiveHalving(first=10, metric="test/nll"), "must compare by validation data or cost"),
        (lambda: SuccessiveHalving(first=10, direction="up"), "has no direction"),
        (lambda: ParetoHalving(first=10, objectives=("val/nll",)), "weighs objectives against each other"),
        (lambda: ParetoHalving(first=10, objectives=("val/nll", "train/loss")), "must compare by validation data or cost"),
        (lambda: ParetoHalving(first=10, maximize=("val/accuracy",)), "maximizes what is no objective"),
        (lambda: Sampled(RATE, 4, sampler="tpe", stopping=BY_NLL), "an adaptive sampler cannot be halved"),
        (lambda: Tune(4, "val/nll", Replicates(1), sampler="tpe", stopping=BY_BOTH), "an adaptive sampler cannot be halved"),
        (lambda: Tune(4, "val/nll", Replicates(1), stopping="asha"), "stopping is not a rule"),  # type: ignore[arg-type]
    ):
        with pytest.raises(StudyError, match=said):
            make()


def test_rules_that_do_not_fit_their_study_are_problems_of_it() -> None:
    tune = Tune(4, "val/nll", Replicates(1), stopping=SuccessiveHalving(first=100))
    assert "the first rung is not before the end" in problems([Arm("a")], tune, nuisance=RATE)[0]
    plain = dataclasses.replace(tune, stopping=None)
    drawn = Sampled({"floor": Values(0.1, 0.2)}, 2, stopping=SuccessiveHalving(first=20))
    assert "this study tunes them first" in problems([drawn], plain, nuisance=RATE)[0]
    assert "two designs stop the same arms" in problems([Cross(drawn, Sampled(RATE, 2, stopping=BY_NLL))], Replicates(1))[0]
    dear = ParetoHalving(first=20, objectives=("val/nll", "cost/train_gflop"))
    assert "closest: cost/train_gflops" in problems([Arm("a")], dataclasses.replace(tune, stopping=dear), nuisance=RATE)[0]


def test_a_rule_compares_by_what_selects_unless_it_says_otherwise() -> None:
    tune = Tune(4, "val/accuracy", Replicates(1), direction="maximize", stopping=SuccessiveHalving(first=20))
    assert tune.rule == SuccessiveHalving(first=20, metric="val/accuracy", direction="maximize")
    named = dataclasses.replace(tune, stopping=BY_NLL)
    assert named.rule == BY_NLL
