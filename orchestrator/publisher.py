"""Copies finished trials to W&B from a process of its own: what goes wrong there cannot touch a trial.

The launcher holds the publisher's standard input open, and says there that the run is over. Then the publisher copies what
is left; when it closes, it leaves at once, since nobody waits for it. What was not copied is copied by the next run.

Of several launchers of a study, one publisher copies at a time: the one that holds that role in the ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, Patience
from orchestrator.spec import study_record
from orchestrator.storage import handed_down
from orchestrator.trackers import ResolvedMode, StudyHeader, Tracker, WandbMode, WandbTracker

POLL_S = 1.0
DRAIN_S = 60.0  # that a finished run waits for its last trials to be copied
LEAVE_S = 5.0  # that one which is told to leave has for it
PATIENCE_S = 600.0  # with a ledger that cannot serve
ROLE, ROLE_S = "publish wandb", 20.0  # copying into one W&B folder and run is for one process
DRAIN, END = "drain", "end"  # said by the launcher: copy all, though another copies now; copy what is ours to copy


class Publisher:
    """The launcher's side: starts the process when there is something to copy, and waits for it at the end."""

    def __init__(self, study: str, ledger: Ledger, *, folder: pathlib.Path, mode: ResolvedMode, console: Console) -> None:
        self._study, self._ledger, self._folder, self._console = study, ledger, folder, console
        self._mode = mode
        self._last_word = END
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts copying; does nothing when W&B is disabled."""
        if self._mode.mode is WandbMode.DISABLED or self._process is not None:
            return
        log = self._folder / "logs" / "wandb.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [self._ledger.where, self._study, str(self._folder.resolve()), self._mode.mode.value]
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.publisher", *arguments],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                cwd=pathlib.Path(__file__).resolve().parent.parent,
            )

    def drain(self) -> None:
        """Every trial of the study has ended: all are to be copied before the run is over, whoever copies them."""
        self._last_word = DRAIN

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._process is None and self._left():
            self.start()
        if self._process is None or self._process.stdin is None:
            return
        stdin = self._process.stdin
        with contextlib.suppress(BrokenPipeError), stdin:  # closed when we wait no more
            if kind is None:
                stdin.write(f"{self._last_word}\n".encode())
                stdin.flush()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(DRAIN_S)
        self._end(self._process)
        if kind is None and (left := self._left()):
            text = f"W&B: {left} trials were not copied yet (see {self._folder / 'logs' / 'wandb.log'}); the next run copies them"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _left(self) -> int:
        """Finished trials that W&B does not have."""
        if self._mode.mode is WandbMode.DISABLED:
            return 0
        return len(self._ledger.unpublished(self._study, f"wandb-{self._mode.mode}"))


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


def publish_all(ledger: Ledger, study: str, tracker: Tracker, may_go_on: Callable[[], bool]) -> None:
    """Copies every finished trial that the tracker does not have, one after the other."""
    keys = ledger.unpublished(study, tracker.name)
    if not keys:
        return
    shown: set[str] = set()
    for trial in ledger.trial_records(study, keys=keys):
        if not may_go_on():
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
    launcher = _Launcher()
    patience = Patience(for_s=PATIENCE_S, say=_say, hasty=launcher.gone.is_set)
    ledger = Ledger.open(handed_down(given.ledger), create=False, patience=patience)
    tracker = WandbTracker(pathlib.Path(given.folder) / "wandb", mode=WandbMode(given.mode), warn=_say)
    role = Role(ledger, given.study)
    try:
        _copy(ledger, given.study, tracker, role, launcher)
    except LedgerError as error:
        _say(str(error))
        launcher.gone.set()
    with contextlib.suppress(LedgerError):  # then it ends by itself
        role.let_go()
    if launcher.gone.is_set():
        os._exit(0)  # with its launcher: nobody waits for open files, and what is missing is copied by the next run
    tracker.close()
    return 0


def _copy(ledger: Ledger, study: str, tracker: Tracker, role: Role, launcher: _Launcher) -> None:
    """Until the launcher is gone, or the run is over and nothing is left to copy."""
    opened = False
    while not launcher.gone.is_set():
        word = launcher.word(POLL_S)
        spec = ledger.study_spec(study)
        waits = spec is not None and bool(ledger.unpublished(study, tracker.name))
        is_ours = (opened or waits) and role.held()
        if spec is not None and waits and is_ours:
            if not opened:
                tracker.open(StudyHeader.of(study_record(spec, ())))
                opened = True
            publish_all(ledger, study, tracker, lambda: not launcher.gone.is_set() and role.held())
            waits = False
        if word == END or (word == DRAIN and not waits):
            return
        if word:  # another publisher copies, or died and held the role
            launcher.gone.wait(POLL_S)


class _Launcher:
    """What the launcher says on standard input."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self._word, self._spoken = "", threading.Event()
        threading.Thread(target=self._listen, name="launcher", daemon=True).start()

    def word(self, timeout_s: float) -> str:
        """How to end, once it was said; empty when it was not within that time."""
        self._spoken.wait(timeout_s)
        return self._word

    def _listen(self) -> None:
        for line in sys.stdin:
            self._word = line.strip()
            self._spoken.set()
        self.gone.set()
        self._spoken.set()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
