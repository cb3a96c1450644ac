"""Two workers and a driver do what they may in any order, and a model in plain Python says what must come of it."""

from __future__ import annotations

import atexit
import dataclasses
import pathlib
import shutil
import sqlite3
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from orchestrator.ledger import Entry, Leased, Ledger, PlanRows
from orchestrator.records import Cause, TrialState
from tests.ledgers import LEASE_S, STUDY, plan, register

KEYS = tuple(f"t{number:04d}" for number in range(5))
BOUNDS = dict.fromkeys(Cause, 10_000) | {Cause.RAISED: 2}  # deaths are tested by themselves
TEMPLATE = pathlib.Path(tempfile.mkdtemp(prefix="tessera-machine-")) / "template.sqlite"
atexit.register(shutil.rmtree, TEMPLATE.parent)


@dataclasses.dataclass(slots=True, kw_only=True)
class Model:
    """What the ledger must hold of one trial."""

    state: TrialState = TrialState.PLANNED
    fence: int = 0
    worker: int = 0
    live: bool = False
    failures: int = 0
    curve: dict[int, float] = dataclasses.field(default_factory=dict[int, float])
    ends: int = 0  # how often it reached a result
    step: int = 0
    until: int | None = None
    dropped: bool = False

    @property
    def is_at_its_rung(self) -> bool:
        return self.until is not None and self.step >= self.until

    def settle(self) -> None:
        """An idle trial goes where its study wants it."""
        if self.state in (TrialState.LEASED, TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED):
            return
        if self.dropped:
            self.state = TrialState.STOPPED
        elif self.is_at_its_rung:
            self.state = TrialState.PAUSED
        elif not self.state.is_waiting:
            self.state = TrialState.PLANNED

    @property
    def seen(self) -> TrialState:
        """The state as the study sees it, which differs while a worker has the trial."""
        if self.state is not TrialState.LEASED:
            return self.state
        return TrialState.STOPPED if self.dropped else TrialState.PAUSED if self.is_at_its_rung else TrialState.LEASED


