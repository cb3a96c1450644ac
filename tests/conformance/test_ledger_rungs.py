"""Trials that pause at a rung, go on, are stopped by a decision, and are wanted again: on both databases."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.ledger import DecisionRow, Ledger, PlanRows
from orchestrator.ledger.opening import MIGRATIONS
from orchestrator.records import Cause, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung, states, with_members

P, S, W = TrialState.PAUSED, TrialState.STOPPED, TrialState.PLANNED


def held_at(step: int | None, n_trials: int = 2, *, study: str = STUDY) -> PlanRows:
    """A plan whose trials pause at a step."""
    return with_members(plan(n_trials, study=study), until=step)


def standing(rows: PlanRows, **changes: dict[str, object]) -> PlanRows:
    """The plan with some trials' memberships changed."""
    return dataclasses.replace(rows, members=tuple(dataclasses.replace(row, **changes.get(row.trial, {})) for row in rows.members))


def reach(ledger: Ledger, worker: int, step: int, *, parked: bool = True, study: str = STUDY) -> list[str]:
    """Leases all that waits, reports a step, and parks; keys."""
    leases = ledger.lease(study, worker, 8, lease_s=LEASE_S)
    assert all(ledger.record(worker, [rung(lease, step, val_nll=0.5) for lease in leases]).values())
    if parked:
        assert ledger.park(worker, [lease.key for lease in leases]) == len(leases)
    return [lease.key for lease in leases]


@pytest.fixture
def worker(ledger: Ledger) -> int:
    ledger.insert_plan(held_at(10))
    return register(ledger)


def test_a_lease_says_where_its_trial_pauses(ledger: Ledger, worker: int) -> None:
    assert [lease.until for lease in ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)] == [10]
    ledger.insert_plan(held_at(None))
    assert [lease.until for lease in ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)] == [None]


def test_a_trial_of_two_arms_pauses_where_the_later_of_them_does(ledger: Ledger) -> None:
    rows = plan(1)
    twice = dataclasses.replace(rows.members[0], arm="other", position=1)
    for ours, theirs, until in ((10, 30, 30), (10, None, None), (None, 10, None)):
        members = (dataclasses.replace(rows.members[0], until=ours), dataclasses.replace(twice, until=theirs))
        ledger.insert_plan(dataclasses.replace(rows, members=members))
        worker = register(ledger)
        assert [lease.until for lease in ledger.lease(STUDY, worker, 1, lease_s=LEASE_S)] == [until]
        ledger.release(worker, state=W, reason="")


def test_a_parked_trial_waits_for_nobody_to_lease_it_until_it_may_go_on(ledger: Ledger, worker: int) -> None:
    reach(ledger, worker, 10)
    assert states(ledger) == {"t0000": P, "t0001": P}
    assert ledger.lease(STUDY, worker, 8, lease_s=LEASE_S) == []
    (row,) = ledger.progress(STUDY)
    assert (row.paused, row.waiting, row.running, row.done, row.running_steps) == (2, 0, 0, 0, 20)
    record = ledger.trial_records(STUDY)[0]
    assert (record.state, record.attempts, record.finished_at) == (P, 1, "")
    ledger.insert_plan(held_at(30))
    assert states(ledger) == {"t0000": W, "t0001": W}
    again = ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)
    assert [(lease.until, lease.attempt) for lease in again] == [(30, 2), (30, 2)]
    assert [row.step for row in ledger.trial_records(STUDY)[0].rungs] == [10]


