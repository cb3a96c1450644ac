"""Copies trials to W&B from a process of its own: what goes wrong there cannot touch a trial.

The launcher holds the publisher's standard input open, and says there that the run is over. Then the publisher copies what
is left; when it closes, it leaves at once, since nobody waits for it. What was not copied is copied by the next run. The
publisher says on standard output where the study is to be seen. One that is killed is started again.

Of several launchers of a study, one publisher copies at a time: the one that holds that role in the ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from orchestrator.errors import LedgerError
from orchestrator.ledger import Ledger, Patience
from orchestrator.publishing import Follower, Role, pages_of, publish_finished, put_report
from orchestrator.spec import study_record
from orchestrator.storage import handed_down
from orchestrator.trackers import ResolvedMode, StudyHeader, WandbMode, WandbTracker

POLL_S = 1.0
REPORT_EVERY_S = 300.0  # while trials finish; and once more when they have
STARTS = 3  # of a publisher that dies
DRAIN_S = 60.0  # that a finished run waits for its last trials to be copied
LEAVE_S = 5.0  # that one which is told to leave has for it
PATIENCE_S = 600.0  # with a ledger that cannot serve
DRAIN, END = "drain", "end"  # said by the launcher: copy all, though another copies now; copy what is ours to copy


class Publisher:
    """The launcher's side: starts the process when there is something to copy, and waits for it at the end."""

    def __init__(self, study: str, ledger: Ledger, *, folder: pathlib.Path, mode: ResolvedMode, say: Callable[[str], None]) -> None:
        self._study, self._ledger, self._folder, self._say = study, ledger, folder, say
        self._mode = mode
        self._last_word = END
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._starts, self._over = 0, threading.Event()

    def start(self) -> None:
        """Starts copying; does nothing when W&B is disabled."""
        if self._mode.mode is WandbMode.DISABLED or self._process is not None:
            return
        self._begin()

    def drain(self) -> None:
        """Every trial of the study has ended: all are to be copied before the run is over, whoever copies them."""
        self._last_word = DRAIN

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if kind is None:
            self._drained()
        if self._process is None:
            return
        self._end(self._process)
        if self._listener is not None:
            self._listener.join(LEAVE_S)
        if kind is None and (left := self._left()):
            self._say(f"W&B: {left} trials were not copied yet (see {self._log}); the next run copies them")

    @property
    def _log(self) -> pathlib.Path:
        return self._folder / "logs" / "wandb.log"

    def _begin(self) -> subprocess.Popen[str]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [self._ledger.where, self._study, str(self._folder.resolve()), self._mode.mode.value]
        with self._log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.publisher", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
                cwd=pathlib.Path(__file__).resolve().parent.parent,
            )
        self._process, self._starts = process, self._starts + 1
        self._listener = threading.Thread(target=self._listen, args=(process,), name="publisher", daemon=True)
        self._listener.start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Passes on what the process says, and starts another when it died."""
        assert process.stdout is not None
        for line in process.stdout:
            self._say(line.rstrip("\n"))
        if not self._over.wait(POLL_S) and _died(process) and self._starts < STARTS:
            self._begin()

    def _drained(self) -> None:
        """Waits until all is copied, or cannot be: a process that is killed is followed by another one."""
        if self._process is not None:
            self._wait(self._process)
        while (self._process is None or _died(self._process)) and self._starts < STARTS and self._left():
            self._wait(self._begin())

    def _wait(self, process: subprocess.Popen[str]) -> None:
        """Tells it that the run is over, and waits for it."""
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{self._last_word}\n")
            process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DRAIN_S)

    def _end(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # we wait no more
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


def _died(process: subprocess.Popen[str]) -> bool:
    """It was killed, or ended itself otherwise than it should."""
    return process.poll() not in (None, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m orchestrator.publisher LEDGER STUDY FOLDER MODE`."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.publisher", description="Copies finished trials to W&B.")
    for name in ("ledger", "study", "folder", "mode"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    launcher = _Launcher()
    patience = Patience(for_s=PATIENCE_S, say=_say, hasty=launcher.gone.is_set)
    ledger = Ledger.open(handed_down(given.ledger), create=False, patience=patience)
    folder, pages = pathlib.Path(given.folder), pages_of(ledger, given.study, _tell)
    tracker = WandbTracker(folder / "wandb", mode=WandbMode(given.mode), warn=_say, pages=pages)
    role = Role(ledger, given.study)
    try:
        _Copying(ledger, given.study, tracker, role, launcher, out=folder.parent).until_over()
    except LedgerError as error:
        _say(str(error))
        launcher.gone.set()
    with contextlib.suppress(LedgerError):  # then it ends by itself
        role.let_go()
    if launcher.gone.is_set():
        os._exit(0)  # with its launcher: nobody waits for open files, and what is missing is copied by the next run
    tracker.close()
    return 0


class _Copying:
    """What the process does all the time."""

    def __init__(self, ledger: Ledger, study: str, tracker: WandbTracker, role: Role, launcher: _Launcher, *, out: pathlib.Path) -> None:
        self._ledger, self._study, self._tracker, self._role, self._launcher = ledger, study, tracker, role, launcher
        self._follower = Follower(ledger, study, tracker)
        self._out = out
        self._opened = False
        self._report_due, self._reported_at = False, -math.inf

    def until_over(self) -> None:
        """Until the launcher is gone, or the run is over and nothing is left to copy."""
        while not self._launcher.gone.is_set():
            word = self._launcher.word(POLL_S)
            waits = self._look()
            if word and not waits:
                self._report(at_once=True)
            if word == END or (word == DRAIN and not waits):
                return
            if word:  # another publisher copies, or died and held the role
                self._launcher.gone.wait(POLL_S)

    def _look(self) -> bool:
        """Copies what is new, where that is for us to do; whether finished trials are left that another publisher has to copy."""
        spec = self._ledger.study_spec(self._study)
        waits = spec is not None and bool(self._ledger.unpublished(self._study, self._tracker.name))
        work = waits or (self._tracker.is_online and bool(self._ledger.reached(self._study)))
        if spec is None or not (self._opened or work) or not self._role.held():
            return waits
        if not self._opened:
            self._tracker.open(StudyHeader.of(study_record(spec, ())))
            self._opened = True
        self._follower.look()
        if waits:
            done = publish_finished(self._ledger, self._study, self._tracker, self._may_go_on)
            self._report_due = self._report_due or done > 0
        self._report(at_once=False)
        return False

    def _may_go_on(self) -> bool:
        return not self._launcher.gone.is_set() and self._role.held()

    def _report(self, *, at_once: bool) -> None:
        """Brings the report on the server up to date, where trials were finished since and it is time."""
        if self._report_due and (at_once or time.monotonic() > self._reported_at + REPORT_EVERY_S) and self._may_go_on():
            put_report(self._ledger, self._study, self._out, self._tracker)
            self._report_due, self._reported_at = False, time.monotonic()


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


def _tell(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # of a launcher that is gone
        print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
