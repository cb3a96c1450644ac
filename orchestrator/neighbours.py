"""Other launchers of the same study: each has workers of its own, and they share the queue."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import socket
from collections.abc import Generator, Sequence

from orchestrator.executors.process import is_running
from orchestrator.executors.store import UnitStore
from orchestrator.ledger import Ledger, WorkerRow

HEARD_S = 30.0  # a worker of another machine says that it lives more often than this


@contextlib.contextmanager
def present(folder: pathlib.Path) -> Generator[bool]:
    """Says to others of this machine that a launcher is at work here; gives whether it is the only one.

    The kernel takes the lock away with its process, so a launcher that was killed is not taken for one at work.

    Args:
        folder: Of the study, under `--out`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "launcher.lock", "ab") as lock:
        alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # a file system without locks: the ledger says who works
            pass
        yield alone


def strangers(ledger: Ledger, study: str, workers: pathlib.Path) -> Sequence[WorkerRow]:
    """Workers of the study that other launchers have running.

    Args:
        ledger: Of the study.
        study: Its name.
        workers: Folder of the records of this launcher's workers.
    """
    here = socket.gethostname()
    own = {record.spec.identity for record in UnitStore(workers).read() if not record.is_held}

    def is_strange(worker: WorkerRow) -> bool:
        if worker.host != here:
            return worker.seen_s < HEARD_S
        return worker.identity not in own and is_running(worker.pid, worker.started)

    return [worker for worker in ledger.live_workers(study) if is_strange(worker)]


def welcome(strange: Sequence[WorkerRow], *, alone: bool) -> str:
    """What is said to a launcher that is not the first; empty to one that is.

    >>> welcome((), alone=False)
    'another launcher is at work on this study; this one joins it with its own workers'
    """
    if alone and not strange:
        return ""
    hosts = ", ".join(sorted({worker.host for worker in strange}))
    theirs = f", with {len(strange)} worker{'' if len(strange) == 1 else 's'} on {hosts}" if strange else ""
    return f"another launcher is at work on this study{theirs}; this one joins it with its own workers"
