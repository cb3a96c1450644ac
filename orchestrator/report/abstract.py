"""The result of a study in a few lines of Markdown, for places that show figures of their own."""

from __future__ import annotations

from orchestrator.analysis.metrics import main_columns
from orchestrator.records import StudyRecord
from orchestrator.report.answer import answer
from orchestrator.report.page import markdown_text
from orchestrator.report.table import Row, arm_table


def abstract(record: StudyRecord) -> str:
    """The answer, and the table of arms: mean ± standard error over finished replicates."""
    found, table = answer(record), arm_table(record, main_columns(record))
    heads = [markdown_text(f"{column.heading} {column.arrow}".strip()) for column in table.columns]
    lines = [
        f"**{markdown_text(found.headline)}** {markdown_text(found.detail)}".strip(),
        "",
        "| " + " | ".join(["Arm", "n", *heads]) + " |",
        "|" + "|".join([":--", *["--:"] * (len(heads) + 1)]) + "|",
        *(_line(row) for row in table.rows),
        "",
        "Mean ± standard error over n finished replicates; the best mean is bold, with those that cannot be told from it.",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [f"**{cell.mean}**{cell.text.removeprefix(cell.mean)}" if cell.best else cell.text for cell in row.cells]
    name = markdown_text(row.arm) + (" (baseline)" if row.baseline else "")
    return "| " + " | ".join([name, row.n, *cells]) + " |"
