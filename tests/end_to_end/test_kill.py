"""Killed at any moment, and run again: nothing missing, nothing twice, nothing left over, the same numbers to the bit."""

from __future__ import annotations

import os
import random
import signal
import sqlite3

import pytest

TOTAL = 18


def finished_twice(launches) -> list[str]:
    """Trials with more than one attempt that ended complete."""
    query = "select trial from attempts where outcome = 'complete' group by trial having count(*) > 1"
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return [key for (key,) in connection.execute(query)]


@pytest.mark.parametrize("moment", [0, 3, 7, 11, 15])
def test_killing_launcher_and_workers_changes_no_number(slow, undisturbed, moment: int) -> None:
    """The launcher dies when so many trials are finished; then, in some cases, each worker."""
    process = slow.start()
    slow.until(lambda: (slow.finished() >= moment and bool(slow.workers())) or process.poll() is not None)
    assert process.poll() is None
    slow.kill(process)
    if moment % 2:
        for worker in random.Random(moment).sample(slow.workers(), k=len(slow.workers())):
            worker.kill()
    slow.until(lambda: not slow.workers(), timeout_s=5.5)
    last = slow.run()
    assert last.code == 0, last.err
    assert slow.status() == {"complete": TOTAL}
    assert not finished_twice(slow)
    assert slow.result() == undisturbed


def test_killing_a_worker_under_a_living_launcher_changes_no_number(slow, undisturbed) -> None:
    process = slow.start()
    slow.until(lambda: slow.finished() >= 4)
    for worker in slow.workers():
        worker.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not finished_twice(slow)
    assert slow.result() == undisturbed


def test_ctrl_c_checkpoints_says_how_to_go_on_and_loses_nothing(slow, undisturbed) -> None:
    process = slow.start()
    slow.until(lambda: slow.finished() >= 2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "nothing is lost. To go on: python launch.py" in err
    assert not slow.workers()
    states = slow.status()
    assert set(states) <= {"complete", "planned", "preempted"}, states
    assert slow.run().code == 0
    assert slow.result() == undisturbed


def test_a_second_ctrl_c_leaves_at_once(slow) -> None:
    process = slow.start()
    slow.until(lambda: slow.finished() >= 1)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    slow.until(lambda: not slow.workers(), timeout_s=5)
    assert slow.run().code == 0


def test_stop_ends_a_run_that_somebody_else_started(slow) -> None:
    slow.write(base="noise=0.02, sleep_s=0.5")  # the other command needs a moment
    process = slow.start()
    slow.until(lambda: slow.finished() >= 1)
    assert slow.run("stop").code == 0
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not slow.workers()
    assert slow.run().code == 0
    assert slow.status() == {"complete": TOTAL}
