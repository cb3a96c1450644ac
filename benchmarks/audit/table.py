"""The audit for a person: a line for each round as it ends, and a table at the end."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.audit.rounds import Round
from benchmarks.audit.tools import TOOLS

COLUMNS = {
    "missing": "missing",
    "finished_twice": "finished twice",
    "orphans": "orphans",
    "bit_differences": "bits differ",
    "ran_to_the_end_twice": "work done twice",
}
TITLES = {tool.name: tool.title for tool in TOOLS} | {"tessera_power_cuts": "Tessera, power cut each time"}
FOOT = """
missing         trials without a result when the tool says that all is done
finished twice  trials recorded as complete more than once
orphans         processes that lived 5 s after their launcher was killed
bits differ     results that are not those of the undisturbed run, to the last bit
work done twice trials carried to their end more than once, by a log of their own; where it was recorded once, only time is lost"""


def line(played: Round) -> str:
    """One round, as it ends."""
    findings = played.findings
    counts = f"{len(findings.missing)} missing, {len(findings.finished_twice)} twice, {len(played.orphans)} orphans"
    said = f"{sum(played.kills.values())} kills, {played.launches} launches, {counts}, {len(findings.bit_differences)} bits differ"
    return f"{said}, {played.took_s:.0f} s" + (f"; given up: {played.error.strip().splitlines()[-1]}" if played.error else "")


def text(document: Mapping[str, Any]) -> str:
    """The table, what its columns mean, and what it is true for."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "kills", *COLUMNS.values(), "given up"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in filter(document.__contains__, TITLES):
        row = document[name]
        if row["error"]:
            table.add_row(TITLES[name], *"−" * (len(COLUMNS) + 2))
        else:
            table.add_row(
                TITLES[name], str(row["kills"]), *(str(row[column]) for column in COLUMNS), f"{len(row['given_up'])} of {row['rounds']}"
            )
    written = io.StringIO()
    Console(file=written, width=140).print(table)
    machine, asked = document["machine"], document["asked"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name in ("optuna", "ray"))
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['date']}, {versions}"
    how = f"{asked['trials']} trials a round, {asked['workers']} workers, seed {asked['seed']}, {document['took_s']:.0f} s in all"
    errors = "".join(f"{TITLES[name]}: {document[name]['error']}\n" for name in TITLES if name in document and document[name]["error"])
    return f"{written.getvalue().rstrip()}\n{errors}{FOOT}\n\n{how}\n{where}, load {document['load_average']['start'][0]}"
