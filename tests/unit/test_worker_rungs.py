"""A worker at a rung: what it tells a trainer, and what becomes of lanes whose trainer does not do its part."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Generator

import pytest

from orchestrator.contract import Host, Report, Verdict
from orchestrator.ledger import Ledger
from orchestrator.order import WorkerOrder
from orchestrator.records import TrialState
from orchestrator.worker import Worker
from tests.ledgers import STUDY, plan, states, with_members
from trainers.curves import Curves

Act = Callable[[Host], None]


class Told(Curves):
    """A trainer that does as it is told once, and then pulls what it can and does nothing."""

    def __init__(self, act: Act) -> None:
        self.act: Act | None = act

    def train(self, host: Host) -> None:
        act, self.act = self.act, None
        if act is not None:
            act(host)


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Generator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        opened.insert_plan(with_members(plan(2), until=10))
        yield opened


def work(ledger: Ledger, folder: pathlib.Path, act: Act) -> None:
    """One pack of a worker."""
    order = WorkerOrder(
        ledger=ledger.where,
        study=STUDY,
        trainer="tests:Told",
        identity="w",
        out=str(folder),
        n_workers=1,
        lease_s=60.0,
        paths=(),
        provenance=(),
    )
    worker = Worker(order, ledger, Told(act))
    worker._train(worker.lease(1, signature=None))


def said(key: str, step: int, **metrics: float) -> Report:
    return Report(key=key, step=step, metrics={f"val/{name}": value for name, value in metrics.items()})


def test_a_lane_pauses_at_its_rung_and_is_held_until_it_is_parked(ledger: Ledger, tmp_path: pathlib.Path) -> None:
    def act(host: Host) -> None:
        first, second = host.pull(2)
        assert host.report([said(first.key, 9, nll=0.5)]) == {first.key: Verdict.CONTINUE}
        reports = [said(first.key, 12, nll=0.5), said(second.key, 10, nll=float("nan"))]
        assert host.report(reports) == {first.key: Verdict.PAUSE, second.key: Verdict.STOP}
        assert ledger.live_workers(STUDY)[0].leases == 1
        host.parked([first.key])
        assert ledger.live_workers(STUDY)[0].leases == 0

    work(ledger, tmp_path, act)
    assert states(ledger) == {"t0000": TrialState.PAUSED, "t0001": TrialState.DIVERGED}


def test_a_final_report_at_a_rung_is_the_end(ledger: Ledger, tmp_path: pathlib.Path) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        report = Report(key=lane.key, step=10, metrics={"val/nll": 0.1}, final=True)
        assert host.report([report]) == {lane.key: Verdict.FINISHED}

    work(ledger, tmp_path, act)
    assert states(ledger)["t0000"] is TrialState.COMPLETE


def test_a_lane_that_was_never_parked_pauses_all_the_same(ledger: Ledger, tmp_path: pathlib.Path) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        assert host.report([said(lane.key, 10, nll=0.5)]) == {lane.key: Verdict.PAUSE}

    work(ledger, tmp_path, act)
    assert states(ledger) == {"t0000": TrialState.PAUSED, "t0001": TrialState.PLANNED}


def test_a_pack_that_raises_while_a_lane_pauses_does_not_train_that_lane_on(ledger: Ledger, tmp_path: pathlib.Path) -> None:
    def act(host: Host) -> None:
        first, _ = host.pull(2)
        assert host.report([said(first.key, 10, nll=0.5)]) == {first.key: Verdict.PAUSE}
        raise RuntimeError("out of memory")

    work(ledger, tmp_path, act)
    assert states(ledger) == {"t0000": TrialState.PAUSED, "t0001": TrialState.PLANNED}
    first, second = ledger.trial_records(STUDY)
    assert (first.attempts, second.attempts) == (1, 1)
    assert [row.step for row in first.rungs] == [10]


def test_a_trainer_that_trains_a_paused_lane_on_loses_nothing(ledger: Ledger, tmp_path: pathlib.Path) -> None:
    def act(host: Host) -> None:
        (lane,) = host.pull(1)
        assert [host.report([said(lane.key, step, nll=0.5)])[lane.key] for step in (10, 20)] == [Verdict.PAUSE] * 2
        final = Report(key=lane.key, step=30, metrics={"val/nll": 0.1}, final=True)
        assert host.report([final]) == {lane.key: Verdict.FINISHED}

    work(ledger, tmp_path, act)
    assert states(ledger)["t0000"] is TrialState.COMPLETE
