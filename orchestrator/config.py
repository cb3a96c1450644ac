"""A trainer's config: a tree of frozen dataclasses in a process, one flat dotted dict between processes and in keys.

Every default is written once, in the field. Each field is declared with `static` (its value shapes the compiled
program), `traced` (its value is an argument of the program) or `outside` (the program never meets it), with its range, so
that a study can be checked before anything is spent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from orchestrator.errors import Problem, did_you_mean
from orchestrator.keys import FlatConfig, Value, content_key
from orchestrator.upstream import Source

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known of one config field beside its type and default.

    Attributes:
        traced: The value may differ between the lanes of one compiled program.
        switch: A traced value whose being zero or not shapes the program (dropout at rate 0 costs 30 % of a step).
        when: Key of the static boolean that must be on for the value to be traced; where it is off the value shapes the
            program. Empty: traced whatever the others are.
        outside: The value neither shapes the program nor is an argument of it: it decides what is done before or after.
        artifact: The value is the address of a file, which the lane is handed as `Lane.inputs`; empty for none.
        low: Smallest value allowed, if any.
        high: Largest value allowed, if any.
        choices: The only values allowed, if not empty.
        help: One line that says what the field is, with its unit.
    """

    traced: bool
    switch: bool = False
    when: str = ""
    outside: bool = False
    artifact: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()
    help: str = ""

    @property
    def is_always_traced(self) -> bool:
        """No value of it shapes the program, whatever the others are."""
        return self.traced and not self.switch and not self.when


def static(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Sequence[Value] = ()) -> Any:
    """A field whose value shapes the compiled program: trials that differ in it never share one."""
    setting = Setting(traced=False, low=low, high=high, choices=tuple(choices), help=help)
    return dataclasses.field(default=default, metadata={"setting": setting})


def traced(default: Any, help: str, *, low: float | None = None, high: float | None = None, switch: bool = False, when: str = "") -> Any:
    """A field whose value is an argument of the compiled program.

    With `switch`, zero or not is static. With `when`, the name of a static boolean field of the same class, it is static
    altogether while that one is off.
    """
    setting = Setting(traced=True, switch=switch, when=when, low=low, high=high, help=help)
    return dataclasses.field(default=default, metadata={"setting": setting})


def outside(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Sequence[Value] = ()) -> Any:
    """A field whose value the compiled program never meets, such as what a lane starts from. It is part of a trial's key all the same."""
    setting = Setting(traced=False, outside=True, low=low, high=high, choices=tuple(choices), help=help)
    return dataclasses.field(default=default, metadata={"setting": setting})


def artifact(help: str) -> Any:
    """A text field that names a file by its content: what an earlier trial left (`trial:KEY`), or any file (`sha256:HASH`)."""
    setting = Setting(traced=False, outside=True, artifact=True, help=help)
    return dataclasses.field(default="", metadata={"setting": setting})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One dotted key of a config class: its type as annotated, and its setting."""

    key: str
    type: Any
    setting: Setting

    def is_traced_in(self, flat: FlatConfig) -> bool:
        """In this config the value is an argument of the program. `switch` may make its being zero static beside that."""
        return self.setting.traced and (not self.setting.when or bool(flat[self.setting.when]))


@functools.lru_cache(maxsize=64)
def leaves(config_class: type) -> Mapping[str, Leaf]:
    """Every dotted key of a config class, in the order of declaration.

    Raises:
        ValueError: A field is declared with none of `static`, `traced`, `outside`, `artifact`, or waits for what is no static boolean.
    """
    found = {leaf.key: leaf for leaf in _walk(config_class, "")}
    for leaf in found.values():
        other = found.get(leaf.setting.when)
        if leaf.setting.when and (other is None or other.type is not bool or other.setting.traced):
            raise ValueError(f"{config_class.__name__}: {leaf.key} is traced when {leaf.setting.when}, which is no static boolean field")
    return types.MappingProxyType(found)


class Overlay(Mapping[str, Value]):
    """A flat config that is another one but for some values: a study has as many cells as trials, and a dict for each would fill memory.

    >>> config = Overlay({"a": 1, "b": 2}, {"b": 3})
    >>> dict(config), config == {"a": 1, "b": 3}
    ({'a': 1, 'b': 3}, True)
    """

    __slots__ = ("_base", "_changes")

    def __init__(self, base: FlatConfig, changes: FlatConfig) -> None:
        """Keys of the changes are keys of the base. Neither is copied."""
        self._base, self._changes = base, changes

    def __getitem__(self, key: str) -> Value:
        return self._changes[key] if key in self._changes else self._base[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __repr__(self) -> str:
        return f"Overlay({dict(self)!r})"

    @property
    def changes(self) -> dict[str, Value]:
        """What differs from the config beneath, which is no overlay."""
        return (self._base.changes if isinstance(self._base, Overlay) else {}) | dict(self._changes)

    def flat(self) -> dict[str, Value]:
        """As a dict of its own."""
        return (self._base.flat() if isinstance(self._base, Overlay) else dict(self._base)) | dict(self._changes)


def flatten(config: Any) -> dict[str, Value]:
    """The flat dotted dict of a config tree, such as `{"optim.learning_rate": 0.1, ...}`."""
    flat: dict[str, Value] = {}
    for key in leaves(config.__class__):
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        flat[key] = typing.cast(Value, value)
    return flat


def build(config_class: type[T], flat: FlatConfig) -> T:
    """The config tree of a flat dict that names every key; the inverse of `flatten`.

    Raises:
        ValueError: A key is missing or unknown.
    """
    known = leaves(config_class)
    if missing := sorted(known.keys() ^ flat.keys()):
        raise ValueError(f"a flat {config_class.__name__} names each key once; missing or unknown: {missing}")
    return _build(config_class, flat, "")


def resolve(config_class: type, base: FlatConfig, overrides: FlatConfig, *, where: str) -> tuple[dict[str, Value], list[Problem]]:
    """The base with the overrides applied, values cast to their declared types, and every problem met on the way.

    Args:
        config_class: The dataclass that declares the keys.
        base: A complete flat config.
        overrides: Dotted keys and their new values.
        where: Who overrides, as named in messages, such as `arm 'E³'`.
    """
    known = leaves(config_class)
    flat, problems = base.flat() if isinstance(base, Overlay) else dict(base), list[Problem]()
    for key, value in overrides.items():
        if key not in known:
            problems.append(
                Problem(
                    f"{where}: {key!r} is not a key of {config_class.__name__}",
                    found=key,
                    expected=did_you_mean(key, list(known)),
                    fix="rename the key, or add the field to the config dataclass",
                )
            )
            continue
        cast, problem = check_value(known[key], value, where=where)
        if problem is None:
            flat[key] = cast
        else:
            problems.append(problem)
    return flat, problems


def check_value(leaf: Leaf, value: object, *, where: str) -> tuple[Value, Problem | None]:
    """The value cast to the leaf's declared type, or the problem that forbids it."""
    kinds = _kinds(leaf.type)
    if isinstance(value, Source):
        return value, None if leaf.setting.artifact else _no_artifact(leaf, value, kinds, where)
    cast = _cast(value, kinds)
    if cast is _REFUSED:
        return None, Problem(
            f"{where}: {leaf.key} has the wrong type",
            found=f"{value!r} ({type(value).__name__})",
            expected=f"{_names(kinds)}: {leaf.setting.help}",
            fix=f"give {leaf.key} a value of type {_names(kinds)}",
        )
    expected = _out_of_range(leaf.setting, cast)
    if expected:
        return None, Problem(
            f"{where}: {leaf.key} is out of range",
            found=repr(value),
            expected=f"{expected}: {leaf.setting.help}",
            fix=f"choose a value for {leaf.key} in that range",
        )
    return typing.cast(Value, cast), None


