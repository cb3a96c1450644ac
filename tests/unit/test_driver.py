"""The driver's loop against a real ledger, with a crew that trains nothing and answers at once."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator import Arm, LogUniform, Objective, Replicates, Sampled, Study, SuccessiveHalving, Tune
from orchestrator.config import flatten
from orchestrator.driver import MAX_DEATHS, Driver, Ending
from orchestrator.ledger import Entry, Ledger
from orchestrator.plan import Planner
from orchestrator.progress import View
from orchestrator.records import TrialState
from orchestrator.spec import spec_of
from trainers.curves import Curves, CurvesConfig

TRAINER = Curves()
STUDY = Study(
    name="s",
    trainer=TRAINER.name,
    base=CurvesConfig(),
    arms=[Arm("a"), Arm("b", {"size": 200})],
    nuisance={"learning_rate": LogUniform(1e-3, 1)},
    protocol=Tune(trials=2, select="val/nll", then=Replicates(2)),
)
TOTAL = 8


class Crew:
    """Workers that finish a trial each time the driver looks."""

    active = 1

    def __init__(self, ledger: Ledger, *, works: bool = True) -> None:
        self.ledger, self.works, self.deaths = ledger, works, 0
        self.worker: int | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None: ...

    def mourn(self) -> None:
        self.deaths += not self.works

    def staff(self, waiting: int) -> None:
        if self.works and waiting:
            self.finish_one()

    def stop(self, hasty: Callable[[], bool], wait: Callable[[], None]) -> None:
        assert not hasty()
        wait()

    def finish_one(self) -> None:
        if self.worker is None:
            self.worker = self.ledger.register_worker("s", identity="s/worker-0-a1", host="here", pid=1, started="1")
        for trial in self.ledger.lease("s", self.worker, 1, lease_s=60):
            entry = Entry(key=trial.key, fence=trial.fence, step=1, metrics={"val/nll": 1.0, "test/nll": 1.0}, outcome=TrialState.COMPLETE)
            assert self.ledger.record(self.worker, [entry])[trial.key]


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.db")


@pytest.fixture
def driver(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr("orchestrator.driver.TICK_S", 0.0)
    planner = Planner(STUDY, TRAINER, flatten(CurvesConfig()))
    view = View(Console(file=io.StringIO()), "s")
    return Driver(planner, ledger, view, lambda plan: spec_of(STUDY, TRAINER, planner.base, "", plan, {}))


def complete(ledger: Ledger) -> int:
    return sum(row.done for row in ledger.progress("s"))


def test_replicates_follow_tuning_until_nothing_is_left(driver: Driver, ledger: Ledger) -> None:
    started: list[bool] = []
    assert driver.run(lambda: Crew(ledger), on_start=lambda: started.append(True)) is Ending.DONE
    assert complete(ledger) == TOTAL
    assert started == [True]


def test_what_finishes_while_the_plan_is_made_anew_is_not_overlooked(
    driver: Driver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, replan = Crew(ledger), driver._replan

    def slow_replan() -> None:
        replan()
        if crew.worker is not None:
            crew.finish_one()

    monkeypatch.setattr(driver, "_replan", slow_replan)
    assert driver.run(lambda: crew, on_start=lambda: None) is Ending.DONE
    assert complete(ledger) == TOTAL


HALVED = STUDY.following(Tune(trials=4, select="val/nll", then=Replicates(2), stopping=SuccessiveHalving(first=20, factor=2)))


class HaltingCrew(Crew):
    """Workers that report a rung each time, park what has to pause, and may look away before parking."""

    def finish_one(self) -> None:
        if self.worker is None:
            self.worker = self.ledger.register_worker("s", identity="s/worker-0-a1", host="here", pid=1, started="1")
        for trial in self.ledger.lease("s", self.worker, 1, lease_s=60):
            step = 100 if trial.until is None else trial.until
            metrics = {"val/nll": trial.config["learning_rate"], "test/nll": 1.0}
            outcome = TrialState.COMPLETE if trial.until is None else None
            entry = Entry(key=trial.key, fence=trial.fence, step=step, metrics=metrics, outcome=outcome)  # type: ignore[arg-type]
            assert self.ledger.record(self.worker, [entry])[trial.key]
            if outcome is None:
                self.ledger.park(self.worker, [trial.key])


@pytest.fixture
def halving(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr("orchestrator.driver.TICK_S", 0.0)
    planner = Planner(HALVED, TRAINER, flatten(CurvesConfig()))
    view = View(Console(file=io.StringIO()), "s")
    return Driver(planner, ledger, view, lambda plan: spec_of(HALVED, TRAINER, planner.base, "", plan, {}))


def test_a_study_with_paused_trials_is_not_over(halving: Driver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, replan = [0], halving._replan

    def counted() -> None:
        plans[0] += 1
        replan()

    monkeypatch.setattr(halving, "_replan", counted)
    assert halving.run(lambda: HaltingCrew(ledger), on_start=lambda: None) is Ending.DONE
    assert {(row.arm, row.phase.value, row.done, row.paused) for row in ledger.progress("s")} == {
        (arm, phase, done, 0) for arm in "ab" for phase, done in (("tune", 4), ("replicate", 2))
    }
    told = [(event.payload["rung"], event.payload["decision"]) for event in ledger.events("s") if event.kind == "decision"]
    assert sorted(told) == sorted([(20, "go on"), (20, "stop")] * 4 + [(40, "go on"), (40, "stop")] * 2)
    assert plans[0] <= 12  # once to begin, twice for the rungs of each arm, once or twice for its end: not at every report


class HastyCrew(HaltingCrew):
    """Workers that are at the next rung before the driver looks again."""

    def staff(self, waiting: int) -> None:
        del waiting  # of it there may be more by now
        while any(row.waiting for row in self.ledger.progress("s")):
            self.finish_one()


DRAWN = Study(
    name="s",
    trainer=TRAINER.name,
    base=CurvesConfig(),
    arms=[Arm("a"), Sampled({"learning_rate": LogUniform(1e-3, 1e-1)}, 8, stopping=SuccessiveHalving(first=20, factor=2))],
    protocol=Replicates(2),
    objectives=[Objective("val/nll")],
)


def test_arms_that_reach_the_next_rung_before_anybody_looks_are_compared_there(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.driver.TICK_S", 0.0)
    planner = Planner(DRAWN, TRAINER, flatten(CurvesConfig()))
    view = View(Console(file=io.StringIO()), "s")
    driver = Driver(planner, ledger, view, lambda plan: spec_of(DRAWN, TRAINER, planner.base, "", plan, {}))
    assert driver.run(lambda: HastyCrew(ledger), on_start=lambda: None) is Ending.DONE
    assert all((row.done, row.paused) == (2, 0) for row in ledger.progress("s"))


def test_a_rung_is_decided_while_a_worker_still_writes_its_checkpoints(
    halving: Driver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = HaltingCrew(ledger)
    monkeypatch.setattr(ledger, "park", lambda *_: None)
    lanes: list[str] = []

    def parks_late(waiting: int) -> None:
        if waiting:
            crew.finish_one()
        elif any(event.kind == "decision" for event in ledger.events("s")):
            assert crew.worker is not None
            lanes.append("parked")
            Ledger.park(ledger, crew.worker, [row.key for row in ledger.trial_records("s")])

    monkeypatch.setattr(crew, "staff", parks_late)
    assert halving.run(lambda: crew, on_start=lambda: None) is Ending.DONE
    assert lanes
    assert not any(row.paused for row in ledger.progress("s"))


def test_a_finished_study_starts_nobody(driver: Driver, ledger: Ledger) -> None:
    driver.run(lambda: Crew(ledger), on_start=lambda: None)

    def nobody() -> Crew:
        raise AssertionError("there is nothing to do")

    assert driver.run(nobody, on_start=lambda: None) is Ending.DONE


def test_workers_that_only_die_end_the_run(driver: Driver, ledger: Ledger) -> None:
    crew = Crew(ledger, works=False)
    assert driver.run(lambda: crew, on_start=lambda: None) is Ending.STUCK
    assert crew.deaths > MAX_DEATHS
    assert complete(ledger) == 0


def test_a_study_that_is_asked_to_stop_stops(driver: Driver, ledger: Ledger) -> None:
    assert driver.run(lambda: Crew(ledger), on_start=lambda: ledger.request_stop("s", True)) is Ending.INTERRUPTED
    assert complete(ledger) < TOTAL
    assert driver.run(lambda: Crew(ledger), on_start=lambda: None) is Ending.DONE
    assert complete(ledger) == TOTAL


EDITED = Study(
    name="s",
    trainer=TRAINER.name,
    base=CurvesConfig(),
    arms=[Arm("a"), Arm("c", {"size": 300})],
    nuisance={"learning_rate": LogUniform(1e-3, 1)},
    protocol=STUDY.protocol,
)


class EditedMeanwhile(Crew):
    """Workers of a study that somebody edits and launches again after a while."""

    def __init__(self, ledger: Ledger, launch_again: Callable[[], None], *, after: int) -> None:
        super().__init__(ledger)
        self.launch_again, self.after = launch_again, after

    def staff(self, waiting: int) -> None:
        super().staff(waiting)
        self.after -= 1
        if self.after == 0:
            self.launch_again()


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_launcher_of_an_older_study_file_hands_over_whether_it_is_told_or_plans(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, after: int, tells: bool
) -> None:
    monkeypatch.setattr("orchestrator.driver.TICK_S", 0.0)
    monkeypatch.setattr("orchestrator.driver.NEWS_EVERY_S", 0.0)
    shown = io.StringIO()
    planner = Planner(STUDY, TRAINER, flatten(CurvesConfig()))
    edited = Planner(EDITED, TRAINER, flatten(CurvesConfig()))

    def driver_of(some: Planner, digest: str) -> Driver:
        view = View(Console(file=shown), "s")
        return Driver(some, ledger, view, lambda plan: spec_of(some.study, TRAINER, some.base, "", plan, {}), digest)

    def launch_again() -> None:
        later = driver_of(edited, "two")
        later._replan()
        if tells:
            ledger.event("s", "launch", edition=later._edition)

    first = driver_of(planner, "one")
    assert first.run(lambda: EditedMeanwhile(ledger, launch_again, after=after), on_start=lambda: None) is Ending.SUPERSEDED
    assert "this launcher hands its trials over" in shown.getvalue()
    assert {row.arm for row in ledger.progress("s")} == {"a", "c"}
    assert driver_of(edited, "two").run(lambda: Crew(ledger), on_start=lambda: None) is Ending.DONE
    assert complete(ledger) == TOTAL


def test_launchers_of_one_study_file_work_beside_each_other(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr("orchestrator.driver.NEWS_EVERY_S", 0.0)
    planner = Planner(STUDY, TRAINER, flatten(CurvesConfig()))
    view = View(Console(file=io.StringIO()), "s")
    second = Driver(planner, ledger, view, lambda plan: spec_of(STUDY, TRAINER, planner.base, "", plan, {}))
    crew = EditedMeanwhile(ledger, lambda: ended.append(second.run(lambda: Crew(ledger), on_start=lambda: None)), after=2)
    ended: list[Ending] = []
    assert driver.run(lambda: crew, on_start=lambda: None) is Ending.DONE
    assert ended == [Ending.DONE]
    assert complete(ledger) == TOTAL
