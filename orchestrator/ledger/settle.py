"""Where idle trials stand, by what their studies want of them: the one place that turns wishes into states and queues.

A trial may be in several studies, and twice in one. It waits for a worker while any of them wants it to train on; else it
is paused while any holds it back at a rung; else all have dropped it, and it is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger.database import chunks
from orchestrator.ledger.schema import is_short, memberships, trials, wants
from orchestrator.ledger.states import WAITING, check
from orchestrator.records import TrialState

IDLE = (*WAITING, TrialState.PAUSED, TrialState.STOPPED)  # the others have a result, have failed, or are at work

_is_in = memberships.c.orphaned == sa.false()
_holds = sa.and_(_is_in, memberships.c.dropped == "", sa.not_(is_short))
_drops = sa.and_(_is_in, memberships.c.dropped != "")


def _any(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.max(sa.case((condition, 1), else_=0))


_WISHES = (
    sa.select(
        trials.c.key,
        trials.c.state,
        _any(wants),
        _any(_holds),
        sa.func.coalesce(sa.func.min(sa.case((_drops, memberships.c.dropped))), ""),
        _any(memberships.c.waiting != sa.and_(wants, trials.c.state.in_(WAITING))),
    )
    .join_from(trials, memberships)
    .group_by(trials.c.key, trials.c.state)
)
_SET = sa.update(trials).where(trials.c.key == sa.bindparam("of_key"))
_own_trial = sa.select(trials.c.key).where(trials.c.key == memberships.c.trial)
_QUEUE = sa.update(memberships).values(waiting=_own_trial.where(trials.c.state.in_(WAITING), wants).exists())


def settle(connection: sa.Connection, keys: Iterable[str]) -> None:
    """Moves idle trials to where their studies want them, and into or out of the queues. Others are left alone."""
    for some in chunks(keys):
        rows = connection.execute(_WISHES.where(trials.c.key.in_(some), trials.c.state.in_(IDLE))).all()
        moved: list[dict[str, Any]] = []
        queued: list[str] = []
        for key, state_, go_on, hold, dropped, stale in rows:
            state = TrialState(state_)
            after, reason = _wanted(state, bool(go_on), bool(hold), dropped)
            if after is not state:
                check(state, after)
                moved.append({"of_key": key, "state": after, "reason": reason})
            if after is not state or stale:
                queued.append(key)
        if moved:
            connection.execute(_SET, moved)
        if queued:
            connection.execute(_QUEUE.where(memberships.c.trial.in_(queued)))


def settle_study(connection: sa.Connection, study: str, changed: Sequence[str]) -> None:
    """Settles the trials whose places in a study changed, and those of it that pause or were stopped."""
    still = sa.select(trials.c.key).join_from(memberships, trials)
    still = still.where(memberships.c.study == study, _is_in, trials.c.state.in_((TrialState.PAUSED, TrialState.STOPPED)))
    settle(connection, [*changed, *connection.execute(still).scalars()])


def _wanted(state: TrialState, go_on: bool, hold: bool, dropped: str) -> tuple[TrialState, str]:
    """The state that follows, and its reason."""
    if go_on:
        return (state, "") if state.is_waiting else (TrialState.PLANNED, "")
    if hold:
        return TrialState.PAUSED, ""
    if dropped:
        return TrialState.STOPPED, dropped
    return state, ""  # no study has it any more
