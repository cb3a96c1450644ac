"""A host that hands out a list of lanes, remembers what it was told, and answers as a test says. And the lanes of one tiny model."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.contract import FlatConfig, Lane, Probe, Report, Trainer, Usage, Verdict, content_key, flatten, resolve

TINY_VISION = {
    "data.train_examples": 40,
    "model.hidden": 8,
    "model.mlp": 8,
    "model.depth": 2,
    "model.heads": 2,
    "model.patch": 4,
    "model.moe_layers": 1,
    "model.experts": 4,
    "model.k": 1,
    "model.members": 2,
    "model.tile": True,
    "model.partition": True,
    "model.dropout": 0.1,
    "model.expert_dropout": 0.1,
    "train.steps": 12,
    "train.batch_size": 8,
    "train.rung_steps": 5,
    "eval.corrupted": False,
}


def lane(trainer: Trainer, folder: pathlib.Path, overrides: Mapping[str, Any], *, seed: int = 0) -> Lane:
    """A lane of the trainer's defaults with these overrides, in a folder of its own."""
    config, problems = resolve(trainer.config_class, flatten(trainer.config_class()), overrides, where="test")
    assert not [*problems, *trainer.problems(config)]
    key = content_key({"config": config, "seed": seed})
    return Lane(key=key, config=config, seed=seed, folder=folder / key)


def answer_finished(report: Report) -> Verdict:
    """Goes on until the final report; a report that is not finite stops its lane."""
    if not all(math.isfinite(value) for value in report.metrics.values()):
        return Verdict.STOP
    return Verdict.FINISHED if report.final else Verdict.CONTINUE


class ScriptedHost:
    """See `orchestrator.contract.Host`.

    Args:
        lanes: Handed out in this order.
        answer: The verdict on each report.
        stop_when: Whether the process is asked to stop, given the host; asked at every look.

    Attributes:
        calls: What each call of `report` brought.
        measured: Speeds that the trainer measured.
        usages: Where it said that the time of its packs went.
        failures: What was said of lanes that cannot be trained, by key.
        parked_keys: Paused lanes whose checkpoints it said are on disk.
        next_config: What it is told would be trained next.
        looks: How often the trainer looked whether to stop.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        answer: Callable[[Report], Verdict] = answer_finished,
        stop_when: Callable[[ScriptedHost], bool] = lambda host: False,  # noqa: ARG005
    ) -> None:
        self._queue = list(lanes)
        self.calls: list[list[Report]] = []
        self.measured: list[Probe] = []
        self.usages: list[Usage] = []
        self.failures: dict[str, Exception] = {}
        self.parked_keys: list[str] = []
        self.next_config: FlatConfig | None = None
        self._known: list[Probe] = []
        self.looks = 0
        self._answer, self._stop_when = answer, stop_when

    @property
    def stopping(self) -> bool:
        self.looks += 1
        return self._stop_when(self)

    def pull(self, n: int) -> Sequence[Lane]:
        lanes, self._queue = self._queue[:n], self._queue[n:]
        return lanes

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        self.calls.append(list(reports))
        return {report.key: self._answer(report) for report in reports}

    def probed(self, probe: Probe) -> None:
        self.measured.append(probe)

    def failed(self, key: str, error: Exception) -> None:
        self.failures[key] = error

    def parked(self, keys: Sequence[str]) -> None:
        self.parked_keys += keys

    def upcoming(self) -> FlatConfig | None:
        return self.next_config

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def probed_before(self, probes: Sequence[Probe]) -> ScriptedHost:
        """The host, as if these had been measured by an earlier worker."""
        self._known += probes
        return self

    def probes(self) -> Sequence[Probe]:
        return [*self._known, *self.measured]

    def used(self, usage: Usage) -> None:
        self.usages.append(usage)

    def curve(self, key: str) -> dict[int, Mapping[str, float]]:
        """Every report of one lane, by step."""
        return {report.step: report.metrics for call in self.calls for report in call if report.key == key}

    def finals(self) -> dict[str, Mapping[str, float]]:
        """The final metrics of every lane that has some."""
        return {report.key: report.metrics for call in self.calls for report in call if report.final}


def flat_of(trainer: Trainer, overrides: Mapping[str, Any]) -> FlatConfig:
    """The resolved config of a trainer with these overrides."""
    return lane(trainer, pathlib.Path(), overrides).config
