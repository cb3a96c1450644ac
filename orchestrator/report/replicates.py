"""How many replicates each arm got where that followed from results, and why no more."""

from __future__ import annotations

import dataclasses

from orchestrator.analysis.adaptive import rounds_of
from orchestrator.analysis.rounds import Comparison, Rounds, Verdict
from orchestrator.keys import Json
from orchestrator.records import StudyRecord
from orchestrator.replicates import Adaptive
from orchestrator.report.number import p_text
from orchestrator.report.words import counted, label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AddedRow:
    """One arm against the baseline, as text."""

    arm: str
    replicates: str
    looks: str
    p: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The section of an adaptive study: its rule and what it came to in sentences, and a row for each arm but the baseline."""

    protocol: str
    rows: tuple[AddedRow, ...]


def added(record: StudyRecord) -> Added | None:
    """None for a study of which the number of replicates was fixed."""
    rule, found = record.adaptive, rounds_of(record)
    if rule is None or found is None:
        return None
    rows = tuple(
        AddedRow(arm=row.arm, replicates=str(row.replicates), looks=str(row.looks), p=p_text(row.p), why=_why(row, rule))
        for row in found.comparisons
    )
    return Added(protocol=" ".join((_rule(record, rule), _looks(found, rule), _promise(rule))), rows=rows)


def added_json(record: StudyRecord) -> dict[str, Json] | None:
    """The same for a machine, with the rule's settings."""
    rule, found = record.adaptive, rounds_of(record)
    return None if rule is None or found is None else {"rule": dataclasses.asdict(rule), **found.json()}


def inference(record: StudyRecord) -> str:
    """What interval and p of an effect are, in a few words."""
    if record.adaptive is None:
        return "paired t interval; exact sign-flip p"
    return "repeated interval and sequential p, which hold at whichever look a comparison stopped"


def _rule(record: StudyRecord, rule: Adaptive) -> str:
    baseline = next(arm.name for arm in record.arms if arm.baseline)
    bound = "" if rule.budget is None else f", {rule.budget} of all arms together at most"
    return (
        f"Every arm got {counted(rule.first, 'replicate')}; {baseline}, and the arms whose difference from it in {label(rule.metric)} was "
        f"not settled, got {rule.step} more at a time, up to {rule.most}{bound}."
    )


def _looks(found: Rounds, rule: Adaptive) -> str:
    total = found.replicates + sum(row.replicates for row in found.comparisons)
    return (
        f"After {counted(len(found.looks), 'look')}, {found}. "
        f"That took {counted(total, 'replicate')}; {rule.most} of each arm would have been {rule.most * (1 + len(found.comparisons)):,}."
    )


def _promise(rule: Adaptive) -> str:
    return (
        f"The chance that any arm is called different that is not is at most {100 * rule.alpha:g}\u00a0%, over all arms and looks, for "
        "normal differences: each look has a boundary of its own, wider than that of a plain t test, and so have intervals and p."
    )


def _why(row: Comparison, rule: Adaptive) -> str:
    return {
        Verdict.DIFFERENT: "different",
        Verdict.ALIKE: f"alike: a difference smaller than {rule.smaller_than:g}" if rule.smaller_than is not None else "alike",
        Verdict.FUTILE: f"not settled; the chance to be, with {rule.most}, was below {100 * rule.futile:g}\u00a0%",
        Verdict.INFINITE: "not settled: a value is not finite",
        Verdict.MOST: f"not settled with {rule.most}",
        Verdict.BUDGET: f"not settled within {rule.budget} replicates of all arms",
        Verdict.UNTUNED: "tuning chose nothing",
        Verdict.OPEN: "goes on",
    }[row.verdict]
