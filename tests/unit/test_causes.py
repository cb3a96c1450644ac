"""What an exception, or an exit code, is taken for."""

from __future__ import annotations

import errno
import gc
import pathlib
import signal
import weakref

import pytest

from orchestrator.causes import LEDGER_AWAY, Failure, OomKills, of_death, of_exception, oom_kills
from orchestrator.records import Cause


class XlaRuntimeError(RuntimeError):
    """As JAX names it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_ran_out_is_told_from_other_exceptions(error: Exception) -> None:
    assert of_exception(error) is Cause.OUT_OF_MEMORY
    wrapped = ValueError("the pack could not be made")
    wrapped.__cause__ = error
    assert of_exception(wrapped) is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "error", [ValueError("no"), XlaRuntimeError("INTERNAL: no"), SystemExit(3), OSError(errno.ENOSPC, "No space left")]
)
def test_every_other_exception_is_one(error: BaseException) -> None:
    assert of_exception(error) is Cause.RAISED


def test_exceptions_that_cause_each_other_end_the_search() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert of_exception(first) is Cause.RAISED


def test_a_failure_keeps_words_and_lets_the_arrays_go() -> None:
    class Array:
        pass

    def train() -> None:
        array = Array()
        held.append(weakref.ref(array))
        raise MemoryError

    held: list[weakref.ref[Array]] = []
    try:
        train()
    except MemoryError as error:
        failure = Failure.of(error)
    gc.collect()
    assert held[0]() is None
    assert failure == Failure(cause=Cause.OUT_OF_MEMORY, reason="MemoryError")
    assert len(Failure.of(ValueError("x" * 10_000)).reason) == 2000


@pytest.mark.parametrize(
    ("code", "cause", "how"),
    [
        (-signal.SIGKILL, Cause.KILLED, "killed by SIGKILL"),
        (-signal.SIGSEGV, Cause.CRASHED, "killed by SIGSEGV"),
        (-signal.SIGTERM, Cause.CRASHED, "killed by SIGTERM"),
        (-40, Cause.CRASHED, "killed by signal 40"),
        (3, Cause.CRASHED, "it ended with exit code 3"),
        (0, Cause.CRASHED, "it ended with exit code 0"),
        (LEDGER_AWAY, None, "it could not reach the ledger"),
        (None, Cause.LOST, "nobody saw how it ended"),
    ],
)
def test_what_a_worker_of_ours_died_of_follows_from_its_exit_code(code: int | None, cause: Cause | None, how: str) -> None:
    death = of_death(code, is_own=True, was_asked=False, ran_out_of_memory=False)
    assert (death.cause, death.how) == (cause, how)


def test_a_worker_of_another_launcher_died_with_it_and_one_that_was_asked_to_end_is_nobodys_fault() -> None:
    for code in (None, 1, -signal.SIGKILL):
        assert of_death(code, is_own=False, was_asked=False, ran_out_of_memory=False).cause is Cause.ORPHANED
        assert of_death(code, is_own=True, was_asked=True, ran_out_of_memory=False).cause is None


def test_a_sigkill_while_the_kernel_ran_out_of_memory_is_told_and_a_crash_is_not_taken_for_one() -> None:
    killed = of_death(-signal.SIGKILL, is_own=True, was_asked=False, ran_out_of_memory=True)
    assert killed.cause is Cause.OUT_OF_MEMORY
    assert "the kernel killed processes for want of memory meanwhile" in killed.how
    assert of_death(-signal.SIGSEGV, is_own=True, was_asked=False, ran_out_of_memory=True).cause is Cause.CRASHED


def test_each_kill_of_the_kernel_explains_one_death() -> None:
    counter = [7]
    kills = OomKills(lambda: counter[0])
    first, second = kills.mark(), kills.mark()
    assert not kills.explain(first)
    counter[0] = 8
    third = kills.mark()
    assert kills.explain(first)
    assert not kills.explain(second)
    assert not kills.explain(third)
    counter[0] = 9
    assert kills.explain(third)


VMSTAT = "nr_free_pages 12\noom_kill 5\n"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 0),
        ({"proc/vmstat": VMSTAT}, 5),
        ({"proc/vmstat": "nr_free_pages 12\n"}, 0),
        ({"proc/vmstat": VMSTAT, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ({"proc/vmstat": VMSTAT, "proc/self/cgroup": "0::/../b\n", "sys/fs/cgroup/memory.events": "oom_kill 1\n"}, 1),
        (
            {"proc/self/cgroup": "4:memory:/a\n0::/\n", "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\noom_kill 4\n"},
            4,
        ),
        ({"proc/vmstat": VMSTAT, "proc/self/cgroup": "0::/\n"}, 5),
    ],
)
def test_kills_for_want_of_memory_are_counted_in_the_group_or_on_the_machine(
    tmp_path: pathlib.Path, files: dict[str, str], count: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == count


def test_this_machine_can_be_asked() -> None:
    assert oom_kills() >= 0
