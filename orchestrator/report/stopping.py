"""What rules stopped, in words and in rows."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.stopping import stopped, stopped_arms, tuning_steps
from orchestrator.keys import Json
from orchestrator.records import StudyRecord
from orchestrator.report.words import counted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoppedRow:
    """A tuning trial or an arm that was stopped, as text."""

    key: str
    arm: str
    what: str
    steps: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What a report says of rules.

    Attributes:
        protocol: The rules, and what the tuning of each arm spent, in a sentence or two.
        rows: What was stopped, in the order of the plan.
    """

    protocol: str
    rows: tuple[StoppedRow, ...]


def stopping(record: StudyRecord) -> Stopping | None:
    """None for a study without a rule of which nothing was stopped."""
    rows = stopped(record)
    if not record.stopping and not rows:
        return None
    table = tuple(
        StoppedRow(
            key=row.keys[0],
            arm=row.arm,
            what=counted(len(row.keys), "replicate") if row.index is None else f"tuning trial {row.index}",
            steps=f"{row.steps:,}",
            reason=row.reason,
        )
        for row in rows
    )
    return Stopping(protocol=" ".join(filter(None, (_rule(record), _spent(record), _arms(record)))), rows=table)


def stopping_json(record: StudyRecord) -> dict[str, Json]:
    """The same figures for a machine."""
    return {
        "rule": record.stopping,
        "tuning_steps": dict(tuning_steps(record)),
        "stopped": [
            {"arm": row.arm, "tuning_trial": row.index, "trials": list(row.keys), "steps": row.steps, "reason": row.reason}
            for row in stopped(record)
        ],
    }


def _rule(record: StudyRecord) -> str:
    return f"Trials were compared at rungs: {record.stopping}." if record.stopping else ""


def _spent(record: StudyRecord) -> str:
    steps = sorted(set(tuning_steps(record).values()))
    if not steps:
        return ""
    if len(steps) == 1:
        return f"The tuning of each arm spent {counted(steps[0], 'step')}."
    return f"The tuning of an arm spent {steps[0]:,} to {steps[-1]:,} steps."


def _arms(record: StudyRecord) -> str:
    arms = len(stopped_arms(record))
    return f"{counted(arms, 'arm')} of {len(record.arms):,} stopped before the end." if arms else ""
