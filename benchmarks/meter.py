"""Runs a command and says what it and every process that it started took: wall time, CPU time, memory.

CPU time is known in two ways, and neither sees everything: the kernel adds up the processes that were waited for (all
descendants are, since orphans fall to this process, but not those of a parent that ignores the death of its children, as
Ray's daemon does); and polling adds up what each process had used when last seen, which misses the last moments of each.
Both are lower bounds, so the larger one is taken. Memory is the largest sum of resident sizes at one look: pages that
processes share count once in each of them. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence

import psutil

LOOK_EVERY_S = 0.2
GRACE_S = 10.0

_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a command took.

    Attributes:
        started: When, in seconds since 1970.
        wall_s: From its start to its exit.
        cpu_s: Of all its processes.
        waited_cpu_s: The part of it that the kernel added up.
        seen_cpu_s: The part of it that polling saw.
        peak_bytes: Largest sum of resident sizes of its processes.
        most_processes: Most processes seen at once.
        left_behind: Processes that still ran some time after the command had ended, and were killed.
        code: Exit code; None when it was killed because it took too long.
        said: The end of what it wrote to stdout and stderr.
    """

    started: float
    wall_s: float
    cpu_s: float
    waited_cpu_s: float
    seen_cpu_s: float
    peak_bytes: int
    most_processes: int
    left_behind: int
    code: int | None
    said: str


def measure(
    command: Sequence[str], *, environment: Mapping[str, str], log: pathlib.Path, within_s: float, grace_s: float = GRACE_S
) -> Measured:
    """Runs a command to its end, in this process's folder.

    Args:
        command: What is run.
        environment: All its environment variables.
        log: File for what it says.
        within_s: It and its processes are killed after so long.
        grace_s: What still runs when it has ended is given so long to end, too.
    """
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
    looks = _Looks()
    before, started_at, started = _waited_cpu_s(), time.time(), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None and time.monotonic() - started < within_s:
            looks.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
        wall_s, code = time.monotonic() - started, process.poll()
    finally:
        left_behind = _end(process, looks, grace_s)
    waited = _waited_cpu_s() - before
    return Measured(
        started=started_at,
        wall_s=wall_s,
        cpu_s=max(waited, looks.cpu_s),
        waited_cpu_s=waited,
        seen_cpu_s=looks.cpu_s,
        peak_bytes=looks.peak_bytes,
        most_processes=looks.most_processes,
        left_behind=left_behind,
        code=code,
        said=log.read_text("utf-8", errors="replace")[-4000:],
    )


class _Looks:
    """What was seen of the descendants of this process so far."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.most_processes = 0
        self._cpu_s: dict[tuple[int, float], float] = {}

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def look(self) -> None:
        resident = count = 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                self._cpu_s[process.pid, process.create_time()] = times.user + times.system
                resident += process.memory_info().rss
                count += 1
        self.peak_bytes, self.most_processes = max(self.peak_bytes, resident), max(self.most_processes, count)


def _end(process: subprocess.Popen[bytes], looks: _Looks, grace_s: float) -> int:
    """Waits a little for the command's processes, kills those that go on, and counts these."""
    deadline = time.monotonic() + (grace_s if process.poll() is not None else 0.0)
    while _living() and time.monotonic() < deadline:
        looks.look()
        _reap(process)
        time.sleep(0.05)
    left_behind = _living()
    while _living():  # a process may have started another one meanwhile
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.poll()
        _reap(process)
        time.sleep(0.05)
    process.wait()
    _reap(process)
    return left_behind


def _living() -> int:
    found = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += child.status() != psutil.STATUS_ZOMBIE
    return found


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Waits for orphans that have ended: what they used is counted then. The command itself is `process`'s to wait for."""
    if process.poll() is None:
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _waited_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
