"""What is copied to W&B, read from the ledger: finished trials, running ones, the sweep's and the report's addresses.

Shared by the process that copies while a study runs and by the command that copies afterwards.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Callable

from orchestrator.derived import measured
from orchestrator.errors import OrchestratorError
from orchestrator.ledger import Ledger
from orchestrator.load import load_trainer
from orchestrator.records import StudyRecord
from orchestrator.spec import study_record
from orchestrator.trackers import Links, Pages, Tracker, WandbTracker

EVENT = "wandb"  # kind of the events that say where a study is on a server
ROLE, ROLE_S = "publish wandb", 20.0  # copying into one W&B folder and run is for one process


class Role:
    """The right to copy a study's trials, while it lasts."""

    def __init__(self, ledger: Ledger, study: str) -> None:
        self._ledger, self._study = ledger, study
        self._holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._until = 0.0

    def held(self) -> bool:
        """Whether it is ours now: asked for, or asked for again, where that is due."""
        now = time.monotonic()  # before the ledger is asked: it counts from later
        if now > self._until - ROLE_S / 2:
            self._until = now + ROLE_S if self._ledger.claim(self._study, ROLE, self._holder, ROLE_S) else 0.0
        return self._until > 0.0

    def let_go(self) -> None:
        """Others need not wait until it ends by itself."""
        if self._until > 0.0:
            self._ledger.disclaim(self._study, ROLE, self._holder)


def links_of(ledger: Ledger, study: str) -> Links:
    """Where the study is on the server that it was last copied to."""
    told = ledger.events(study, kind=EVENT)
    return Links.of(told[-1].payload) if told else Links()


def pages_of(ledger: Ledger, study: str, say: Callable[[str], None]) -> Pages:
    """The study's sweep and report; what is made of them is kept in the ledger, and said."""
    said: set[str] = set()

    def note(links: Links) -> None:
        ledger.event(study, EVENT, **links.as_row())
        for line in links.lines:
            if line not in said:
                said.add(line)
                say(line)

    return Pages(links_of(ledger, study), note)


def publish_finished(
    ledger: Ledger,
    study: str,
    tracker: Tracker,
    may_go_on: Callable[[], bool],
    told: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Copies every finished trial that the tracker does not have, one after the other; how many it took.

    Args:
        ledger: Of the study.
        study: Its name.
        tracker: Open.
        may_go_on: Asked before each trial.
        told: Takes how many were looked at, and of how many.
    """
    keys = ledger.unpublished(study, tracker.name)
    done, shown = 0, set[str]()
    for trial in ledger.trial_records(study, keys=keys) if keys else ():
        if not may_go_on():
            break
        if trial.key not in shown and tracker.publish(trial):
            ledger.mark_published(study, tracker.name, trial.key)
            done += 1
        shown.add(trial.key)
        told(len(shown), len(keys))
    return done


class Follower:
    """Copies what running trials have reported, each rung once."""

    def __init__(self, ledger: Ledger, study: str, tracker: WandbTracker) -> None:
        self._ledger, self._study, self._tracker = ledger, study, tracker
        self._followed: dict[str, int] = {}

    def look(self) -> None:
        """Once over the trials that workers hold: their new rungs; runs of those that nobody holds any more are let go."""
        if not self._tracker.is_online:
            return
        held = self._ledger.reached(self._study)
        moved = {key for key, step in held.items() if step > self._followed.get(key, 0)}
        left = {key for key in self._tracker.live if key not in held}
        records = self._ledger.trial_records(self._study, keys=moved | left) if moved | left else ()
        by_key = {trial.key: trial for trial in reversed(records)}  # a trial of two arms is followed as of the first
        ended = {key for key, trial in by_key.items() if trial.state.is_terminal}  # they are published as a whole
        for key in by_key.keys() - ended:
            self._tracker.follow(by_key[key])
        self._tracker.let_go(left - ended)
        self._followed = held


def put_report(ledger: Ledger, study: str, out: pathlib.Path, tracker: WandbTracker) -> bool:
    """Brings the report on the server up to date; whether that was done."""
    from orchestrator.report import brief_markdown

    record = record_of(ledger, study, out)
    return record is not None and tracker.report(record, brief_markdown(record))


def record_of(ledger: Ledger, study: str, out: pathlib.Path) -> StudyRecord | None:
    """The study with its derived arms, as far as their predictions are here; None for one that was never planned."""
    spec = ledger.study_spec(study)
    if spec is None:
        return None
    record = study_record(spec, ledger.trial_records(study))
    if any(arm.is_derived for arm in record.arms):
        with contextlib.suppress(OrchestratorError, OSError):  # what is not here costs the derived arms, not the report
            return measured(record, load_trainer(record.trainer), ledger, out)
    return record
