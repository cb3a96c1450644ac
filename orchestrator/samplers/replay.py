"""A trial that answers suggestions from a given path, and takes the first choice beyond its end."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

T = TypeVar("T")


class Replay(BaseTrial):
    """One path through a finite space.

    Attributes:
        path: Number of the choice at each suggestion. Grows while the space suggests.
    """

    def __init__(self, *, number: int, path: Sequence[int]) -> None:
        self.path = list(path)
        self._number = number
        self._sizes: list[int] = []
        self._params: dict[str, Any] = {}
        self._spaces: dict[str, tuple[Any, ...]] = {}  # kind of distribution and its arguments; building them is what costs
        self._user_attrs: dict[str, Any] = {}
        self._constraints: dict[str, float] = {}

    def advance(self) -> bool:
        """Moves the path to the next leaf; False after the last."""
        del self.path[len(self._sizes) :]
        while self.path and self.path[-1] + 1 == self._sizes[len(self.path) - 1]:
            self.path.pop()
        if not self.path:
            return False
        self.path[-1] += 1
        return True

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, choices, CategoricalDistribution, tuple(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._answer(name, range(low, high + 1, step), IntDistribution, low, high, log, step)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        if step is None and low < high:
            raise ValueError(f"{name!r} cannot be enumerated: a float without a step has no end of values")
        count = 1 if step is None else int((high - low) / step + 1e-8) + 1
        values = [low + number * (step or 0.0) for number in range(count)]
        return self._answer(name, values, FloatDistribution, low, high, log, step)

    def _answer(self, name: str, choices: Sequence[T], kind: type[BaseDistribution], *space: Any) -> T:
        if name in self._params:
            if self._spaces[name] != (kind, *space):
                raise ValueError(f"{name!r} is suggested twice on one path, with different choices")
            return self._params[name]
        if not choices:
            raise ValueError(f"{name!r} has no choices")
        depth = len(self._sizes)
        if depth == len(self.path):
            self.path.append(0)
        if self.path[depth] >= len(choices):
            raise ValueError(f"{name!r} has other choices than before after the same answers: a space must not change while it is read")
        self._sizes.append(len(choices))
        self._spaces[name] = (kind, *space)
        self._params[name] = choices[self.path[depth]]
        return self._params[name]

    @property
    def params(self) -> dict[str, Any]:
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: cast(BaseDistribution, kind(*space)) for name, (kind, *space) in self._spaces.items()}

    @property
    def number(self) -> int:
        return self._number

    @property
    def datetime_start(self) -> datetime.datetime | None:
        return None

    @property
    def user_attrs(self) -> dict[str, Any]:
        return self._user_attrs

    @property
    def constraints(self) -> dict[str, float]:
        return self._constraints

    def set_user_attr(self, key: str, value: Any) -> None:
        self._user_attrs[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        self._constraints[key] = value

    def report(self, value: float, step: int) -> None:
        """Ignored: a space is read, not trained."""

    def should_prune(self) -> bool:
        return False

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)
