"""The programs that the executors' tests run: a small real worker, and a launcher that can be killed.

python executor_programs.py worker KIND FOLDER NAME
python executor_programs.py launcher EXECUTOR FOLDER KIND...
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from orchestrator.executors.base import Executor, Handle, WorkerSpec
from orchestrator.executors.fleet import Fleet
from orchestrator.executors.local import LocalExecutor
from orchestrator.executors.nursery import NurseryExecutor
from orchestrator.executors.watch import supervised

EXECUTORS: dict[str, type[Executor]] = {"forked": NurseryExecutor, "local": LocalExecutor}
LIFETIME_S = 90.0  # a test that fails leaves nothing behind for longer


def spec(folder: pathlib.Path, kind: str, name: str = "a1") -> WorkerSpec:
    """A worker of one of the kinds below; it writes its pids to `NAME.pids` in the folder when it is ready."""
    return WorkerSpec(
        identity=f"tiling/{name}",
        argv=(sys.executable, str(pathlib.Path(__file__).resolve()), "worker", kind, str(folder), name),
        log=folder / "logs" / f"{name}.log",
        folder=folder / "units",
        env=(("PYTHONPATH", str(pathlib.Path(__file__).resolve().parents[2])),),
    )


def worker(kind: str, folder: pathlib.Path, name: str) -> int:
    """Runs until it is stopped, or the file `go` appears.

    good: watches its launcher, checkpoints when asked to stop.
    deaf: watches its launcher, and ends for nobody.
    family: as deaf, and has a child that ignores SIGTERM.
    leaver: as good, and has such a child that it does not wait for.
    loner: watches nobody.
    heir: watches its launcher, and ends with code 3 some time after it lost it, when `go` appears.
    """
    asked = threading.Event()
    family = [start_child()] if kind in ("family", "leaver") else []
    if kind in ("good", "leaver"):
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
    elif kind in ("deaf", "family"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def until_told() -> None:
        write(folder / f"{name}.pids", " ".join(str(pid) for pid in (os.getpid(), *family)))
        end = time.monotonic() + LIFETIME_S
        while time.monotonic() < end and not asked.wait(0.02) and not (folder / "go").exists():
            pass

    if kind == "loner":
        until_told()
        return 0
    on_death = {"good": asked.set, "leaver": asked.set}.get(kind, lambda: write(folder / f"{name}.orphaned", ""))
    with supervised(on_death, grace_s=LIFETIME_S) if kind == "heir" else supervised(on_death):
        until_told()
        if asked.is_set():
            write(folder / f"{name}.checkpoint", "")
        if kind == "heir":
            sys.exit(3)
    return 0


def start_child() -> int:
    code = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({LIFETIME_S})"
    return subprocess.Popen([sys.executable, "-c", code]).pid


def launcher(executor: Executor, folder: pathlib.Path, kinds: list[str]) -> None:
    """Starts a worker of each kind, says so, and waits for them."""
    with Fleet(study="tiling", folder=folder / "units", executor=executor) as fleet:
        for number, kind in enumerate(kinds, start=1):
            fleet.start(spec(folder, kind, f"a{number}"))
        print("started", flush=True)
        fleet.wait(LIFETIME_S)


class DiesAfterLaunch:
    """The launcher's worst moment: the worker is started, and nothing says so yet."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def launch(self, spec: WorkerSpec) -> Handle:
        self._executor.launch(spec)
        while not list(spec.folder.parent.glob("*.pids")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    def attach(self, text: str) -> Handle:
        return self._executor.attach(text)

    def find(self, spec: WorkerSpec) -> Handle | None:
        return self._executor.find(spec)


def write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def main(role: str, kind: str, folder: str, *rest: str) -> int:
    if role == "worker":
        return worker(kind, pathlib.Path(folder), rest[0])
    _, dies, name = kind.rpartition("dies-after-launch:")
    with contextlib.ExitStack() as stack:
        executor = EXECUTORS[name]()
        if isinstance(executor, NurseryExecutor):
            stack.enter_context(executor)
        launcher(DiesAfterLaunch(executor) if dies else executor, pathlib.Path(folder), list(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
