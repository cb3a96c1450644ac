"""The seam between a study and the machines that run its workers: what is started, and what can be asked of it."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import re
from typing import Protocol

from orchestrator.keys import content_key


class UnitStatus(enum.StrEnum):
    """Where a unit stands. It ends in one of the last four, and then stays there."""

    PENDING = "pending"  # asked for, not running yet
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # exit code 0
    FAILED = "failed"  # any other exit code, or a signal that nobody here sent
    STOPPED = "stopped"  # ended after it was asked to
    LOST = "lost"  # it does not run here, and no one saw how it ended

    @property
    def is_active(self) -> bool:
        """The unit runs, or is about to."""
        return self in (UnitStatus.PENDING, UnitStatus.RUNNING)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker, as it is to be started.

    Attributes:
        identity: Names the unit for good, such as `tiling/worker-3-a1`: its third worker, first attempt.
        argv: Program and arguments. Never read by a shell.
        env: Variables set on top of the launcher's own.
        log: File that standard output and standard error are appended to.
        folder: Where the executor keeps what it must find again. The same folder for an identity, always.
        cpus: Cores that the worker asks for. A scheduler reads it; local processes share the machine.
        gpus: Accelerators that the worker asks for. As above.
    """

    identity: str
    argv: tuple[str, ...]
    log: pathlib.Path
    folder: pathlib.Path
    env: tuple[tuple[str, str], ...] = ()
    cpus: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if not self.identity or not self.argv:
            raise ValueError("a worker needs an identity and a program to run")
        if self.cpus < 1 or self.gpus < 0:
            raise ValueError(f"a worker needs at least one core and no negative number of accelerators: {self.cpus}, {self.gpus}")


class Handle(Protocol):
    """A unit that was started, by this launcher or by one before it."""

    @property
    def identity(self) -> str:
        """As in its spec."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id on its host, where that is known."""
        ...

    @property
    def host(self) -> str:
        """Machine that it runs on; empty while that is not known."""
        ...

    @property
    def exit_code(self) -> int | None:
        """Exit code, or minus the signal that ended it. None while it runs, and when nobody saw it."""
        ...

    def status(self) -> UnitStatus:
        """Where it stands now. Cheap: the driver asks every unit several times a second."""
        ...

    def stop(self) -> None:
        """Asks it to checkpoint and end. Returns at once; harmless when it has ended."""
        ...

    def kill(self) -> None:
        """Ends it and all that it started. Returns at once; harmless when it has ended."""
        ...

    def to_json(self) -> str:
        """All that another launcher needs to hold the same unit."""
        ...


class Executor(Protocol):
    """A place where workers run."""

    def launch(self, spec: WorkerSpec) -> Handle:
        """Starts a worker. Keeping one identity from being started twice is the caller's part.

        Raises:
            LaunchError: It cannot be started here.
        """
        ...

    def attach(self, text: str) -> Handle:
        """The unit that `Handle.to_json` described, whoever started it and however it stands."""
        ...

    def find(self, spec: WorkerSpec) -> Handle | None:
        """The unit that was started for a spec and still runs, found without its handle.

        For a launcher that was killed after it started a unit and before it could write that down.
        """
        ...


def file_name(identity: str) -> str:
    """A file name for an identity, readable and never shared by two.

    >>> file_name("tiling/worker-3-a1")
    'tiling-worker-3-a1.e5d999'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', identity)[:80]}.{content_key(identity)[:6]}"
