"""A study that adds replicates to what is not settled: run, killed, edited, failed, as files and processes."""

from __future__ import annotations

import pytest

from orchestrator.analysis.adaptive import rounds_of
from orchestrator.analysis.rounds import Rounds, Verdict
from orchestrator.records import Phase, TrialState
from orchestrator.spec import study_record

STUDY = '''"""Which arm is worth it?"""

from orchestrator import *
from trainers.curves import CurvesConfig

STUDY = Study(
    name="families",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(noise=0.02{base}),
    arms=[
        Arm("plain", baseline=True),
        Arm("clear", {{"steps": 101, "floor": 0.8}}),
        Arm("null", {{"steps": 102{null}}}),
        Arm("small", {{"steps": 103, "floor": 0.36}}),
        Ensemble("null ×2", of="null", members=2),
    ],
    {protocol}
)
'''  # each length draws noise of its own
TUNED = 'protocol=Tune(trials=2, select="val/nll", then={rule}), nuisance={{"learning_rate": Values(1e-2, 1e-1)}},'


def write(launches, *, base: str = "", null: str = "", most: int = 10, tuned: bool = False) -> None:
    rule = f"Adaptive(first=4, step=2, most={most})"
    protocol = TUNED.format(rule=rule) if tuned else f"protocol={rule},"
    launches.study.write_text(STUDY.format(base=base, null=null, protocol=protocol))


def counts(launches) -> dict[str, int]:
    """Finished replicates of each arm."""
    with launches.ledger() as ledger:
        rows = [row for row in ledger.trial_records("families") if row.phase is Phase.REPLICATE]
    assert {row.state for row in rows} <= {TrialState.COMPLETE, TrialState.FAILED}
    return {arm: sum(row.arm == arm for row in rows) for arm in ("plain", "clear", "null", "small")}


def rounds(launches) -> Rounds:
    """Where the comparisons stand, by the ledger alone."""
    with launches.ledger() as ledger:
        found = rounds_of(study_record(ledger.study_spec("families"), ledger.trial_records("families")))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    """The study tuned first and slow enough to be killed, run in one go."""
    from tests.end_to_end.conftest import Launches

    launches = Launches(tmp_path_factory.mktemp("adaptive"))
    write(launches, base=", sleep_s=0.02", tuned=True)
    ended = launches.run()
    assert ended.code == 0, ended.err
    return launches


def test_what_is_clear_gets_the_first_replicates_and_what_changes_nothing_the_most(undisturbed) -> None:
    found = counts(undisturbed)
    assert (found["clear"], found["null"], found["plain"]) == (4, 10, 10)
    assert 4 < found["small"] <= 10
    assert undisturbed.run("status", "--json").json["adaptive"] == rounds(undisturbed).json()
    assert undisturbed.run("plan", "--json").json["adaptive"] == rounds(undisturbed).json()
    assert rounds(undisturbed).arms(Verdict.DIFFERENT)[0] == "clear"
    assert rounds(undisturbed).arms(Verdict.MOST) == ["null"]
    ended = undisturbed.run()
    assert ended.code == 0
    assert "nothing to do" in ended.err
    assert "replicates: 2 of 3 comparisons settled, 1 ended without" in ended.err


def test_the_report_says_how_many_replicates_each_arm_got_and_gives_intervals_that_hold_after_stopping(undisturbed) -> None:
    ended = undisturbed.run("report", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["missing"] == []
    assert [(row["arm"], row["n"]) for row in ended.json["arms"]][:3] == [("plain", 10), ("clear", 4), ("null", 10)]
    rows = {(row["arm"], row["metric"]): row for row in ended.json["effects"]}
    assert all(row["repeated"] for row in rows.values())
    assert rows["clear", "test/nll"]["resolved"]
    assert rows["clear", "test/nll"]["low"] > 0.2
    assert not rows["null", "test/nll"]["resolved"]
    assert rows["null ×2", "test/nll"]["n"] == 5
    text = (undisturbed.out / "families" / "report" / "report.md").read_text()
    assert "## How many replicates" in text
    assert "Every arm got 4 replicates" in text
    assert "repeated 95" in text
    assert "| null | 10 | 4 |" in text
    assert "How many replicates" in (undisturbed.out / "families" / "report" / "index.html").read_text()


def test_killing_launcher_and_workers_changes_no_trial_and_no_decision(launches, undisturbed) -> None:
    """After the first look, and before the last."""
    write(launches, base=", sleep_s=0.02", tuned=True)
    process = launches.start()
    launches.until(lambda: launches.finished() >= 26)
    launches.kill(process)
    for worker in launches.workers():
        worker.kill()
    launches.until(lambda: not launches.workers())
    ended = launches.run()
    assert ended.code == 0, ended.err
    assert launches.result() == undisturbed.result()
    assert rounds(launches) == rounds(undisturbed)
    assert set(launches.completions().values()) == {1}


def test_most_raised_goes_on_and_repeats_no_trial(launches) -> None:
    write(launches, most=6)
    assert launches.run().code == 0
    before = counts(launches)
    assert before["null"] == 6
    assert "null" in rounds(launches).arms(Verdict.MOST)
    write(launches, most=8)
    ended = launches.run()
    assert ended.code == 0
    assert "up to" in ended.err, "the plan at its start says what may follow"
    assert counts(launches)["null"] == 8
    assert counts(launches)["clear"] == before["clear"]
    assert set(launches.completions().values()) == {1}


def test_an_arm_whose_trials_fail_holds_nobody_up_and_is_said_to_be_missing(launches) -> None:
    write(launches, null=', "raise_at": 20', most=6)
    ended = launches.run()
    assert ended.code == 1, ended.err
    assert counts(launches) == {"plain": 6, "clear": 4, "null": 6, "small": counts(launches)["small"]}
    assert "null" in rounds(launches).arms(Verdict.MOST)
    assert "clear" in rounds(launches).arms(Verdict.DIFFERENT)
