"""Studies with rules that stop trials: the same decisions whatever the workers and kills, and a rule that is taken away."""

from __future__ import annotations

import pathlib
import sqlite3

import pytest

from orchestrator.ledger import Ledger
from orchestrator.records import Phase, TrialState

TUNED = '''"""Which family of curves goes lowest?"""

from orchestrator import *
from trainers.curves import CurvesConfig

STUDY = Study(
    name="families",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(noise=0.02, diverge_above=0.05{base}),
    arms=[Arm("plain", baseline=True), Arm("wide", {{"family": "wide", "size": 200}})],
    nuisance={{"learning_rate": LogUniform(1e-3, 1e-1)}},
    protocol=Tune(trials=9, select="val/nll", then=Replicates(2){stopping}),
)
'''
HALVED = ", stopping=SuccessiveHalving(first=20)"

DRAWN = '''"""Which curve goes lowest for its cost?"""

from orchestrator import *
from trainers.curves import CurvesConfig

RULE = ParetoHalving(first=20, factor=2)
SPACE = {"learning_rate": LogUniform(1e-3, 1e-1), "size": Values(50, 100, 200)}
STUDY = Study(
    name="families",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(noise=0.02),
    arms=[Arm("named", {"floor": 5.0}, baseline=True), Sampled(SPACE, 8, stopping=RULE)],
    protocol=Replicates(2),
)
'''


def write(launches, *, stopping: str = HALVED, slow: bool = False) -> None:
    launches.study.write_text(TUNED.format(base=", sleep_s=0.03" if slow else "", stopping=stopping))


def decisions(launches) -> dict[tuple[object, ...], object]:
    """Every decision by its place, told once."""
    with Ledger.open(launches.out / "ledger.db", create=False) as ledger:
        told = [(event.trial, event.payload) for event in ledger.events("families") if event.kind == "decision"]
    found = {(trial, row["arm"], row["rung"]): dict(row) for trial, row in told}
    assert len(found) == len(told)
    return found


def result(launches) -> tuple[object, ...]:
    """All that may not depend on workers and kills: decisions, states, reasons, curves and final metrics, to the bit."""
    with Ledger.open(launches.out / "ledger.db", create=False) as ledger:
        trials = {
            (row.arm, row.phase, row.index): (row.key, row.state, row.reason, dict(row.metrics), row.rungs)
            for row in ledger.trial_records("families")
        }
    return decisions(launches), trials


def summary(launches) -> dict[str, object]:
    ended = launches.run("report", "--json")
    assert ended.code == 0, ended.err
    return dict(ended.json)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    """The halved study, run in one go by two workers."""
    from tests.end_to_end.conftest import Launches

    launches = Launches(tmp_path_factory.mktemp("halved"))
    write(launches)
    ended = launches.run()
    assert ended.code == 0, ended.err
    return launches


def test_a_rung_keeps_a_third_and_the_report_says_what_was_stopped_and_why(undisturbed) -> None:
    found, trials = result(undisturbed)
    states = [state for (_, phase, _), (_, state, *_) in trials.items() if phase is Phase.TUNE]
    assert [states.count(state) for state in (TrialState.COMPLETE, TrialState.STOPPED, TrialState.DIVERGED)] == [2, 10, 6]
    ends = {rungs[-1].step for (_, phase, _), (*_, rungs) in trials.items() if phase is Phase.TUNE}
    assert ends == {20, 60, 100}
    assert sum(row["decision"] == "stop" for row in found.values()) == 16  # those that diverged are last, and were over
    said = summary(undisturbed)["stopping"]
    assert said["rule"] == "tuning trials of each arm, successive halving by val/nll: 1 of 3 goes on at step 20, 60, …"
    assert said["tuning_steps"] == {"plain": 340, "wide": 340}
    assert len(said["stopped"]) == 10
    assert summary(undisturbed)["missing"] == []
    for name in ("report.md", "index.html"):
        text = (undisturbed.out / "families" / "report" / name).read_text()
        assert "What was stopped at a rung" in text
        assert "The tuning of each arm spent 340 steps" in text
        assert said["stopped"][0]["reason"] in text