def test_a_plan_stops_trials_with_its_reason_and_a_later_one_wants_them_again(ledger: Ledger, worker: int) -> None:
    reach(ledger, worker, 10)
    decided = standing(held_at(None), t0001={"dropped": "place 2 of 2"})
    ledger.insert_plan(decided)
    ledger.insert_plan(decided)
    assert states(ledger) == {"t0000": W, "t0001": S}
    stopped = ledger.trial_records(STUDY)[1]
    assert (stopped.reason, stopped.metrics, len(stopped.rungs)) == ("place 2 of 2", {}, 1)
    assert stopped.finished_at
    assert ledger.progress(STUDY)[0].done == 1
    assert ledger.unpublished(STUDY, "t") == ("t0001",)
    ledger.insert_plan(plan(2))  # the rule is gone from the study
    assert states(ledger) == {"t0000": W, "t0001": W}
    leases = ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)
    finish(ledger, worker, leases)
    assert [rung.step for record in ledger.trial_records(STUDY) for rung in record.rungs] == [10, 10]


def test_a_trial_dropped_before_anybody_began_it_is_never_leased(ledger: Ledger, worker: int) -> None:
    ledger.insert_plan(standing(held_at(10), t0000={"dropped": "its arm diverged"}))
    assert [lease.key for lease in ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)] == ["t0001"]
    assert (ledger.trial_records(STUDY)[0].state, ledger.trial_records(STUDY)[0].attempts) == (S, 0)


@pytest.mark.parametrize("how", ["release", "release_dead", "fail", "expire"])
def test_a_lane_lost_between_its_report_and_its_checkpoint_does_not_train_past_its_rung(ledger: Ledger, worker: int, how: str) -> None:
    for lease in ledger.lease(STUDY, worker, 8, lease_s=LEASE_S):
        ledger.record(worker, [rung(lease, 10 if lease.key == "t0000" else 9, val_nll=0.5)])
        if how == "fail":
            ledger.fail(worker, lease.key, lease.fence, "it raised")
    if how == "release":
        ledger.release(worker, state=TrialState.PREEMPTED, reason="told to")
    if how == "release_dead":
        ledger.release_dead(STUDY, {worker: Cause.KILLED})
    if how == "expire":
        ledger.renew(worker, -1)
        ledger.expire(STUDY)
    assert states(ledger)["t0000"] is P
    assert [lease.key for lease in ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)] == ["t0001"]


def test_a_lane_parked_after_the_decision_goes_where_it_says(ledger: Ledger, worker: int) -> None:
    keys = reach(ledger, worker, 10, parked=False)
    decided = standing(held_at(None), t0001={"dropped": "place 2 of 2"})
    ledger.insert_plan(decided)
    assert {record.attempts for record in ledger.trial_records(STUDY)} == {1}
    assert ledger.park(worker, keys) == 2
    assert states(ledger) == {"t0000": W, "t0001": S}
    assert ledger.progress(STUDY)[0].waiting == 1


def test_parking_needs_the_lease(ledger: Ledger, worker: int) -> None:
    keys = reach(ledger, worker, 10, parked=False)
    assert ledger.park(register(ledger), keys) == 0
    ledger.renew(worker, -1)
    assert ledger.park(worker, keys) == 0
    ledger.expire(STUDY)
    assert states(ledger) == {"t0000": P, "t0001": P}
    assert ledger.park(worker, keys) == 0


def test_a_trial_paused_or_stopped_by_one_study_is_trained_on_by_another(ledger: Ledger, worker: int) -> None:
    reach(ledger, worker, 10)
    ledger.insert_plan(plan(2, study="other"))
    assert states(ledger, "other") == {"t0000": W, "t0001": W}
    assert states(ledger) == {"t0000": P, "t0001": P}
    ledger.insert_plan(standing(held_at(None), t0000={"dropped": "place 2 of 2"}))
    assert states(ledger) == {"t0000": S, "t0001": W}
    theirs = register(ledger, study="other")
    leases = ledger.lease("other", theirs, 1, lease_s=LEASE_S)
    assert [(lease.key, lease.until) for lease in leases] == [("t0000", None)]
    assert states(ledger)["t0000"] is S
    finish(ledger, theirs, leases)
    assert states(ledger)["t0000"] is TrialState.COMPLETE


