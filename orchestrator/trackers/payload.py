"""A finished trial as trackers show it: what it is called, where it belongs, its config, its curve and its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.keys import Value
from orchestrator.records import Phase, TrialRecord, TrialState
from orchestrator.trackers.base import StudyHeader

STEP = "train/step"
_LETTER = {Phase.UPSTREAM: "u", Phase.TUNE: "t", Phase.REPLICATE: "r"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One trial, in the words of trackers.

    Attributes:
        key: The trial's key, which names the copy.
        name: For a reader, such as `E³ r3`.
        group: The study.
        job_type: The arm.
        tags: Profile and phase, and the state if it is not complete.
        config: The resolved config under its dotted keys, and what the trial is.
        rows: Step and metrics, in the order of steps, each step once; the step also stands in the row.
        summary: Final metrics, costs, and how it ended.
        exit_code: 1 if it failed, else 0.
    """

    key: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Value]
    rows: tuple[tuple[int, Mapping[str, float]], ...]
    summary: Mapping[str, float | str]
    exit_code: int

    @property
    def digest(self) -> str:
        """Differs when anything that is shown differs: a trial that was copied, changed and is copied again."""
        shown = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # not asdict(), which copies every row
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def last_step(self) -> int:
        """The last step with a row; -1 without any."""
        return self.rows[-1][0] if self.rows else -1


def payload_of(study: StudyHeader, trial: TrialRecord) -> Payload:
    """The copy of a finished trial.

    Raises:
        ValueError: It is not finished.
    """
    if not trial.state.is_terminal:
        raise ValueError(f"trial {trial.key} is {trial.state}, and only a finished trial is published")
    return payload_so_far(study, trial)


def payload_so_far(study: StudyHeader, trial: TrialRecord) -> Payload:
    """The copy of a trial as it stands, finished or not."""
    return Payload(
        key=trial.key,
        name=f"{trial.arm} {_LETTER[trial.phase]}{trial.index}",
        group=study.name,
        job_type=trial.arm,
        tags=tuple(tag for tag in (study.profile, trial.phase.value, _tag(trial.state)) if tag),
        config={**trial.config, **_beside(trial.config, _identity(study, trial))},
        rows=rows_from(trial, 0),
        summary={**trial.cost, **trial.metrics, **_ending(trial)},
        exit_code=1 if trial.state is TrialState.FAILED else 0,
    )


def rows_from(trial: TrialRecord, first: int) -> tuple[tuple[int, Mapping[str, float]], ...]:
    """What a trial reported at step `first` and later, as `Payload.rows`."""
    rungs = {rung.step: rung.metrics for rung in sorted(trial.rungs, key=lambda rung: rung.step) if rung.step >= first}
    return tuple((step, {**metrics, STEP: step}) for step, metrics in rungs.items())


def finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, which JSON can say."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def nested(flat: Mapping[str, Any], *, within: str = "") -> dict[str, Any]:
    """A mapping of dotted keys as W&B shows it: groups in groups, which it joins with dots again.

    A key that is also the group of others keeps its dots.

    Args:
        flat: By dotted key.
        within: Name that stands between a group and its members, as in the description of a sweep; empty for none.

    >>> nested({"optim.lr": 0.1, "optim.wd": 0.0, "seed": 3})
    {'optim': {'lr': 0.1, 'wd': 0.0}, 'seed': 3}
    >>> nested({"a.b": 1, "a": 2}, within="parameters")
    {'a.b': 1, 'a': 2}
    """
    grown: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = [key] if _clashes(key, flat) else key.split(".")
        here = grown
        for group in groups:
            here = here.setdefault(group, {within: {}} if within else {})
            here = here[within] if within else here
        here[leaf] = value
    return grown


def _clashes(key: str, flat: Mapping[str, Any]) -> bool:
    """Some group of the key is a key of its own."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in flat for end in range(1, len(parts)))


def _tag(state: TrialState) -> str:
    return state.value if state.is_terminal and state is not TrialState.COMPLETE else ""


def _identity(study: StudyHeader, trial: TrialRecord) -> dict[str, Value]:
    return {
        "study": study.name,
        "arm": trial.arm,
        "phase": trial.phase.value,
        "replicate": trial.index if trial.phase is Phase.REPLICATE else None,
        "trial": trial.index,
        "seed": trial.seed,
        "profile": study.profile,
        "trainer": f"{study.trainer} {study.version}",
        "signature": trial.signature,
        **{f"provenance.{name}": text for name, text in trial.provenance.items()},
    }


def _beside(config: Mapping[str, Value], identity: Mapping[str, Value]) -> dict[str, Value]:
    """What the trial is, under names that hide no key of its config."""
    return {f"tessera.{name}" if name in config else name: value for name, value in identity.items()}


def _ending(trial: TrialRecord) -> dict[str, float | str]:
    return {
        "state": trial.state.value,
        "reason": trial.reason,
        "attempts": trial.attempts,
        "elapsed_s": trial.elapsed_s,
        "finished_at": trial.finished_at,
    }
