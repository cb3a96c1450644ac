"""Which state may follow which: the one place that says so. Every statement that changes a state takes its WHERE clause from here."""

from __future__ import annotations

import types
from collections.abc import Mapping

from orchestrator.records import TrialState

# LEASED to PLANNED is a lane that a worker hands back before it did any work on it. What waits, pauses or was stopped follows
# the plans of its studies: a rung holds it, a decision ends it, and an edited study wants it again. COMPLETE to PLANNED is asked for
# by a person, of a trial that left files behind which a disk has damaged since.
FOLLOWERS: Mapping[TrialState, frozenset[TrialState]] = types.MappingProxyType(
    {
        TrialState.PLANNED: frozenset({TrialState.LEASED, TrialState.PAUSED, TrialState.STOPPED}),
        TrialState.PREEMPTED: frozenset({TrialState.LEASED, TrialState.PAUSED, TrialState.STOPPED}),
        TrialState.LOST: frozenset({TrialState.LEASED, TrialState.PAUSED, TrialState.STOPPED}),
        TrialState.PAUSED: frozenset({TrialState.PLANNED, TrialState.STOPPED}),
        TrialState.LEASED: frozenset(TrialState) - {TrialState.LEASED},
        TrialState.FAILED: frozenset({TrialState.PLANNED}),
        TrialState.COMPLETE: frozenset({TrialState.PLANNED}),
        TrialState.STOPPED: frozenset({TrialState.PLANNED, TrialState.PAUSED}),
        TrialState.DIVERGED: frozenset(),
    }
)
WAITING = tuple(state for state in TrialState if state.is_waiting)
TERMINAL = tuple(state for state in TrialState if state.is_terminal)


def check(before: TrialState, after: TrialState) -> None:
    """Does nothing when `after` may follow `before`.

    Raises:
        ValueError: It may not.

    >>> check(TrialState.PLANNED, TrialState.LEASED)
    >>> check(TrialState.DIVERGED, TrialState.LEASED)
    Traceback (most recent call last):
    ValueError: a diverged trial cannot become leased; it can become nothing else
    """
    if after not in FOLLOWERS[before]:
        allowed = ", ".join(sorted(FOLLOWERS[before])) or "nothing else"
        raise ValueError(f"a {before} trial cannot become {after}; it can become {allowed}")


def predecessors(after: TrialState) -> tuple[TrialState, ...]:
    """The states that `after` may follow, for the WHERE clause of a compare-and-set.

    >>> [str(state) for state in predecessors(TrialState.LEASED)]
    ['planned', 'preempted', 'lost']
    """
    return tuple(before for before in TrialState if after in FOLLOWERS[before])
