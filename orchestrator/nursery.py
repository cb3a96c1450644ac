"""The process that workers are forked from: `python -m orchestrator.nursery`, started by a launcher for itself.

It imports what every worker needs, then what the trainer needs, and never touches a device: a child of a process that
holds one cannot use it. `orchestrator/executors/forking.py` says how it forks.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import runpy
import socket
import sys
from collections.abc import Sequence

from orchestrator import worker
from orchestrator.executors.forking import serve
from orchestrator.load import load_trainer


def preload(trainer: str) -> None:
    """Imports what a trainer needs."""
    load_trainer(trainer).preload()


def live(arguments: Sequence[str]) -> int:
    """What `python ARGUMENTS...` does, in this process: a module, some code, or a script."""
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = dict.fromkeys([*paths, *sys.path])
    kind, rest = arguments[0], arguments[1:]
    if list(arguments[:2]) == ["-m", "orchestrator.worker"]:
        sys.argv = list(rest)
        return worker.main(arguments[2:])
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(pathlib.Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.nursery", description=__doc__)
    parser.add_argument("label", nargs="?", help="tells the nurseries of several runs apart, for whoever looks at processes")
    parser.add_argument("--line", type=int, required=True, help="file descriptor of the socket to the launcher")
    line = socket.socket(fileno=parser.parse_args(arguments).line)
    line.set_inheritable(False)
    importlib.import_module("psutil")  # which a worker needs when its launcher dies, and then it has little time
    serve(line, preload, live)
    os._exit(0)  # the launcher is gone: nothing to tidy up, and nobody to tell


if __name__ == "__main__":
    raise SystemExit(main())