def test_a_halved_study_run_again_has_nothing_to_do(undisturbed) -> None:
    before = result(undisturbed)
    ended = undisturbed.run()
    assert (ended.code, "nothing to do" in ended.err) == (0, True), ended.err
    assert result(undisturbed) == before


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_number_of_workers_changes_no_decision(launches, undisturbed, workers: str) -> None:
    write(launches)
    assert launches.run("--workers", workers).code == 0
    assert result(launches) == result(undisturbed)


@pytest.mark.parametrize("at", [4, 14])
def test_killing_launcher_and_workers_changes_no_decision(launches, at: int, tmp_path: pathlib.Path) -> None:
    """Killed before the first rung is decided, and after; then run to the end."""
    from tests.end_to_end.conftest import Launches

    (tmp_path / "whole").mkdir()
    whole = Launches(tmp_path / "whole")
    write(whole, slow=True)
    assert whole.run().code == 0
    write(launches, slow=True)
    process = launches.start()
    launches.until(lambda: reports(launches) >= at)
    launches.kill(process)
    for worker in launches.workers():
        worker.kill()
    launches.until(lambda: not launches.workers())
    ended = launches.run()
    assert ended.code == 0, ended.err
    assert result(launches) == result(whole)


def reports(launches) -> int:
    """Rungs reported so far."""
    path = launches.out / "ledger.db"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM (SELECT DISTINCT trial, step FROM measurements)").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the ledger is being made


def test_a_study_whose_rule_is_taken_away_finishes_what_was_stopped_from_its_checkpoint(launches) -> None:
    write(launches)
    assert launches.run().code == 0
    _, halved = result(launches)
    write(launches, stopping="")
    ended = launches.run()
    assert ended.code == 0, ended.err
    _, whole = result(launches)
    for place, (key, state, _, metrics, rungs) in halved.items():
        now = whole[place]
        if state is TrialState.STOPPED:
            assert (now[0], now[1]) == (key, TrialState.COMPLETE)
            assert now[4][: len(rungs)] == rungs
            assert [rung.step for rung in now[4]] == [20, 40, 60, 80, 100]
        elif place[1] is Phase.TUNE:
            assert (now[1], now[3], now[4]) == (state, metrics, rungs)
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        attempts = dict(connection.execute("SELECT trial, count(*) FROM attempts GROUP BY trial"))
    stopped = [key for key, state, *_ in halved.values() if state is TrialState.STOPPED]
    assert {attempts[key] for key in stopped} <= {2, 3}  # one for each rung, and one to the end


def test_drawn_arms_stop_with_all_their_replicates_and_named_ones_never(launches) -> None:
    launches.study.write_text(DRAWN)
    ended = launches.run()
    assert ended.code == 0, ended.err
    found, trials = result(launches)
    states: dict[str, set[TrialState]] = {}
    for (arm, _, _), (_, state, *_) in trials.items():
        states.setdefault(arm, set()).add(state)
    assert states.pop("named") == {TrialState.COMPLETE}
    assert sorted(states.values(), key=str) == [{TrialState.COMPLETE}] + [{TrialState.STOPPED}] * 7
    assert {(row["rung"], row["of"], row["kept"]) for row in found.values()} == {(20, 8, 4), (40, 4, 2), (80, 2, 1)}
    assert all(trial == "" for trial, _, _ in found)
    assert summary(launches)["missing"] == []
    assert len(summary(launches)["stopping"]["stopped"]) == 7
    text = (launches.out / "families" / "report" / "report.md").read_text()
    assert text.partition("## Effects")[0].count("\n| \\#") == 1, (
        "the table has the arm that is left; those that were stopped are listed apart"
    )
    assert "7 arms of 9 stopped before the end" in text
