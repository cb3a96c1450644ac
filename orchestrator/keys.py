"""Canonical JSON and the content keys made from it: a trial is what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str | tuple["Value", ...] | None
FlatConfig: TypeAlias = Mapping[str, Value]
Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

KEY_LENGTH = 20  # hex digits: 80 bits, so a billion trials collide with probability 4e-7


def canonical(value: Json | Value) -> str:
    """The one JSON text of a value: sorted keys, no blanks, no NaN, tuples as lists, -0.0 as 0.0.

    Raises:
        ValueError: The value holds NaN or an infinity, which have no JSON text.

    >>> canonical({"b": (1, -0.0), "a": None})
    '{"a":null,"b":[1,0.0]}'
    """
    text = _dumps(value)
    return _dumps(_positive_zero(value)) if "-0.0" in text else text  # a negative zero is rare: look before walking


def content_key(value: Json | Value) -> str:
    """Name of a value by what it holds: the first hex digits of the SHA-256 of its canonical JSON.

    >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:KEY_LENGTH]


def cell_key(trainer: str, version: str, config: FlatConfig) -> str:
    """Key of a cell: one trainer at one version, and one resolved config."""
    return content_key({"config": dict(config), "trainer": trainer, "version": version})


def trial_key(cell: str, seed: int) -> str:
    """Key of a trial: a cell and the seed that its replicate fixes."""
    return content_key({"cell": cell, "seed": seed})


def _dumps(value: Json | Value) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _positive_zero(value: Json | Value) -> Json | Value:
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, Mapping):
        return {key: _positive_zero(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_positive_zero(item) for item in value]
    return value
