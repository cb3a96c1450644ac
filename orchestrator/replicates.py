"""How many replicates an arm gets: a number of them, or as many as it takes to settle its comparison with the baseline."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

from orchestrator.errors import refuse

TUNING_SEED = 10_000  # apart from the replicates' seeds, so that what selects a cell never also measures it
MOST = 200  # replicates of an arm under `Adaptive`: who can afford more plans a number


@dataclasses.dataclass(frozen=True, slots=True)
class Replicates:
    """Every arm is run on the same n seeds: replicate r of every arm shares seed, split and data order."""

    n: int
    first_seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(
                "Replicates needs a number",
                found=repr(self.n),
                expected="a whole number from 1",
                fix="give at least 1, better 8: an exact test needs that many to tell six arms apart",
            )
        _check_seed(self.first_seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Adaptive:
    """Replicates are added to the comparisons with the baseline that are not settled, until they are.

    It drops nothing and chooses nothing: an arm that is settled keeps its replicates and its row, and gets no more. Replicate r
    of every arm shares seed, split and data order, as under `Replicates`.

    Attributes:
        first: Replicates of every arm before the first look.
        step: Replicates that the baseline and every arm that is not settled get after a look.
        most: Replicates that no arm gets more of. To raise it later costs nothing: no look that was is judged anew.
        budget: Replicates of all arms together, the baseline's included, tuning not; None: no bound.
        alpha: Chance, over all arms and looks together, that an arm is called different that is not.
        metric: What is compared; empty is the first objective that is not a cost.
        smaller_than: An arm is settled too when its difference is shown to be smaller than this, in units of the metric.
        futile: An arm gets no more when, at the difference and spread seen, its chance to be settled with `most` is below this.
        first_seed: Seed of replicate 0.

    >>> print(Adaptive(first=4, step=2, most=24))
    adaptive: 4 replicates of each arm, then 2 at a time up to 24
    """

    first: int = 4
    step: int = 2
    most: int = 24
    budget: int | None = None
    alpha: float = 0.05
    metric: str = ""
    smaller_than: float | None = None
    futile: float = 0.0
    first_seed: int = 0

    def __post_init__(self) -> None:
        _check_count("most", self.most, 2, MOST, "name the replicates after which an arm stays as it is, such as 24")
        most = self.most if isinstance(self.most, int) else MOST  # pyright: ignore[reportUnnecessaryIsInstance]
        _check_count("first", self.first, 2, most, "4 is a good start: from that, the spread can be told")
        _check_count("step", self.step, 1, MOST, "2 is a good step: a look at each replicate gains little")
        if self.budget is not None:
            _check_count("budget", self.budget, 1, math.inf, "name the replicates of all arms together, or leave it out")
        _check_number("alpha", self.alpha, 1e-4, 0.5, "0.05 is usual")
        _check_number("futile", self.futile, 0.0, 0.5, "0.05 gives up where one in twenty would be settled; 0 never does")
        if self.smaller_than is not None:
            _check_number("smaller_than", self.smaller_than, 1e-300, 1e300, "name the smallest difference that would matter to you")
        _check_seed(self.first_seed)
        if self.metric.startswith("cost/"):
            fix = "name a metric that replicates measure, such as test/nll"
            refuse("Adaptive cannot settle a cost", found=repr(self.metric), expected="a metric that varies from seed to seed", fix=fix)

    def __str__(self) -> str:
        ends = f" up to {self.most}" + ("" if self.budget is None else f", {self.budget} in all")
        return f"adaptive: {self.first} replicates of each arm, then {self.step} at a time{ends}"


def _check_seed(seed: int) -> None:
    if not 0 <= seed < TUNING_SEED - 1000:
        refuse("first_seed is out of range", found=repr(seed), expected=f"0 to {TUNING_SEED - 1001}", fix="choose a smaller seed")


def _check_count(name: str, value: object, least: int, most: float, fix: str) -> None:
    # A study file is untyped to whoever writes it.
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        expected = f"a whole number from {least}" + (f" to {most:g}" if math.isfinite(most) else "")
        refuse(f"Adaptive: {name} is out of range", found=repr(value), expected=expected, fix=fix)


def _check_number(name: str, value: object, least: float, most: float, fix: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= cast(float, value) <= most:
        bounds = f"from {least:g} to {most:g}" if most < 1e300 else "above 0"
        refuse(f"Adaptive: {name} is out of range", found=repr(value), expected=f"a number {bounds}", fix=fix)
