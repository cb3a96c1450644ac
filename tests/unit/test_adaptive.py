"""`Adaptive`: who gets more replicates, who gets no more, and that nothing but results decides it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping, Sequence

import pytest

from orchestrator import Adaptive, Arm, Ensemble, LogUniform, Objective, Profiles, Replicates, Sampled, Study, Tune
from orchestrator.analysis.rounds import Rounds, Series, Verdict, rounds
from orchestrator.check import study_problems
from orchestrator.config import flatten
from orchestrator.errors import StudyError
from orchestrator.plan import Planner
from orchestrator.planned import Outcome, Plan
from orchestrator.records import Phase, TrialState
from orchestrator.replicates import TUNING_SEED
from orchestrator.settings import applied
from trainers.curves import Curves, CurvesConfig

BASE = flatten(CurvesConfig())
RULE = Adaptive(first=4, step=2, most=12, metric="test/nll")
ARMS = (Arm("base", baseline=True), Arm("clear", {"floor": 0.1}), Arm("null", {"size": 101}), Arm("small", {"size": 102}))
EFFECTS = {"base": 0.0, "clear": -9.0, "null": 0.0, "small": -1.0}


def planner(protocol: Adaptive | Tune = RULE, **more: object) -> Planner:
    arms = more.pop("arms", ARMS)
    study = Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=arms, protocol=protocol, **more)  # type: ignore[arg-type]
    return Planner(study, Curves(), BASE)


def measured(arm: str, index: int) -> float:
    """What replicate `index` of an arm would measure."""
    return 5.0 + EFFECTS[arm] + random.Random(f"{arm} {index}").gauss(0.0, 0.7) + random.Random(index).gauss(0.0, 2.0)


def outcome(arm: str, index: int) -> Outcome:
    value = measured(arm, index)
    return Outcome(state=TrialState.COMPLETE, metrics={"test/nll": value, "val/nll": value})


def driven(subject: Planner, *, orders: random.Random | None = None, known: Mapping[str, Outcome] | None = None) -> tuple[Plan, set[str]]:
    """The plan when nothing is left, trials ending one by one in some order; and all keys that were ever planned."""
    outcomes, seen = dict(known or {}), set[str]()
    while True:
        plan = subject.plan(outcomes)
        waiting = [trial for trial in plan.trials if trial.key not in outcomes]
        seen |= {trial.key for trial in plan.trials}
        if not waiting:
            return plan, seen
        done = waiting if orders is None else [orders.choice(waiting)]
        outcomes |= {trial.key: outcome(trial.arm, trial.index) for trial in done}


def counts(plan: Plan) -> dict[str, int]:
    return {arm.arm.name: arm.replicates for arm in plan.arms}


def series(arm: str, values: Sequence[float], *, failed: Sequence[int] = (), is_out: bool = False) -> Series:
    kept = {index: value for index, value in enumerate(values) if index not in failed}
    return Series(arm=arm, values=kept, ended=frozenset(range(len(values))), is_out=is_out)


def judged(values: Sequence[float], rule: Adaptive = RULE, *, failed: Sequence[int] = ()) -> Rounds:
    """One arm with these differences from a baseline of zeros."""
    return rounds(rule, series("base", [0.0] * len(values)), [series("arm", values, failed=failed)])


def noise(n: int, shift: float = 0.0, scale: float = 1.0) -> list[float]:
    draw = random.Random(5)
    return [shift + scale * draw.gauss(0.0, 1.0) for _ in range(n)]


def test_clear_arms_get_the_first_replicates_and_those_that_change_nothing_the_most() -> None:
    plan, _ = driven(planner())
    found = counts(plan)
    assert (found["clear"], found["null"], found["base"]) == (4, 12, 12)
    assert 4 < found["small"] < 12
    assert plan.rounds is not None
    assert {row.arm: row.verdict for row in plan.rounds.comparisons} == {
        "clear": Verdict.DIFFERENT,
        "null": Verdict.MOST,
        "small": Verdict.DIFFERENT,
    }
    assert str(plan.rounds) == "2 of 3 comparisons settled, 1 ended without"


def test_the_order_in_which_trials_end_changes_no_decision_and_plans_no_other_trial() -> None:
    at_once, keys = driven(planner())
    for seed in range(5):
        plan, seen = driven(planner(), orders=random.Random(seed))
        assert (plan.rounds, counts(plan), seen) == (at_once.rounds, counts(at_once), keys)


def test_replicates_stay_paired_by_seed() -> None:
    plan, _ = driven(planner(dataclasses.replace(RULE, first_seed=7)))
    for arm in plan.arms:
        runs = [trial for trial in arm.trials if trial.phase is Phase.REPLICATE]
        assert [(trial.index, trial.seed) for trial in runs] == [(index, 7 + index) for index in range(arm.replicates)]
    assert len({trial.position for trial in plan.trials}) == len(list(plan.trials))


def test_no_look_is_taken_before_every_replicate_that_it_needs_has_ended() -> None:
    subject = planner()
    first = list(subject.plan({}).trials)
    outcomes = {trial.key: outcome(trial.arm, trial.index) for trial in first[:-1]}
    waiting = subject.plan(outcomes)
    assert counts(waiting) == dict.fromkeys(EFFECTS, 4)
    assert waiting.rounds is not None
    assert waiting.rounds.looks == ()
    running = outcomes | {first[-1].key: Outcome(state=TrialState.LEASED, metrics={})}
    assert subject.plan(running).rounds == waiting.rounds


def test_an_arm_for_which_nothing_changed_is_the_same_object() -> None:
    subject = planner()
    outcomes = {trial.key: outcome(trial.arm, trial.index) for trial in subject.plan({}).trials}
    before, after = subject.plan(outcomes), subject.plan(outcomes)
    assert all(one is other for one, other in zip(before.arms, after.arms, strict=True))


def test_most_raised_later_goes_on_and_judges_no_look_anew() -> None:
    short, seen = driven(planner())
    known = {trial.key: outcome(trial.arm, trial.index) for trial in short.trials}
    longer = planner(dataclasses.replace(RULE, most=20)).plan(known)
    assert {trial.key for trial in longer.trials} > seen
    assert counts(longer) == counts(short) | {"null": 14, "base": 14}
    assert longer.rounds is not None
    assert short.rounds is not None
    assert longer.rounds.looks == short.rounds.looks
    assert longer.rounds.of("clear") == short.rounds.of("clear")


def test_a_study_that_had_a_number_of_replicates_uses_those_that_it_has() -> None:
    fixed = planner(Replicates(12))  # type: ignore[arg-type]
    known = {trial.key: outcome(trial.arm, trial.index) for trial in fixed.plan({}).trials}
    plan, seen = driven(planner(), known=known)
    assert seen <= known.keys()
    assert plan.rounds == driven(planner())[0].rounds


def test_tuning_comes_first_and_an_arm_whose_tuning_chose_nothing_holds_nobody_up() -> None:
    protocol = Tune(trials=2, select="val/nll", then=RULE)
    subject = planner(protocol, nuisance={"learning_rate": LogUniform(1e-3, 1e-1)})
    tuning = list(subject.plan({}).trials)
    assert {trial.seed for trial in tuning} == {TUNING_SEED}
    failed = {trial.key: Outcome(state=TrialState.FAILED, metrics={}) for trial in tuning if trial.arm == "null"}
    known = failed | {trial.key: outcome(trial.arm, trial.index) for trial in tuning if trial.arm != "null"}
    plan, _ = driven(subject, known=known)
    assert plan.rounds is not None
    assert plan.rounds.of("clear") == dataclasses.replace(plan.rounds.comparisons[0], verdict=Verdict.DIFFERENT, replicates=4)
    row = plan.rounds.of("null")
    assert row is not None
    assert (row.verdict, row.replicates) == (Verdict.UNTUNED, 0)
    assert plan.arms[2].pending == 4, "what it lacks stays missing"


def test_without_a_baseline_that_could_be_tuned_nothing_is_compared() -> None:
    found = rounds(RULE, series("base", [], is_out=True), [series("arm", noise(4))])
    assert (found.comparisons[0].verdict, found.more) == (Verdict.UNTUNED, 0)


def test_a_pair_that_failed_is_missing_and_the_look_goes_on() -> None:
    found = judged(noise(8, shift=30.0), failed=(1,))
    assert found.comparisons[0].verdict is Verdict.DIFFERENT
    assert (found.comparisons[0].pairs, found.looks) == (3, (4,))
    nothing = judged(noise(12), failed=range(12))
    assert (nothing.comparisons[0].verdict, nothing.comparisons[0].pairs) == (Verdict.MOST, 0)
    assert math.isnan(nothing.comparisons[0].p)


def test_a_value_that_is_not_finite_ends_a_comparison() -> None:
    assert judged([0.1, math.nan, 0.2, 0.3]).comparisons[0].verdict is Verdict.INFINITE


def test_a_difference_shown_to_be_smaller_than_asked_for_is_settled() -> None:
    found = judged(noise(12, scale=0.01), dataclasses.replace(RULE, smaller_than=0.1))
    assert found.comparisons[0].verdict is Verdict.ALIKE
    assert found.comparisons[0].replicates < 12
    assert judged(noise(12, scale=0.01)).comparisons[0].verdict is Verdict.MOST
    assert judged([0.0] * 4, dataclasses.replace(RULE, smaller_than=0.1)).comparisons[0].verdict is Verdict.OPEN, "no spread was seen"


def test_a_comparison_that_would_hardly_be_settled_gives_up_where_the_study_says_so() -> None:
    values = [number % 2 - 0.5 + 0.01 * number for number in range(12)]
    assert judged(values).comparisons[0].verdict is Verdict.MOST
    found = judged(values, dataclasses.replace(RULE, futile=0.1))
    assert found.comparisons[0].verdict is Verdict.FUTILE
    assert found.comparisons[0].replicates < 12


def test_the_budget_is_never_passed_and_used_for_a_part_of_a_step() -> None:
    for budget in range(16, 40):
        plan, _ = driven(planner(dataclasses.replace(RULE, budget=budget)))
        assert sum(counts(plan).values()) <= budget
        assert plan.rounds is not None
        assert plan.rounds.more == 0
    assert sum(counts(driven(planner(dataclasses.replace(RULE, budget=19)))[0]).values()) == 19, "one replicate of three arms"


def test_what_is_left_is_an_upper_bound_at_every_look() -> None:
    subject, outcomes, bounds = planner(), dict[str, Outcome](), list[int]()
    while True:
        plan = subject.plan(outcomes)
        waiting = [trial for trial in plan.trials if trial.key not in outcomes]
        if not waiting:
            break
        assert plan.rounds is not None
        bounds.append(len(list(plan.trials)) + plan.rounds.more)
        outcomes |= {trial.key: outcome(trial.arm, trial.index) for trial in waiting}
    assert bounds[0] == 48
    assert all(after <= before for before, after in itertools.pairwise(bounds))
    assert bounds[-1] >= len(outcomes)


def problems(protocol: Adaptive | Tune, arms: Sequence[object] = ARMS, **more: object) -> list[str]:
    study = Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=arms, protocol=protocol, **more)  # type: ignore[arg-type]
    return [problem.what for problem in study_problems(study, Curves(), BASE)]


def test_what_cannot_be_settled_is_refused_before_anything_runs() -> None:
    assert problems(Adaptive(), [Arm("a"), Arm("b", {"size": 2})]) == ["Adaptive has nothing to compare"]
    assert problems(Adaptive(), [Arm("a", baseline=True)]) == ["Adaptive has nothing to compare"]
    assert problems(Adaptive(budget=15)) == ["Adaptive's budget ends before the first look"]
    assert problems(Adaptive(), objectives=[Objective("cost/train_gflops")]) == ["Adaptive has no metric"]
    eight = Ensemble("×8", of="base", members=8)
    drawn = [*ARMS, Sampled({"learning_rate": LogUniform(1e-3, 1)}, 4, sampler="tpe", select="val/nll")]
    assert problems(Adaptive(), drawn) == ["Adaptive needs arms that are known from the start and trained to their end"]
    assert problems(Adaptive(), [*ARMS, eight]) == ["ensemble '×8' has more members than there are replicates"]
    assert not problems(Adaptive())


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"first": 1}, "first"),
        ({"first": 30}, "first"),
        ({"step": 0}, "step"),
        ({"most": 1000}, "most"),
        ({"most": "many"}, "most"),
        ({"budget": 0}, "budget"),
        ({"alpha": 0.0}, "alpha"),
        ({"futile": 0.9}, "futile"),
        ({"smaller_than": -0.1}, "smaller_than"),
        ({"metric": "cost/parameters"}, "cost"),
        ({"first_seed": TUNING_SEED}, "first_seed"),
    ],
)
def test_a_value_out_of_range_is_named(values: Mapping[str, object], what: str) -> None:
    with pytest.raises(StudyError, match=what):
        Adaptive(**values)  # type: ignore[arg-type]


def test_settings_change_the_protocol_and_a_number_of_replicates_takes_its_place() -> None:
    study = Study(
        name="s",
        trainer="trainers.curves:Curves",
        base=CurvesConfig(),
        arms=ARMS,
        protocol=Profiles(laptop=Adaptive(), paper=Adaptive(most=40)),
    ).for_profile("laptop")
    more, _, wrong = applied(study, Curves(), ["protocol.most=30", "protocol.budget=90"])
    assert (more.protocol, wrong) == (Adaptive(most=30, budget=90), [])
    fixed, _, wrong = applied(study, Curves(), ["protocol.replicates=3"])
    assert (fixed.protocol, wrong) == (Replicates(3), [])
    _, _, wrong = applied(study.following(Replicates(3)), Curves(), ["protocol.most=30"])
    tuned = Tune(trials=2, select="val/nll", then=Replicates(3))
    _, _, wrong = applied(study.following(tuned), Curves(), ["protocol.most=30"])
    assert [problem.what for problem in wrong] == ["--set protocol.most: the number of replicates is fixed"]
