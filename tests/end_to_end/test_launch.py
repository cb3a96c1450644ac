"""What a user sees: one command, run again, edited, mistaken, failing."""

from __future__ import annotations

import csv
import re

import pytest

from orchestrator.estimate import OVERHEAD_S

TOTAL = 18  # three arms, three tuning trials and three replicates each

PLAIN, WIDE, DEEP = (
    'Arm("plain", baseline=True)',
    'Arm("wide", {"family": "wide", "size": 200})',
    'Arm("deep", {"family": "deep", "floor": 0.25})',
)


MOODY = """import dataclasses
import pathlib

from trainers.curves import *

class Moody(Curves):
    name = "moody:Moody"

    def probe(self, config):
        if config["family"] == "wide":
            raise RuntimeError("too wide")
        compiled = pathlib.Path(__file__).with_suffix(".compiled")
        compile_s = 0.5 if compiled.exists() else 60.0
        compiled.touch()
        return [dataclasses.replace(probe, compile_s=compile_s) for probe in super().probe(config)]
"""


def attempts(launches) -> int:
    """Leases of all trials that the ledger ever gave."""
    import sqlite3

    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return connection.execute("select count(*) from attempts").fetchone()[0]


def test_a_run_ends_with_a_table_and_the_same_command_again_does_nothing_new(launches) -> None:
    first = launches.run()
    assert first.code == 0, first.err
    assert "plain" in first.out
    assert re.search(r"report: .*index\.html", first.out)
    assert f"{TOTAL}/{TOTAL} trials" in first.err
    assert launches.status() == {"complete": TOTAL}
    report = launches.out / "families" / "report"
    before = {path: path.stat().st_mtime_ns for path in report.rglob("*") if path.is_file()}
    again = launches.run()
    assert again.code == 0, again.err
    assert again.out == first.out
    assert "nothing to do" in again.err
    assert {path: path.stat().st_mtime_ns for path in report.rglob("*") if path.is_file()} == before
    assert not launches.workers()
    derive_three(launches)


def derive_three(launches) -> None:
    """A derived arm added to a study that has run is there at once; files that are lost cost its row, and nothing else."""
    leased = attempts(launches)
    launches.write(arms=(PLAIN, 'Ensemble("plain ×3", of="plain", members=3)', WIDE, DEEP))
    ended = launches.run()
    assert ended.code == 0, ended.err
    assert "nothing to do" in ended.err
    report = launches.out / "families" / "report"
    rows = {row["arm"]: row for row in csv.DictReader((report / "table.csv").read_text().splitlines())}
    assert list(rows) == ["plain", "wide", "deep", "plain ×3"]
    assert float(rows["plain ×3"]["test/nll effect mean"]) < 0, "the mean of three probabilities has a lower nll than they have on average"
    for path in launches.out.glob("trials/*/*/predictions.json"):
        path.write_text("{}")
    shown = launches.run("report")
    assert shown.code == 0, shown.err
    assert re.search(r"plain ×3 +0 of 1 +–", shown.out)
    assert "it holds no check of its content; to get it back" in (report / "report.md").read_text()
    assert attempts(launches) == leased


def test_json_is_one_document_for_every_command(launches) -> None:
    plan = launches.run("plan", "--json").json
    assert plan["totals"]["new"] == plan["totals"]["pending"] == 9
    assert not launches.out.exists()
    result = launches.run("run", "--json").json
    assert [arm["arm"] for arm in result["arms"]] == ["plain", "wide", "deep"]
    assert launches.run("plan", "--json").json["totals"]["cached"] == TOTAL
    assert launches.run("report", "--json").json == result


def test_a_plan_that_measures_estimates_the_run_and_plans_nothing(launches) -> None:
    """The measurements are kept, the run says how good the estimate was, and the report says it again."""
    launches.write(base="noise=0.02, sleep_s=0.02")
    before = launches.run("plan", "--json").json
    assert before["estimate"] is None
    assert [program["probe"] for program in before["programs"]] == [None] * 3
    assert "`plan --probe` measures them" in launches.run("plan").out
    measured = launches.run("plan", "--probe", "--workers", "2", "--json")
    assert "measuring 3 programs" in measured.err
    plan = measured.json
    assert [program["probe"]["strategy"] for program in plan["programs"]] == ["sequence"] * 3
    assert (plan["estimate"]["covered"], plan["estimate"]["inferred"]) == (TOTAL, 0)
    # 18 trials of 5 rungs that sleep for 20 ms, on two workers, and the start of the workers
    assert plan["estimate"]["seconds"] == pytest.approx(18 * 5 * 0.02 / 2 + OVERHEAD_S, rel=0.2)
    assert launches.run("status").code == 2, "nothing was planned"
    assert "measuring" not in launches.run("plan", "--probe").err, "nothing is measured twice"
    shown = launches.run("plan").out
    assert re.search(r"plain +6 +600 +sequence +4 +1 ms +0 s +1 s", shown)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 140
    ended = launches.run("run", "--workers", "2")
    assert re.search(r"took \d+ s; the plan said about \d s", ended.err)
    report = (launches.out / "families" / "report" / "report.md").read_text()
    assert re.search(r"18 trials on 2 workers took [\d.]+ s; the plan said [\d.]+ s: [\d.]+ times the estimate", report)
    (run,) = launches.run("report", "--json").json["running"]["runs"]
    assert (run["ending"], run["finished"], run["trials"], run["workers"]) == ("done", TOTAL, TOTAL, 2)
    assert run["ratio"] == run["wall_s"] / run["estimate_s"]


