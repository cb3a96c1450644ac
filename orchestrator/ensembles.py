"""Ensembles: arms that are derived from what finished trials predict. They train nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orchestrator.errors import refuse


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Ensemble:
    """A derived arm: the mean prediction of finished replicates.

    Each of its replicates is a group of trials: of every arm in `of`, the next `members` replicates in their order. Groups share
    no trial, so n replicates give n // members of them.

    Attributes:
        name: As shown in tables; unique in its study.
        of: Names of the trained arms, as tables show them: one for an ensemble over seeds, several for one over configs,
            such as checkpoints of different pre-training.
        members: Replicates of each of these arms in a group.
    """

    name: str
    of: tuple[str, ...]
    members: int

    def __init__(self, name: str, *, of: str | Sequence[str], members: int = 1, baseline: bool = False) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "of", (of,) if isinstance(of, str) else tuple(of))
        object.__setattr__(self, "members", members)
        self._check(baseline=baseline)

    def _check(self, *, baseline: bool) -> None:
        if not isinstance(self.name, str) or not self.name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(
                "an ensemble has no name", found=repr(self.name), expected="a text that tables can show", fix='write Ensemble("name", of=…)'
            )
        if isinstance(self.members, bool) or not isinstance(self.members, int) or self.members < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(
                f"ensemble {self.name!r} needs a number of members",
                found=repr(self.members),
                expected="a whole number: replicates of each arm that it averages",
                fix="give members=2 or more",
            )
        elif self.trials < 2:
            refuse(
                f"ensemble {self.name!r} has fewer than 2 members",
                found=f"of={', '.join(self.of) or 'nothing'} with members={self.members}",
                expected="the predictions of 2 trials or more to average",
                fix="give members=2 or more, or name several arms in of=[…]",
            )
        if baseline:
            refuse(
                f"ensemble {self.name!r} cannot be the baseline",
                found="baseline=True",
                expected="a trained arm: effects are paired by its replicates",
                fix="mark a trained arm as the baseline",
            )

    @property
    def trials(self) -> int:
        """How many trials each of its replicates averages."""
        return len(self.of) * self.members
