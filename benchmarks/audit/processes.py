"""The processes of a study, whoever started them: found, told apart, killed and counted. Linux only.

This process becomes the one that orphans fall to, so that whatever a study starts is a descendant of it for as long as it
lives, with or without its parent. Nothing else is ever looked at, let alone killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

LAUNCH = "AUDIT_LAUNCH"  # environment variable: which launch of this audit a process comes from
ORPHAN_S = 5.0  # that a process may outlive its launcher
LINE = 200  # characters of an orphan's command line that are kept
SURELY_S = 0.5  # after which none is there if none was seen

_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


class Role(enum.Enum):
    """What a process is to its study."""

    LAUNCHER = "launcher"
    NURSERY = "nursery"
    WORKER = "worker"
    OTHER = "other"


class Victim(enum.StrEnum):
    """What is killed by one kill."""

    LAUNCHER = "launcher"
    WORKER = "worker"
    WORKERS = "workers"
    NURSERY = "nursery"
    EVERYTHING = "everything"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A process, as it was first seen.

    Attributes:
        process: psutil knows it by pid and birth, and refuses to kill another one that has its pid.
        launch: Number of the launch that it comes from.
        parent_line: Command line of its parent, as far as that was there.
    """

    process: psutil.Process
    launch: int
    parent_line: str

    @property
    def lives(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return self.process.is_running() and self.process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return False

    @property
    def line(self) -> str:
        """Its command line now; empty when it is gone."""
        with contextlib.suppress(psutil.Error):
            return " ".join(self.process.cmdline())
        return ""


class Processes:
    """All processes of one study, over all its launches. A context manager: none of them outlives it."""

    def __init__(self, role: Callable[[str, str], Role]) -> None:
        """No process yet.

        Args:
            role: Of a process that is not the launcher, by its command line and its parent's.
        """
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
        self.launches = 0
        self.orphans: dict[tuple[int, float], str] = {}
        self._role = role
        self._launcher: subprocess.Popen[bytes] | None = None
        self._seen: dict[psutil.Process, Seen] = {}
        self._due: list[tuple[float, int]] = []  # when a launcher was killed, and of which launch: its orphans are not counted yet

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def launch(self, command: Sequence[str], *, environment: Mapping[str, str], folder: pathlib.Path, log: pathlib.Path) -> None:
        """Starts the launcher, in a session of its own. The one before must have ended."""
        assert self._launcher is None
        self.launches += 1
        with log.open("ab") as said:
            self._launcher = subprocess.Popen(
                command,
                env={**environment, LAUNCH: str(self.launches)},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.look()

    def ended(self) -> int | None:
        """Exit code of the launcher, told once; None while it runs, and when there is none."""
        code = None if self._launcher is None else self._launcher.poll()
        if code is not None:
            self._launcher = None
        return code

    def look(self) -> list[Seen]:
        """The living processes of all launches, the launcher too."""
        self._reap()
        living: list[Seen] = []
        for process in psutil.Process().children(recursive=True):
            if process not in self._seen:
                self._seen[process] = self._first_seen(process)
            if self._seen[process].lives:
                living.append(self._seen[process])
        self._count_orphans(living)
        return living

    def strike(self, victim: Victim, pick: Callable[[Sequence[Seen]], Seen]) -> int:
        """Kills; how many processes that hit. Killing the launcher starts the clock of those that it leaves behind.

        Those are not killed before they are counted: until then, workers are those of the last launch, and not everything is killed.

        Args:
            victim: What is killed.
            pick: Chooses among several workers.
        """
        if victim is Victim.EVERYTHING:
            may = self._launcher is not None and self._launcher.poll() is None and not self._due
            return self.end() if may else 0
        if victim is Victim.LAUNCHER:
            return self._kill_launcher()
        wanted = Role.NURSERY if victim is Victim.NURSERY else Role.WORKER
        launcher = None if self._launcher is None else self._launcher.pid
        own = [seen for seen in self.look() if seen.launch == self.launches and seen.process.pid != launcher]
        targets = [seen for seen in own if self._role(seen.line, seen.parent_line) is wanted]
        if victim is Victim.WORKER and targets:
            targets = [pick(sorted(targets, key=lambda seen: seen.process.pid))]
        return sum(_killed(seen) for seen in targets)

    def end(self) -> int:
        """Kills all that there is, and what it may have started meanwhile; how many that were."""
        self._due.clear()
        killed = 0
        while living := self.look():
            killed += sum(_killed(seen) for seen in living)
            if self._launcher is not None:
                self._launcher.wait()
                self._launcher = None
        self._reap()  # what died after the last look had begun
        return killed

    def settle(self, within_s: float) -> None:
        """Waits until nothing lives any more, at most for so long."""
        deadline = time.monotonic() + within_s
        while self.look() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _kill_launcher(self) -> int:
        if self._launcher is None or self._launcher.poll() is not None:
            return 0
        self.look()
        self._launcher.kill()
        self._launcher.wait()
        self._launcher = None
        self._due.append((time.monotonic(), self.launches))
        return 1

    def _count_orphans(self, living: Sequence[Seen]) -> None:
        now = time.monotonic()
        for killed_at, launch in list(self._due):
            left = [seen for seen in living if seen.launch <= launch]
            if now < killed_at + (ORPHAN_S if left else SURELY_S):
                continue
            self._due.remove((killed_at, launch))
            for seen in left:
                role = self._role(seen.line, seen.parent_line).value
                self.orphans[seen.process.pid, seen.process.create_time()] = f"launch {seen.launch}, {role}: {seen.line[:LINE]}"

    def _first_seen(self, process: psutil.Process) -> Seen:
        launch, line = self.launches, ""
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if parent in self._seen:
                launch, line = self._seen[parent].launch, self._seen[parent].line
        # What renames itself, as Ray's processes do, writes over its environment.
        with contextlib.suppress(psutil.Error, KeyError, ValueError):
            launch = int(process.environ()[LAUNCH])
        return Seen(process=process, launch=launch, parent_line=line)

    def _reap(self) -> None:
        """Waits for orphans that have ended. The launcher is `Popen`'s to wait for."""
        launcher = None if self._launcher is None else self._launcher.pid
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if process.pid != launcher and process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)


def _killed(seen: Seen) -> bool:
    with contextlib.suppress(psutil.Error):
        seen.process.send_signal(signal.SIGKILL)
        return True
    return False
