"""Workers, drivers and launchers do what they may in any order, and a model in plain Python says what must come of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from orchestrator.ledger import CellRow, Entry, Ledger, MemberRow, PlanRows, TrialRow
from orchestrator.ledger.opening import parse
from orchestrator.records import Cause, TrialState
from tests.ledgermodel import ARMS, ENDED, Place, Report, Spot, Study, Trial, Worker, World
from tests.ledgermodel import BOUNDS as FEW
from tests.ledgers import LEASE_S, empty

T = TypeVar("T")
KEYS = tuple(f"t{number}" for number in range(6))
SIGNATURES = {key: f"sig{number % 2}" for number, key in enumerate(KEYS)}
STUDIES = ("one", "two")
TEAM = ("one", "one", "two")  # the study of each of three workers
ONE_PLACE = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(list(ARMS)),
    st.sampled_from([None, None, 1, 2, 3]),
    st.sampled_from(["", "", "", "", "place 9 of 9", "cut"]),
)
PLANS = st.lists(ONE_PLACE, min_size=2, max_size=9, unique_by=lambda place: place[:2])
WHO = st.integers(0, len(TEAM) - 1)
STEPS = st.integers(1, 4)
HOW = st.sampled_from(["its holder", "its holder", "its holder", "the one before", "somebody"])
OUTCOMES = st.sampled_from([None, None, None, *ENDED])
DEATHS = (Cause.OUT_OF_MEMORY, Cause.CRASHED, Cause.KILLED, Cause.LOST, Cause.ORPHANED)
SOME_KEYS = st.sets(st.sampled_from(KEYS))

# Rows that contradict each other: a queue that is not what the studies want, a lease without an open attempt, an attempt too many.
AT_ODDS = """
    SELECT 'queue', m.trial FROM memberships m JOIN trials t ON t.key = m.trial
    WHERE m.waiting <> (
        t.state IN ('planned', 'preempted', 'lost') AND NOT m.orphaned AND m.dropped = '' AND (m.until IS NULL OR t.step < m.until)
    )
    UNION ALL SELECT 'attempts', t.key FROM trials t WHERE t.fence <> (SELECT count(*) FROM attempts a WHERE a.trial = t.key)
    UNION ALL SELECT 'open', t.key FROM trials t
    WHERE (SELECT count(*) FROM attempts a WHERE a.trial = t.key AND a.ended_at IS NULL) <> CASE t.state WHEN 'leased' THEN 1 ELSE 0 END
    UNION ALL SELECT 'holder', t.key FROM trials t JOIN attempts a ON a.trial = t.key AND a.fence = t.fence
    WHERE t.state = 'leased' AND (t.worker <> a.worker OR a.outcome <> 'leased' OR a.cause <> '')
    UNION ALL SELECT 'curve', m.trial FROM measurements m JOIN trials t ON t.key = m.trial WHERE m.step > t.step
"""
RESULTS = """
    SELECT t.*, a.*, (SELECT count(*) FROM measurements m WHERE m.trial = t.key) FROM trials t
    JOIN attempts a ON a.trial = t.key WHERE t.state IN ('complete', 'diverged') ORDER BY t.key, a.fence
