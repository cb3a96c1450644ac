"""Workers forked from a process that has imported what they need: they start in milliseconds, not in seconds.

A worker that is forked is a local process like any other: own session, own log, found again, ended with its launcher.
Where nothing can be forked, workers are started as processes of their own, which takes longer and changes nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from orchestrator.executors.base import Handle, WorkerSpec
from orchestrator.executors.local import LocalExecutor, LocalHandle, claim_of, environment, inherited, make_room, not_started

OFF = "TESSERA_NO_NURSERY"  # environment variable: set, every worker is a process of its own
PATIENCE_S = 60.0  # for imports on a busy machine, and for a fork
LONGEST = 100_000  # bytes of arguments: what a process of its own may refuse, is left to it
PROGRAM = ("-m", "orchestrator.nursery")

log = logging.getLogger(__name__)


class Nursery:
    """The launcher's hold on a nursery: started at once, asked later. Used from one thread."""

    def __init__(self, *, program: tuple[str, ...] = PROGRAM) -> None:
        """Starts the process, which begins to import.

        Args:
            program: Arguments of Python.

        Raises:
            OSError: It cannot be started.
        """
        ours, theirs = socket.socketpair()
        self._line, self._codes, self._replies, self._partial = ours, dict[int, int](), deque[dict[str, Any]](), b""
        self._asked, self._open = False, True
        paths = [str(pathlib.Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *program, "--line", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A thread of a linear algebra library would be missing in every child.
                env=inherited() | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def preload(self, trainer: str, log: pathlib.Path) -> None:
        """Has it import what a trainer needs, and write what it has to say to a log. Returns at once.

        Raises:
            ConnectionError: The nursery is gone.
        """
        self._asked = True
        self._send({"preload": trainer, "log": str(log.resolve())})

    def bear(self, order: dict[str, Any]) -> tuple[int, str]:
        """Forks a worker: its pid and birth. Waits for the imports that were asked for.

        Raises:
            ConnectionError: The nursery is gone, or nothing may be forked from it.
            OSError: The worker's log cannot be written.
        """
        if self._asked:
            why = self._reply()["ready"]
            self._asked = False
            if why:
                self.close()
                raise ConnectionError(why)
        self._send(order)
        reply = self._reply()
        if "error" in reply:
            raise OSError(reply["error"])
        return reply["pid"], reply["birth"]

    def code_of(self, pid: int) -> int | None:
        """Exit code of a worker, once it has ended with all that it started.

        Raises:
            ConnectionError: The nursery is gone, and did not say.
        """
        self._listen(0.0)
        if pid in self._codes:
            return self._codes[pid]
        if not self._open:
            raise ConnectionError("the nursery has ended")
        return None

    def close(self) -> None:
        """Ends it; its workers, if any, go on until they see that their launcher is gone."""
        self._open = False
        self._line.close()
        self._process.kill()  # it may be in the middle of an import, and has nothing to tidy up
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._line.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ConnectionError("the nursery has ended") from error

    def _reply(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not self._replies:
            left = deadline - time.monotonic()
            if not self._open or left <= 0:
                raise ConnectionError("the nursery has ended" if left > 0 else f"the nursery said nothing for {PATIENCE_S:g} s")
            self._listen(left)
        return self._replies.popleft()

    def _listen(self, timeout_s: float) -> None:
        """Takes in what was said, waiting that long for the first of it."""
        while self._open and select.select([self._line], [], [], timeout_s)[0]:
            timeout_s = 0.0
            try:
                received = self._line.recv(1 << 16)
            except ConnectionError:
                received = b""
            if not received:
                self.close()
                return
            *messages, self._partial = (self._partial + received).split(b"\n")
            for message in map(json.loads, messages):
                if "ended" in message:
                    self._codes[message["ended"]] = message["code"]
                else:
                    self._replies.append(message)


class NurseryExecutor(LocalExecutor):
    """Starts workers on this machine, by forking where that works. A context manager: the nursery does not outlive it.

    Attributes:
        say: Told when workers cannot be forked, and why.
    """

    def __init__(self, *, program: tuple[str, ...] = PROGRAM) -> None:
        """An executor whose nursery is not started yet.

        Args:
            program: Arguments of Python for the nursery.
        """
        self.say: Callable[[str], None] = log.warning
        self._program = program
        self._nursery: Nursery | None = None
        self._may_fork = sys.platform == "linux" and not os.environ.get(OFF)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def nursery(self) -> Nursery | None:
        """The nursery, while there is one."""
        return self._nursery

    def open(self, label: str = "") -> None:
        """Starts the nursery, which begins to import what every worker needs.

        Args:
            label: Shown in the command line of the process, and of every worker forked from it.
        """
        if not self._may_fork or self._nursery is not None:
            return
        try:
            self._nursery = Nursery(program=(*self._program, *([label] if label else [])))
        except OSError as error:
            self._give_up(error)

    def preload(self, trainer: str, *, log: pathlib.Path) -> None:
        """Has the nursery import what a trainer needs. Returns at once.

        Args:
            trainer: `module:Class`.
            log: File for what the nursery says.
        """
        self.open()
        if self._nursery is not None:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                self._nursery.preload(trainer, log)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Ends the nursery. Harmless when repeated."""
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def launch(self, spec: WorkerSpec) -> Handle:
        """Forks a worker, or starts it as `LocalExecutor` does where it cannot be forked.

        Raises:
            LaunchError: The program, the log or the folder cannot be used.
        """
        if self._may_fork and _is_forkable(spec):
            self.open()
        if self._nursery is None or not _is_forkable(spec):
            return super().launch(spec)
        try:
            make_room(spec)
            pid, started = self._nursery.bear(_order(spec))
        except ConnectionError as error:
            self._give_up(error)
            return super().launch(spec)
        except OSError as error:
            raise not_started(spec, error) from error
        return LocalHandle.of(spec, pid, started, _Forked(self._nursery, pid))

    def _give_up(self, error: OSError) -> None:
        self.say(f"workers are not forked, and start more slowly: {error}")
        self._may_fork = False
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class _Forked:
    """A child of the nursery."""

    nursery: Nursery
    pid: int

    def code(self) -> int | None:
        return self.nursery.code_of(self.pid)


def _is_forkable(spec: WorkerSpec) -> bool:
    """A program of this Python, whose arguments any system takes."""
    return spec.argv[0] == sys.executable and len(spec.argv) > 1 and sum(len(text) for text in spec.argv) < LONGEST


def _order(spec: WorkerSpec) -> dict[str, Any]:
    return {
        "argv": spec.argv[1:],
        "env": environment(spec),
        "log": str(spec.log.resolve()),
        "claim": str(claim_of(spec)),
        "cwd": os.getcwd(),
    }
