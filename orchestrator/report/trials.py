"""Every trial of a study for a program: Parquet, a row for each, which pandas, Polars and DuckDB read with its types."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from orchestrator.keys import Value, canonical
from orchestrator.records import StudyRecord, TrialRecord


def trials_parquet(record: StudyRecord) -> bytes:
    """The trials in the order of the plan, derived ones last; the same bytes for the same record.

    Columns: what the trial is (`key`, `cell`, `arm`, `phase`, `index`, `seed`, `state`, …), `config.KEY` of every config key, and every
    final metric by its name, null where the trial has none.
    """
    import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    arrow, writer = cast(Any, pa), cast(Any, parquet)
    columns: dict[str, Any] = {name: arrow.array([value(trial) for trial in record.trials], type=arrow.string()) for name, value in _TEXTS}
    columns |= {name: arrow.array([value(trial) for trial in record.trials], type=arrow.int64()) for name, value in _COUNTS}
    columns["elapsed_s"] = arrow.array([trial.elapsed_s for trial in record.trials], type=arrow.float64())
    for key in _names(trial.config for trial in record.trials):
        columns[f"config.{key}"] = arrow.array(_of_one_type([trial.config.get(key) for trial in record.trials]))
    finals = [{**trial.cost, **trial.metrics} for trial in record.trials]
    columns |= {name: arrow.array([row.get(name) for row in finals], type=arrow.float64()) for name in _names(finals)}
    buffer = io.BytesIO()
    writer.write_table(arrow.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


_TEXTS: tuple[tuple[str, Callable[[TrialRecord], str]], ...] = (
    ("key", lambda trial: trial.key),
    ("cell", lambda trial: trial.cell),
    ("arm", lambda trial: trial.arm),
    ("phase", lambda trial: trial.phase.value),
    ("state", lambda trial: trial.state.value),
    ("reason", lambda trial: trial.reason),
    ("signature", lambda trial: trial.signature),
    ("finished_at", lambda trial: trial.finished_at),
)
_COUNTS: tuple[tuple[str, Callable[[TrialRecord], int]], ...] = (
    ("index", lambda trial: trial.index),
    ("seed", lambda trial: trial.seed),
    ("attempts", lambda trial: trial.attempts),
)


def _names(rows: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """Every key of some mappings, in the order in which they are met."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _of_one_type(values: Sequence[Value]) -> Sequence[object]:
    """Values of a column, which has one type: texts and flags and numbers as they are, whole numbers beside others as floats, else JSON."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and tuple not in kinds:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(cast(float, value)) for value in values]
    return [None if value is None else canonical(value) for value in values]