def signature_of(config_class: type, flat: FlatConfig, *, program: str) -> str:
    """Hash of the static part of a config: trials of one signature share one compiled program.

    Args:
        config_class: The dataclass that marks each key static or traced.
        flat: A complete flat config.
        program: The trainer and its version, since another trainer compiles another program.
    """
    static_part = {
        key: bool(flat[key]) if leaf.setting.switch and leaf.is_traced_in(flat) else flat[key]
        for key, leaf in leaves(config_class).items()
        if not leaf.setting.outside and (leaf.setting.switch or not leaf.is_traced_in(flat))
    }
    return content_key({"program": program, "static": static_part})


_REFUSED = object()


def _walk(config_class: type, prefix: str) -> Iterator[Leaf]:
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        key, hint = prefix + field.name, hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), key + ".")
        elif (setting := field.metadata.get("setting")) is None:
            raise ValueError(f"{config_class.__name__}.{field.name} is declared with none of static(), traced(), outside(), artifact()")
        else:
            when = prefix + setting.when if setting.when else ""
            yield Leaf(key=key, type=hint, setting=dataclasses.replace(setting, when=when))


def _build(config_class: type[T], flat: FlatConfig, prefix: str) -> T:
    values: dict[str, Any] = {
        name: flat[prefix + name] if nested is None else _build(nested, flat, f"{prefix}{name}.") for name, nested in _shape(config_class)
    }
    return config_class(**values)


@functools.lru_cache(maxsize=256)
def _shape(config_class: type) -> tuple[tuple[str, type | None], ...]:
    """Fields of a config class, with the class of those that are config trees themselves."""
    hints = typing.get_type_hints(config_class)
    names = [field.name for field in dataclasses.fields(config_class)]
    return tuple((name, hints[name] if dataclasses.is_dataclass(hints[name]) else None) for name in names)


def _kinds(hint: Any) -> tuple[type, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    return (typing.get_origin(hint) or hint,)


def _cast(value: object, kinds: tuple[type, ...]) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return _REFUSED
    if type(value) in kinds:
        return value + 0.0 if isinstance(value, float) else value
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return float(value)
    if isinstance(value, list) and tuple in kinds:
        return tuple(typing.cast(list[object], value))
    return _REFUSED


def _no_artifact(leaf: Leaf, value: Source, kinds: tuple[type, ...], where: str) -> Problem:
    return Problem(
        f"{where}: {leaf.key} takes no artifact",
        found=repr(value),
        expected=f"{_names(kinds)}: {leaf.setting.help}",
        fix="give it to a key that names a file to start from",
    )


def _names(kinds: tuple[type, ...]) -> str:
    return " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)


def _out_of_range(setting: Setting, value: object) -> str:
    if setting.choices and value not in setting.choices:
        return "one of " + ", ".join(repr(choice) for choice in setting.choices)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    if (setting.low is not None and value < setting.low) or (setting.high is not None and value > setting.high):
        low = "-inf" if setting.low is None else f"{setting.low:g}"
        high = "inf" if setting.high is None else f"{setting.high:g}"
        return f"{low} to {high}"
    return ""
