"""What the ledger does for a trial does not grow with the study, and what it says of parts is what it says of the whole."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Mapping

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.ledger import Ledger, PlanRows, ProgressRow
from orchestrator.records import Phase, TrialState
from tests.ledgers import LEASE_S, STUDY, finish, plan, register, rung

LAW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARMS = ("a", "b", "c")


@contextlib.contextmanager
def counted() -> Generator[list[str]]:
    """Every statement that reaches a database meanwhile."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def statements(url: str, n_trials: int) -> dict[str, int]:
    """How many statements each step in the life of a pack of eight takes, in a study of so many trials."""
    took: dict[str, int] = {}
    with Ledger.open(url) as ledger:
        ledger.insert_plan(plan(n_trials, study=f"of {n_trials}", first=10 * n_trials))
        worker = register(ledger, study=f"of {n_trials}")
        with counted() as said:
            leases = ledger.lease(f"of {n_trials}", worker, 8, lease_s=LEASE_S)
        took["lease"] = len(said)
        for step in range(1, 5):
            with counted() as said:
                ledger.record(worker, [rung(lease, step, val_nll=1.0) for lease in leases])
            took[f"record {step}"] = len(said)
        with counted() as said:
            finish(ledger, worker, leases)
        took["finish"] = len(said)
    assert len(leases) == 8
    return took


def test_a_pack_takes_as_many_statements_in_a_large_study_as_in_a_small_one(url: str) -> None:
    small, large = statements(url, 100), statements(url, 2000)
    assert small == large
    assert all(0 < count <= 16 for count in small.values()), small


def naive(ledger: Ledger) -> list[ProgressRow]:
    """The same table, counted in Python from each membership."""
    rows: dict[tuple[str, Phase], Counter[str]] = {}
    for member in ledger.members(STUDY):
        if not member.orphaned:
            rows.setdefault((member.arm, member.phase), Counter())[member.state] += 1
    steps = {record.key: max((row.step for row in record.rungs), default=0) for record in ledger.trial_records(STUDY)}
    going = (TrialState.LEASED, TrialState.PAUSED)
    held = [(member.arm, steps[member.key]) for member in ledger.members(STUDY) if not member.orphaned and member.state in going]
    return [
        ProgressRow(
            arm=arm,
            phase=phase,
            done=found["complete"] + found["stopped"] + found["diverged"],
            running=found["leased"],
            waiting=found["planned"] + found["preempted"] + found["lost"],
            paused=found["paused"],
            failed=found["failed"],
            running_steps=sum(step for of, step in held if of == arm),
        )
        for (arm, phase), found in rows.items()
    ]


@LAW
@given(
    moves=st.lists(st.tuples(st.sampled_from(("record", "finish", "diverge", "give back", "pause")), st.integers(1, 5)), max_size=8),
    n_trials=st.integers(1, 12),
)
def test_progress_is_what_counting_each_trial_gives(sqlite_urls: Callable[[], str], moves: list[tuple[str, int]], n_trials: int) -> None:
    with Ledger.open(sqlite_urls()) as ledger:
        ledger.insert_plan(plan(n_trials, arms=ARMS))
        worker = register(ledger)
        for move, n in moves:
            leases = ledger.lease(STUDY, worker, n, lease_s=LEASE_S)
            if move == "give back":
                ledger.release(worker, keys=[lease.key for lease in leases], state=TrialState.PREEMPTED, reason="")
            elif move == "pause":
                ledger.record(worker, [rung(lease, 3, val_nll=1.0) for lease in leases])
                ledger.insert_plan(held_back(plan(n_trials, arms=ARMS), {lease.key: 3 for lease in leases}))
                ledger.park(worker, [lease.key for lease in leases])
            else:
                outcome = {"record": None, "finish": TrialState.COMPLETE, "diverge": TrialState.DIVERGED}[move]
                ledger.record(worker, [rung(lease, 2, outcome, val_nll=1.0) for lease in leases])
        assert list(ledger.progress(STUDY)) == naive(ledger)


def held_back(rows: PlanRows, until: Mapping[str, int]) -> PlanRows:
    members = tuple(dataclasses.replace(row, until=until.get(row.trial)) for row in rows.members)
    return dataclasses.replace(rows, members=members)


Places = Mapping[str, frozenset[int]]  # trials of each arm
places = st.fixed_dictionaries({arm: st.frozensets(st.integers(0, 5)) for arm in ARMS})


def rows_of(chosen: Places) -> PlanRows:
    """A plan in which arm and trial are chosen freely: two arms may share a trial."""
    whole = plan(6)
    pairs = [(arm, number) for arm in ARMS for number in sorted(chosen[arm])]
    members = tuple(dataclasses.replace(whole.members[number], arm=arm, position=place) for place, (arm, number) in enumerate(pairs))
    return dataclasses.replace(whole, members=members)


def of_changed_arms(before: Places, after: Places) -> PlanRows:
    """What is told of the second plan when the ledger has the first: the arms that differ."""
    rows, changed = rows_of(after), {arm for arm in ARMS if before[arm] != after[arm]}
    moved = {row.arm for row in rows.members if row not in rows_of(before).members}  # others may have shifted their places
    names = frozenset(changed | moved)
    former = tuple(row.trial for row in rows_of(before).members if row.arm in names)
    members = tuple(row for row in rows.members if row.arm in names)
    return dataclasses.replace(rows, members=members, arms=names, former=former, spec=None)


@LAW
@given(first=places, second=places)
def test_telling_the_arms_that_changed_is_telling_the_whole_plan(sqlite_urls: Callable[[], str], first: Places, second: Places) -> None:
    found = []
    for later in (rows_of(second), of_changed_arms(first, second)):
        with Ledger.open(sqlite_urls()) as ledger:
            ledger.insert_plan(rows_of(first))
            ledger.insert_plan(later)
            found.append((ledger.members(STUDY), ledger.waiting(STUDY, "sig"), ledger.study_spec(STUDY)))
    assert found[0] == found[1]


def test_a_plan_of_some_arms_leaves_the_others_alone(url: str) -> None:
    with Ledger.open(url) as ledger:
        whole = plan(6, arms=ARMS)
        ledger.insert_plan(whole)
        only_b = tuple(row for row in whole.members if row.arm == "b")[:1]
        former = tuple(row.trial for row in whole.members if row.arm == "b")
        ledger.insert_plan(dataclasses.replace(whole, members=only_b, arms=frozenset({"b"}), former=former, spec=None))
        gone = [(member.arm, member.key) for member in ledger.members(STUDY) if member.orphaned]
        assert gone == [("b", former[1])]
        assert ledger.study_spec(STUDY) == whole.spec
        assert ledger.waiting(STUDY, "sig") == 5


def test_the_first_plan_of_a_study_says_what_the_study_is(url: str) -> None:
    with Ledger.open(url) as ledger, pytest.raises(ValueError, match="the first plan of study 'study' says what the study is"):
        ledger.insert_plan(dataclasses.replace(plan(1), spec=None))
