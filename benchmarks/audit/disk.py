"""A small disk whose power can be cut: an ext4 file system in a file, shut down without writing what was not synced.

`EXT4_IOC_SHUTDOWN` is what the kernel's own file system tests do for a power cut: from that moment nothing reaches the
disk, neither dirty pages nor the journal's last transaction. Mounted again, the journal is replayed as after a crash.
It needs Linux, root, loop devices and mkfs.ext4.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import time
from typing import Self

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, <linux/ext4.h>
NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
SIZE = 256 << 20
PATIENCE_S = 10.0


class NoDiskError(Exception):
    """This machine does not let us have such a disk, and why."""


class Disk:
    """A mounted disk. A context manager: it is unmounted and its file removed at the end.

    Attributes:
        folder: Where it is mounted.
        cuts: How often its power was cut.
    """

    def __init__(self, place: pathlib.Path) -> None:
        """Not mounted yet.

        Args:
            place: Folder in which the file and the mount point are made.
        """
        self.folder, self.cuts = place / "disk", 0
        self._image = place / "disk.img"

    def __enter__(self) -> Self:
        if why := missing_for_disks():
            raise NoDiskError(why)
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        try:
            _run("mkfs.ext4", "-q", "-F", str(self._image))
            self._mount()
        except NoDiskError:
            self._image.unlink()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._unmount()
        self._image.unlink(missing_ok=True)

    def cut(self) -> None:
        """Takes the power away and gives it back. No process may be using the disk."""
        number = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(number, SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
        except OSError as error:
            raise NoDiskError(f"power cuts need a file system that can be shut down: {error.strerror}") from error
        finally:
            os.close(number)
        self._unmount()
        self._mount()
        self.cuts += 1

    def _mount(self) -> None:
        _run("mount", "-o", "loop", "-t", "ext4", str(self._image), str(self.folder))

    def _unmount(self) -> None:
        """Waits for processes that were killed a moment ago; gives up in favour of a lazy unmount, so that nothing stays mounted."""
        deadline = time.monotonic() + PATIENCE_S
        while os.path.ismount(self.folder):
            try:
                _run("umount", *(["--lazy"] if time.monotonic() > deadline else []), str(self.folder))
            except NoDiskError:
                time.sleep(0.1)


def missing_for_disks() -> str:
    """Why this machine cannot have such a disk, as far as can be told without trying; empty if nothing speaks against it."""
    if os.geteuid() != 0:
        return "power cuts need root, to mount a disk of their own"
    return "" if shutil.which("mkfs.ext4", path=_programs()) else "power cuts need mkfs.ext4"


def _programs() -> str:
    """Where programs are looked for: also where those of the administrator lie, which not every PATH holds."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=_programs())
    if program is None:
        raise NoDiskError(f"power cuts need {command[0]}")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoDiskError(f"power cuts need what {command[0]} refuses here: {done.stderr.strip() or done.returncode}")