class LedgerMachine(RuleBasedStateMachine):
    """Each rule is one call, checked against the model; the invariants compare all that is stored."""

    leases = Bundle("leases")
    workers = st.integers(0, 1)
    steps = st.integers(1, 4)

    @initialize()
    def begin(self) -> None:
        if not TEMPLATE.exists():
            Ledger.open(TEMPLATE).close()
        self.folder = tempfile.TemporaryDirectory(prefix="tessera-machine-")
        self.path = shutil.copy(TEMPLATE, self.folder.name)
        self.ledger = Ledger.open(self.path)
        self.ledger.insert_plan(plan(len(KEYS)))
        self.ids = [register(self.ledger, "first"), register(self.ledger, "second")]
        self.model = {key: Model() for key in KEYS}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    def held(self, worker: int) -> set[str]:
        return {key for key, trial in self.model.items() if trial.state is TrialState.LEASED and trial.worker == worker}

    def is_live(self, worker: int, lease: Leased) -> bool:
        trial = self.model[lease.key]
        return lease.key in self.held(worker) and trial.live and trial.fence == lease.fence

    @rule(target=leases, who=workers, n=st.integers(1, 3), lives=st.booleans())
    def lease(self, who: int, n: int, lives: bool) -> object:
        got = self.ledger.lease(STUDY, self.ids[who], n, lease_s=LEASE_S if lives else -1)
        waiting = [key for key in KEYS if self.model[key].state.is_waiting]
        assert [lease.key for lease in got] == waiting[:n]
        for lease in got:
            trial = self.model[lease.key]
            assert (lease.fence, lease.attempt, lease.until) == (trial.fence + 1, trial.fence + 1, trial.until)
            trial.state, trial.fence, trial.worker, trial.live = TrialState.LEASED, lease.fence, self.ids[who], lives
        return multiple(*((self.ids[who], lease) for lease in got))

    @rule(who=workers, lives=st.booleans())
    def renew(self, who: int, lives: bool) -> None:
        live = {key for key in self.held(self.ids[who]) if self.model[key].live}
        assert self.ledger.renew(self.ids[who], LEASE_S if lives else -1) == live
        for key in live:
            self.model[key].live = lives

    @rule(of=leases, step=steps, value=st.floats(0, 1))
    def record(self, of: tuple[int, Leased], step: int, value: float) -> None:
        self._record(*of, step, value, None)

    @rule(
        of=leases,
        step=steps,
        value=st.floats(0, 1),
        outcome=st.sampled_from([TrialState.COMPLETE, TrialState.DIVERGED]),
    )
    def finish(self, of: tuple[int, Leased], step: int, value: float, outcome: TrialState) -> None:
        self._record(*of, step, value, outcome)

    @rule(of=leases, step=steps, other=workers)
    def record_in_anothers_name(self, of: tuple[int, Leased], step: int, other: int) -> None:
        self._record(self.ids[other], of[1], step, 0.5, TrialState.COMPLETE if of[0] != self.ids[other] else None)

    def _record(self, worker: int, lease: Leased, step: int, value: float, outcome: TrialState | None) -> None:
        live = self.is_live(worker, lease)
        entry = Entry(key=lease.key, fence=lease.fence, step=step, metrics={"val/nll": value}, outcome=outcome)
        assert self.ledger.record(worker, [entry]) == {lease.key: live}
        if live:
            trial = self.model[lease.key]
            trial.curve = {known: said for known, said in trial.curve.items() if known < step} | {step: value}
            trial.step = step
            if outcome is not None:
                trial.state, trial.ends = outcome, trial.ends + 1

    @rule(of=leases)
    def fail(self, of: tuple[int, Leased]) -> None:
        worker, lease = of
        trial = self.model[lease.key]
        expected = None
        if self.is_live(worker, lease):
            trial.failures += 1
            trial.state = expected = TrialState.FAILED if trial.failures >= BOUNDS[Cause.RAISED] else TrialState.PLANNED
            trial.settle()
        assert self.ledger.fail(worker, lease.key, lease.fence, "it raised", bounds=BOUNDS) is expected

    @rule(who=workers, of=st.sets(st.sampled_from(KEYS)))
    def park(self, who: int, of: set[str]) -> None:
        mine = {key for key in self.held(self.ids[who]) & of if self.model[key].live}
        assert self.ledger.park(self.ids[who], of) == len(mine)
        for key in mine:
            self.model[key].state = TrialState.PAUSED
            self.model[key].settle()

    @rule(who=workers, of=st.sets(st.sampled_from(KEYS)), state=st.sampled_from([TrialState.PREEMPTED, TrialState.PLANNED]))
    def release(self, who: int, of: set[str], state: TrialState) -> None:
        mine = self.held(self.ids[who]) & of
        assert self.ledger.release(self.ids[who], keys=of, state=state, reason="told to") == len(mine)
        for key in mine:
            self.model[key].state = state
            self.model[key].settle()

    @rule()
    def expire(self) -> None:
        late = {key for key, trial in self.model.items() if trial.state is TrialState.LEASED and not trial.live}
        assert set(self.ledger.expire(STUDY, bounds=BOUNDS)) == late
        for key in late:
            self.model[key].state = TrialState.LOST
            self.model[key].settle()

    @rule(who=workers)
    def bury(self, who: int) -> None:
        lost = self.held(self.ids[who])
        self.ledger.worker_ended(self.ids[who], exit_code=-9)
        assert set(self.ledger.release_dead(STUDY, {self.ids[who]: Cause.ORPHANED}, bounds=BOUNDS)) == lost
        for key in lost:
            self.model[key].state = TrialState.LOST
            self.model[key].settle()
        self.ids[who] = register(self.ledger, "next")

    @rule()
    def retry(self) -> None:
        failed = [trial for trial in self.model.values() if trial.state is TrialState.FAILED]
        assert self.ledger.retry(STUDY) == len(failed)
        for trial in failed:
            trial.state, trial.failures = TrialState.PLANNED, 0
            trial.settle()

    @rule(n=st.integers(1, len(KEYS)))
    def plan_again(self, n: int) -> None:
        self.ledger.insert_plan(self.rows(n))
        self.ledger.insert_plan(self.rows(len(KEYS)))

    @rule(standings=st.lists(st.tuples(st.sampled_from([None, 1, 2, 3]), st.booleans()), min_size=len(KEYS), max_size=len(KEYS)))
    def decide(self, standings: list[tuple[int | None, bool]]) -> None:
        for trial, (until, dropped) in zip(self.model.values(), standings, strict=True):
            trial.until, trial.dropped = until, dropped
            trial.settle()
        self.ledger.insert_plan(self.rows(len(KEYS)))

    def rows(self, n: int) -> PlanRows:
        rows = plan(n)
        standing = {key: {"until": trial.until, "dropped": "decided" if trial.dropped else ""} for key, trial in self.model.items()}
        return dataclasses.replace(rows, members=tuple(dataclasses.replace(row, **standing[row.trial]) for row in rows.members))

    @rule(of=consumes(leases))
    def forget(self, of: tuple[int, Leased]) -> None:
        """Keeps the bundle from filling with stale leases."""

    @invariant()
    def holds_what_the_model_says(self) -> None:
        for record in self.ledger.trial_records(STUDY):
            trial = self.model[record.key]
            assert (record.state, record.attempts) == (trial.seen, trial.fence)
            assert {rung.step: rung.metrics["val/nll"] for rung in record.rungs} == trial.curve
            assert trial.ends == (record.state in (TrialState.COMPLETE, TrialState.DIVERGED))
            assert record.reason == ("decided" if record.state is TrialState.STOPPED else record.reason)

    @invariant()
    def agrees_with_itself(self) -> None:
        connection = sqlite3.connect(self.path)
        queue = """SELECT count(*) FROM memberships m JOIN trials t ON t.key = m.trial
            WHERE m.waiting <> (t.state IN ('planned', 'preempted', 'lost') AND m.dropped = '' AND (m.until IS NULL OR t.step < m.until))
            OR (t.state = 'paused') AND (m.waiting OR m.dropped <> '') OR (t.state = 'stopped') AND m.dropped = ''"""
        attempts = """SELECT count(*) FROM trials t WHERE t.fence <> (SELECT count(*) FROM attempts a WHERE a.trial = t.key)
            OR (t.state = 'leased') <> EXISTS (SELECT 1 FROM attempts a WHERE a.trial = t.key AND a.ended_at IS NULL)"""
        found = [connection.execute(query).fetchone()[0] for query in (queue, attempts)]
        connection.close()
        assert found == [0, 0]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
