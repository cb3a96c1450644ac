"""Why an attempt at a trial ended before its time: told from what a trainer raised, or from how its process ended."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

from orchestrator.records import Cause

# Exit code of a worker that gave up on its ledger: no trial is to blame for that.
LEDGER_AWAY = os.EX_TEMPFAIL

_MOST = 2000  # characters of an exception that are kept: XLA lists every buffer when there is no room for one more
_MEMORY = ("resource exhausted", "out of memory")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a trainer raised, in words alone: the exception would keep every array of its frames alive."""

    cause: Cause
    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is."""
        text = str(error).strip()
        name = type(error).__name__
        return cls(cause=of_exception(error), reason=(f"{name}: {text}" if text else name)[:_MOST])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a worker ended.

    Attributes:
        cause: Of the end of its attempts; None where no trial is to blame, and they count as preempted.
        how: In words.
    """

    cause: Cause | None
    how: str


def of_exception(error: BaseException) -> Cause:
    """Whether memory ran out, on the device or the machine, or something else went wrong.

    JAX has no class for it: an `XlaRuntimeError`, or a `JaxRuntimeError`, says RESOURCE_EXHAUSTED.

    >>> of_exception(MemoryError()).value, of_exception(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")).value
    ('out of memory', 'out of memory')
    >>> of_exception(ValueError("no such optimizer")).value
    'raised'
    """
    return Cause.OUT_OF_MEMORY if any(_is_of_memory(link) for link in _chain(error)) else Cause.RAISED


def of_death(code: int | None, *, is_own: bool, was_asked: bool, ran_out_of_memory: bool) -> Death:
    """What a worker died of.

    Args:
        code: Exit code, or minus the signal; None when nobody saw it.
        is_own: This launcher started it. Another's was ended, as far as anybody knows, by the death of its launcher.
        was_asked: It was asked to end, and ended.
        ran_out_of_memory: The kernel killed processes for want of memory while it ran.

    >>> of_death(-11, is_own=True, was_asked=False, ran_out_of_memory=False).how
    'killed by SIGSEGV'
    """
    if was_asked:
        return Death(cause=None, how="asked to stop, it ended before it had given back its trials")
    if not is_own:
        return Death(cause=Cause.ORPHANED, how="it died with its launcher")
    if code is None:
        return Death(cause=Cause.LOST, how="nobody saw how it ended")
    if code == LEDGER_AWAY:
        return Death(cause=None, how="it could not reach the ledger")
    if code == -signal.SIGKILL and ran_out_of_memory:
        how = "killed by SIGKILL, and the kernel killed processes for want of memory meanwhile"
        return Death(cause=Cause.OUT_OF_MEMORY, how=how)
    if code == -signal.SIGKILL:
        return Death(cause=Cause.KILLED, how="killed by SIGKILL")
    return Death(cause=Cause.CRASHED, how=f"killed by {_name(-code)}" if code < 0 else f"it ended with exit code {code}")


class OomKills:
    """Which deaths the kernel may have caused for want of memory. Each of its kills explains one death.

    Whom it killed cannot be read without privileges, so a process of somebody else in the same group may be taken for ours.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._explaining: set[int] = set()

    def mark(self) -> int:
        """To be kept when a worker starts."""
        return self._count()

    def explain(self, mark: int) -> bool:
        """Whether the kernel has killed somebody since the mark whose death is not explained yet; now it is."""
        since = range(mark + 1, self._count() + 1)
        unknown = next((number for number in since if number not in self._explaining), None)
        if unknown is not None:
            self._explaining.add(unknown)
        return unknown is not None


def oom_kills(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Processes that the kernel has killed for want of memory, of this one's control group, or else on the machine.

    0 where nothing is told, as on macOS. A group's `oom_kill` counts its processes that any kind of OOM killer killed.

    Source:
        Linux, Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control).
    """
    for file in (*_of_groups(root), root / "proc/vmstat"):
        try:
            rows = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if "oom_kill" in rows:
            return int(rows["oom_kill"])
    return 0


def _of_groups(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where the counts of this process's groups would lie; in a container also where its own group is mounted as the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            mount, name = ("sys/fs/cgroup", "memory.events") if not controllers else ("sys/fs/cgroup/memory", "memory.oom_control")
            for group in (path.strip("/"), ""):
                yield root / mount / group / name


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).replace("_", " ").casefold()
    return any(words in text for words in _MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those it was raised from."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