def test_a_study_without_the_rule_wakes_what_another_stopped(ledger: Ledger, worker: int) -> None:
    reach(ledger, worker, 10)
    ledger.insert_plan(with_members(plan(2), dropped="place 2 of 2"))
    assert set(states(ledger).values()) == {S}
    ledger.insert_plan(plan(2, study="other"))
    assert set(states(ledger, "other").values()) == {W}
    ledger.insert_plan(plan(1, study="other"))  # t0001 is nobody's any more but ours
    assert states(ledger) == {"t0000": S, "t0001": S}
    assert [lease.key for lease in ledger.lease("other", register(ledger, study="other"), 8, lease_s=LEASE_S)] == ["t0000"]


def test_what_came_to_an_end_stays_what_it_is(ledger: Ledger, worker: int) -> None:
    leases = ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)
    finish(ledger, worker, leases)
    ledger.insert_plan(with_members(plan(2), dropped="place 2 of 2"))
    assert set(states(ledger).values()) == {TrialState.COMPLETE}
    assert ledger.trial_records(STUDY)[0].metrics["test/nll"] == 0.5


def test_a_decision_is_told_once_and_again_when_it_changes(ledger: Ledger, worker: int) -> None:
    del worker
    row = DecisionRow(
        trial="t0000", arm="a", index=0, rung=10, metric="val/nll", value=0.5, rank=1, of=2, kept=1, decision="go on", reason="val/nll 0.5"
    )
    other = dataclasses.replace(row, trial="", arm="b", index=None, value=(float("nan"), 1.0), rank=2, decision="stop")
    rows = dataclasses.replace(held_at(30), decisions=(row, other))
    for _ in range(2):
        ledger.insert_plan(rows)
    ledger.insert_plan(dataclasses.replace(rows, decisions=(dataclasses.replace(row, of=3), other)))
    told = [event for event in ledger.events(STUDY) if event.kind == "decision"]
    assert [(event.trial, event.payload["arm"], event.payload["decision"], event.payload["of"]) for event in told] == [
        ("t0000", "a", "go on", 2),
        ("", "b", "stop", 2),
        ("t0000", "a", "go on", 3),
    ]
    assert told[1].payload["value"] == ["nan", 1.0]


def test_rungs_are_read_by_metric(ledger: Ledger, worker: int) -> None:
    (first, _) = ledger.lease(STUDY, worker, 8, lease_s=LEASE_S)
    ledger.record(worker, [rung(first, 5, val_nll=0.7, val_error=0.1), rung(first, 9, train_loss=1.0)])
    found = ledger.rungs(["t0000", "t0001"], ["val/nll"])
    assert {key: [(row.step, dict(row.metrics)) for row in rows] for key, rows in found.items()} == {
        "t0000": [(5, {"val/nll": 0.7}), (9, {})]
    }


# A ledger of the first schema


@pytest.fixture
def old_url(request: pytest.FixtureRequest, url: str) -> str:
    """A ledger of schema 0001 with a study of four trials in it: complete, failed, leased by a worker, planned."""
    del request
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://") if "://" in url else f"sqlite:///{url}")
    from alembic import command
    from alembic.config import Config

    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        else:
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").scalars()
            for name in list(names):
                connection.exec_driver_sql(f"DROP TABLE {name}")
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD:
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


