"""Everything that the page and the Markdown say, worked out once."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping

from orchestrator.analysis.effects import baseline_of, effects
from orchestrator.analysis.metrics import columns, direction_of, is_cost, main_columns, quality_metric
from orchestrator.records import StudyRecord
from orchestrator.report.answer import Answer, answer
from orchestrator.report.gaps import Banner, Mishap, banner, mishaps
from orchestrator.report.number import plain
from orchestrator.report.provenance import ArmOrigin, TuningRow, derived_words, facts, origins, tuning_rows
from orchestrator.report.running import Running, running
from orchestrator.report.stopping import Stopping, stopping
from orchestrator.report.table import EffectRow, Table, arm_table, effect_row
from orchestrator.report.words import heading, label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EffectTable:
    """The effects of all arms in one metric."""

    metric: str
    label: str
    rows: tuple[EffectRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph of a docstring; one that is indented is shown as it was typed."""

    text: str
    typed: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a report says, as text.

    Attributes:
        name: Of the study.
        question: First paragraph of the study's docstring; its name where there is none.
        about: The other paragraphs.
        answer: In a sentence.
        banner: What is missing; None if nothing is.
        baseline: Name of the arm that effects are measured against; may be empty.
        table: The arms in the metrics that there is room for.
        derived: A sentence on each arm of which nothing was trained.
        more: The arms in all other metrics; None if there are none.
        effects: Of the metric that the answer is about; None without a baseline.
        more_effects: Of every other metric of which one way is better.
        same_budget: Every arm was given as many tuning trials as every other.
        select: The metric that tuning selects by, in words, with its direction; empty without tuning.
        sampler: Of tuning.
        space: Tuned key to its search space in words.
        tuning: A row for each arm.
        facts: Name and value of what holds for the whole study.
        origins: How each arm was made.
        base: Key and value of the base config.
        stopping: Rules and what they stopped; None for a study without.
        mishaps: Trials that failed, diverged, or took more than one attempt.
        running: How the run went; None where that was not written down.
    """

    name: str
    question: str
    about: tuple[Paragraph, ...]
    answer: Answer
    banner: Banner | None
    baseline: str
    table: Table
    derived: tuple[str, ...]
    more: Table | None
    effects: EffectTable | None
    more_effects: tuple[EffectTable, ...]
    same_budget: bool
    select: str
    sampler: str
    space: Mapping[str, str]
    tuning: tuple[TuningRow, ...]
    facts: tuple[tuple[str, str], ...]
    origins: tuple[ArmOrigin, ...]
    base: tuple[tuple[str, str], ...]
    stopping: Stopping | None
    mishaps: tuple[Mishap, ...]
    running: Running | None

    @property
    def has_best(self) -> bool:
        """Something in the main table is bold."""
        return any(cell.best for row in self.table.rows for cell in row.cells)


def content_of(record: StudyRecord) -> Content:
    """What the report of a study says."""
    main, quality = main_columns(record), quality_metric(record)
    rest = tuple(metric for metric in columns(record) if metric not in main)
    question, *about = paragraphs(record.question) or [Paragraph(text=record.name, typed=False)]
    judged = [metric for metric in columns(record) if metric != quality and not is_cost(metric) and direction_of(record, metric)]
    tables = [_effects(record, metric) for metric in judged]
    return Content(
        name=record.name,
        question=" ".join(question.text.split()),
        about=tuple(about),
        answer=answer(record),
        banner=banner(record),
        baseline=baseline_of(record),
        table=arm_table(record, main),
        derived=derived_words(record),
        more=arm_table(record, rest) if rest else None,
        effects=_effects(record, quality) if quality else None,
        more_effects=tuple(table for table in tables if table is not None),
        same_budget=len({arm.tune_trials for arm in record.arms if not arm.is_derived}) == 1,
        select=f"{'highest' if record.select_direction == 'maximize' else 'lowest'} {label(record.select)}" if record.select else "",
        sampler=record.sampler,
        space=dict(record.nuisance),
        tuning=tuning_rows(record),
        facts=facts(record),
        origins=origins(record),
        base=tuple((key, plain(value)) for key, value in record.base.items()),
        stopping=stopping(record),
        mishaps=mishaps(record),
        running=running(record),
    )


def paragraphs(docstring: str) -> list[Paragraph]:
    """The paragraphs of a docstring, each on one line if it is not indented.

    >>> [row.text for row in paragraphs("Is it   so?\\n\\n  It may\\n  be.\\n")]
    ['Is it so?', 'It may be.']
    """
    blocks = (block.strip("\n") for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)))
    return [_paragraph(block) for block in blocks if block.strip()]


def _paragraph(block: str) -> Paragraph:
    typed = all(line.startswith("    ") for line in block.splitlines())
    return Paragraph(text=textwrap.dedent(block) if typed else " ".join(block.split()), typed=typed)


def _effects(record: StudyRecord, metric: str) -> EffectTable | None:
    rows = tuple(effect_row(effect) for effect in effects(record, metric))
    return EffectTable(metric=metric, label=heading(metric), rows=rows) if rows else None
