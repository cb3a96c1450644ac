"""Workers that are forked: what they start from, and what becomes of them when the process they came from is lost."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
from collections.abc import Generator

import pytest

from orchestrator.executors.base import Handle, UnitStatus, WorkerSpec
from orchestrator.executors.nursery import OFF, NurseryExecutor
from orchestrator.executors.process import birth
from tests.waiting import eventually

TRAINERS = """
import logging, os, threading

class Quiet:
    def preload(self):
        print("preloading in", os.getpid(), flush=True)
        logging.basicConfig(level=logging.DEBUG)
        import wave  # nothing else imports it

class Raising:
    def preload(self):
        raise RuntimeError("the weights are not there")

class Threaded:
    def preload(self):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def executor(tmp_path: pathlib.Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Generator[NurseryExecutor]:
    (tmp_path / "some_trainers.py").write_text(TRAINERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(OFF, raising=False)
    with NurseryExecutor() as executor:
        executor.say = said.append
        yield executor


def python(folder: pathlib.Path, code: str, *, name: str = "a1", env: tuple[tuple[str, str], ...] = ()) -> WorkerSpec:
    return WorkerSpec(identity=f"s/{name}", argv=(sys.executable, "-c", code), log=folder / f"{name}.log", folder=folder / "units", env=env)


def output(executor: NurseryExecutor, spec: WorkerSpec) -> str:
    """What a worker printed, once it has ended well."""
    handle = executor.launch(spec)
    eventually(lambda: not handle.status().is_active)
    assert handle.exit_code == 0, spec.log.read_text()
    return spec.log.read_text()


def parent(handle: Handle) -> int:
    stat = pathlib.Path(f"/proc/{handle.pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[1])


UNTIL_TOLD = """
import signal, sys, threading
from orchestrator.executors.watch import supervised
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("up", flush=True)
with supervised(asked.set):
    while not asked.wait(0.05):
        pass
print("checkpoint", flush=True)
"""


def test_a_forked_worker_finds_its_imports_made_and_everything_else_fresh(executor: NurseryExecutor, tmp_path: pathlib.Path) -> None:
    executor.preload("some_trainers:Quiet", log=tmp_path / "nursery.log")
    code = """
import json, logging, os, signal, sys, threading
descriptors = [path for number in os.listdir("/proc/self/fd") if os.path.lexists(path := f"/proc/self/fd/{number}")]
handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT)]
print(json.dumps({
    "imported": "wave" in sys.modules, "threads": threading.active_count(), "tasks": len(os.listdir("/proc/self/task")),
    "root": logging.root.handlers, "argv": sys.argv, "session": os.getsid(0) == os.getpid(),
    "signals": handlers == [signal.SIG_DFL, signal.SIG_DFL, signal.default_int_handler],
    "files": sorted(os.readlink(f"/proc/self/fd/{n}").rpartition("/")[2] for n in range(3)),
    "sockets": [link for link in map(os.readlink, descriptors) if "socket" in link or "pipe" in link],
    "mine": os.environ.get("MINE"), "nursery's": os.environ.get("OPENBLAS_NUM_THREADS"),
}))
"""
    found = json.loads(output(executor, python(tmp_path, code, env=(("MINE", "yes"),))))
    assert found == {
        "imported": True,
        "threads": 1,
        "tasks": 1,
        "root": [],
        "argv": ["-c"],
        "session": True,
        "signals": True,
        "files": ["a1.log", "a1.log", "null"],
        "sockets": [],
        "mine": "yes",
        "nursery's": os.environ.get("OPENBLAS_NUM_THREADS"),
    }
    assert executor.nursery is not None
    assert (tmp_path / "nursery.log").read_text() == f"preloading in {executor.nursery.pid}\n"


def test_a_forked_worker_ends_as_an_interpreter_does(executor: NurseryExecutor, tmp_path: pathlib.Path) -> None:
    code = """
import atexit, threading
atexit.register(print, "exit function")
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
print("main", end=" ")
"""
    assert output(executor, python(tmp_path, code)) == "main thread\nexit function\n"


@pytest.mark.parametrize(
    ("code", "expected", "text"),
    [("1 / 0", 1, "ZeroDivisionError"), ("import sys; sys.exit('why')", 1, "why"), ("import os; os.kill(os.getpid(), 11)", -11, "")],
)
def test_how_a_forked_worker_fails_is_known(executor: NurseryExecutor, tmp_path: pathlib.Path, code: str, expected: int, text: str) -> None:
    handle = executor.launch(python(tmp_path, code))
    eventually(lambda: not handle.status().is_active)
    assert (handle.status(), handle.exit_code) == (UnitStatus.FAILED, expected)
    assert text in (tmp_path / "a1.log").read_text()
    assert NurseryExecutor().attach(handle.to_json()).exit_code == expected


def test_a_preload_that_raises_is_in_the_log_and_costs_no_worker(
    executor: NurseryExecutor, tmp_path: pathlib.Path, said: list[str]
) -> None:
    executor.preload("some_trainers:Raising", log=tmp_path / "nursery.log")
    assert output(executor, python(tmp_path, "print(1)")) == "1\n"
    assert "RuntimeError: the weights are not there" in (tmp_path / "nursery.log").read_text()
    assert not said


def test_nothing_is_forked_from_a_process_with_threads(executor: NurseryExecutor, tmp_path: pathlib.Path, said: list[str]) -> None:
    executor.preload("some_trainers:Threaded", log=tmp_path / "nursery.log")
    handle = executor.launch(python(tmp_path, UNTIL_TOLD))
    assert parent(handle) == os.getpid()
    assert said == ["workers are not forked, and start more slowly: some_trainers:Threaded starts 1 threads as it is imported"]
    assert executor.nursery is None
    eventually((tmp_path / "a1.log").read_text)
    handle.stop()
    eventually(lambda: handle.status() is UnitStatus.STOPPED)


def test_workers_outlive_a_nursery_that_is_killed_and_the_next_ones_do_without(
    executor: NurseryExecutor, tmp_path: pathlib.Path, said: list[str]
) -> None:
    first = executor.launch(python(tmp_path, UNTIL_TOLD))
    assert executor.nursery is not None
    assert parent(first) == executor.nursery.pid
    os.kill(executor.nursery.pid, signal.SIGKILL)
    second = executor.launch(python(tmp_path, UNTIL_TOLD, name="a2"))
    assert parent(second) == os.getpid()
    assert said == ["workers are not forked, and start more slowly: the nursery has ended"]
    assert [first.status(), second.status()] == [UnitStatus.RUNNING] * 2
    for handle, name in ((first, "a1"), (second, "a2")):
        eventually((tmp_path / f"{name}.log").read_text)
        handle.stop()
        eventually(lambda handle=handle: not handle.status().is_active)
        assert (handle.status(), handle.exit_code) == (UnitStatus.STOPPED, 0)  # by the record that the worker leaves
        assert (tmp_path / f"{name}.log").read_text() == "up\ncheckpoint\n"


def test_a_worker_that_is_killed_after_its_nursery_is_lost(executor: NurseryExecutor, tmp_path: pathlib.Path) -> None:
    handle = executor.launch(python(tmp_path, UNTIL_TOLD))
    assert executor.nursery is not None
    assert handle.pid is not None
    os.kill(executor.nursery.pid, signal.SIGKILL)
    os.kill(handle.pid, signal.SIGKILL)
    eventually(lambda: not handle.status().is_active)
    assert handle.status() in (UnitStatus.LOST, UnitStatus.FAILED)  # FAILED where the nursery could still say what it saw


def test_a_worker_that_was_forked_is_found_by_its_claim(executor: NurseryExecutor, tmp_path: pathlib.Path) -> None:
    spec = python(tmp_path, UNTIL_TOLD)
    handle = executor.launch(spec)
    found = NurseryExecutor().find(spec)
    assert found is not None
    assert found.pid == handle.pid
    handle.kill()
    eventually(lambda: not handle.status().is_active)
    assert NurseryExecutor().find(spec) is None


@pytest.mark.parametrize("claim", ["", "{}", "[1]", '{"pid": "x", "birth": 1}'])
def test_a_claim_that_cannot_be_read_is_none(executor: NurseryExecutor, tmp_path: pathlib.Path, claim: str) -> None:
    spec = python(tmp_path, "")
    output(executor, spec)
    [file] = (tmp_path / "units").glob("*.claim.json")
    file.write_text(claim)
    assert executor.find(spec) is None


def test_a_nursery_ends_with_its_executor_and_is_left_out_where_it_is_not_wanted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NurseryExecutor() as executor:
        executor.open("label")
        assert executor.nursery is not None
        pid = executor.nursery.pid
        assert birth(pid) is not None
    assert birth(pid) is None
    monkeypatch.setenv(OFF, "1")
    with NurseryExecutor() as executor:
        executor.open()
        handle = executor.launch(python(tmp_path, "print(1)"))
        assert executor.nursery is None
        eventually(lambda: not handle.status().is_active)


# With the modules of a real trainer.


def test_the_vision_trainer_is_preloaded_without_a_device_a_thread_or_what_workers_do_without(
    executor: NurseryExecutor, tmp_path: pathlib.Path, said: list[str]
) -> None:
    executor.preload("trainers.vision:Vision", log=tmp_path / "nursery.log")
    code = """
import json, os, sys
from jax._src import xla_bridge
before = set(sys.modules)
state = {"backend": xla_bridge.backends_are_initialized(), "tasks": len(os.listdir("/proc/self/task")), "loop": "trainers.loop" in before}
import jax
state["computes"] = float(jax.jit(lambda x: x @ x.T)(jax.numpy.ones((2, 2))).sum())
foreign = ("tensorflow", "sklearn", "pandas", "optuna", "wandb", "xmanager", "altair", "torch", "matplotlib")
state["foreign"] = [name for name in foreign if name in before]
print(json.dumps(state))
"""
    assert json.loads(output(executor, python(tmp_path, code))) == {
        "backend": False,
        "tasks": 1,
        "loop": True,
        "computes": 8.0,
        "foreign": [],
    }
    assert (tmp_path / "nursery.log").read_text() == ""
    assert not said
