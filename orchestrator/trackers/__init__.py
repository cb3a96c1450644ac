"""Outward copies of a study, made from its finished trials. A tracker may fail at any time without harm: it is asked again."""

from orchestrator.trackers.base import StudyHeader, Tracker
from orchestrator.trackers.jsonlines import JsonLinesTracker
from orchestrator.trackers.links import Links
from orchestrator.trackers.mode import ResolvedMode, WandbMode, resolve_mode
from orchestrator.trackers.wandb import WandbTracker
from orchestrator.trackers.wandb_pages import Pages
from orchestrator.trackers.wandb_remote import RemoteError, Trouble

__all__ = [
    "JsonLinesTracker",
    "Links",
    "Pages",
    "RemoteError",
    "ResolvedMode",
    "StudyHeader",
    "Tracker",
    "Trouble",
    "WandbMode",
    "WandbTracker",
    "resolve_mode",
]
