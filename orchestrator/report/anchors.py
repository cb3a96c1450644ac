"""Where on the page each arm's cell is told, so that names, points and curves can point there."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.records import StudyRecord


def anchors(record: StudyRecord) -> Mapping[str, str]:
    """Arm to the id of its cell on the page, in the order of the study file. Ids are numbers: names may hold anything."""
    return {arm.name: f"cell-{number}" for number, arm in enumerate(record.arms)}
