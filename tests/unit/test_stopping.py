"""Stopping rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.records import Rung
from orchestrator.stopping.base import GO_ON, Decision
from orchestrator.stopping.divergence import DivergenceGuard

GUARD = DivergenceGuard(bounds=(("train/loss", 20.0),))
finite = st.floats(max_value=20.0, allow_nan=False, allow_infinity=False)


def rungs(*losses: float) -> list[Rung]:
    return [Rung(step=10 * (number + 1), metrics={"train/loss": loss, "val/nll": 1.0}) for number, loss in enumerate(losses)]


@given(st.lists(finite))
def test_a_trial_with_finite_numbers_under_their_bounds_goes_on(losses: list[float]) -> None:
    assert GUARD.decide(rungs(*losses)) == GO_ON


@given(st.lists(finite), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_not_finite_ends_the_trial(losses: list[float], gone: float) -> None:
    decision = GUARD.decide(rungs(*losses, gone))
    assert decision == Decision(stop=True, reason=f"train/loss is {gone} at step {10 * (len(losses) + 1)}")


def test_a_metric_over_its_bound_ends_the_trial_and_one_at_its_bound_does_not() -> None:
    assert GUARD.decide(rungs(1.0, 20.5)).reason == "train/loss is 20.5 at step 20, over its bound of 20"
    assert GUARD.decide(rungs(1.0, 20.0)) == GO_ON


def test_metrics_without_a_bound_and_bounds_without_a_metric_are_not_judged() -> None:
    assert DivergenceGuard(bounds=(("train/loss", 1.0),)).decide([Rung(step=1, metrics={"val/nll": 9.0})]) == GO_ON


def test_a_bound_is_a_number() -> None:
    with pytest.raises(ValueError, match="the bound of val/nll is nan"):
        DivergenceGuard(bounds=(("val/nll", math.nan),))


def test_a_decision_to_stop_has_a_reason() -> None:
    with pytest.raises(ValueError, match="stopped for a reason"):
        Decision(stop=True)
