"""What trials may start from, as a study file writes it: what other trials left, or files.

A source stands in a config where a key takes an artifact. Its address, which is of what it holds, takes its place when a
study is planned: no key of a trial depends on a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

from orchestrator.errors import refuse
from orchestrator.keys import FlatConfig, Value

Seeds = Literal["shared", "paired"]


class Source(str):
    """A value that stands for an artifact. As text it is the name that people read in tables, reports and search spaces.

    Two sources are the same when all that was written of them is.
    """

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)


class Upstream(Source):
    """Trials of a changed base config that others start from: trained once each, by key, before anything that needs them.

    What an upstream trial starts from itself its changes say, or nothing: what the base says is of the study's arms.

    Attributes:
        name: As tables show it; unique in its study. Not part of any key.
        changes: Dotted keys and the values they take instead of the base's, as of an arm; one may be another `Upstream`.
        seeds: `shared`: one trial serves all that start from it. `paired`: a trial starts from the one of its own seed, so
            replicates differ in what they start from too.
        seed: Of the trial that is shared.

    >>> Upstream("pre-trained", {"train.steps": 4000}, seeds="paired")
    Upstream('pre-trained', {'train.steps': 4000}, seeds='paired', seed=0)
    """

    changes: tuple[tuple[str, Value], ...]
    seeds: Seeds
    seed: int

    def __new__(cls, name: str, changes: FlatConfig | None = None, *, seeds: Seeds = "shared", seed: int = 0) -> Self:
        made = super().__new__(cls, name)
        made.changes, made.seeds, made.seed = tuple((changes or {}).items()), seeds, seed
        made._check()
        return made

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.overrides!r}, seeds={self.seeds!r}, seed={self.seed!r})"

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        return (self.name, self.overrides), {"seeds": self.seeds, "seed": self.seed}

    @property
    def name(self) -> str:
        """Of the trials, as tables show them."""
        return str(self)

    @property
    def overrides(self) -> dict[str, Value]:
        """What it changes in the base config."""
        return dict(self.changes)

    def seed_for(self, seed: int) -> int:
        """Seed of the trial that one with this seed starts from."""
        return self.seed if self.seeds == "shared" else seed

    def _check(self) -> None:
        what = f"upstream {self.name!r}"
        if not self.strip():
            refuse(
                "an upstream has no name", found=repr(self.name), expected="a text that tables can show", fix='write Upstream("name", {…})'
            )
        if self.seeds not in ("shared", "paired"):
            refuse(f"{what} has no rule for seeds", found=repr(self.seeds), expected="shared or paired", fix="use one of the two words")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            refuse(f"{what} has no seed", found=repr(self.seed), expected="a whole number from 0", fix="give seed=0, or leave it out")
        elif self.seed and self.seeds == "paired":
            refuse(
                f"{what} names a seed that nothing uses",
                found=f'seeds="paired" with seed={self.seed}',
                expected="a seed of the trial that is shared",
                fix='leave seed out: paired trials have the seeds of what starts from them; or write seeds="shared"',
            )


class File(Source):
    """A file, known by what it holds: moved or renamed it is the same, edited it is another.

    The path is read from the working directory of the launch. A prefix stands for `PREFIX.index` with its `PREFIX.data-…`.

    >>> File("weights/vmoe.npz")
    File('weights/vmoe.npz')
    """

    def __new__(cls, path: str | os.PathLike[str]) -> Self:
        made = super().__new__(cls, os.fspath(path))
        if not made.strip():
            refuse("a file has no path", found=repr(path), expected="the path of a file", fix='write File("weights/name.npz")')
        return made

    def __repr__(self) -> str:
        return f"File({str.__repr__(self)})"

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    @property
    def path(self) -> str:
        """As the study file writes it."""
        return str(self)