"""


class LedgerMachine(RuleBasedStateMachine):
    """Each rule is one call, made twice as patience makes it, and checked against the model; the invariants compare all that is stored."""

    def __init__(self, url: str, ledger: Ledger, engine: sa.Engine) -> None:
        super().__init__()
        self.ledger, self.engine, self.world = ledger, engine, World()
        self.ids: list[int] = []
        self.births, self.turns = itertools.count(), itertools.count()
        self.further = itertools.count(1000)
        self.results: dict[str, list[tuple[Any, ...]]] = {}
        empty(url)

    @initialize(one=PLANS, two=PLANS)
    def begin(self, one: list[Any], two: list[Any]) -> None:
        whole = [(key, "base", None, "") for key in KEYS]
        for study, places in zip(STUDIES, (one or whole, two or whole[3:]), strict=True):
            self.world.studies[study] = Study(edition=1, digest="a")
            assert self._insert(study, places) == 1
        for who in range(len(TEAM)):
            self._hire(who)

    def _hire(self, who: int) -> None:
        identity = f"worker {who}, {next(self.births)}"
        row = {"identity": identity, "host": "here", "pid": 1, "started": identity}
        study = TEAM[who]
        number = self.twice(lambda: self.ledger.register_worker(study, **row))
        self.ids[who : who + 1] = [number]
        self.world.workers[number] = Worker(study=study, identity=identity)

    def twice(self, call: Callable[[], T], *, again: T | None = None) -> T:
        """What the call says. It comes twice, as when the answer to the first was lost; the second changes nothing."""
        said = call()
        assert call() == (said if again is None else again)
        return said

    # Launchers

    def _insert(self, study: str, places: Sequence[Any], *, digest: str | None = None, edition: int | None = None) -> int | None:
        whole = self._whole(places)
        self.world.insert(study, whole, SIGNATURES, orphan_others=True)
        rows = self._rows(study, whole, digest or self.world.studies[study].digest)
        return self.twice(lambda: self.ledger.insert_plan(rows, edition=edition))

    @staticmethod
    def _whole(places: Sequence[Any], first: int = 0) -> dict[Spot, Place]:
        return {(key, arm): Place(position=first + n, until=until, dropped=dropped) for n, (key, arm, until, dropped) in enumerate(places)}

    @staticmethod
    def _rows(study: str, places: dict[Spot, Place], digest: str) -> PlanRows:
        def cell(signature: str) -> CellRow:
            return CellRow(key=f"cell of {signature}", trainer="tests:Nothing", version="1", config={"a": 1}, signature=signature, cost={})

        def member(spot: Spot, place: Place) -> MemberRow:
            number, own = KEYS.index(spot[0]), {"until": place.until, "dropped": place.dropped, "position": place.position}
            return MemberRow(trial=spot[0], arm=spot[1], phase=ARMS[spot[1]], index=number, point={}, **own)

        keys = dict.fromkeys(key for key, _ in places)
        return PlanRows(
            study=study,
            spec={"question": "why?"},
            digest=digest,
            cells=tuple(cell(signature) for signature in sorted(set(SIGNATURES.values()))),
            trials=tuple(TrialRow(key=key, cell=f"cell of {SIGNATURES[key]}", seed=1) for key in keys),
            members=tuple(member(spot, place) for spot, place in places.items()),
        )

    @rule(study=st.sampled_from(STUDIES), places=PLANS)
    def decide(self, study: str, places: list[Any]) -> None:
        """A launcher's later plan: rungs are reached, trials are dropped, tuning goes on."""
        edition = self.world.studies[study].edition
        assert self._insert(study, places, edition=edition) == edition

    @rule(study=st.sampled_from(STUDIES), places=PLANS, digest=st.sampled_from("abc"))
    def edit(self, study: str, places: list[Any], digest: str) -> None:
        """A launch of an edited study file."""
        row = self.world.studies[study]
        row.edition, row.digest = row.edition + (digest != row.digest), digest
        assert self._insert(study, places, digest=digest) == row.edition

    @rule(study=st.sampled_from(STUDIES), places=PLANS, age=st.integers(1, 2))
    def plan_as_an_older_launcher(self, study: str, places: list[Any], age: int) -> None:
        edition = self.world.studies[study].edition - age
        if edition > 0:
            rows = self._rows(study, self._whole(places), "older")
            assert self.twice(lambda: self.ledger.insert_plan(rows, edition=edition)) is None

    @rule(study=st.sampled_from(STUDIES))
    def launch_a_second_time(self, study: str) -> None:
        """The same file: the launcher plans what is there already."""
        row = self.world.studies[study]
        rows = self._rows(study, dict(self.world.places(study)), row.digest)
        assert self.twice(lambda: self.ledger.insert_plan(rows)) == row.edition

    @rule(study=st.sampled_from(STUDIES), places=PLANS)
    def propose(self, study: str, places: list[Any]) -> None:
        more = self._whole(places[:2], next(self.further) * len(KEYS))
        self.world.insert(study, more, SIGNATURES, orphan_others=False)
        rows = self._rows(study, more, "")
        self.twice(lambda: self.ledger.add_trials(study, rows))

    @rule(study=st.sampled_from(STUDIES), holder=st.sampled_from("xy"), lives=st.booleans(), lets_go=st.booleans(), stop=st.booleans())
    def compete(self, study: str, holder: str, lives: bool, lets_go: bool, stop: bool) -> None:
        """One of two launchers asks for a role, or lets it go, and asks the workers to stop, or takes that back."""
        by, in_time = self.world.claims.get(study, (holder, False))
        if lets_go:
            self.twice(lambda: self.ledger.disclaim(study, "publish", holder))
            if by == holder:
                self.world.claims.pop(study, None)
        else:
            granted = by == holder or not in_time
            assert self.twice(lambda: self.ledger.claim(study, "publish", holder, LEASE_S if lives else -1)) is granted
            if granted:
                self.world.claims[study] = (holder, lives)
        self.twice(lambda: self.ledger.request_stop(study, stop))
        self.world.studies[study].stop = stop

    # Workers

    def _idle(self) -> bool:
        return any(self.world.queue(study) for study in STUDIES)

    def _leased(self) -> list[Trial]:
        return [trial for trial in self.world.trials.values() if trial.holder is not None]

    def _holder(self, pick: int) -> int:
        """One of the workers that hold something."""
        holders = sorted({trial.holder for trial in self._leased() if trial.holder is not None})
        return holders[pick % len(holders)]

    def _lease(self, who: int, n: int, signature: str | None, *, lives: bool) -> None:
        got = self.ledger.lease(TEAM[who], self.ids[who], n, signature=signature, lease_s=LEASE_S if lives else -1)
        assert all((lease.attempt, lease.signature) == (lease.fence, SIGNATURES[lease.key]) for lease in got)
        assert [(lease.key, lease.fence, lease.until) for lease in got] == self.world.lease(self.ids[who], n, signature, lives=lives)

    @precondition(_idle)
    @rule(
        who=WHO,
        n=st.integers(1, 4),
        signature=st.sampled_from([None, None, None, "sig0", "sig1"]),
        lives=st.sampled_from([True, True, False]),
    )
    def lease(self, who: int, n: int, signature: str | None, lives: bool) -> None:
        self._lease(who, n, signature, lives=lives)

    @precondition(_idle)
    @rule(n=st.integers(1, 4))
    def lease_by_all(self, n: int) -> None:
        for who in range(len(TEAM)):
            self._lease(who, n, None, lives=True)

    @precondition(_leased)
    @rule(pick=WHO, keys=st.none() | SOME_KEYS, lives=st.booleans())
    def renew(self, pick: int, keys: set[str] | None, lives: bool) -> None:
        worker = self._holder(pick)
        mine = [trial for trial in self.world.held(worker) if trial.live and (keys is None or trial.key in keys)]
        assert self.ledger.renew(worker, LEASE_S if lives else -1, keys) == {trial.key for trial in mine}
        for trial in mine:
            trial.live = lives

    @precondition(_leased)
    @rule(pick=WHO, step=STEPS, value=st.none() | st.floats(0, 1), outcome=OUTCOMES)
    def record(self, pick: int, step: int, value: float | None, outcome: TrialState | None) -> None:
        """A rung of all that a worker holds; the last lane of it may come to its end."""
        worker = self._holder(pick)
        held = self.world.held(worker)
        ends = [None] * (len(held) - 1) + [outcome]
        lanes = [(trial.key, trial.fence, step, value, end) for trial, end in zip(held, ends, strict=True)]
        self._record(worker, [Report(key=key, fence=fence, step=at, value=said, outcome=end) for key, fence, at, said, end in lanes])

    @rule(lanes=st.lists(st.tuples(st.sampled_from(KEYS), STEPS, st.none() | st.floats(0, 1), OUTCOMES), min_size=1, max_size=5), how=HOW)
    def record_some(self, lanes: list[tuple[str, int, float | None, TrialState | None]], how: str) -> None:
        """Lanes some of which are not the worker's any more, or never were; and several rungs of one lane at once."""
        reports: dict[str, list[Report]] = {}
        for key, step, value, outcome in lanes:
            said = reports.setdefault(key, [])
            if key in self.world.trials and (not said or said[-1].outcome is None):
                said.append(Report(key=key, fence=self._who(key, how)[1], step=step, value=value, outcome=outcome))
        worker = next((self._who(key, how)[0] for key, said in reports.items() if said), self.ids[0])
        self._record(worker, [report for said in reports.values() for report in said])

    def _who(self, key: str, how: str) -> tuple[int, int]:
        """A worker and a fence for a call about a trial: those that have it or had it last, those of the lease before, or wrong ones."""
        trial = self.world.trials[key]
        attempts = [(attempt.worker, fence) for fence, attempt in enumerate(trial.attempts, 1)]
        if how == "its holder" and attempts:
            return attempts[-1]
        if how == "the one before" and len(attempts) > 1:
            return attempts[-2]
        return self.ids[len(attempts) % len(TEAM)], trial.fence

    def _record(self, worker: int, reports: Sequence[Report]) -> None:
        entries = [
            Entry(
                key=report.key,
                fence=report.fence,
                step=report.step,
                metrics={} if report.value is None else {"val/nll": report.value},
                outcome=report.outcome,
                reason="" if report.outcome is None else report.outcome.value,
                artifacts={} if report.outcome is None else {"weights": f"{report.key} {report.fence}"},
            )
            for report in reports
        ]
        assert self.twice(lambda: self.ledger.record(worker, entries)) == self.world.record(worker, reports)

    def _fail(self, key: str, worker: int, fence: int, cause: Cause) -> None:
        reason = f"it failed: {cause}"
        then = self.ledger.fail(worker, key, fence, reason, cause=cause, bounds=FEW)
        assert then is self.world.fail(worker, key, fence, cause)
        assert self.ledger.fail(worker, key, fence, reason, cause=cause, bounds=FEW) is None

    @precondition(_leased)
    @rule(pick=st.integers(0, 5), cause=st.sampled_from([Cause.RAISED, Cause.OUT_OF_MEMORY]))
    def fail(self, pick: int, cause: Cause) -> None:
        trial = self._leased()[pick % len(self._leased())]
        self._fail(trial.key, trial.attempts[-1].worker, trial.fence, cause)

    @rule(key=st.sampled_from(KEYS), how=st.sampled_from(["the one before", "somebody"]))
    def fail_without_a_lease(self, key: str, how: str) -> None:
        if key in self.world.trials:
            self._fail(key, *self._who(key, how), Cause.RAISED)

    @precondition(_leased)
    @rule(pick=WHO, keys=SOME_KEYS)
    def park(self, pick: int, keys: Collection[str]) -> None:
        worker = self._holder(pick)
        assert self.twice(lambda: self.ledger.park(worker, keys), again=0) == self.world.park(worker, keys)

    @precondition(_leased)
    @rule(pick=WHO, keys=st.none() | SOME_KEYS, state=st.sampled_from([TrialState.PREEMPTED, TrialState.PLANNED]))
    def hand_back(self, pick: int, keys: set[str] | None, state: TrialState) -> None:
        worker = self._holder(pick)
        back = self.twice(lambda: self.ledger.release(worker, keys=keys, state=state, reason="told to"), again=0)
        assert back == self.world.release(worker, keys, state)

    @precondition(_leased)
    @rule(pick=WHO)
    def end_a_worker(self, pick: int) -> None:
        """Its process ends and says so; what it did not hand back it holds until that expires."""
        worker = self._holder(pick)
        self.twice(lambda: self.ledger.worker_ended(worker, exit_code=0, reason="told to"))
        self.world.workers[worker].ended = True

    @rule(who=WHO)
    def replace_a_worker(self, who: int) -> None:
        """What the one before held, it holds until that expires."""
        if self.world.workers[self.ids[who]].ended:
            self._hire(who)

    # The driver

    @precondition(_leased)
    @rule(study=st.sampled_from(STUDIES))
    def expire(self, study: str) -> None:
        assert set(self.twice(lambda: self.ledger.expire(study, bounds=FEW), again=[])) == self.world.expire(study)

    def _bury(self, who: int, cause: Cause) -> None:
        worker, study = self.ids[who], TEAM[who]
        self.ledger.worker_ended(worker, exit_code=-9, reason="killed")
        self.world.workers[worker].ended = True
        lost = self.twice(lambda: self.ledger.release_dead(study, {worker: cause}, bounds=FEW), again=[])
        assert set(lost) == self.world.bury(worker, cause)
        self._hire(who)

    @rule(who=WHO, cause=st.sampled_from(DEATHS))
    def bury(self, who: int, cause: Cause) -> None:
        """A worker dies; another one is started in its place."""
        self._bury(who, cause)

    @precondition(_idle)
    @rule(who=WHO, n=st.integers(1, 4), cause=st.sampled_from(DEATHS), times=st.integers(1, 4), gains=st.booleans())
    def crash_in_a_loop(self, who: int, n: int, cause: Cause, times: int, gains: bool) -> None:
        """Something kills the workers: each new one takes trials, perhaps reports a step, and dies."""
        for time in range(times):
            self._lease(who, n, None, lives=True)
            if gains and time == 1:
                held = self.world.held(self.ids[who])
                self._record(self.ids[who], [Report(key=trial.key, fence=trial.fence, step=1, value=0.5, outcome=None) for trial in held])
            self._bury(who, cause)

    @precondition(_idle)
    @rule(who=WHO, cause=st.sampled_from([Cause.RAISED, Cause.OUT_OF_MEMORY]), times=st.integers(1, 3), gains=st.booleans())
    def fail_in_a_loop(self, who: int, cause: Cause, times: int, gains: bool) -> None:
        """A worker takes a trial, perhaps gets further with it, and it fails; again and again."""
        worker = self.ids[who]
        for time in range(times):
            self._lease(who, 1, None, lives=True)
            for trial in self.world.held(worker):
                if gains:
                    self._record(worker, [Report(key=trial.key, fence=trial.fence, step=time + 1, value=0.5, outcome=None)])
                self._fail(trial.key, worker, trial.fence, cause)

    def _failed(self) -> bool:
        return any(trial.state is TrialState.FAILED for trial in self.world.trials.values())

    @precondition(_failed)
    @rule(study=st.sampled_from(STUDIES))
    def retry(self, study: str) -> None:
        assert self.twice(lambda: self.ledger.retry(study), again=0) == self.world.retry(study)

    # What is stored. One study after the other, to save time: what is wrong in one step is mostly wrong in the next.

    @invariant()
    def every_place_stands_where_the_model_has_it(self) -> None:
        turn = next(self.turns)
        study, worker = STUDIES[turn % len(STUDIES)], self.ids[turn % len(TEAM)]
        found = {(member.key, member.arm): (member.position, member.orphaned, member.state) for member in self.ledger.members(study)}
        places = self.world.studies[study].places.items()
        assert found == {spot: (place.position, place.orphaned, self.world.seen(spot, place)) for spot, place in places}
        self._tells_the_models_story(study)
        self._adds_up(study, worker)

    def _tells_the_models_story(self, study: str) -> None:
        assert self.ledger.states(KEYS) == {key: trial.state for key, trial in self.world.trials.items()}
        places, records = self.world.places(study), self.ledger.trial_records(study)
        assert [(record.key, record.arm) for record in records] == [spot for spot, _ in places]
        for record, (spot, place) in zip(records, places, strict=True):
            trial = self.world.trials[record.key]
            assert (record.state, record.attempts) == (self.world.seen(spot, place), trial.fence)
            assert {rung.step: rung.metrics["val/nll"] for rung in record.rungs} == trial.curve
            assert record.pauses == sum(attempt.outcome is TrialState.PAUSED for attempt in trial.attempts)
            reasons = {TrialState.STOPPED: place.dropped, TrialState.DIVERGED: trial.reason, TrialState.FAILED: trial.reason}
            assert reasons.get(record.state, "") in record.reason
            assert bool(record.reason) == (record.state in reasons)

    def _adds_up(self, study: str, worker: int) -> None:
        counts = self.ledger.counts(study)
        assert (counts, list(counts)) == (self.world.counts(study), list(self.world.counts(study)))
        assert list(self.ledger.progress(study)) == self.world.progress(study)
        assert self.ledger.unfinished(study, most=99) == self.world.unfinished(study)
        found = [(trouble.trial, trouble.attempt, trouble.cause, trouble.worker) for trouble in self.ledger.troubles(study)]
        assert sorted(found) == sorted(self.world.troubles(study))
        live = {(row.id, row.signature, row.leases) for row in self.ledger.live_workers(study)}
        mine = {number: row for number, row in self.world.workers.items() if row.study == study and not row.ended}
        assert live == {(number, row.signature, len(self.world.held(number))) for number, row in mine.items()}
        assert self.ledger.stop_requested(study) is self.world.studies[study].stop
        assert self.ledger.unwanted(worker) == self.world.unwanted(worker)

    @invariant()
    def the_rows_agree_and_a_result_never_changes(self) -> None:
        with self.engine.connect() as connection:
            assert connection.exec_driver_sql(AT_ODDS).all() == []
            rows = [tuple(row) for row in connection.exec_driver_sql(RESULTS)]
        results = {key: list(of) for key, of in itertools.groupby(rows, key=lambda row: row[0])}
        assert {key: results[key] for key in self.results} == self.results
        self.results = results


def explore(url: str, *, examples: int, steps: int) -> None:
    engine = sa.create_engine(parse(url))
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    try:
        with Ledger.open(url, create=False) as ledger:
            run_state_machine_as_test(lambda: LedgerMachine(url, ledger, engine), settings=chosen)
    finally:
        engine.dispose()


def test_any_order_of_calls_leaves_the_ledger_where_the_model_has_it(url: str) -> None:
    explore(url, examples=40 if url.startswith("postgresql") else 60, steps=25)
