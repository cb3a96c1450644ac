"""What can be told of a process on this machine: whether it is the one that is meant, and whether it still runs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

_STARTTIME = 19  # of the fields that follow the name in /proc/PID/stat; proc(5) counts it as number 22


def birth(pid: int) -> str | None:
    """When a running process began: its identity, with its pid. None once it has ended, reaped or not.

    On Linux these are the clock ticks since a boot, and that boot. The start time that psutil gives is no identity
    between two processes: it moves whenever the machine's clock is set.

    >>> birth(os.getpid()) == birth(os.getpid())
    True
    """
    if sys.platform != "linux":
        return _birth_by_psutil(pid)
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else f"{_boot()}.{fields[_STARTTIME]}"


def is_running(pid: int, started: str) -> bool:
    """The process that began then still runs. False for a stranger that was given its pid."""
    return birth(pid) == started


def signal_group(leader: int, number: signal.Signals) -> None:
    """Sends a signal to a process group, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        os.killpg(leader, number)


def end_rest_of_group() -> None:
    """Kills every process of this one's group but itself. Does nothing unless this process leads its group."""
    own = os.getpid()
    if os.getpgrp() != own:
        return
    for pid in _psutil().pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid != own and os.getpgid(pid) == own:
                os.kill(pid, signal.SIGKILL)


def leader_started_with(name: str, value: str) -> int | None:
    """The pid of the session leader that was started with an environment variable set so; None without one."""
    found = (pid for pid, environ in _environments() if environ.get(name) == value)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == pid:
                return pid
    return None


def _environments() -> Iterator[tuple[int, dict[str, str]]]:
    psutil = _psutil()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            yield process.pid, process.environ()


def _birth_by_psutil(pid: int) -> str | None:
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None


@functools.cache
def _boot() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _psutil() -> Any:
    """Without types; not imported by a worker that never looks for anybody but its parent."""
    return importlib.import_module("psutil")
