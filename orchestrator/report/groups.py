"""Tables of metrics that belong together: what members of a model say, and how it does beyond the test images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from orchestrator.analysis.metrics import few_shot, foreign, of_members, shifted
from orchestrator.analysis.summary import means_of
from orchestrator.records import StudyRecord
from orchestrator.report.table import Table, arm_table
from orchestrator.report.words import short_heading

_KIND = re.compile(r"\w+/(.+)/\w+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A table of all arms in some metrics.

    Attributes:
        title: Above it.
        note: How to read it.
        table: The arms.
        more: The same by kind of corruption, or by data set; None where there is nothing to tell apart.
        more_title: What opens it; empty as above.
    """

    title: str
    note: str
    table: Table
    more: Table | None = None
    more_title: str = ""


def members(record: StudyRecord) -> Group | None:
    """How much members differ, of the arms that have more than one; None where none has."""
    metrics = of_members(record)
    several = {name for name, mean in means_of(record, "test/diversity").items() if mean.mean > 0}
    if not metrics or not several:
        return None
    table = arm_table(record, metrics)
    return Group(
        title="Diversity of members",
        note="Test images. Diversity is the mean Kullback–Leibler divergence between members; disagreement is the share of images that two "
        "members class differently, also divided by the error; a cosine of 1 means equal predictions. Arms of one member are left out.",
        table=dataclasses.replace(table, rows=tuple(row for row in table.rows if row.arm in several)),
    )


def beyond(record: StudyRecord) -> tuple[Group, ...]:
    """Corrupted images, images of other data sets, and tasks of few images: those that were measured."""
    by_kind = shifted(record, kinds=True)
    rows = (
        _group(
            record,
            shifted(record),
            "Corrupted test images",
            "Plain means over 15 kinds of corruption at 5 severities.",
            kinds=by_kind,
            more_title=f"{short_heading('test/' + by_kind[0].rpartition('/')[2])} by kind of corruption" if by_kind else "",
        ),
        _group(
            record,
            foreign(record),
            "Images of no class of the data set",
            "How well they are told from the test images by the largest mean probability. AUROC 0.5 is chance.",
        ),
        _group(
            record,
            few_shot(record),
            "Learning from a few images a class",
            "A linear classifier on the frozen features; means over draws, and over data sets where there are several.",
            kinds=few_shot(record, sets=True),
            more_title="By data set",
        ),
    )
    return tuple(row for row in rows if row is not None)


def _group(
    record: StudyRecord, metrics: Sequence[str], title: str, note: str, *, kinds: Sequence[str] = (), more_title: str = ""
) -> Group | None:
    if not metrics:
        return None
    several = len({match[1] for match in map(_KIND.fullmatch, kinds) if match}) > 1
    return Group(
        title=title,
        note=note,
        table=arm_table(record, metrics),
        more=arm_table(record, kinds) if several else None,
        more_title=more_title if several else "",
    )
