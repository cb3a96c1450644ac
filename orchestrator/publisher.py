"""Copies finished trials to W&B from a process of its own: what goes wrong there cannot touch a trial.

The launcher holds the publisher's standard input open. When it closes, because the run is over or the launcher is gone,
the publisher copies what is left, or leaves at once if there is nobody to wait for it. What was not copied is copied by
the next run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from orchestrator.ledger import Ledger
from orchestrator.spec import study_record
from orchestrator.trackers import ResolvedMode, StudyHeader, Tracker, WandbMode, WandbTracker

POLL_S = 1.0
DRAIN_S = 60.0  # that a finished run waits for its last trials to be copied


class Publisher:
    """The launcher's side: starts the process when there is something to copy, and waits for it at the end."""

    def __init__(
        self, study: str, ledger: Ledger, *, ledger_path: pathlib.Path, folder: pathlib.Path, mode: ResolvedMode, console: Console
    ) -> None:
        self._study, self._ledger, self._path, self._folder, self._console = study, ledger, ledger_path, folder, console
        self._mode = mode
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts copying; does nothing when W&B is disabled."""
        if self._mode.mode is WandbMode.DISABLED or self._process is not None:
            return
        log = self._folder / "logs" / "wandb.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(self._path.resolve()), self._study, str(self._folder.resolve()), self._mode.mode.value]
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.publisher", *arguments],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=pathlib.Path(__file__).resolve().parent.parent,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._process is None and self._left():
            self.start()
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.write(b"drain\n" if kind is None else b"leave\n")
        self._process.stdin.close()
        try:
            self._process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        left = self._left()
        if left:
            text = f"W&B: {left} trials were not copied yet (see {self._folder / 'logs' / 'wandb.log'}); the next run copies them"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> int:
        """Finished trials that W&B does not have."""
        if self._mode.mode is WandbMode.DISABLED:
            return 0
        return len(self._ledger.unpublished(self._study, f"wandb-{self._mode.mode}"))


def publish_all(ledger: Ledger, study: str, tracker: Tracker, leave: threading.Event) -> None:
    """Copies every finished trial that the tracker does not have, one after the other."""
    keys = ledger.unpublished(study, tracker.name)
    if not keys:
        return
    shown: set[str] = set()
    for trial in ledger.trial_records(study, keys=keys):
        if leave.is_set():
            return
        if trial.key not in shown and tracker.publish(trial):
            ledger.mark_published(study, tracker.name, trial.key)
        shown.add(trial.key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m orchestrator.publisher LEDGER STUDY FOLDER MODE`."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.publisher", description="Copies finished trials to W&B.")
    for name in ("ledger", "study", "folder", "mode"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    ledger = Ledger.open(given.ledger, create=False)
    over, leave = threading.Event(), threading.Event()

    def listen() -> None:
        """The launcher says `drain` when it waits for us; nothing at all when it was killed."""
        if sys.stdin.readline().strip() != "drain":
            leave.set()
        over.set()

    threading.Thread(target=listen, name="launcher", daemon=True).start()
    tracker = _tracker(pathlib.Path(given.folder), WandbMode(given.mode))
    opened = False
    while not leave.is_set():
        last = over.wait(POLL_S)
        spec = ledger.study_spec(given.study)
        if spec is not None and (opened or ledger.unpublished(given.study, tracker.name)):
            if not opened:
                tracker.open(StudyHeader.of(study_record(spec, ())))
                opened = True
            publish_all(ledger, given.study, tracker, leave)
        if last:
            break
    if leave.is_set():
        os._exit(0)  # killed with its launcher: nobody waits for open files, and what is missing is copied by the next run
    tracker.close()
    return 0


def _tracker(folder: pathlib.Path, mode: WandbMode) -> WandbTracker:
    return WandbTracker(folder / "wandb", mode=mode, warn=lambda text: print(text, file=sys.stderr, flush=True))


if __name__ == "__main__":
    raise SystemExit(main())
