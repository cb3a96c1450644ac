"""What the study cost, in rows of text: trials, steps, time and arithmetic of each arm."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.metrics import cost_metric
from orchestrator.analysis.spending import Spending, device_kinds, spending, total_spending
from orchestrator.analysis.summary import means_of
from orchestrator.analysis.usage import usage
from orchestrator.records import StudyRecord
from orchestrator.report.number import UNKNOWN, decimals_for, duration, fixed
from orchestrator.report.words import counted, heading, listed, unit_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One arm, or all of them; `each` is what is known before training, of one image."""

    arm: str
    tuning: str
    replicates: str
    steps: str
    held: str
    each: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the study cost.

    Attributes:
        sentence: In a sentence.
        each: Head of the last column, with its unit; empty where no cost is known before training.
        rows: One for each trained arm.
        total: Of all; trials that arms share count once.
    """

    sentence: str
    each: str
    rows: tuple[CostRow, ...]
    total: CostRow


def cost(record: StudyRecord) -> Cost:
    """What the study cost, as far as it has run."""
    metric = cost_metric(record)
    known = means_of(record, metric) if metric else {}
    decimals = decimals_for(known.values())
    each = {name: fixed(mean.mean, decimals) for name, mean in known.items()}
    total = total_spending(record)
    unit = f" {unit_of(metric)}" if metric and unit_of(metric) else ""
    return Cost(
        sentence=_sentence(record, total),
        each=f"{heading(metric)}{unit}" if metric else "",
        rows=tuple(_row(row, each.get(row.arm, UNKNOWN)) for row in spending(record)),
        total=_row(total, ""),
    )


def _sentence(record: StudyRecord, total: Spending) -> str:
    trials = f"{counted(total.tuning + total.replicates, 'trial')} of {counted(total.steps, 'step')} in all"
    found = usage(record)
    if found is None:
        return f"{trials}; workers held them for {duration(total.held_s)}, lanes of one pack at the same time."
    kinds, hours = device_kinds(record), f"{found.time.total_s / 3600:.3g}"
    taken = f"{hours} {kinds[0].removeprefix('cpu') or 'CPU'} hours" if len(kinds) == 1 else f"{hours} hours on {listed(list(kinds))}"
    return f"{trials}; {counted(found.workers, 'worker')} took {taken}, from the start of a run to their end."


def _row(row: Spending, each: str) -> CostRow:
    return CostRow(
        arm=row.arm,
        tuning=f"{row.tuning:,}",
        replicates=f"{row.replicates:,}",
        steps=f"{row.steps:,}",
        held=duration(row.held_s),
        each=each,
    )