OLD = (
    "INSERT INTO studies VALUES ('study', '{}', false, 1.5)",
    "INSERT INTO cells VALUES ('cell', 'tests:Nothing', '1', '{\"optim.lr\":0.1}', 'sig', '{}')",
    "INSERT INTO workers VALUES (7, 'study', 'w', 'here', 1, 'then', 2.0, 'sig', NULL, NULL, '')",
    "INSERT INTO trials VALUES ('t0', 'cell', 1, 'complete', '', 2, NULL, NULL, 10, 10, 1, 0)",
    "INSERT INTO trials VALUES ('t1', 'cell', 2, 'failed', 'it raised', 3, NULL, NULL, 4, 5, 3, 0)",
    "INSERT INTO trials VALUES ('t2', 'cell', 3, 'leased', '', 1, 7, 4e9, 6, 6, 0, 0)",
    "INSERT INTO trials VALUES ('t3', 'cell', 4, 'planned', '', 0, NULL, NULL, 0, 0, 0, 0)",
    *(f"INSERT INTO memberships VALUES ('study', 't{i}', 'a', 'replicate', {i}, {i}, '{{}}', false, 'sig', {i == 3})" for i in range(4)),
    "INSERT INTO attempts VALUES ('t0', 1, 7, 1.0, 2.0, 'failed', 'it raised', '{}')",
    "INSERT INTO attempts VALUES ('t0', 2, 7, 3.0, 4.0, 'complete', '', '{\"jax\":\"1\"}')",
    "INSERT INTO attempts VALUES ('t2', 1, 7, 5.0, NULL, 'leased', '', '{}')",
    "INSERT INTO measurements VALUES ('t0', 10, 'test/nll', 0.25)",
    "INSERT INTO measurements VALUES ('t2', 6, 'val/nll', NULL)",
    "INSERT INTO artifacts VALUES ('t0', 'predictions', 'file:///p')",
    "INSERT INTO events VALUES (3, 'study', 6.0, 'note', '', '{}')",
    "INSERT INTO publications VALUES ('study', 'jsonl', 't0', 2)",
    "INSERT INTO probes VALUES ('sig', 'cpu', 'map', 4, 1.0, 2.0)",
)


@contextlib.contextmanager
def looked_at(url: str) -> Generator[sa.Connection]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://") if "://" in url else f"sqlite:///{url}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def everything(url: str) -> dict[str, list[dict[str, object]]]:
    """Every row of every table but alembic's."""
    with looked_at(url) as connection:
        tables = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
        found = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().all() for name in tables}
    return {name: sorted((dict(row) for row in rows), key=str) for name, rows in found.items()}


def without(row: Mapping[str, object], name: str) -> dict[str, object]:
    return {column: value for column, value in row.items() if column != name}


def schema(url: str) -> dict[str, object]:
    """Columns, keys, checks and indexes of every table, as the database tells them."""
    with looked_at(url) as connection:
        inspector = sa.inspect(connection)
        return {
            name: (
                [(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in inspector.get_columns(name)],
                inspector.get_pk_constraint(name),
                sorted(map(str, inspector.get_foreign_keys(name))),
                sorted(map(str, inspector.get_check_constraints(name))),
                sorted((str(index["name"]), str(index["column_names"]), _where(index)) for index in inspector.get_indexes(name)),
            )
            for name in inspector.get_table_names()
        }


def _where(index: Mapping[str, Any]) -> list[str]:
    options: Mapping[str, Any] = index.get("dialect_options", {})
    return [f"{name} {option}" for name, option in sorted(options.items())]


def test_a_ledger_of_the_first_schema_keeps_all_it_holds(old_url: str, request: pytest.FixtureRequest) -> None:
    before = everything(old_url)
    with Ledger.open(old_url) as ledger:
        added = {
            "memberships": {"until": None, "dropped": ""},
            "probes": {"lane_s": 0.0, "memory_bytes": 0},
            "studies": {"edition": 0, "digest": ""},
            "trials": {"retried": 0, "furthered": 0},
            "attempts": {"cause": ""},
            "artifacts": {"sha256": ""},
        }
        dropped = {"trials": "failures"}
        kept = {name: [without(row, dropped.get(name, "")) for row in rows] for name, rows in before.items()}
        after = everything(old_url)
        assert after.pop("claims") == []
        assert after == {name: [row | added.get(name, {}) for row in rows] for name, rows in kept.items()}
        assert [lease.key for lease in ledger.lease("study", 7, 8, lease_s=LEASE_S)] == ["t3"]
        assert ledger.park(7, ["t2"]) == 1
        assert states(ledger)["t2"] is W
    fresh = request.getfixturevalue("postgresql_urls" if "://" in old_url else "sqlite_urls")()
    assert schema(old_url) == schema(fresh)
