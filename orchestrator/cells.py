"""Cells: the resolved configs of a study with what is known of each before it is trained, each made once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from orchestrator.config import Overlay, leaves, resolve, signature_of
from orchestrator.contract import Trainer
from orchestrator.keys import FlatConfig, cell_key
from orchestrator.planned import PlannedCell


class Cells:
    """Of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._known: dict[str, PlannedCell] = {}
        self._costs: dict[tuple[tuple[str, float], ...], Mapping[str, float]] = {}
        self._signatures: dict[str, str] = {}

    def of(self, config: Overlay, point: FlatConfig) -> PlannedCell:
        """The cell of a checked config with some keys at the values of a point."""
        full, problems = resolve(self._trainer.config_class, config, point, where="point")
        assert not problems, "the edges of every axis were checked"
        key = cell_key(self._trainer.name, self._trainer.version, full)
        if key not in self._known:
            cost = self._trainer.cost(full)
            # As it was written where that says the same: the trials of this cell hold it already.
            changes = point if all(full[name] is value for name, value in point.items()) else {name: full[name] for name in point}
            self._known[key] = PlannedCell(
                key=key,
                config=Overlay(config, changes) if changes else config,
                signature=self._signature(full, (*config.changes, *point)),
                cost=self._costs.setdefault(tuple(cost.items()), cost),
                steps=self._trainer.steps(full),
            )
        return self._known[key]

    def _signature(self, full: FlatConfig, moved: Iterable[str]) -> str:
        """Of the program of a config that is the base but for some keys; most only move traced values, and leave it as it was."""
        known = leaves(self._trainer.config_class)
        name = repr({key: full[key] for key in moved if not known[key].setting.is_always_traced})
        if name not in self._signatures:
            program = f"{self._trainer.name} {self._trainer.version}"
            self._signatures[name] = sys.intern(signature_of(self._trainer.config_class, full, program=program))
        return self._signatures[name]
