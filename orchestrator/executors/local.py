"""Workers as processes of this machine: own session, own log, real exit codes, found again by who they are.

No shell stands between: XManager's own local mode starts `sh -c`, and a signal to that leaves the worker running.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
from typing import Any, Protocol

from orchestrator.errors import LaunchError
from orchestrator.executors.base import Handle, UnitStatus, WorkerSpec, file_name
from orchestrator.executors.process import birth, is_running, leader_started_with, signal_group
from orchestrator.executors.watch import EXIT, LAUNCHER, UNIT, read_claim, read_exit, write_exit

# They say which run or sweep *this* process belongs to. A worker that inherited them would write its trials into it.
NOT_INHERITED = frozenset(
    {
        "WANDB_JOB_TYPE",
        "WANDB_NAME",
        "WANDB_RESUME",
        "WANDB_RUN_GROUP",
        "WANDB_RUN_ID",
        "WANDB_SERVICE",
        "WANDB_SWEEP_ID",
        "WANDB_SWEEP_PARAM_PATH",
    }
)
_ENDED_BY_REQUEST = frozenset(
    {0, *(code for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) for code in (-number, 128 + number))}
)


class LocalExecutor:
    """Starts workers on this machine."""

    def launch(self, spec: WorkerSpec) -> Handle:
        """Starts a worker in a session of its own, so that a terminal's Ctrl-C reaches the launcher alone.

        Raises:
            LaunchError: The program, the log or the folder cannot be used.
        """
        try:
            make_room(spec)
            with spec.log.open("ab") as log:
                process = subprocess.Popen(
                    spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment(spec),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise not_started(spec, error) from error
        # The child is ours and not waited for, so its pid cannot have passed to another process.
        return LocalHandle.of(spec, process.pid, birth(process.pid) or "", _Own(process))

    def attach(self, text: str) -> Handle:
        """The process of a handle's JSON, if it is the same one still; otherwise what its exit record says."""
        row: dict[str, Any] = json.loads(text)
        return LocalHandle(row["identity"], row["pid"], row["started"], row["host"], pathlib.Path(row["exit"]))

    def find(self, spec: WorkerSpec) -> Handle | None:
        """The process that claimed to be this spec's worker, or whose environment names its folder and identity."""
        claim = read_claim(claim_of(spec))
        if claim is not None and is_running(*claim):
            return LocalHandle.of(spec, *claim)
        pid = leader_started_with(UNIT, _marker(spec))
        started = None if pid is None else birth(pid)
        return None if pid is None or started is None else LocalHandle.of(spec, pid, started)


class Child(Protocol):
    """A worker's process, to the launcher that started it."""

    def code(self) -> int | None:
        """Exit code of a worker that runs no more, with the rest of its group ended too; None until that is known.

        Raises:
            ConnectionError: It will never be known.
        """
        ...


