"""Copies a study to a W&B server after it was run, and asks the server what it has: interrupted or repeated, each row is there once."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

from orchestrator.errors import OrchestratorError
from orchestrator.keys import Json
from orchestrator.ledger import Ledger
from orchestrator.publishing import Role, links_of, pages_of, publish_finished, put_report
from orchestrator.records import StudyRecord, TrialRecord
from orchestrator.trackers import Links, RemoteError, StudyHeader, Trouble, WandbMode, WandbTracker

SETTLE_S = 10.0  # that a server may take to count rows which it has taken
LOOK_EVERY_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Amiss:
    """A trial whose run on the server is not what the ledger says.

    Attributes:
        trial: Its arm, phase and number.
        key: Its key, which is the run's id.
        rows: That the server has; None where it has no such run.
        expected: That the ledger has.
    """

    trial: str
    key: str
    rows: int | None
    expected: int

    def __str__(self) -> str:
        found = "no run" if self.rows is None else f"{self.rows} of {self.expected} rows"
        return f"{self.trial} ({self.key}): {found}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """How a study stands on the server.

    Attributes:
        finished: Trials that have ended, whatever came of them; they are what is copied.
        unfinished: Others, which a later sync copies.
        amiss: Finished ones that are not on the server as they should be.
        report: The report there says what the ledger says.
        links: Where it is.
        trouble: What went wrong last; empty if nothing did.
    """

    finished: int
    unfinished: int
    amiss: tuple[Amiss, ...]
    report: bool
    links: Links
    trouble: str

    @property
    def is_complete(self) -> bool:
        """All that could be copied is there."""
        return not self.amiss and self.report

    def lines(self) -> list[str]:
        """What a person is told."""
        there = self.finished - len(self.amiss)
        lines = [f"{there} of {self.finished} finished trials are on W&B, each row once", *self.links.lines]
        lines += [f"{self.unfinished} trials are not finished: sync again when they are"] if self.unfinished else []
        lines += [f"missing: {row}" for row in self.amiss[:10]]
        lines += [f"missing: {len(self.amiss) - 10} more"] if len(self.amiss) > 10 else []
        lines += [] if self.report else ["missing: the report"]
        lines += [] if self.is_complete else ["nothing is lost: run the same command again, as often as you like"]
        return lines

    def as_json(self) -> dict[str, Json]:
        """The same for a program."""
        return {
            "finished": self.finished,
            "unfinished": self.unfinished,
            "missing": [{"key": row.key, "trial": row.trial, "rows": row.rows, "expected": row.expected} for row in self.amiss],
            "report": self.report,
            "sweep_url": self.links.sweep_url,
            "report_url": self.links.report_url,
            "trouble": self.trouble,
        }


def synchronise(
    ledger: Ledger, record: StudyRecord, folder: pathlib.Path, *, say: Callable[[str], None], told: Callable[[int, int], None]
) -> Synced:
    """Copies what the server lacks, and counts what it has then.

    Args:
        ledger: Of the study.
        record: The study, with every rung.
        folder: Of the study's own files.
        say: Takes a line about what went wrong, or where something is.
        told: Takes how many trials were copied, and of how many.

    Raises:
        OrchestratorError: Another process copies the study; or the server does not answer, or takes no key of ours.
    """
    role, troubles = Role(ledger, record.name), list[str]()
    if not role.held():
        raise OrchestratorError(
            "another process copies this study to W&B",
            expected="one at a time, so that no row is there twice",
            fix="wait until the run is over, or for 20 s after its launcher was killed; then run the same command again",
        )

    def warn(text: str) -> None:
        troubles.append(text)
        say(text)

    tracker = WandbTracker(folder / "wandb", mode=WandbMode.ONLINE, warn=warn, pages=pages_of(ledger, record.name, lambda _: None))
    try:
        _reached(tracker)
        tracker.open(StudyHeader.of(record))
        publish_finished(ledger, record.name, tracker, lambda: tracker.is_online and role.held(), told)
        amiss = _mended(tracker, record)
        report = tracker.is_online and put_report(ledger, record.name, folder.parent, tracker)
    finally:
        tracker.close()
        role.let_go()
    finished = _finished(record)
    return Synced(
        finished=len(finished),
        unfinished=len({trial.key for trial in record.trials}) - len(finished),
        amiss=amiss,
        report=report,
        links=links_of(ledger, record.name),
        trouble=troubles[-1] if troubles else "",
    )


def _reached(tracker: WandbTracker) -> None:
    try:
        tracker.reach()
    except RemoteError as error:
        fixes = {
            Trouble.KEY: "`wandb login --relogin` stores another key, or set WANDB_API_KEY",
            Trouble.DOWN: "see to the network, or to WANDB_BASE_URL",
            Trouble.REFUSED: "see to WANDB_ENTITY and WANDB_PROJECT, and to what the key may do",
        }
        fix = f"{fixes[error.trouble]}; then run the same command again: nothing is lost"
        raise OrchestratorError(f"the W&B server {error.trouble.value}", found=error.detail, fix=fix) from error


def _mended(tracker: WandbTracker, record: StudyRecord) -> tuple[Amiss, ...]:
    """What is still amiss after what was amiss was copied again, once."""
    finished = _finished(record)
    again = _settled(tracker, finished)
    if again and tracker.is_online:
        for row in again:
            tracker.again(row.key)
            tracker.publish(finished[row.key])
        again = _settled(tracker, finished)
    return again


def _settled(tracker: WandbTracker, finished: Mapping[str, TrialRecord]) -> tuple[Amiss, ...]:
    """What is amiss when the server had time to count; all of it when it does not answer."""
    give_up, arrived = time.monotonic() + SETTLE_S, dict[str, tuple[int, str]]()
    while True:
        with contextlib.suppress(RemoteError):
            arrived = dict(tracker.arrived(list(finished)))
        amiss = _amiss(finished, arrived, sweep=tracker.sweep)
        if not amiss or not tracker.is_online or time.monotonic() > give_up:
            return amiss
        time.sleep(LOOK_EVERY_S)


def _amiss(finished: Mapping[str, TrialRecord], arrived: Mapping[str, tuple[int, str]], *, sweep: str) -> tuple[Amiss, ...]:
    found: list[Amiss] = []
    for key, trial in finished.items():
        rows, joined = arrived.get(key, (None, ""))
        if rows != len(trial.rungs) or (sweep and not joined):
            name = f"{trial.arm}, {trial.phase.value} {trial.index}"
            found.append(Amiss(trial=name, key=key, rows=rows, expected=len(trial.rungs)))
    return tuple(found)


def _finished(record: StudyRecord) -> dict[str, TrialRecord]:
    """Trials that have ended, by key: one of two arms is one run."""
    return {trial.key: trial for trial in reversed(record.trials) if trial.state.is_terminal}
