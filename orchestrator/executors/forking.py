"""The nursery's side: a process that has imported everything, and forks a child for each worker it is asked for.

It has one thread and has touched no device, so a child starts from the same state as a fresh process that imported the
same modules. Messages are JSON, one a line, over a socket that the launcher handed down; when that closes, the nursery
ends at once and its children, who watch the launcher themselves, checkpoint and end.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import logging
import os
import pathlib
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, cast

from orchestrator.executors.process import birth, signal_group
from orchestrator.executors.watch import write_claim

CHUNK = 1 << 16


def serve(line: socket.socket, preload: Callable[[str], None], live: Callable[[Sequence[str]], int]) -> None:
    """Forks until the launcher is gone.

    Args:
        line: To the launcher.
        preload: Imports what the trainer of that name needs.
        live: What a worker does with its arguments; its exit code.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _heard)
    children: set[int] = set()
    waiting = b""
    while True:
        ready, _, _ = select.select([line, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, CHUNK)
        for pid, code in _ended(children):
            children.discard(pid)
            _tell(line, {"ended": pid, "code": code})
        if line not in ready:
            continue
        received = line.recv(CHUNK)
        if not received:
            return
        *messages, waiting = (waiting + received).split(b"\n")
        for message in messages:
            order: dict[str, Any] = json.loads(message)
            if "preload" in order:
                _redirect(_log(order["log"]))
                _tell(line, {"ready": _preloaded(preload, order["preload"])})
            else:
                _bear(line, (woken, wake), children, order, live)


def threads() -> int:
    """Threads of this process, also those that Python does not know: only the one that forks is there after a fork."""
    tasks = pathlib.Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def _preloaded(preload: Callable[[str], None], trainer: str) -> str:
    """Imports, and readies the heap for many children; empty, or why nothing may be forked from it."""
    gc.disable()
    try:
        preload(trainer)
    except Exception:  # a worker meets the same error, where somebody sees it
        traceback.print_exc()
    if threads() > 1:
        return f"{trainer} starts {threads() - 1} threads as it is imported"
    gc.collect()
    gc.freeze()  # the collector would write to every page that children share
    return ""


def _bear(
    line: socket.socket, pipe: tuple[int, int], children: set[int], order: dict[str, Any], live: Callable[[Sequence[str]], int]
) -> None:
    try:
        log = _log(order["log"])
    except OSError as error:
        _tell(line, {"error": str(error)})
        return
    born, birth_cry = os.pipe()
    pid = os.fork()
    if pid == 0:
        _grow_up((line.fileno(), *pipe, born), birth_cry, log, order, live)
    for end in (birth_cry, log):
        os.close(end)
    os.read(born, 1)  # from here on a signal to its group reaches it, and its claim is found
    os.close(born)
    children.add(pid)
    _tell(line, {"pid": pid, "birth": birth(pid) or ""})


def _grow_up(inherited: Sequence[int], birth_cry: int, log: int, order: dict[str, Any], live: Callable[[Sequence[str]], int]) -> None:
    """The child's whole life. Never returns: the nursery's own stack is none of its business."""
    code = 1
    try:
        os.setsid()
        _redirect(log)
        write_claim(pathlib.Path(order["claim"]))
        os.close(birth_cry)
        signal.set_wakeup_fd(-1)
        for end in inherited:
            os.close(end)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        logging.root.handlers.clear()
        gc.enable()
        code = _run(live, order["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code & 0xFF)


def _run(live: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs it as the interpreter runs a program: an exception is printed, threads are joined, exit functions called."""
    try:
        code = live(argv)
    except SystemExit as ending:
        code = 0 if ending.code is None else ending.code if isinstance(ending.code, int) else 1
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        cast(Any, threading)._shutdown()
    cast(Any, atexit)._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def _log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _redirect(log: int) -> None:
    """Standard output and error to the log, each line at once; nothing to read."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for source in (nothing, log):
        os.close(source)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True)
        for number in (1, 2)
    )


def _ended(children: set[int]) -> list[tuple[int, int]]:
    """Children that ended, with their exit codes, and what they left behind ended too."""
    found: list[tuple[int, int]] = []
    for pid in children:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            signal_group(pid, signal.SIGKILL)  # not reaped yet, so the group is still this one
            found.append((pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    return found


def _heard(number: int, frame: object) -> None:
    """Does nothing: with a handler of Python's own, the pipe that wakes the loop is written to."""


def _tell(line: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the launcher is gone, as the next read says
        line.sendall(json.dumps(message).encode() + b"\n")
