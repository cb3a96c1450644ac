"""The state machine of trials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ledger.states import FOLLOWERS, TERMINAL, WAITING, check, predecessors
from orchestrator.records import TrialState as S

any_state = st.sampled_from(S)


def test_the_table_is_the_one_of_the_design() -> None:
    arrows = {(before, after) for before, followers in FOLLOWERS.items() for after in followers}
    leased = {(before, S.LEASED) for before in (S.PLANNED, S.PREEMPTED, S.LOST)}
    ended = {(S.LEASED, after) for after in (S.COMPLETE, S.STOPPED, S.DIVERGED, S.FAILED, S.PREEMPTED, S.LOST, S.PLANNED, S.PAUSED)}
    held = {(before, S.PAUSED) for before in (S.PLANNED, S.PREEMPTED, S.LOST, S.STOPPED)}
    dropped = {(before, S.STOPPED) for before in (S.PLANNED, S.PREEMPTED, S.LOST, S.PAUSED)}
    wanted_again = {(S.PAUSED, S.PLANNED), (S.STOPPED, S.PLANNED), (S.FAILED, S.PLANNED), (S.COMPLETE, S.PLANNED)}
    assert arrows == leased | ended | held | dropped | wanted_again


@given(any_state, any_state)
def test_check_and_where_clauses_agree(before: S, after: S) -> None:
    if before in predecessors(after):
        check(before, after)
    else:
        with pytest.raises(ValueError, match=f"a {before} trial cannot become {after}; it can become"):
            check(before, after)


@given(any_state)
def test_every_state_waits_works_pauses_or_has_ended(state: S) -> None:
    assert (state in WAITING) + (state in TERMINAL) + (state is S.LEASED) + (state is S.PAUSED) == 1
    assert (S.LEASED in FOLLOWERS[state]) == (state in WAITING), "what waits can be leased, and nothing else"
