"""How workers share what is left between them."""

from __future__ import annotations

import pathlib

import pytest

from orchestrator.contract import Host
from orchestrator.ledger import Ledger
from orchestrator.order import WorkerOrder
from orchestrator.worker import Worker
from tests.ledgers import STUDY, plan
from trainers.curves import Curves


@pytest.mark.parametrize(("trials", "workers", "pulled"), [(2, 2, 1), (4, 2, 2), (5, 2, 3), (9, 2, 4), (3, 8, 1), (9, 1, 4)])
def test_a_worker_takes_no_more_than_its_share_of_a_short_queue(tmp_path: pathlib.Path, trials: int, workers: int, pulled: int) -> None:
    found: list[int] = []

    class Counting(Curves):
        def train(self, host: Host) -> None:
            lanes = len(host.pull(4))
            found.extend([lanes, len(host.pull(4 - lanes))])

    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.insert_plan(plan(trials))
        order = WorkerOrder(
            ledger=ledger.where,
            study=STUDY,
            trainer="tests:Counting",
            identity="w",
            out=str(tmp_path),
            n_workers=workers,
            lease_s=60.0,
            paths=(),
            provenance=(),
        )
        worker = Worker(order, ledger, Counting())
        worker._train(worker.lease(1, signature=None))
    assert found == [pulled, 0]
