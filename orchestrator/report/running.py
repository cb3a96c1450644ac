"""How the run went, in words: what the plan said it would take, what it took, and what its workers did meanwhile."""

from __future__ import annotations

import dataclasses
import math

from orchestrator.analysis.usage import ProgramUse, Usage, WorkerTime, ratio, usage
from orchestrator.keys import Json
from orchestrator.records import RunRecord, StudyRecord
from orchestrator.report.number import UNKNOWN, duration
from orchestrator.report.words import counted, listed

SHORT = 6  # hex digits of a signature, as the plan shows them
MOST_RUNS = 5

PARTS = {
    "starting": "starting",
    "compiling": "compiling",
    "training": "training",
    "evaluating": "evaluating",
    "other": "reports and checkpoints",
    "waiting": "waiting",
    "lost": "lost with a worker",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What workers did with some of their time, as text, and as a share of it from 0 to 1."""

    name: str
    time: str
    share: float
    percent: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """How one program was run, as text."""

    signature: str
    arms: str
    packing: str
    packs: str
    workers: str
    lane_steps: str
    lane_step: str
    compiling: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How the run went.

    Attributes:
        runs: A sentence for each of the last runs: the estimate, and what it took.
        packs: Sentences on how full the packs were; empty where none told.
        parts: What workers did; empty as above.
        programs: A row for each; empty as above.
    """

    runs: tuple[str, ...]
    packs: str
    parts: tuple[Part, ...]
    programs: tuple[ProgramRow, ...]


def running(record: StudyRecord) -> Running | None:
    """None for a study of which nothing of the kind was written down."""
    found, ended = usage(record), [run for run in record.runs if run.wall_s is not None]
    if found is None and not ended:
        return None
    return Running(
        runs=tuple(_took(run) for run in ended[-MOST_RUNS:]),
        packs="" if found is None else _packs(found),
        parts=() if found is None else parts(found.time),
        programs=() if found is None else tuple(_program_row(row) for row in found.programs),
    )


def parts(time: WorkerTime) -> tuple[Part, ...]:
    """What workers did, in the order in which a worker does it, without what took no time."""
    total = time.total_s
    rows = [(words, getattr(time, f"{name}_s")) for name, words in PARTS.items()]
    return tuple(
        Part(name=words, time=duration(spent), share=spent / total, percent=_percent(spent / total)) for words, spent in rows if spent > 0
    )


def running_json(record: StudyRecord) -> Json:
    """The same with every digit; None where there is nothing to say."""
    found = usage(record)
    if found is None and not record.runs:
        return None
    return {
        "runs": [_run_json(run) for run in record.runs],
        "occupied": None if found is None else found.occupied,
        "packs": 0 if found is None else found.packs,
        "workers": 0 if found is None else found.workers,
        "time": None if found is None else dataclasses.asdict(found.time),
        "programs": [] if found is None else [_program_json(row) for row in found.programs],
    }


def _took(run: RunRecord) -> str:
    assert run.wall_s is not None
    took = f"{counted(run.trials, 'trial')} on {counted(run.workers, 'worker')} took {duration(run.wall_s)}"
    against = ratio(run)
    if run.ending != "done":
        took += f" until the run was {'given up' if run.ending == 'stuck' else run.ending}"
        return f"{took}, with {run.finished} of them finished."
    if run.estimate_s is None or against is None:
        return f"{took}; the plan gave no estimate, since no program had been measured here."
    rough = f", roughly, since {counted(run.inferred, 'trial')} had a program that had not been measured" if run.inferred else ""
    return f"{took}; the plan said {duration(run.estimate_s)}{rough}: {against:.2f} times the estimate."


def _packs(found: Usage) -> str:
    compiled = sum(row.workers for row in found.programs)
    text = f"{counted(found.packs, 'pack')} of {counted(len(found.programs), 'program')}, on {counted(found.workers, 'worker')}"
    text += f", which compiled {counted(compiled, 'time')}."
    if found.occupied is None:
        return text
    return f"{text} Lanes were occupied {_percent(found.occupied)} of the time in which there were trials to hold."


def _program_row(row: ProgramUse) -> ProgramRow:
    return ProgramRow(
        signature=row.signature[:SHORT],
        arms=listed(list(row.arms)) if len(row.arms) <= 3 else f"{', '.join(row.arms[:2])} and {len(row.arms) - 2} more",
        packing=", ".join(f"{strategy} × {width}" for strategy, width in row.packings),
        packs=str(row.packs),
        workers=str(row.workers),
        lane_steps=f"{row.lane_steps:,}",
        lane_step=UNKNOWN if math.isnan(row.lane_step_s) else f"{1e3 * row.lane_step_s:.3g} ms",
        compiling=duration(row.compile_s),
    )


def _run_json(run: RunRecord) -> Json:
    names = ("workers", "trials", "estimate_s", "inferred", "wall_s", "finished", "ending")
    return {**{name: getattr(run, name) for name in names}, "ratio": ratio(run)}


def _program_json(row: ProgramUse) -> Json:
    return {
        "signature": row.signature,
        "arms": list(row.arms),
        "packings": [{"strategy": strategy, "width": width} for strategy, width in row.packings],
        "packs": row.packs,
        "workers": row.workers,
        "lane_steps": row.lane_steps,
        "compile_s": row.compile_s,
        "lane_step_s": None if math.isnan(row.lane_step_s) else row.lane_step_s,
    }


def _percent(share: float) -> str:
    """A share for people.

    >>> _percent(0.9349), _percent(0.004), _percent(1.0)
    ('93 %', '0.4 %', '100 %')
    """
    return f"{100 * share:.1f} %" if share < 0.01 else f"{100 * share:.0f} %"
