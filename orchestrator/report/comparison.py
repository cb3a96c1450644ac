"""Two studies on one page: what the arms that they share differ in, then everything that a report says of arms, for both."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from orchestrator.analysis.compare import Match, differences, joined, matches
from orchestrator.analysis.effects import ArmEffect
from orchestrator.analysis.metrics import quality_metric
from orchestrator.analysis.summary import means_of
from orchestrator.records import StudyRecord
from orchestrator.report.answer import Answer, Standing, answer
from orchestrator.report.content import Content, PairRow, PairTable, content_of
from orchestrator.report.figures.chart import Figure
from orchestrator.report.files import write_report
from orchestrator.report.number import UNKNOWN, decimals_of, plain, with_error
from orchestrator.report.table import effect_row
from orchestrator.report.words import counted, heading, label, listed

_MOST_CHANGES = 6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two studies, matched.

    Attributes:
        both: Their record as one.
        found: The arms that both have.
        effects: Second minus first of those that can be paired, in the metric that the first study asks about.
    """

    both: StudyRecord
    found: tuple[Match, ...]
    effects: tuple[ArmEffect, ...]

    @classmethod
    def of(cls, first: StudyRecord, second: StudyRecord) -> Compared:
        """Matches two records that a report could be written of."""
        both, found, metric = joined(first, second), matches(first, second), quality_metric(first)
        return cls(both=both, found=found, effects=differences(both, found, metric) if metric else ())


def write_comparison(first: StudyRecord, second: StudyRecord, folder: pathlib.Path) -> tuple[pathlib.Path, Answer, PairTable | None]:
    """Writes the report of two studies into a folder; the path of its page, what differs, and the arms that both have.

    Raises:
        OrchestratorError: The folder cannot be written.
    """
    compared = Compared.of(first, second)
    found, pairs = verdict(compared), pair_table(compared)

    def said(both: StudyRecord, drawn: Sequence[Figure]) -> Content:
        return dataclasses.replace(content_of(both, drawn), answer=found, pairs=pairs)

    return write_report(compared.both, folder, said=said), found, pairs


def verdict(compared: Compared) -> Answer:
    """What differs between the arms that both studies have, in words."""
    metric, best = quality_metric(compared.both), answer(compared.both)
    if not compared.found:
        return dataclasses.replace(best, detail=f"No arm is in both studies. {best.detail}".strip())
    settled = [effect for effect in compared.effects if effect.resolved]
    words = [f"{effect.arm} {'lower' if effect.effect.mean < 0 else 'higher'} by {with_size(effect)}" for effect in settled]
    same = sum(row.same_trials for row in compared.found)
    shared = counted(len(compared.found), "arm")
    if words:
        claim = (
            f"Of {shared} in both studies, {len(words)} {'differs' if len(words) == 1 else 'differ'} in {label(metric)}: {listed(words)}"
        )
    elif same == len(compared.found):
        claim = f"The {shared} in both studies are the same trials, so nothing differs"
    else:
        claim = f"Of {shared} in both studies, none is resolved to differ in {label(metric)}"
    return Answer(standing=Standing.RESOLVED if words else Standing.NOT_RESOLVED, claim=claim, detail=f"Of all arms: {best.claim}.")


def with_size(effect: ArmEffect) -> str:
    """The size of a difference, with its standard error."""
    found = effect.effect.difference
    return with_error(dataclasses.replace(found, mean=abs(found.mean)), decimals_of(found))


def pair_table(compared: Compared) -> PairTable | None:
    """A row for each arm that both studies have; None where there is none."""
    if not compared.found:
        return None
    metric = quality_metric(compared.both)
    means = means_of(compared.both, metric) if metric else {}
    effects = {(effect.baseline, effect.arm): effect for effect in compared.effects}

    def cell(arm: str) -> str:
        mean = means.get(arm)
        return UNKNOWN if mean is None or not math.isfinite(mean.mean) else with_error(mean, decimals_of(mean))

    rows = [
        PairRow(
            first=row.first,
            second=row.second,
            before=cell(row.first),
            after=cell(row.second),
            effect=effect_row(effects[row.first, row.second]) if (row.first, row.second) in effects else None,
            changes=_changes(row),
        )
        for row in compared.found
    ]
    return PairTable(label=heading(metric) if metric else "", rows=tuple(rows))


def _changes(row: Match) -> str:
    """What sets a pair apart, in words."""
    if row.same_trials:
        return "the same trials"
    words = [f"{key}: {plain(before)} → {plain(after)}" for key, (before, after) in row.changes.items()]
    more = [f"{len(words) - _MOST_CHANGES + 1} more"] if len(words) > _MOST_CHANGES else []
    said = "; ".join([*words[: _MOST_CHANGES - len(more)], *more]) or "the same config, in other trials"
    return said if row.same_seeds else f"{said}; other seeds, so nothing is paired"