def test_a_program_that_cannot_be_measured_is_one_message_and_the_others_are_kept(launches) -> None:
    (launches.folder / "moody.py").write_text(MOODY)
    launches.write(arms=(PLAIN, WIDE))
    launches.study.write_text(launches.study.read_text().replace("trainers.curves:Curves", "moody:Moody"))
    ended = launches.run("plan", "--probe")
    assert ended.code == 2
    assert "could not be measured" in ended.err
    assert "RuntimeError: too wide" in ended.err
    assert "Traceback" not in ended.err
    probes = [program["probe"] for program in launches.run("plan", "--json").json["programs"]]
    assert [probe and probe["compile_s"] for probe in probes] == [0.5, None], "workers find what was compiled"
    assert "measuring 1 program, now compiled" in ended.err
    assert launches.run("run", "--probe").code == 2


def test_an_edited_study_runs_only_the_difference(launches) -> None:
    """A replicate more, an arm renamed, arms in another order, an arm dropped, a grid widened: plan says it, run does it."""
    assert launches.run().code == 0
    trained = attempts(launches)

    def edit(added: int, orphaned: int, **study: object) -> None:
        nonlocal trained
        launches.write(**study)
        totals = launches.run("plan", "--json").json["totals"]
        assert totals["new"] + totals["changed"] == added, totals
        assert totals["orphaned"] == orphaned, totals
        assert launches.run().code == 0
        trained += added + totals["pending"]
        assert attempts(launches) == trained

    edit(3, 0, replicates=4)
    edit(0, 0, replicates=4, arms=(PLAIN.replace("plain", "ordinary"), WIDE, DEEP))
    edit(0, 0, replicates=4, arms=(DEEP, WIDE, PLAIN))
    edit(0, 7, replicates=4, arms=(WIDE, PLAIN))
    edit(0, 0, replicates=4, arms=(PLAIN, WIDE, DEEP))
    launches.write(replicates=4, axis="Values(0.003, 0.01, 0.03)", arms=(PLAIN,))
    assert launches.run().code == 0


def test_a_wider_grid_trains_only_its_new_points(launches) -> None:
    grid = 'Grid({{"size": Values({}), "floor": Values(0.2, 0.3)}})'
    launches.write(arms=(grid.format("50, 100"),))
    assert launches.run().code == 0
    before = attempts(launches)
    launches.write(arms=(grid.format("50, 100, 150"),))
    plan = launches.run("plan", "--json").json["totals"]
    assert (plan["new"], plan["cached"], plan["pending"], plan["orphaned"]) == (6, 24, 6, 0)
    assert launches.run().code == 0
    assert attempts(launches) == before + 12


def test_a_mistake_is_a_message_and_exit_code_2_and_writes_nothing(launches) -> None:
    launches.write(arms=('Arm("a", {"sise": 3})', 'Arm("a", {"floor": "low"})'))
    for command in ("run", "plan"):
        ended = launches.run(command)
        assert ended.code == 2
        assert "closest: size" in ended.err
        assert "2 arms are named 'a'" in ended.err
        assert "floor has the wrong type" in ended.err
        assert "Traceback" not in ended.err
    assert not launches.out.exists()
    assert launches.run("status").code == 2
    unknown = launches.run("run", "--set", "stepps=3")
    assert unknown.code == 2
    assert "closest: steps" in unknown.err


def test_a_dataset_that_cannot_be_read_is_planned_and_refused_before_anything_is_written(launches) -> None:
    launches.study.write_text(
        "from orchestrator import *\nfrom trainers import presets\n"
        'STUDY = Study(name="families", trainer="trainers.vision:Vision", base=presets.paper(), arms=[Arm("a")], protocol=Replicates(2))\n'
    )
    planned = launches.run("plan")
    assert planned.code == 0
    assert "2 trials to run" in planned.out
    refused = launches.run()
    assert refused.code == 2
    for ended in (planned, refused):
        assert "dataset 'imagenet2012' is not prepared" in ended.err
        assert "download_and_prepare" in ended.err
    assert not launches.out.exists()


def test_a_trial_that_raises_is_retried_reported_and_costs_itself_only(launches) -> None:
    launches.write(arms=(PLAIN, 'Arm("broken", {"raise_at": 40})'))
    ended = launches.run()
    assert ended.code == 1, ended.err
    assert launches.status() == {"complete": 6, "failed": 3}
    shown = launches.run("status").out
    assert "broken, tune 0" in shown
    assert "failed" in shown
    assert "missing" in (launches.out / "families" / "report" / "report.md").read_text()
    assert launches.run("retry").code == 0
    assert launches.status() == {"complete": 6, "planned": 3}


def test_a_trial_that_diverges_is_told_apart_from_one_that_fails(launches) -> None:
    launches.write(arms=(PLAIN, 'Arm("hot", {"diverge_above": 0.02})'))
    ended = launches.run()
    assert ended.code == 0, ended.err
    states = launches.status()
    assert states["diverged"] >= 1
    assert states["failed"] == 0


def test_a_worker_that_dies_once_costs_no_trial(launches) -> None:
    launches.write(arms=(PLAIN, 'Arm("deadly once", {"kill_once_at": 40})'))
    ended = launches.run()
    assert ended.code == 0, ended.err
    assert launches.status() == {"complete": 12}
    assert "back to the queue" in ended.err
