"""Outward copies of a study, made from its finished trials. A tracker may fail at any time without harm: it is asked again."""

from orchestrator.trackers.base import StudyHeader, Tracker
from orchestrator.trackers.jsonlines import JsonLinesTracker
from orchestrator.trackers.mode import ResolvedMode, WandbMode, resolve_mode
from orchestrator.trackers.wandb import WandbTracker

__all__ = ["JsonLinesTracker", "ResolvedMode", "StudyHeader", "Tracker", "WandbMode", "WandbTracker", "resolve_mode"]
