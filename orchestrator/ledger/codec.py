"""Texts of the ledger's JSON columns, and moments."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from orchestrator.keys import Json, Value

T = TypeVar("T")


class Decoded(dict[str, T]):
    """Texts to their values, each decoded once: the trials of a cell share one config."""

    def __init__(self, decode: Callable[[str], T]) -> None:
        super().__init__()
        self._decode = decode

    def __missing__(self, text: str) -> T:
        value = self[text] = self._decode(text)
        return value


class LazyConfig(Mapping[str, Value]):
    """A flat config that is read from its JSON text when it is first looked at: most of a study's are not.

    >>> config = LazyConfig('{"a":[1]}')
    >>> config == {"a": (1,)}, dict(config)
    (True, {'a': (1,)})
    """

    __slots__ = ("_flat", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._flat: dict[str, Value] | None = None

    @property
    def _read(self) -> dict[str, Value]:
        if self._flat is None:
            self._flat = to_config(self._text)
        return self._flat

    def __getitem__(self, key: str) -> Value:
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def __repr__(self) -> str:
        return repr(self._read)


def to_config(text: str) -> dict[str, Value]:
    """A flat config from its JSON text: lists come back as the tuples they were.

    >>> to_config('{"a":[1,[2.0]],"b":null}')
    {'a': (1, (2.0,)), 'b': None}
    """
    flat = json.loads(text)
    return {key: _tuples(value) if type(value) is list else value for key, value in flat.items()}


def to_numbers(text: str) -> dict[str, float]:
    """Numbers by name."""
    return cast(dict[str, float], json.loads(text))


def to_json(text: str) -> dict[str, Json]:
    """A JSON object."""
    return cast(dict[str, Json], json.loads(text))


def to_strings(text: str) -> dict[str, str]:
    """Texts by name."""
    return cast(dict[str, str], json.loads(text))


def moment(seconds: float | None) -> str:
    """UTC, ISO 8601, of seconds since 1970; empty for None.

    >>> moment(0.5)
    '1970-01-01T00:00:00.500+00:00'
    """
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in cast(list[Any], value)) if type(value) is list else value
