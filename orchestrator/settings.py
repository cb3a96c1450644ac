"""`--set KEY=VALUE`: changes of the base config and of the protocol, typed by what they change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, cast

from orchestrator.config import flatten, leaves, resolve
from orchestrator.contract import Trainer
from orchestrator.errors import Problem, StudyError, collected, did_you_mean
from orchestrator.keys import FlatConfig, Value
from orchestrator.replicates import Adaptive, Replicates
from orchestrator.study import Protocol, Study, Tune, replication

ADAPTIVE_KEYS = frozenset({"first", "step", "most", "budget", "alpha", "futile"})
PROTOCOL_KEYS = (
    *("protocol.trials", "protocol.replicates", "protocol.first_seed", "protocol.sampler"),
    *(f"protocol.{name}" for name in sorted(ADAPTIVE_KEYS)),
)


def applied(study: Study, trainer: Trainer, settings: Sequence[str]) -> tuple[Study, FlatConfig, list[Problem]]:
    """The study and its flat base config after the settings, and the problems with them."""
    pairs, problems = _pairs(settings)
    ours = {key: value for key, value in pairs.items() if key.startswith("protocol.")}
    known = [*leaves(trainer.config_class), *PROTOCOL_KEYS]
    for key in [key for key in pairs if key not in known]:
        problems.append(Problem(f"--set {key}: no such key", found=key, expected=did_you_mean(key, known), fix="rename it"))
        ours.pop(key, None)
    theirs = {key: value for key, value in pairs.items() if key in known and key not in PROTOCOL_KEYS}
    base, wrong = resolve(trainer.config_class, flatten(study.base), theirs, where="--set")
    protocol = study.protocol
    if ours:
        with collected() as refused:
            protocol = _protocol(cast(Protocol, protocol), ours, refused)
        problems += refused
    return study.following(protocol), base, [*problems, *wrong]


def _pairs(settings: Sequence[str]) -> tuple[dict[str, Value], list[Problem]]:
    pairs: dict[str, Value] = {}
    problems: list[Problem] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            problems.append(
                Problem("--set takes KEY=VALUE", found=setting, expected="a dotted key, =, and a value", fix="--set train.steps=100")
            )
        else:
            pairs[key.strip()] = _value(text)
    return pairs, problems


def _value(text: str) -> Value:
    """A JSON value, or else the text itself.

    >>> _value("3"), _value("true"), _value("sgd")
    (3, True, 'sgd')
    """
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:
        return text
    return tuple(cast(list[Value], value)) if isinstance(value, list) else cast(Value, value)


def _protocol(protocol: Protocol, settings: dict[str, Value], refused: list[Problem]) -> Protocol:
    values = {key.partition(".")[2]: cast(Any, value) for key, value in settings.items()}
    then = replication(protocol)
    first_seed = values.pop("first_seed", then.first_seed)
    if "replicates" in values:  # a number, on the command line, is the number, whatever the study file would do
        then = Replicates(values.pop("replicates"), first_seed)
    else:
        ours = ADAPTIVE_KEYS & values.keys() if isinstance(then, Adaptive) else ()
        then = dataclasses.replace(then, first_seed=first_seed, **{name: values.pop(name) for name in ours})
    for key in sorted(ADAPTIVE_KEYS & values.keys()):
        del values[key]
        refused.append(
            Problem(f"--set protocol.{key}: the number of replicates is fixed", found=str(then), expected="Adaptive(...)", fix="drop it")
        )
    if isinstance(protocol, Tune):
        return dataclasses.replace(protocol, then=then, **values)
    for key in values:
        refused.append(Problem(f"--set protocol.{key}: the study does not tune", found=str(protocol), expected="Tune(...)", fix="drop it"))
    return then


def only_known(study: Study, trainer: Trainer) -> None:
    """Refuses a base that is no config of the trainer, before anything reads it.

    Raises:
        StudyError: The base is of another type.
    """
    if not isinstance(study.base, trainer.config_class):
        expected = f"a {trainer.config_class.__name__}, the config class of {trainer.name}"
        raise StudyError(
            "the base config is of the wrong type", found=repr(study.base)[:80], expected=expected, fix="build it with that class"
        )
