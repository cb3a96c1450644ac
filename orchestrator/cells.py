"""Cells: the resolved configs of a study with what is known of each before it is trained, each made once.

Here the sources of a config become addresses. That of an upstream trial is its key, so the key of what starts from it
depends on all that it computes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping

from orchestrator.config import Overlay, leaves, resolve, signature_of
from orchestrator.contract import Keeper, Trainer
from orchestrator.keys import FlatConfig, Value, cell_key, trial_key
from orchestrator.planned import PlannedCell
from orchestrator.upstream import File, Source, Upstream

TRIAL = "trial:"  # before the key of the trial whose parameters an address means


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A trial that others start from, without its place in a plan.

    Attributes:
        key: Content key of cell and seed.
        upstream: As the study file writes it.
        cell: What it trains.
        seed: Fixes every random draw.
    """

    key: str
    upstream: Upstream
    cell: PlannedCell
    seed: int


class Cells:
    """Of one study.

    Args:
        trainer: Which it names.
        base: Its base config, flat.
        addresses: Of the files that it names.

    Attributes:
        starts: Upstream trials met so far, by key.
    """

    def __init__(self, trainer: Trainer, base: FlatConfig, addresses: Mapping[File, str]) -> None:
        self._trainer, self._addresses = trainer, addresses
        self.artifact_keys = artifact_keys(trainer)
        self._bare = {**base, **dict.fromkeys(self.artifact_keys, "")}
        self._known: dict[str, PlannedCell] = {}
        self._costs: dict[tuple[tuple[str, float], ...], Mapping[str, float]] = {}
        self._signatures: dict[str, str] = {}
        self._made: dict[tuple[Upstream, int], Start] = {}
        self.starts: dict[str, Start] = {}

    def of(self, config: Overlay, point: FlatConfig, seed: int) -> PlannedCell:
        """The cell of a checked config with some keys at the values of a point, for trials of a seed."""
        full, problems = resolve(self._trainer.config_class, config, point, where="point")
        assert not problems, "the edges of every axis were checked"
        addresses, starts = self._addressed(full, seed)
        full |= addresses
        key = cell_key(self._trainer.name, self._trainer.version, full)
        if key not in self._known:
            cost = self._trainer.cost(full)
            point = {**point, **addresses} if addresses else point
            # As it was written where that says the same: the trials of this cell hold it already.
            changes = point if all(full[name] is value for name, value in point.items()) else {name: full[name] for name in point}
            self._known[key] = PlannedCell(
                key=key,
                config=Overlay(config, changes) if changes else config,
                signature=self._signature(full, (*config.changes, *point)),
                cost=self._costs.setdefault(tuple(cost.items()), cost),
                steps=self._trainer.steps(full),
                starts=starts,
            )
        return self._known[key]

    def is_paired(self, config: Overlay, point: FlatConfig) -> bool:
        """Trials of it start from others according to their seeds, so that each seed has a cell of its own."""
        values = (point[key] if key in point else config[key] for key in self.artifact_keys)
        return any(isinstance(value, Upstream) and value.seeds == "paired" for value in values)

    def chain(self, starts: Iterable[str]) -> dict[str, None]:
        """Keys of upstream trials with those that they start from, each after these."""
        found: dict[str, None] = {}
        for key in starts:
            found |= self.chain(self.starts[key].cell.starts) | {key: None}
        return found

    def _addressed(self, full: FlatConfig, seed: int) -> tuple[dict[str, Value], tuple[str, ...]]:
        """Addresses in the place of sources, and keys of the upstream trials among them."""
        found: dict[str, Value] = {}
        starts: list[str] = []
        for name in self.artifact_keys:
            value = full[name]
            if isinstance(value, Upstream):
                starts.append(self._start(value, value.seed_for(seed)).key)
                found[name] = TRIAL + starts[-1]
            elif isinstance(value, File):
                found[name] = self._addresses[value]
            else:
                assert not isinstance(value, Source), "there are two kinds of sources"
        return found, tuple(dict.fromkeys(starts))

    def _start(self, upstream: Upstream, seed: int) -> Start:
        if (upstream, seed) not in self._made:
            assert isinstance(self._trainer, Keeper), "a study is checked before it is planned"
            changes = {**upstream.overrides, self._trainer.keeps: True}
            full, problems = resolve(self._trainer.config_class, self._bare, changes, where=f"upstream {upstream.name!r}")
            assert not problems, "a study is checked before it is planned"
            cell = self.of(Overlay(self._bare, {name: full[name] for name in changes}), {}, seed)
            made = Start(key=trial_key(cell.key, seed), upstream=upstream, cell=cell, seed=seed)
            self._made[upstream, seed] = self.starts[made.key] = made
        return self._made[upstream, seed]

    def _signature(self, full: FlatConfig, moved: Iterable[str]) -> str:
        """Of the program of a config that is the base but for some keys; most only move traced values, and leave it as it was."""
        known = leaves(self._trainer.config_class)
        shaping = (key for key in moved if not known[key].setting.is_always_traced and not known[key].setting.outside)
        name = repr({key: full[key] for key in shaping})
        if name not in self._signatures:
            program = f"{self._trainer.name} {self._trainer.version}"
            self._signatures[name] = sys.intern(signature_of(self._trainer.config_class, full, program=program))
        return self._signatures[name]


def artifact_keys(trainer: Trainer) -> tuple[str, ...]:
    """Keys of its config that take artifacts."""
    return tuple(key for key, leaf in leaves(trainer.config_class).items() if leaf.setting.artifact)
