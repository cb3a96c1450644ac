"""The arm table and the answer for a terminal."""

from __future__ import annotations

import dataclasses

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.metrics import columns
from orchestrator.records import StudyRecord
from orchestrator.report.answer import Standing, answer
from orchestrator.report.gaps import banner
from orchestrator.report.table import Cell, Column, Row, arm_table
from orchestrator.report.words import heading

_MARK = {Standing.RESOLVED: "green", Standing.NOT_RESOLVED: "yellow", Standing.DESCRIBED: "", Standing.OPEN: "yellow"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A study as rich prints it. `color` is None where the console decides."""

    record: StudyRecord
    color: bool | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        color = console.color_system is not None and not console.no_color if self.color is None else self.color
        yield table(self.record, color=color)


def table(record: StudyRecord, *, color: bool) -> RenderableType:
    """The arms in the objectives, then what is missing, then the answer. Names are text: no markup in them is obeyed."""
    objectives = tuple(objective.metric for objective in record.objectives) or columns(record)[:2]
    shown = arm_table(record, objectives)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("arm", overflow="fold")
    grid.add_column("n", justify="right", no_wrap=True)
    for column in shown.columns:
        grid.add_column(_head(column), justify="right", overflow="fold")
    for row in shown.rows:
        grid.add_row(_name(row, color=color), row.n, *(_cell(cell, color=color) for cell in row.cells))
    found, gaps = answer(record), banner(record)
    lines = [Text(""), Text(found.headline, style=_MARK[found.standing] if color else "")]
    lines += [Text(found.detail)] if found.detail else []
    lines += [Text(gaps.headline, style="yellow" if color else "")] if gaps else []
    return Group(grid, *lines)


def _head(column: Column) -> Text:
    return Text(f"{heading(column.metric)} {column.arrow}".strip())


def _name(row: Row, *, color: bool) -> Text:
    name = Text(row.arm)
    if row.baseline:
        name.append(" (baseline)", style="dim" if color else "")
    return name


def _cell(cell: Cell, *, color: bool) -> Text:
    text = Text(cell.mean, style="bold green" if color and cell.best else "")
    if cell.error:
        text.append(f" ± {cell.error}", style="dim" if color else "")
    if not color:
        text.append(" *" if cell.best else "  ")
    return text
