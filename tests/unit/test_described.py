"""What a report learns beside results: descriptions that trials left, and why attempts at them ended."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from orchestrator.contract import DESCRIPTION, write_row
from orchestrator.described import described, explained
from orchestrator.ledger import Ledger
from orchestrator.records import Bins, Cause, StudyRecord, TrialState
from tests import disks
from tests.ledgers import LEASE_S, STUDY, plan, register, rung
from tests.studyrecords import study_record

ROW: dict[str, Any] = {
    "reliability": {"test": {"count": [1, 3], "confidence": [0.25, 0.75], "accuracy": [0.0, 1.0]}},
    "load": [[0.25, 0.75], [0.5, 0.5]],
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A study of one finished trial that left a description."""

    ledger: Ledger
    out: pathlib.Path
    file: pathlib.Path
    key: str

    @property
    def record(self) -> StudyRecord:
        """The study with its only trial."""
        return dataclasses.replace(study_record(replicates=0, tune_trials=0), name=STUDY, trials=self.ledger.trial_records(STUDY))


@pytest.fixture
def ran(tmp_path: pathlib.Path) -> Ran:
    ledger = Ledger.open(tmp_path / "ledger.db")
    ledger.insert_plan(plan(1))
    for cause in (Cause.KILLED, Cause.OUT_OF_MEMORY):
        worker = register(ledger)
        assert ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
        ledger.release_dead(STUDY, {worker: cause})
    worker = register(ledger)
    (lease,) = ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)
    write_row(tmp_path / "description.json", {"key": lease.key, **ROW})
    entry = rung(lease, 10, TrialState.COMPLETE, test_nll=0.5)
    assert all(ledger.record(worker, [dataclasses.replace(entry, artifacts={DESCRIPTION: "description.json"})]).values())
    return Ran(ledger=ledger, out=tmp_path, file=tmp_path / "description.json", key=lease.key)


def test_a_finished_replicate_has_what_it_described(ran: Ran) -> None:
    (trial,) = described(ran.record, ran.ledger, ran.out).trials
    assert trial.described is not None
    assert trial.described.reliability == {"test": Bins(count=(1, 3), confidence=(0.25, 0.75), accuracy=(0.0, 1.0))}
    assert trial.described.load == ((0.25, 0.75), (0.5, 0.5))
    assert dataclasses.replace(trial, described=None) == ran.record.trials[0]


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, disks.tear, disks.flip])
def test_a_damaged_description_is_none_and_costs_no_result(ran: Ran, damage: Any) -> None:
    damage(ran.file)
    assert described(ran.record, ran.ledger, ran.out) == ran.record


@pytest.mark.parametrize(
    "row",
    [
        {"key": "another trial", **ROW},
        {"key": "", **ROW},
        {"reliability": {}},
        {"key": "KEY", "reliability": {"test": {"count": [1], "confidence": [0.5, 0.5], "accuracy": [1.0]}}},
        {"key": "KEY", "reliability": []},
        {"key": "KEY", "reliability": {"test": 1}},
    ],
)
def test_a_description_that_says_something_else_is_none(ran: Ran, row: dict[str, Any]) -> None:
    write_row(ran.file, {**row, "key": ran.key} if row.get("key") == "KEY" else row)
    assert described(ran.record, ran.ledger, ran.out) == ran.record


def test_a_description_may_leave_out_the_load(ran: Ran) -> None:
    write_row(ran.file, {"key": ran.key, "reliability": ROW["reliability"]})
    (trial,) = described(ran.record, ran.ledger, ran.out).trials
    assert trial.described is not None
    assert trial.described.load == ()


def test_a_trial_has_the_causes_of_its_attempts_in_their_order(ran: Ran) -> None:
    (trial,) = explained(ran.record, ran.ledger).trials
    assert trial.causes == (Cause.KILLED, Cause.OUT_OF_MEMORY)
    assert trial.state is TrialState.COMPLETE
