"""The report of a study, written from its records alone: a page, Markdown, LaTeX, CSV, figures, and a table for the terminal.

The functions import what they need when called: drawing libraries cost more to import than most commands take.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from orchestrator.keys import Json
from orchestrator.records import StudyRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["brief_markdown", "summary_json", "terminal_table", "write", "write_comparison"]


def write(record: StudyRecord, folder: pathlib.Path) -> pathlib.Path:
    """Writes the whole report into a folder and returns the path of its page.

    Each file is replaced as a whole, and only if its bytes change: the same record gives the same bytes.
    """
    from orchestrator.report.files import write_report

    return write_report(record, folder)


def write_comparison(first: StudyRecord, second: StudyRecord, folder: pathlib.Path) -> dict[str, Json]:
    """Writes the report of two studies into a folder: the path of its page, what differs in words, and the arms that both have."""
    from orchestrator.report.comparison import write_comparison

    page, found, pairs = write_comparison(first, second, folder)
    rows = [] if pairs is None else [dataclasses.asdict(row) for row in pairs.rows]
    return {"report": str(page), "answer": " ".join(filter(None, [found.headline, found.detail])), "pairs": rows}


def terminal_table(record: StudyRecord, *, color: bool | None = None) -> RenderableType:
    """The arm table in the objectives, with the answer under it.

    Without colour the best is marked with a star. None asks the console that it is printed on.
    """
    from orchestrator.report.terminal import Shown

    return Shown(record=record, color=color)


def summary_json(record: StudyRecord) -> dict[str, Json]:
    """The numbers of the report as one JSON object. A number that is not finite is the text `nan`, `inf` or `-inf`."""
    from orchestrator.report.summary import summary

    return summary(record)


def brief_markdown(record: StudyRecord) -> str:
    """The answer and the table of arms in Markdown."""
    from orchestrator.report.abstract import abstract

    return abstract(record)
