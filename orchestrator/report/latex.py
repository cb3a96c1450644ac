"""The arm table for a paper: LaTeX with booktabs, every name escaped."""

from __future__ import annotations

import re

from orchestrator.analysis.metrics import main_columns
from orchestrator.records import StudyRecord
from orchestrator.report.number import MINUS
from orchestrator.report.table import Cell, Column, Row, arm_table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\n": " ",
    "\u00a0": "~",
    MINUS: "$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≠": r"$\neq$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "√": r"$\surd$",
    "…": r"\dots{}",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
# fmt: off
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho",
    "sigma", "tau", "upsilon", "varphi", "chi", "psi", "omega",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega",
), strict=True))
# fmt: on
_TABLE = str.maketrans(
    _SPECIAL
    | {letter: rf"\textsuperscript{{{digit}}}" for letter, digit in _SUPERSCRIPTS.items()}
    | {letter: rf"\textsubscript{{{digit}}}" for letter, digit in _SUBSCRIPTS.items()}
    | {letter: rf"$\{name}$" for letter, name in _GREEK.items()}
)


def escape(text: str) -> str:
    r"""Text as LaTeX sets it, with nothing of it taken as a command.

    >>> print(escape("E³ & σ×2_{x}"))
    E\textsuperscript{3} \& $\sigma$$\times$2\_\{x\}
    """
    return text.translate(_TABLE)


def latex(record: StudyRecord) -> str:
    """A `table` environment; the preamble it needs is in its first line."""
    shown = arm_table(record, main_columns(record))
    counts = {row.n for row in shown.rows}
    same_n = next(iter(counts)) if len(counts) == 1 else ""
    over = f"over {same_n} replicates" if same_n else "over $n$ replicates"
    heads = ["", *([] if same_n else ["$n$"]), *(_head(column) for column in shown.columns)]
    lines = [
        r"% needs \usepackage{booktabs}; wide tables may want table* or \resizebox",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(record.name)}, test results: mean $\pm$ standard error {over}. Bold: the best mean, and those whose paired "
        r"95\,\% interval to it holds zero.}",
        rf"  \label{{tab:{_slug(record.name)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
        *(f"    {_row(row, with_n=not same_n)} \\\\" for row in shown.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _head(column: Column) -> str:
    return escape(f"{column.heading} {column.arrow}".strip())


def _row(row: Row, *, with_n: bool) -> str:
    name = escape(row.arm) + (" (baseline)" if row.baseline else "")
    return " & ".join([name, *([escape(row.n)] if with_n else []), *(_cell(cell) for cell in row.cells)])


def _cell(cell: Cell) -> str:
    mean = rf"\textbf{{{escape(cell.mean)}}}" if cell.best else escape(cell.mean)
    return rf"{mean} {{\footnotesize $\pm$ {escape(cell.error)}}}" if cell.error else mean


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"
