"""What a fleet must find again after its launcher was killed: one small file for each unit, written before it starts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import socket
from collections.abc import Mapping
from typing import Any

from orchestrator.durable import DamagedError, read_row, write_row
from orchestrator.errors import LaunchError
from orchestrator.executors.base import WorkerSpec, file_name
from orchestrator.executors.process import birth, is_running

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One unit, as a launcher left it.

    Attributes:
        number: Its work unit id, counted from 1.
        spec: What was to be started.
        launcher: Who started it or took it over last: host, pid and birth of that process.
        handle: JSON of its handle; empty when the launcher died between starting it and writing this.
    """

    number: int
    spec: WorkerSpec
    launcher: tuple[str, int, str]
    handle: str

    @property
    def is_held(self) -> bool:
        """Another launcher of this machine holds the unit, and is running."""
        host, pid, started = self.launcher
        return host == socket.gethostname() and pid != os.getpid() and is_running(pid, started)


class UnitStore:
    """The records of one fleet. The intent is on disk before a worker is, so none is ever started unseen."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def read(self) -> list[UnitRecord]:
        """Every sound record, in the order of the units' numbers.

        A damaged one is set aside with a warning. Nothing is lost with it: the worker ends by itself when its launcher is
        gone, its trials go back to the queue when their leases end, and its identity is not used again.

        Raises:
            LaunchError: A record may not be read.
        """
        found = (self._read(path) for path in self._folder.glob("*.unit.json"))
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def write(self, record: UnitRecord) -> None:
        """Keeps a record, whole or not at all; a second one of the same identity replaces the first.

        Raises:
            LaunchError: It cannot be written.
        """
        try:
            write_row(self._path(record.spec.identity), _to_row(record), mode=0o600)  # the address of a database may hold a password
        except OSError as error:
            raise _not_written(record.spec.identity, error) from error

    def take(self, identity: str) -> bool:
        """Makes an identity the caller's for good. False when somebody has it, or had it, whatever became of its record.

        Of several launchers that ask at the same moment, one is told so.

        Raises:
            LaunchError: The folder cannot be written.
        """
        path = self._path(identity)
        if path.exists() or _aside(path).exists():
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(_taken(path), os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            if _taken(path).exists():
                return False
            raise _not_written(identity, error) from error
        return True

    def forget(self, identity: str) -> None:
        """Drops the record of a unit that could not be started: its identity can be taken again."""
        path = self._path(identity)
        with contextlib.suppress(OSError):  # then it stays as one that was lost
            path.unlink(missing_ok=True)
            _taken(path).unlink(missing_ok=True)

    def _read(self, path: pathlib.Path) -> UnitRecord | None:
        try:
            return _from_row(read_row(path))
        except FileNotFoundError:  # another launcher dropped it, or set it aside
            return None
        except OSError as error:
            raise LaunchError("the record of a worker cannot be read", found=str(error), fix="see to whom the folder belongs") from error
        except (DamagedError, ValueError, KeyError, TypeError) as error:
            log.warning("the record of a worker is damaged, and set aside as %s: %s", _aside(path), error)
            with contextlib.suppress(FileNotFoundError):
                path.replace(_aside(path))
            return None

    def _path(self, identity: str) -> pathlib.Path:
        return self._folder / f"{file_name(identity)}.unit.json"


def this_launcher() -> tuple[str, int, str]:
    """What a record says of the launcher that runs this."""
    return socket.gethostname(), os.getpid(), birth(os.getpid()) or ""


def _launcher(host: str, pid: int, started: str) -> tuple[str, int, str]:
    return host, pid, started


def _not_written(identity: str, error: OSError) -> LaunchError:
    return LaunchError(
        f"the record of worker {identity} cannot be written",
        found=str(error),
        expected="a folder that can be written, with room in it",
        fix="make room, or choose another folder with --out",
    )


def _taken(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".taken")


def _aside(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".damaged")


def _to_row(record: UnitRecord) -> dict[str, Any]:
    spec = dataclasses.asdict(record.spec) | {"log": str(record.spec.log), "folder": str(record.spec.folder)}
    return {"number": record.number, "spec": spec, "launcher": record.launcher, "handle": record.handle}


def _from_row(row: Mapping[str, Any]) -> UnitRecord:
    spec: dict[str, Any] = row["spec"]
    return UnitRecord(
        number=row["number"],
        spec=WorkerSpec(
            identity=spec["identity"],
            argv=tuple(spec["argv"]),
            env=tuple((name, value) for name, value in spec["env"]),
            log=pathlib.Path(spec["log"]),
            folder=pathlib.Path(spec["folder"]),
            cpus=spec["cpus"],
            gpus=spec["gpus"],
        ),
        launcher=_launcher(*row["launcher"]),
        handle=row["handle"],
    )
