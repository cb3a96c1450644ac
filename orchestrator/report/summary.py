"""The numbers of the report as one JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.analysis.best import best_arms
from orchestrator.analysis.effects import ArmEffect, baseline_of, effects
from orchestrator.analysis.frontier import frontier
from orchestrator.analysis.metrics import columns, cost_metric, is_cost, quality_metric
from orchestrator.analysis.missing import missing
from orchestrator.analysis.summary import summarise
from orchestrator.analysis.tuning import tuning
from orchestrator.keys import Json
from orchestrator.records import StudyRecord
from orchestrator.report.answer import answer
from orchestrator.report.caveats import caveats
from orchestrator.report.certainty import certainty_json, number
from orchestrator.report.replicates import added_json
from orchestrator.report.running import running_json
from orchestrator.report.stopping import stopping_json


def summary(record: StudyRecord) -> dict[str, Json]:
    """Everything that the tables of the report show, with every digit."""
    metrics, found = columns(record), answer(record)
    compared = [effect for metric in metrics if not is_cost(metric) for effect in effects(record, metric)]
    return {
        "study": record.name,
        "question": record.question,
        "profile": record.profile,
        "answer": {"standing": found.standing.value, "headline": found.headline, "detail": found.detail},
        "baseline": baseline_of(record),
        "objectives": [{"metric": objective.metric, "direction": objective.direction} for objective in record.objectives],
        "arms": [
            {
                "arm": row.name,
                "baseline": row.baseline,
                "n": row.n,
                "planned": row.planned,
                "metrics": {name: {"mean": number(mean.mean), "se": number(mean.se), "n": mean.n} for name, mean in row.means.items()},
            }
            for row in summarise(record)
        ],
        "best": {metric: list(best_arms(record, metric)) for metric in metrics},
        "effects": [_effect(effect) for effect in compared],
        "frontier": _frontier(record),
        "certainty": certainty_json(record),
        "tuning": [
            {"arm": row.arm, "planned": row.planned, "spent": row.spent, "selected": None if row.selected is None else _flat(row.selected)}
            for row in tuning(record)
        ],
        "missing": [
            {
                "arm": entry.arm,
                "phase": entry.phase.value,
                "planned": entry.planned,
                "count": entry.count,
                "causes": [{"state": cause.state, "reason": cause.reason, "count": cause.count} for cause in entry.causes],
            }
            for entry in missing(record)
        ],
        "adaptive": added_json(record),
        "stopping": stopping_json(record),
        "running": running_json(record),
        "caveats": list(caveats(record)),
    }


def _effect(effect: ArmEffect) -> dict[str, Json]:
    names = [field.name for field in dataclasses.fields(effect.effect)]
    numbers = {name: number(getattr(effect.effect, name)) for name in names}
    return {
        "arm": effect.arm,
        "baseline": effect.baseline,
        "metric": effect.metric,
        **numbers,
        "p_holm": number(effect.p_holm),
        "compared": effect.compared,
        "resolved": effect.resolved,
        "needed": number(effect.needed),
        "smallest": number(effect.smallest),
        "smallest_t": number(effect.smallest_t),
        "diverged": effect.diverged,
        "repeated": effect.repeated,
    }


def _frontier(record: StudyRecord) -> dict[str, Json]:
    cost, quality = cost_metric(record), quality_metric(record)
    points = frontier(record, (cost, quality)) if cost and quality else ()
    return {"cost": cost, "quality": quality, "arms": [point.arm for point in points if point.on_frontier]}


def _flat(config: Mapping[str, object]) -> dict[str, Json]:
    return {key: value if isinstance(value, (bool, int, float, str)) or value is None else str(value) for key, value in config.items()}