class LocalHandle:
    """A worker process, started by this launcher or by one before it."""

    def __init__(self, identity: str, pid: int, started: str, host: str, record: pathlib.Path, child: Child | None = None) -> None:
        self._identity, self._pid, self._started, self._host, self._record = identity, pid, started, host, record
        self._child = child
        self._asked_to_end = False
        self._seen_running = child is not None
        self._ended: tuple[UnitStatus, int | None] | None = None

    @classmethod
    def of(cls, spec: WorkerSpec, pid: int, started: str, child: Child | None = None) -> LocalHandle:
        """The handle of a worker on this machine."""
        return cls(spec.identity, pid, started, socket.gethostname(), exit_record_of(spec), child)

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def host(self) -> str:
        return self._host

    @property
    def exit_code(self) -> int | None:
        self.status()
        return None if self._ended is None else self._ended[1]

    def status(self) -> UnitStatus:
        """Where it stands. A worker whose end is seen, but not yet its exit code, still counts as running."""
        if self._ended is None and not self._is_running():
            self._ended = self._ending()
        return UnitStatus.RUNNING if self._ended is None else self._ended[0]

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def to_json(self) -> str:
        row = {"identity": self._identity, "pid": self._pid, "started": self._started, "host": self._host, "exit": str(self._record)}
        return json.dumps(row)

    def _is_running(self) -> bool:
        """On another machine nothing can be seen, so nothing there is ever signalled; the leases judge such a worker."""
        running = self._host == socket.gethostname() and is_running(self._pid, self._started)
        self._seen_running |= running
        return running

    def _signal(self, number: signal.Signals) -> None:
        if self.status() is UnitStatus.RUNNING and self._is_running():
            self._asked_to_end = True
            signal_group(self._pid, number)

    def _ending(self) -> tuple[UnitStatus, int | None] | None:
        """How it ended, with the rest of its group ended too: a data loader does not outlive its worker. None until that is known."""
        if self._child is not None:
            try:
                code = self._child.code()
            except ConnectionError:  # whoever could have said how it ended is gone
                self._child = None
            else:
                return None if code is None else self._seen_ending(code)
        if self._seen_running and birth(self._pid) is None:
            signal_group(self._pid, signal.SIGKILL)  # nobody has the pid, so whoever is in the group came from the worker
        left = read_exit(self._record)
        if left is None:
            return (UnitStatus.STOPPED if self._asked_to_end else UnitStatus.LOST), None
        code, stopped = left
        return _verdict(code, stopped or self._asked_to_end), code

    def _seen_ending(self, code: int) -> tuple[UnitStatus, int]:
        with contextlib.suppress(OSError):  # a full disk costs the next launcher an exit code, not this one its study
            write_exit(self._record, code=code, stopped=self._asked_to_end)
        return _verdict(code, self._asked_to_end), code


@dataclasses.dataclass(frozen=True, slots=True)
class _Own:
    """A child of this very process."""

    process: subprocess.Popen[bytes]

    def code(self) -> int:
        signal_group(self.process.pid, signal.SIGKILL)  # not reaped yet, so the group is still this one
        return self.process.wait()


def make_room(spec: WorkerSpec) -> None:
    """Makes the folders that a worker's records and log lie in."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    spec.log.parent.mkdir(parents=True, exist_ok=True)


def not_started(spec: WorkerSpec, error: Exception) -> LaunchError:
    """What is said of a worker that the system refuses to start."""
    return LaunchError(
        f"worker {spec.identity} could not be started",
        found=f"{spec.argv[0]}: {error}",
        expected="a program that runs here, and a folder and log that can be written",
        fix=f"run it by hand: {' '.join(spec.argv)[:400]}",
    )


def _verdict(code: int, asked_to_end: bool) -> UnitStatus:
    if asked_to_end and code in _ENDED_BY_REQUEST:
        return UnitStatus.STOPPED
    return UnitStatus.SUCCEEDED if code == 0 else UnitStatus.FAILED


def inherited() -> dict[str, str]:
    """The launcher's environment without what says who the launcher is."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}


def environment(spec: WorkerSpec) -> dict[str, str]:
    """What is inherited, with what says whose worker this is."""
    ours = {
        "PYTHONUNBUFFERED": "1",  # the last lines before a crash reach the log
        UNIT: _marker(spec),
        LAUNCHER: f"{os.getpid()}@{birth(os.getpid())}",
        EXIT: str(exit_record_of(spec)),
    }
    return inherited() | ours | dict(spec.env)


def claim_of(spec: WorkerSpec) -> pathlib.Path:
    """Where a forked worker says which process it is, before it does anything else."""
    return spec.folder.resolve() / f"{file_name(spec.identity)}.claim.json"


def exit_record_of(spec: WorkerSpec) -> pathlib.Path:
    """Where is kept how a worker ended."""
    return spec.folder.resolve() / f"{file_name(spec.identity)}.exit.json"


def _marker(spec: WorkerSpec) -> str:
    return f"{spec.folder.resolve()}:{spec.identity}"
