"""A study as a W&B report: the table of results, and panels over its runs, which W&B keeps up to date itself."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from typing import Any

from orchestrator.records import Phase, StudyRecord
from orchestrator.trackers.payload import STEP
from orchestrator.trackers.wandb_remote import Remote, problem
from orchestrator.trackers.wandb_sweep import mark

MAX_TITLE = 128  # characters
_WIDE, _HALF, _THIRD = 24, 12, 8  # of a grid of 24 columns
_HIGH = 9


def save_report(remote: Remote, record: StudyRecord, *, table: str, sweep_url: str, known: str) -> tuple[str, str]:
    """Makes the study's report, or replaces what the one that there is says; its id and address.

    Args:
        remote: The server.
        record: The study.
        table: Its results, in Markdown.
        sweep_url: Page of its sweep; empty without one.
        known: Id of its report; empty where none is known, and then the server is asked first.

    Raises:
        RemoteError: The server gave no answer, or refused.
    """
    known = known or remote.find_report(mark(record.name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library, about the library it is built on
            library: Any = importlib.import_module("wandb_workspaces.reports.v2")
            made = library.Report(
                entity=remote.entity,
                project=remote.project,
                title=record.name[:MAX_TITLE],
                description=mark(record.name),
                width="fluid",
                blocks=_blocks(library, record, table, sweep_url),
            )
            made.id = known
            made.save()
            return str(made.id), str(made.url)
    except Exception as error:  # of a library at the edge
        raise problem(error) from error


def _blocks(library: Any, record: StudyRecord, table: str, sweep_url: str) -> list[Any]:
    question = record.question.strip().splitlines()[:1]
    return [
        *([library.P(question[0])] if question else []),
        *([library.P(["All runs: ", library.Link("the sweep", url=sweep_url)])] if sweep_url else []),
        library.H2("Results"),
        library.MarkdownBlock(table),
        library.H2("Replicates"),
        library.PanelGrid(runsets=_runsets(library, record, Phase.REPLICATE), panels=_panels(library, record)),
        *_tuning(library, record),
    ]


def _runsets(library: Any, record: StudyRecord, phase: Phase) -> list[Any]:
    """One for each arm. Without entity and project they are the report's, and nobody is asked for them."""
    lead = record.objectives[0]
    order = library.OrderBy(library.SummaryMetric(lead.metric), ascending=lead.direction == "minimize")
    return [
        library.Runset(name=arm.name, filters=_filter(record.name, arm.name, phase), order=[order])
        for arm in record.arms
        if not arm.is_derived
    ]


def _filter(study: str, arm: str, phase: Phase) -> str:
    """The runs of an arm in one phase, in the library's words, which are those of Python."""
    return f"Metric('Group') == {study!r} and Metric('JobType') == {arm!r} and Config('phase') == {phase.value!r}"


def _panels(library: Any, record: StudyRecord) -> list[Any]:
    """Frontier, learning curves, what the axes do, and which of them matters."""
    lead = record.objectives[0].metric
    costs = [row.metric for row in record.objectives if row.metric.startswith("cost/")]
    bars = library.BarPlot(title=lead, metrics=[library.SummaryMetric(lead)], groupby="arm", layout=_place(library, 0, 0, _HALF))
    scatter = [
        library.ScatterPlot(
            title=f"{lead} against {cost}",
            x=library.SummaryMetric(cost),
            y=library.SummaryMetric(lead),
            log_x=True,
            running_ymin=True,  # the lower envelope: the frontier
            layout=_place(library, 0, 0, _HALF),
        )
        for cost in costs[:1]
    ]
    curves = [
        library.LinePlot(
            title=metric,
            x=STEP,
            y=[metric],
            groupby="arm",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            layout=_place(library, _HALF + _HALF * (number % 2) - (_WIDE if number % 2 else 0), _HIGH * ((number + 1) // 2), _HALF),
        )
        for number, metric in enumerate(_curves(record))
    ]
    return [*(scatter or [bars]), *curves]


def _tuning(library: Any, record: StudyRecord) -> list[Any]:
    """What tuning showed of each axis; nothing for a study that tunes none."""
    if not record.nuisance:
        return []
    target = record.select or record.objectives[0].metric
    column = library.ParallelCoordinatesPlotColumn
    axes = [column(metric=library.Config(key), log=key in record.space and record.space[key].log) for key in ("arm", *record.nuisance)]
    panels = [
        library.ParallelCoordinatesPlot(columns=[*axes, column(metric=library.SummaryMetric(target))], layout=_place(library, 0, 0, 16)),
        library.ParameterImportancePlot(with_respect_to=target, layout=_place(library, 16, 0, _THIRD)),
    ]
    return [library.H2("Tuning"), library.PanelGrid(runsets=_runsets(library, record, Phase.TUNE), panels=panels)]


def _curves(record: StudyRecord) -> Iterable[str]:
    """Metrics that trials report while they train, those of validation first."""
    names = dict.fromkeys(name for trial in record.trials for rung in trial.rungs[:1] for name in rung.metrics)
    return sorted(names, key=lambda name: (not name.startswith("val/"), name))[:5]


def _place(library: Any, x: int, y: int, width: int) -> Any:
    return library.Layout(x=x, y=y, w=width, h=_HIGH)
