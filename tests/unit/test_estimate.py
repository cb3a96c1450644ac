"""What a plan says it will cost, against what it is made of."""

from __future__ import annotations

import io
import json
import re

from rich.console import Console

from orchestrator import Arm, Grid, LogUniform, Replicates, Study, Tune, Values
from orchestrator.config import flatten
from orchestrator.contract import Probe
from orchestrator.diff import difference
from orchestrator.errors import Problem
from orchestrator.estimate import estimate, work_left
from orchestrator.plan import Outcome, Planner
from orchestrator.plan_table import PlanView, plan_json, plan_table, summary_lines
from orchestrator.records import TrialState
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
    work = work_left(plan, found, Curves())
    measured = {
        row.signature: Probe(signature=row.signature, device="cpu", strategy="map", width=4, compile_s=3.0, lane_step_s=0.1)
        for row in work[: len(probes)]
    }
    return PlanView(
        study=study.name,
        profile="",
        roles=roles(study, [arm.arm for arm in plan.arms]),
        plan=plan,
        difference=found,
        work=work,
        estimate=estimate(work, measured, workers=2) if measured else None,
        workers=2,
        data_problems=problems,
    )


def drawn(view: PlanView) -> str:
    text = io.StringIO()
    Console(file=text, width=200, color_system=None).print(plan_table(view))
    return text.getvalue()


def test_the_estimate_is_steps_times_speed_and_a_compilation_for_each_program() -> None:
    view = view_of(STUDY, probes=("first", "second"))
    assert view.estimate is not None
    assert view.estimate.seconds == (2 * 6 * 50 * 0.1 + 2 * 3.0) / 2
    assert (view.estimate.probed, view.estimate.unprobed) == (12, 0)


def test_trials_of_a_program_that_was_never_probed_are_named_apart() -> None:
    view = view_of(STUDY, probes=("first",))
    assert summary_lines(view)[-1] == "time: about 16 s on 2 workers, without 6 trials whose program has not run here yet"
    assert summary_lines(view_of(STUDY))[-1].startswith("time: unknown")


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
