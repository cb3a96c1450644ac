"""Two launchers of one study at once: they share its trials, and neither is in the other's way."""

from __future__ import annotations

import collections
import os
import signal
import subprocess

import pytest

from orchestrator.trackers.wandb_file import read_run

TOTAL = 18
JOINS = "another launcher is at work on this study"


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a launcher, once it has ended."""
    _, err = process.communicate(timeout=240)
    return process.returncode, err


def none_left(pair) -> None:
    for launches in pair:
        launches.until(lambda launches=launches: not launches.workers(), timeout_s=6)


def test_two_that_start_together_share_the_work(pair, undisturbed) -> None:
    processes = [launches.start("--workers", "2") for launches in pair]
    codes, errors = zip(*map(ended, processes), strict=True)
    assert codes == (0, 0), errors
    assert set(pair[0].completions().values()) == {1}
    for launches in pair:
        assert launches.result() == undisturbed
    none_left(pair)


def test_the_second_says_that_it_joins_the_first_and_each_has_workers_of_its_own(pair) -> None:
    pair[0].write(base="noise=0.02, sleep_s=0.1")
    first = pair[0].start("--workers", "1")
    pair[0].until(lambda: len(at_work(pair[0])) == 1)
    second = pair[1].start("--workers", "1")
    pair[0].until(lambda: len(at_work(pair[0])) == 2)
    assert len(set(at_work(pair[0]))) == 2
    (code_1, said_1), (code_2, said_2) = ended(first), ended(second)
    assert (code_1, code_2) == (0, 0), said_1 + said_2
    assert f"{JOINS}, with 1 worker on " in said_2
    assert JOINS not in said_1
    assert set(pair[0].completions().values()) == {1}


def at_work(launches) -> list[tuple[str, int]]:
    """Identity and process of each worker that the ledger knows to be at work."""
    if not launches.finished():
        return []
    with launches.ledger() as ledger:
        return [(worker.host, worker.pid) for worker in ledger.live_workers("families")]


def test_killing_one_leaves_the_rest_to_the_other(pair, undisturbed) -> None:
    killed, other = pair[0].start("--workers", "2"), pair[1].start("--workers", "2")
    pair[0].until(lambda: pair[0].finished() >= 3)
    pair[0].kill(killed)
    code, err = ended(other)
    assert code == 0, err
    assert set(pair[0].completions().values()) == {1}
    assert pair[1].result() == undisturbed
    none_left(pair)


def test_ctrl_c_of_one_stops_its_own_workers_alone(pair, undisturbed) -> None:
    stopped, other = pair[0].start("--workers", "1"), pair[1].start("--workers", "1")
    pair[0].until(lambda: pair[0].finished() >= 2 and len(at_work(pair[0])) == 2)
    os.kill(stopped.pid, signal.SIGINT)
    code, err = ended(stopped)
    assert code == 130, err
    assert len(at_work(pair[0])) == 1 or other.poll() is not None
    code, err = ended(other)
    assert code == 0, err
    assert "lost its worker" not in err, "a worker that was asked to end hands its trials back"
    assert set(pair[0].completions().values()) == {1}
    assert pair[1].result() == undisturbed
    none_left(pair)


def test_a_launcher_after_one_that_was_killed_is_alone(slow) -> None:
    process = slow.start()
    slow.until(lambda: slow.finished() >= 1)
    slow.kill(process)
    last = slow.run()
    assert (last.code, JOINS in last.err) == (0, False), last.err


def test_of_two_publishers_one_copies_each_trial(launches) -> None:
    """Both would write into one folder. Which of the two it is may change, when the other's launcher has ended."""
    launches.write(arms=('Arm("plain", baseline=True)', 'Arm("wide", {"family": "wide"})'), trials=2, replicates=2)
    processes = [launches.start("--workers", "1", "--wandb", "offline") for _ in range(2)]
    codes, errors = zip(*map(ended, processes), strict=True)
    assert codes == (0, 0), errors
    files = (launches.out / "families" / "wandb").glob("offline-run-*/*.wandb")
    copies = collections.Counter(read_run(path).run["id"] for path in files)
    assert copies == launches.completions()
    assert len(copies) == 8
    with launches.ledger() as ledger:
        assert not ledger.unpublished("families", "wandb-offline")
    none_left([launches])


@pytest.mark.postgres
@pytest.mark.slow
def test_sixteen_workers_share_one_study_on_a_server(launches, database: str) -> None:
    launches.storage = database
    launches.write(base="noise=0.02, sleep_s=0.02", trials=8, replicates=24)
    ended = launches.run("--workers", "16", timeout_s=400)
    assert ended.code == 0, ended.err
    done = launches.completions()
    assert (len(done), set(done.values())) == (96, {1})
    with launches.ledger() as ledger:
        rows = ledger.run_records("families")
    assert len(rows[-1].crew) >= 12, "workers that were given something"
    assert not launches.workers()
