"""Files that survive kills and bad disks: written whole or not at all, and small JSON files that know when they are damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, cast

from orchestrator.keys import Json

CHECK = "sha256"  # key of a sealed JSON object, for the hash of all that is beside it


class DamagedError(ValueError):
    """A file does not hold what was written there."""


def write_whole(
    path: pathlib.Path, *content: bytes | memoryview, keep: pathlib.Path | None = None, mode: int = 0o666, sync: bool = True
) -> None:
    """Puts content under a name at once: whoever looks finds the old file or the new one, also after a power cut.

    What is being written lies beside it, under a name that no other process or machine takes, and goes when the disk is full.

    Args:
        path: Its folder is made where it is missing.
        content: The whole file, in parts.
        keep: Name that an older file gets, instead of being replaced.
        mode: Permissions of a new file, before the process's mask.
        sync: Wait for the disk. Without, a power cut may leave an empty file; a kill may not.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if keep is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, keep)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(path.parent)


def append_line(path: pathlib.Path, line: bytes) -> None:
    """Adds a line to a file, on a line of its own whatever the file ends with; what cannot be written whole is taken back.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        content = (b"" if file.read(1) in (b"", b"\n") else b"\n") + line + b"\n"
        try:
            while content:  # a disk that fills up takes a part
                content = content[os.write(file.fileno(), content) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(file.fileno(), end)
            raise


def sealed(row: Mapping[str, Json], *, indent: int | None = None) -> bytes:
    """A JSON object, with a check of its content as its last member.

    >>> unsealed(sealed({"pid": 7})) == {"pid": 7}
    True
    """
    return _text({**row, CHECK: _check(row)}, indent=indent)


def unsealed(content: bytes) -> dict[str, Any]:
    """The object that was sealed.

    Raises:
        DamagedError: It is not what `sealed` wrote, or says something else by now.

    >>> unsealed(sealed({"pid": 7}).replace(b"7", b"8"))
    Traceback (most recent call last):
    orchestrator.durable.DamagedError: its content does not match its check
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # neither JSON nor text
        raise DamagedError(f"it is not JSON: {error}") from error
    if not isinstance(found, dict) or CHECK not in found:
        raise DamagedError("it holds no check of its content")
    row = cast(dict[str, Any], found)
    if row.pop(CHECK) != _check(row):
        raise DamagedError("its content does not match its check")
    return row


def write_row(path: pathlib.Path, row: Mapping[str, Json], *, mode: int = 0o666, sync: bool = True) -> None:
    """Keeps a sealed JSON object in a file of its own. See `write_whole`."""
    write_whole(path, sealed(row), mode=mode, sync=sync)


def read_row(path: pathlib.Path) -> dict[str, Any]:
    """The object that `write_row` kept.

    Raises:
        DamagedError: The file holds something else.
        OSError: It cannot be read.
    """
    return unsealed(path.read_bytes())


def _check(row: Mapping[str, Json]) -> str:
    return hashlib.sha256(_text(row, sort_keys=True)).hexdigest()


def _text(row: Mapping[str, Json], *, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """As JSON; a path that is no text keeps its bytes."""
    return json.dumps(row, indent=indent, sort_keys=sort_keys, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _sync_folder(folder: pathlib.Path) -> None:
    """The name is on disk too. Some file systems cannot be asked for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
