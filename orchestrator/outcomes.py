"""A plan that follows from what the ledger has: planned and asked in turn, until nothing that is asked is new."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

from orchestrator.contract import PARAMETERS
from orchestrator.ledger import Ledger
from orchestrator.plan import Planner
from orchestrator.planned import Outcome, Outcomes, Plan, PlannedTrial, changed
from orchestrator.records import TrialState

AT_ONCE = 2000  # trials that the ledger is asked about at once: it tells more than is kept
_BARE = {state: Outcome(state=state, metrics={}) for state in TrialState}  # of a hundred thousand trials most are alike


def planned(planner: Planner, ledger: Ledger | None) -> tuple[Plan, Outcomes]:
    """The plan that follows from what the ledger has, under any study, and the outcomes that led to it.

    Args:
        planner: Of the study.
        ledger: None where there is none yet.
    """
    if ledger is None:
        return planner.plan({}), {}
    outlook = Outlook(planner, ledger)
    return outlook.look(), outlook.outcomes


class _One(Mapping[str, float]):
    """A mapping of one name: a third of a dict, of which a large study would hold as many as it has trials."""

    __slots__ = ("_name", "_value")

    def __init__(self, name: str, value: float) -> None:
        self._name, self._value = name, value

    def __getitem__(self, name: str) -> float:
        if name != self._name:
            raise KeyError(name)
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1


class Outlook:
    """What follows for one study from what the ledger has, look after look.

    A complete trial stays complete, so it is asked about once. Final metrics are kept where they decide something.

    Attributes:
        outcomes: All that is known so far.
    """

    def __init__(self, planner: Planner, ledger: Ledger) -> None:
        self._planner, self._ledger = planner, ledger
        self._names = planner.selects
        self._plan: Plan | None = None  # the last one, all of whose trials were asked about
        self.outcomes: dict[str, Outcome] = {}

    def look(self, arms: Collection[str] | None = None) -> Plan:
        """The plan that follows now.

        Args:
            arms: Names of those, and of upstreams, whose trials may stand elsewhere than at the last look; None: any of them.
        """
        asked: set[str] = set()
        plan = self._plan if arms is not None and self._plan is not None else self._planner.plan(self.outcomes)
        while True:
            unknown = {trial.key: trial for trial in self._open(plan, arms) if trial.key not in asked}
            found = self._ask(tuple(unknown.values()))
            if not found:
                self._plan = plan
                return plan
            asked |= unknown.keys()
            self.outcomes |= found
            plan = self._planner.plan(self.outcomes) if arms is None else self._planner.plan(self.outcomes, since=plan, moved=arms)

    def _open(self, plan: Plan, arms: Collection[str] | None) -> Iterator[PlannedTrial]:
        """Trials that may have changed, or are new."""
        for part in plan.parts if arms is None else [part for part in plan.parts if part.name in arms]:
            yield from (trial for trial in (*part.trials, *part.held) if not self._is_settled(trial.key))
        for part in [] if arms is None else changed(plan, self._plan):
            yield from (trial for trial in (*part.trials, *part.held) if trial.key not in self.outcomes)

    def _is_settled(self, key: str) -> bool:
        known = self.outcomes.get(key)
        return known is not None and known.state is TrialState.COMPLETE

    def _ask(self, trials: Sequence[PlannedTrial]) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        for first in range(0, len(trials), AT_ONCE):
            found |= self._ask_about(trials[first : first + AT_ONCE])
        return found

    def _ask_about(self, trials: Sequence[PlannedTrial]) -> dict[str, Outcome]:
        keys = [trial.key for trial in trials]
        if not self._names:
            found = {key: _BARE[state] for key, state in self._ledger.states(keys).items()}
        else:
            found = {key: self._outcome(state, finals) for key, (state, finals) in self._ledger.outcomes(keys).items()}
        watched = [trial.key for trial in trials if trial.watched and trial.key in found]
        # After the states: a report that comes in between belongs to a trial that is taken to be running, not to a finished one.
        rungs = self._ledger.rungs(watched, self._planner.watches) if watched else {}
        found |= {key: Outcome(state=found[key].state, metrics=found[key].metrics, rungs=curve) for key, curve in rungs.items()}
        starts = [key for key in found if key in self._planner.starts and found[key].state is TrialState.COMPLETE]
        kept = {row.trial for row in self._ledger.artifacts(starts) if row.name == PARAMETERS} if starts else ()
        return found | {key: dataclasses.replace(found[key], kept=True) for key in kept}

    def _outcome(self, state: TrialState, finals: dict[str, float]) -> Outcome:
        metrics = {sys.intern(name): value for name, value in finals.items() if name in self._names}
        if not metrics:
            return _BARE[state]
        return Outcome(state=state, metrics=metrics if len(metrics) > 1 else _One(*metrics.popitem()))
