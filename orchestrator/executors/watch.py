"""The worker's side: a worker ends by itself when its launcher is gone, and leaves word of how it ended.

The launcher is watched by looking at it, four times a second. Linux could send a signal when it dies
(`PR_SET_PDEATHSIG`), but that one follows the *thread* that started the worker, not the process, and setting it needs
code of ours between fork and exec; and it has no word for "checkpoint first, then end".
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator

from orchestrator.durable import read_row, write_row
from orchestrator.executors.process import birth, end_rest_of_group, is_running

# Set by the executor that started the worker, and taken out of the environment before the worker starts anything.
UNIT = "TESSERA_UNIT"  # folder and identity: finds a worker whose launcher died before it could write its pid down
LAUNCHER = "TESSERA_LAUNCHER"  # `pid@birth` of the process whose death ends the worker
EXIT = "TESSERA_EXIT"  # where the worker leaves its exit code

POLL_S = 0.25
GRACE_S = 4.0  # from the launcher's death to the hard end: time for a checkpoint, and nothing is left after 5 s


@contextlib.contextmanager
def supervised(on_death: Callable[[], None], *, grace_s: float = GRACE_S) -> Generator[None]:
    """Runs a worker's main function so that it outlives no launcher and its exit code is known to the next one.

    Enter it before anything slow is imported. Does nothing for a worker that was started by hand.

    Args:
        on_death: Called in another thread, once, when the launcher is gone: ask the main loop to checkpoint and end.
        grace_s: Seconds that the worker then has before it is killed with all that it started.
    """
    launcher, record = os.environ.pop(LAUNCHER, ""), os.environ.pop(EXIT, "")
    os.environ.pop(UNIT, None)
    orphaned = threading.Event()

    def tell() -> None:
        orphaned.set()
        on_death()

    if launcher:
        pid, _, started = launcher.partition("@")
        watch_parent(int(pid), started, tell, grace_s=grace_s)
    code = 1
    try:
        yield
        code = 0
    except SystemExit as ending:
        code = _code_of(ending)
        raise
    finally:
        if record:
            try:
                write_exit(pathlib.Path(record), code=code, stopped=orphaned.is_set())
            except OSError:  # a full disk costs the next launcher an exit code
                traceback.print_exc()


def watch_parent(pid: int, started: str, on_death: Callable[[], None], *, grace_s: float = GRACE_S) -> threading.Thread:
    """Watches the launcher from a daemon thread; when it is gone, tells the worker, waits, and ends it hard.

    A process that the worker started is ended too, whether the worker leaves in time or not. What it cannot end is a
    worker whose native code never lets another thread run: there the lease in the ledger expires.

    Args:
        pid: Of the launcher.
        started: Its `process.birth`, as the launcher read it, so that a pid used again is no sign of life.
        on_death: Called once, in the thread that watches.
        grace_s: Seconds from that call to the hard end.
    """
    gone = threading.Event()

    def watch() -> None:
        while not _is_gone(pid, started):
            time.sleep(POLL_S)
        gone.set()
        deadline = time.monotonic() + grace_s
        try:
            on_death()
        except Exception:  # the worker could not be told; it is ended all the same
            traceback.print_exc()
        time.sleep(max(0.0, deadline - time.monotonic()))
        _end_hard(grace_s)

    def leave_nothing() -> None:
        if gone.is_set():
            end_rest_of_group()

    atexit.register(leave_nothing)
    thread = threading.Thread(target=watch, name="watch-launcher", daemon=True)
    thread.start()
    return thread


def write_exit(path: pathlib.Path, *, code: int, stopped: bool) -> None:
    """Leaves word of how a worker ended, whole or not at all.

    Args:
        path: The record; replaced when it exists.
        code: Exit code, or minus the signal.
        stopped: It was asked to end.
    """
    write_row(path, {"code": code, "stopped": stopped}, sync=False)


def read_exit(path: pathlib.Path) -> tuple[int, bool] | None:
    """The exit code that a worker left, and whether it was asked to end; None where there is no record, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        row = read_row(path)
        return int(row["code"]), bool(row["stopped"])
    return None


def write_claim(path: pathlib.Path) -> None:
    """Leaves word of which process a worker is. One that was forked has its parent's environment in /proc, not its own."""
    write_row(path, {"pid": os.getpid(), "birth": birth(os.getpid())}, sync=False)


def read_claim(path: pathlib.Path) -> tuple[int, str] | None:
    """The pid and birth that a worker left; None where there is no claim, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        row = read_row(path)
        return int(row["pid"]), str(row["birth"])
    return None


def _code_of(ending: SystemExit) -> int:
    if ending.code is None:
        return 0
    return ending.code if isinstance(ending.code, int) else 1


def _is_gone(pid: int, started: str) -> bool:
    with contextlib.suppress(OSError):  # no file descriptor left to look with is no news of the launcher
        return not is_running(pid, started)
    return False


def _end_hard(grace_s: float) -> None:
    with contextlib.suppress(OSError):  # past the buffers of `sys.stderr`, whose lock a hanging worker may hold
        os.write(2, f"the launcher is gone and the worker did not end within {grace_s:g} s: killed\n".encode())
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # started by hand in somebody else's group
