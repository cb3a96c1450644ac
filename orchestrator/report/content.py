"""Everything that the page and the Markdown say, worked out once."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence

from orchestrator.analysis.effects import baseline_of, effects
from orchestrator.analysis.metrics import (
    columns,
    direction_of,
    few_shot,
    foreign,
    is_cost,
    main_columns,
    of_members,
    quality_metric,
    shifted,
)
from orchestrator.records import StudyRecord
from orchestrator.report.anchors import anchors
from orchestrator.report.answer import Answer, answer
from orchestrator.report.caveats import caveats
from orchestrator.report.cells import CellCard, cells
from orchestrator.report.cost import Cost, cost
from orchestrator.report.figures.chart import Figure
from orchestrator.report.gaps import Banner, Mishap, banner, mishap_words, mishaps
from orchestrator.report.groups import Group, beyond, members
from orchestrator.report.importance import Importance, importance
from orchestrator.report.number import plain
from orchestrator.report.order import Order, order
from orchestrator.report.provenance import ArmOrigin, TuningRow, derived_words, facts, origins, tuning_rows, upstream_words
from orchestrator.report.replicates import Added, added, inference
from orchestrator.report.running import Running, running
from orchestrator.report.stopping import Stopping, stopping
from orchestrator.report.table import EffectRow, Table, arm_table, effect_row
from orchestrator.report.words import heading, label

_SECTIONS = {
    "pairs": "Arms in both studies",
    "arms": "Arms",
    "effects": "Effects",
    "frontier": "Quality against cost",
    "curves": "Learning curves",
    "calibration": "Calibration",
    "beyond": "Beyond the test images",
    "members": "Members and experts",
    "importance": "Importance",
    "tuning": "Tuning",
    "replicates": "Replicates",
    "stopping": "Stopping",
    "mishaps": "Failures",
    "cost": "Cost",
    "caveats": "Caveats",
    "provenance": "Provenance",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EffectTable:
    """The effects of all arms in one metric."""

    metric: str
    label: str
    rows: tuple[EffectRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """An arm that two studies have: its names, its means, the difference if there is one, and what sets the two apart."""

    first: str
    second: str
    before: str
    after: str
    effect: EffectRow | None
    changes: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """The arms that two studies have, in one metric."""

    label: str
    rows: tuple[PairRow, ...]


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
        notes: A sentence on each upstream, and on each arm of which nothing was trained.
        more: The arms in all other metrics; None if there are none.
        added: How many replicates each arm got, where that followed from results; None where it was fixed.
        inference: What interval and p of an effect are.
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
        mishap_words: What failed, diverged or was tried again, in a sentence; empty for a study in which nothing did.
        mishaps: A row for each such trial.
        running: How the run went; None where that was not written down.
        members: How much members differ; None where no arm has several.
        beyond: How arms do on other images than the test images.
        order: How sure the order of the arms and the frontier are; None where arms cannot be put in an order.
        importance: What explains how much; None where there is nothing to take apart.
        cost: Of the study.
        caveats: What to hold against it.
        cells: A card for each arm.
        anchors: Arm to the id of its card.
        drawn: Sections that have a figure.
        pairs: Arms that two studies share, where two are compared.
    """

    name: str
    question: str
    about: tuple[Paragraph, ...]
    answer: Answer
    banner: Banner | None
    baseline: str
    table: Table
    notes: tuple[str, ...]
    more: Table | None
    added: Added | None
    inference: str
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
    mishap_words: str
    mishaps: tuple[Mishap, ...]
    running: Running | None
    members: Group | None
    beyond: tuple[Group, ...]
    order: Order | None
    importance: Importance | None
    cost: Cost
    caveats: tuple[str, ...]
    cells: tuple[CellCard, ...]
    anchors: Mapping[str, str]
    drawn: frozenset[str]
    pairs: PairTable | None

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Id and title of each section that this report has, in their order on the page."""
        names = ("pairs", "effects", "beyond", "importance", "tuning", "stopping", "mishaps")
        has = {name: getattr(self, name) for name in names}
        has["frontier"] = self.order or "frontier" in self.drawn
        drawn = {"curves", "calibration"} & self.drawn
        has["replicates"] = self.added
        always = {"arms", "cost", "caveats", "provenance"} | ({"members"} if self.members or "members" in self.drawn else set[str]())
        found = {name for name, content in has.items() if content} | drawn | always
        return tuple((name, title) for name, title in _SECTIONS.items() if name in found)

    @property
    def section_titles(self) -> Mapping[str, str]:
        """The same, by id."""
        return dict(self.sections)

    @property
    def has_best(self) -> bool:
        """Something in the main table is bold."""
        return any(cell.best for row in self.table.rows for cell in row.cells)


def content_of(record: StudyRecord, figures: Sequence[Figure]) -> Content:
    """What the report of a study says, around its figures."""
    main, quality = main_columns(record), quality_metric(record)
    elsewhere = {*main, *of_members(record), *shifted(record), *foreign(record), *few_shot(record)}  # in tables of their own
    rest = tuple(metric for metric in columns(record) if metric not in elsewhere)
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
        notes=(*upstream_words(record), *derived_words(record)),
        more=arm_table(record, rest) if rest else None,
        added=added(record),
        inference=inference(record),
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
        mishap_words=mishap_words(record),
        mishaps=mishaps(record),
        running=running(record),
        members=members(record),
        beyond=beyond(record),
        order=order(record),
        importance=importance(record),
        cost=cost(record),
        caveats=caveats(record),
        cells=cells(record),
        anchors=anchors(record),
        drawn=frozenset(figure.section for figure in figures),
        pairs=None,
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
    found = effects(record, metric)
    if not any(effect.effect.n for effect in found):  # as of members, where the baseline has one
        return None
    return EffectTable(metric=metric, label=heading(metric), rows=tuple(map(effect_row, found)))
