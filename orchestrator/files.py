"""Files that trials start from, named by what they hold, and kept under that name where workers read them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.errors import Problem, StudyError
from orchestrator.keys import canonical
from orchestrator.upstream import File

ADDRESS = "sha256:"
INDEX, DATA = ".index", ".data-"  # of a checkpoint in parts: what follows the prefix that they share
FOLDER = "inputs"
PREFIX = "parameters"  # that the parts of a kept checkpoint share
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file on disk.

    Attributes:
        path: Where it was found.
        suffix: What follows the prefix of a checkpoint in parts; the suffix of a file that is whole.
        sha256: Of what it holds, in hex digits.
    """

    path: pathlib.Path
    suffix: str
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a `File` held when the study was planned: one part, or those of a checkpoint."""

    parts: tuple[Part, ...]

    @property
    def is_whole(self) -> bool:
        """It is one file."""
        return len(self.parts) == 1

    @property
    def sha256(self) -> str:
        """Of the file; of several, of their suffixes and hashes, so that another prefix changes nothing."""
        if self.is_whole:
            return self.parts[0].sha256
        return hashlib.sha256(canonical([(part.suffix, part.sha256) for part in self.parts]).encode()).hexdigest()

    @property
    def address(self) -> str:
        """What a resolved config says."""
        return ADDRESS + self.sha256

    def kept(self, part: Part, out: pathlib.Path) -> pathlib.Path:
        """Where a part of it lies for workers."""
        name = f"{self.sha256}{part.suffix}" if self.is_whole else f"{self.sha256}/{PREFIX}{part.suffix}"
        return out / FOLDER / name


def content_of(file: File) -> Content:
    """What a file holds now.

    Raises:
        StudyError: It is not there, or cannot be read.
    """
    try:
        return Content(parts=tuple(_part(path, suffix) for path, suffix in _paths(file)))
    except OSError as error:
        raise StudyError(
            f"{file!r} cannot be read",
            found=f"{pathlib.Path(file.path).absolute()}: {error.strerror or error}",
            expected="a file, or the PREFIX of PREFIX.index and PREFIX.data-00000-of-NNNNN",
            fix="correct the path: it is read from the folder in which the study is launched",
        ) from error


def contents_of(files: Iterable[File]) -> tuple[dict[File, Content], list[Problem]]:
    """What some files hold, and why others cannot be read."""
    found: dict[File, Content] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            found[file] = content_of(file)
        except StudyError as error:
            problems += error.problems
    return found, problems


def keep(contents: Mapping[File, Content], out: pathlib.Path) -> None:
    """Copies files to where workers read them. What lies there and is whole stays as it is.

    Not a link: whoever writes into the original would write into the copy too.

    Raises:
        StudyError: A file was changed since it was read.
        OSError: There is no room, or no right to write.
    """
    for file, content in contents.items():
        for part in content.parts:
            kept = content.kept(part, out)
            if not _holds(kept, part.sha256) and not _copied(part, kept):
                raise StudyError(
                    f"{file!r} was changed while the study was being launched",
                    found=str(part.path),
                    expected=f"what it held when the study was planned, {part.sha256[:12]}…",
                    fix="launch again once nobody writes to it",
                )


def kept_at(address: str, out: pathlib.Path) -> pathlib.Path | None:
    """Where the content of an address lies: a file, or the index of a checkpoint in parts. None where nothing was kept."""
    sha256, folder = address.removeprefix(ADDRESS), out / FOLDER
    index = folder / sha256 / f"{PREFIX}{INDEX}"
    if index.is_file():
        return index
    # With a suffix first: readers tell kinds of files by it.
    found = sorted((path for path in folder.glob(f"{sha256}*") if path.is_file() and not path.name.endswith(".tmp")), reverse=True)
    return next(iter(found), None)


def sha256_of(path: pathlib.Path) -> str:
    """Of what a file holds, in hex digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paths(file: File) -> Sequence[tuple[pathlib.Path, str]]:
    """The files that one stands for, each with what follows their prefix."""
    path = pathlib.Path(file.path)
    prefix = path.with_name(path.name.removesuffix(INDEX))
    index = prefix.with_name(prefix.name + INDEX)
    if index.is_file() and (path == index or not path.exists()):
        parts = sorted(found for found in prefix.parent.iterdir() if found.name.startswith(prefix.name + DATA))
        if not parts:
            raise FileNotFoundError(errno.ENOENT, f"no {prefix.name}{DATA}… beside the index", str(index))
        return [(found, found.name.removeprefix(prefix.name)) for found in (*parts, index)]
    return [(path, path.suffix)]


def _part(path: pathlib.Path, suffix: str) -> Part:
    stat = path.stat()
    return Part(path=path, suffix=suffix, sha256=_hashed(path, stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=256)  # one command asks more than once
def _hashed(path: pathlib.Path, *_: int) -> str:
    return sha256_of(path)


def _holds(path: pathlib.Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except FileNotFoundError:
        return False


def _copied(part: Part, kept: pathlib.Path) -> bool:
    """Puts a copy under its name at once, and says whether it is what was asked for; else nothing is there."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_name(f"{kept.name}.{secrets.token_hex(6)}.tmp")
    try:
        shutil.copyfile(part.path, fresh)
        fresh.chmod(0o444)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        is_same = sha256_of(fresh) == part.sha256
        if is_same:
            os.replace(fresh, kept)
        return is_same
    finally:
        fresh.unlink(missing_ok=True)
