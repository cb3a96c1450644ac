"""A study that is edited while it runs, and launched again: the new launcher takes over, and nothing is lost or done twice."""

from __future__ import annotations

import sqlite3

from tests.end_to_end.conftest import ARMS, Launches

PLAIN, WIDE, DEEP = ARMS
OTHER = 'Arm("other", {"family": "wide", "size": 150})'
# The second arm's trials take long, so that they run when the study is edited; its first rungs come soon enough to be kept.
LONG = 'Arm("long", {"family": "deep", "sleep_s": 0.4, "steps": 300})'
BASE = "noise=0.02, sleep_s=0.03"


def rows(launches: Launches, query: str) -> list[tuple]:
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return connection.execute(query).fetchall()


def trials(launches: Launches, arm: str) -> list[tuple]:
    """Key, state, step and attempts of an arm's trials, orphans too."""
    query = "select key, state, step, (select count(*) from attempts where trial = key) from trials join memberships on trial = key"
    return rows(launches, f"{query} where arm = '{arm}' order by position")


def test_an_edit_of_a_running_study_adds_and_removes_arms_and_repeats_nothing(launches: Launches) -> None:
    launches.write(base=BASE, arms=(PLAIN, LONG), trials=2, replicates=2)
    first = launches.start("--workers", "2")
    launches.until(lambda: launches.finished() >= 3 and any(step for _, _, step, _ in trials(launches, "long")))
    finished = {key: attempts for key, state, _, attempts in trials(launches, "plain") if state == "complete"}
    assert finished

    launches.write(base=BASE, arms=(PLAIN, OTHER), trials=2, replicates=2)
    second = launches.start("--workers", "2", "--yes")
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "the study file was edited and launched again; this launcher hands its trials over" in err
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert launches.status() == {"complete": 8}
    attempts = {key: attempts for key, _, _, attempts in trials(launches, "plain")}
    assert {key: attempts[key] for key in finished} == finished, "nothing finished is run again"
    kept = {key: step for key, state, step, _ in trials(launches, "long") if state in ("paused", "preempted") and step}
    assert kept, trials(launches, "long")
    assert not launches.workers()

    launches.write(base=BASE, arms=(PLAIN, OTHER, LONG), trials=2, replicates=2)
    assert launches.run("--workers", "2").code == 0
    assert launches.status() == {"complete": 12}
    for key, step in kept.items():
        again = f"select min(step) from measurements where trial = '{key}' and step > {step}"
        assert rows(launches, again) == [(step + 20,)], "it went on from its checkpoint"
        assert f"{key}: leased, attempt" in "".join(path.read_text() for path in (launches.out / "families" / "logs").glob("*.log"))
