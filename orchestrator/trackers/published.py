"""What was published where: a small file beside the run folders, read at start and appended to."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import re
import shutil
from collections.abc import Sequence

from orchestrator.durable import append_line, sealed, unsealed
from orchestrator.trackers.payload import Payload

_RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>[^-]+)(?:-\d+)?")


class Place(enum.StrEnum):
    """Where a copy of a trial is."""

    ONLINE = "online"  # the server has all of it
    OFFLINE = "offline"  # a folder here has all of it
    PARTLY = "partly"  # the server may have some of it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One publication of a trial.

    Attributes:
        key: The trial's.
        digest: Of what was published.
        place: Where it went.
        step: The last step of its history; -1 without any.
    """

    key: str
    digest: str
    place: Place
    step: int


class Copies:
    """The publications that a folder remembers, and the run folders in it."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Reads `folder`, which is created.

        Raises:
            OSError: It cannot be read or created.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "published.jsonl"
        self._copies: dict[str, list[Copy]] = {}
        self._folders: dict[str, list[pathlib.Path]] = {}
        content = self._path.read_bytes() if self._path.exists() else b""
        for line in content.split(b"\n"):
            if copy := _parsed(line):  # a damaged line is forgotten: its trial is published again, which does no harm
                self._copies.setdefault(copy.key, []).append(copy)
        for path in sorted(folder.iterdir()):
            if path.is_dir() and (found := _RUN_FOLDER.fullmatch(path.name)):
                self._folders.setdefault(found["id"], []).append(path)

    def of(self, key: str) -> Sequence[Copy]:
        """Publications of a trial, the first one first."""
        return self._copies.get(key, ())

    def add(self, payload: Payload, place: Place) -> None:
        """Remembers a publication.

        Raises:
            OSError: It cannot be written down.
        """
        copy = Copy(key=payload.key, digest=payload.digest, place=place, step=payload.last_step)
        append_line(self._path, sealed(dataclasses.asdict(copy)))
        self._copies.setdefault(copy.key, []).append(copy)

    def forget(self, key: str) -> None:
        """Takes a trial for one of which the server may have anything.

        Raises:
            OSError: It cannot be written down.
        """
        if self._copies.get(key):
            copy = dataclasses.replace(self._copies[key][-1], place=Place.PARTLY)
            append_line(self._path, sealed(dataclasses.asdict(copy)))
            self._copies[key].append(copy)

    def folder(self, key: str, path: pathlib.Path) -> None:
        """Notes a new run folder of a trial."""
        self._folders.setdefault(key, []).append(path)

    def is_synced(self, key: str) -> bool:
        """Somebody uploaded a run folder of the trial with `wandb sync`, which leaves a mark in it."""
        return any(_is_synced(path) for path in self._folders.get(key, ()))

    def has_unsynced(self, key: str) -> bool:
        """A run folder of the trial waits to be uploaded."""
        return any(not _is_synced(path) for path in self._folders.get(key, ()))

    def clear(self, key: str, *, synced: bool) -> None:
        """Deletes the trial's run folders; those that were uploaded only if `synced`. The ledger has what they held."""
        for path in tuple(self._folders.get(key, ())):
            if synced or not _is_synced(path):
                shutil.rmtree(path, ignore_errors=True)
                self._folders[key].remove(path)


def _is_synced(path: pathlib.Path) -> bool:
    return any(path.glob("*.wandb.synced"))


def _parsed(line: bytes) -> Copy | None:
    try:
        row = unsealed(line)
        return Copy(key=str(row["key"]), digest=str(row["digest"]), place=Place(row["place"]), step=int(row["step"]))
    except (ValueError, KeyError, TypeError):
        return None
