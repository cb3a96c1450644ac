"""Which fields shape a program and which are its arguments."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.config import Leaf, flatten, leaves, signature_of, static, traced


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    width: int = static(8, "static")
    masked: bool = static(False, "lets `split` be traced")
    split: bool = traced(False, "traced while `masked`", when="masked")
    rate: float = traced(0.0, "switches", switch=True)
    gain: float = traced(0.0, "switches while `masked`, else is static", switch=True, when="masked")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    steps: int = traced(10, "always traced")
    net: Net = Net()


def signature(**changes: object) -> str:
    flat = flatten(Config()) | {key.replace("__", "."): value for key, value in changes.items()}
    return signature_of(Config, flat, program="test 1")  # type: ignore[arg-type]


def test_a_static_value_changes_the_signature_and_a_traced_one_does_not() -> None:
    assert signature(net__width=9) != signature()
    assert signature(steps=11) == signature()


def test_a_switch_is_static_in_whether_it_is_zero() -> None:
    assert signature(net__rate=0.1) == signature(net__rate=0.2) != signature()


def test_a_conditional_field_is_traced_only_while_its_condition_is_on() -> None:
    assert signature(net__split=True) != signature(net__split=False)
    on = {"net__masked": True}
    assert signature(**on, net__split=True) == signature(**on, net__split=False) != signature(net__split=True)


def test_a_conditional_switch_is_static_in_its_value_or_in_whether_it_is_zero() -> None:
    assert len({signature(net__gain=gain) for gain in (0.0, 0.1, 0.2)}) == 3
    assert len({signature(net__masked=True, net__gain=gain) for gain in (0.0, 0.1, 0.2)}) == 2


def test_a_condition_is_named_beside_its_field_and_found_under_any_prefix() -> None:
    assert leaves(Config)["net.split"].setting.when == "net.masked"
    assert leaves(Net)["split"].setting.when == "masked"
    leaf: Leaf = leaves(Config)["net.split"]
    assert leaf.is_traced_in({"net.masked": True})
    assert not leaf.is_traced_in({"net.masked": False})


@pytest.mark.parametrize("when", ["nowhere", "size", "moving"])
def test_a_condition_that_is_no_static_boolean_is_refused(when: str) -> None:
    fields = [
        ("size", int, static(1, "no boolean")),
        ("moving", bool, traced(False, "not static")),
        ("split", bool, traced(False, "waits", when=when)),
    ]
    made = dataclasses.make_dataclass("Made", fields, frozen=True)
    with pytest.raises(ValueError, match=f"split is traced when {when}, which is no static boolean field"):
        leaves(made)
