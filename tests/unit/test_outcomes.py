"""A plan that is carried on from look to look is the plan that would be made from nothing."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import Arm, LogUniform, Replicates, Sampled, Study, SuccessiveHalving, Tune
from orchestrator.config import Overlay, flatten
from orchestrator.driver import COUNTS, Pace
from orchestrator.enqueue import plan_rows
from orchestrator.ledger import Entry, Ledger
from orchestrator.outcomes import Outlook, planned
from orchestrator.plan import Planner
from orchestrator.planned import Plan
from orchestrator.records import TrialState
from tests.ledgers import register
from trainers.curves import Curves, CurvesConfig

RATES = {"learning_rate": LogUniform(1e-3, 1)}
PROTOCOLS = {
    "replicates": Replicates(2),
    "sobol": Tune(trials=3, select="val/nll", then=Replicates(2)),
    "tpe": Tune(trials=14, select="val/nll", then=Replicates(1), sampler="tpe"),
    "halved": Tune(trials=4, select="val/nll", then=Replicates(2), stopping=SuccessiveHalving(first=20, factor=2)),
}


def study(protocol: str) -> Study:
    arms = [Arm("a"), Arm("b", {"size": 200}), Arm("c", {"size": 300})]
    if protocol == "replicates":
        return Study(name="study", trainer=Curves.name, base=CurvesConfig(), arms=[*arms, Sampled(RATES, 3)], protocol=PROTOCOLS[protocol])
    return Study(name="study", trainer=Curves.name, base=CurvesConfig(), arms=arms, nuisance=RATES, protocol=PROTOCOLS[protocol])


def planner(protocol: str) -> Planner:
    asked = study(protocol)
    return Planner(asked, Curves(), flatten(asked.base))


def insert(ledger: Ledger, plan: Plan, since: Plan | None = None) -> None:
    ledger.insert_plan(plan_rows("study", Curves(), plan, {"name": "study"}, since=since))


def train(ledger: Ledger, worker: int, scores: list[float]) -> set[str]:
    """Trains as many trials as there are scores, each to its end or to its rung; the arms that they are of."""
    arms: set[str] = set()
    for score in scores:
        for lane in ledger.lease("study", worker, 1, lease_s=600):
            outcome = TrialState.COMPLETE if lane.until is None else None
            metrics = {"val/nll": score, "val/error": score, "test/nll": score}
            entry = Entry(key=lane.key, fence=lane.fence, step=lane.until or 100, metrics=metrics, outcome=outcome)
            assert ledger.record(worker, [entry])[lane.key]
            if outcome is None:
                ledger.park(worker, [lane.key])
            arms |= {member.arm for member in ledger.members("study") if member.key == lane.key}
    return arms


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=40), max_size=5))
def test_a_plan_carried_on_is_the_plan_made_anew(
    tmp_path_factory: pytest.TempPathFactory, protocol: str, rounds: list[list[float]]
) -> None:
    with Ledger.open(tmp_path_factory.mktemp("outlook") / "ledger.db") as ledger:
        outlook = Outlook(planner(protocol), ledger)
        carried = outlook.look()
        insert(ledger, carried)
        worker = register(ledger)
        for scores in rounds:
            moved = train(ledger, worker, scores)
            former, carried = carried, outlook.look(moved)
            insert(ledger, carried, since=former)
            anew, _ = planned(planner(protocol), ledger)
            assert carried == anew
            assert {trial.key for trial in anew.trials} == {member.key for member in ledger.members("study") if not member.orphaned}
            before = ledger.members("study")
            insert(ledger, anew)
            assert ledger.members("study") == before


def test_an_arm_for_which_nothing_happened_is_not_planned_again(tmp_path: pathlib.Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        outlook = Outlook(planner("sobol"), ledger)
        first = outlook.look()
        insert(ledger, first)
        moved = train(ledger, register(ledger), [1.0, 2.0, 3.0])
        second = outlook.look(moved)
    assert moved == {"a"}
    assert [new is old for new, old in zip(second.arms, first.arms, strict=True)] == [False, True, True]
    told = plan_rows("study", Curves(), second, None, since=first)
    assert {row.arm for row in told.members} == told.arms == {"a"}


def test_trials_share_their_cells_and_cells_their_base() -> None:
    asked = planner("sobol")
    trials = [*asked.plan({}).trials, *asked.plan({}).trials]
    assert len({id(trial.cell) for trial in trials}) == len({trial.cell.key for trial in trials}) == 9
    assert all(isinstance(trial.cell.config, Overlay) and len(trial.cell.config.changes) <= 2 for trial in trials)
    assert len({id(trial.cell.cost) for trial in trials}) == 3
    assert all(dict(trial.cell.config) == trial.cell.config.flat() for trial in trials)  # type: ignore[attr-defined]


def test_a_pace_keeps_work_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("orchestrator.driver.time.monotonic", lambda: now[0])
    pace = Pace(COUNTS)
    worked = 0.0
    for _ in range(2000):
        if pace.is_due:
            with pace.kept():
                now[0] += 0.5
                worked += 0.5
        now[0] += 0.2
    assert 0.9 * COUNTS <= worked / now[0] <= 1.1 * COUNTS
