"""Upstream trials in real launches: killed in their midst, edited, shared, failed and healed."""

from __future__ import annotations

import pathlib
import sqlite3

import pytest

from orchestrator.records import Phase, TrialState
from tests.end_to_end.conftest import Launches

STUDY = '''"""Does it help to start low?"""

from orchestrator import *
from trainers.curves import CurvesConfig

FIRST = Upstream("first", {first}, seeds="{seeds}")
STUDY = Study(
    name="{name}",
    trainer="{trainer}",
    base=CurvesConfig(noise=0.02),
    arms=[Arm("fresh", baseline=True), Arm("on", {{"start": FIRST}}), {more}],
    protocol=Replicates({replicates}),
)
'''


def write(
    launches: Launches,
    first: dict[str, object] | None = None,
    *,
    name: str = "families",
    seeds: str = "shared",
    trainer: str = "trainers.curves:Curves",
    more: str = "",
    replicates: int = 2,
) -> Launches:
    launches.study = launches.folder / f"{name}.py"
    changes = first or {"steps": 60}
    launches.study.write_text(STUDY.format(first=changes, name=name, seeds=seeds, trainer=trainer, more=more, replicates=replicates))
    return launches


def states(launches: Launches, study: str = "families") -> dict[tuple[str, int], TrialState]:
    """Where each upstream trial stands, by name and number."""
    with launches.ledger() as ledger:
        records = ledger.trial_records(study, phases=[Phase.UPSTREAM])
    return {(record.arm, record.index): record.state for record in records}


def attempts(launches: Launches) -> int:
    with sqlite3.connect(launches.out / "ledger.db") as connection:
        return connection.execute("select count(*) from attempts").fetchone()[0]


def test_killing_all_in_the_midst_of_the_upstream_trials_changes_no_number(tmp_path: pathlib.Path) -> None:
    slow = {"steps": 100, "sleep_s": 0.1}
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    undisturbed, killed = (write(Launches(folder), slow, seeds="paired", replicates=4) for folder in folders)
    assert undisturbed.run().code == 0
    process = killed.start()
    killed.until(lambda: killed.finished() >= 2 + 1 or process.poll() is not None)  # of "fresh", or upstream ones
    killed.kill(process)
    for worker in killed.workers():
        worker.kill()
    killed.until(lambda: not killed.workers(), timeout_s=5.5)
    before = states(killed)
    assert set(before.values()) != {TrialState.COMPLETE}, "it was killed too late to show anything"
    last = killed.run()
    assert last.code == 0, last.err
    assert set(states(killed).values()) == {TrialState.COMPLETE}
    assert set(killed.completions().values()) == {1}
    assert len(killed.completions()) == 4 * 3
    assert killed.result() == undisturbed.result()


def test_an_edited_upstream_is_trained_anew_with_what_starts_from_it_and_another_study_trains_none(launches: Launches) -> None:
    assert write(launches).run().code == 0
    assert attempts(launches) == 5
    assert launches.run().code == 0
    assert attempts(launches) == 5, "all of it is there"
    assert write(launches, {"steps": 80}).run().code == 0
    assert attempts(launches) == 5 + 3, "one upstream trial, and two that start from it"
    assert write(launches, {"steps": 80}, name="other", more='Arm("wide", {"family": "wide", "start": FIRST})').run().code == 0
    assert attempts(launches) == 8 + 2, "the upstream trial is shared"
    assert states(launches, "other") == {("first", 0): TrialState.COMPLETE}


FLAKY = """import pathlib
from trainers.curves import Curves

class Flaky(Curves):
    name = "flaky:Flaky"

    def train(self, host):
        class Host:
            def __getattr__(self, name):
                return getattr(host, name)

            @property
            def stopping(self):
                return host.stopping

            def pull(self, n):
                lanes = host.pull(n)
                for lane in lanes:
                    if lane.config["keep"] and pathlib.Path({flag!r}).exists():
                        host.failed(lane.key, RuntimeError("the cupboard is bare"))
                return [lane for lane in lanes if not (lane.config["keep"] and pathlib.Path({flag!r}).exists())]
        super().train(Host())
"""


def test_a_failed_upstream_is_said_everywhere_and_retry_heals_all(launches: Launches) -> None:
    flag = launches.folder / "bare"
    flag.touch()
    (launches.folder / "flaky.py").write_text(FLAKY.format(flag=str(flag)))
    ended = write(launches, trainer="flaky:Flaky").run()
    assert ended.code == 1, ended.err
    report = (launches.out / "families" / "report" / "report.md").read_text()
    status = launches.run("status").out
    for words in (report, status):
        assert "the cupboard is bare" in words
    assert "on lacks 2 of 2 replicates: 2 not planned yet (they start from upstream first, which failed" in report
    assert "1 of 1 upstream trials 'first' failed: what starts from them in on cannot be trained" in status
    assert launches.run().code == 1, "nothing to do, and still not whole"
    flag.unlink()
    retried = launches.run("retry")
    assert "1 failed trials are planned again" in retried.err
    assert launches.run().code == 0
    assert launches.status() == {"complete": 4}


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_lost_parameters_fail_what_needs_them_and_retry_trains_the_upstream_again(launches: Launches, damage: str) -> None:
    assert write(launches).run().code == 0
    (left,) = launches.out.glob("trials/*/*/parameters*.json")
    whole = left.read_bytes()
    if damage == "gone":
        left.unlink()
    else:
        left.write_bytes(whole.replace(b"nll", b"nil"))
    assert launches.run().code == 0, "nobody needs them any more"
    write(launches, more='Arm("deep", {"family": "deep", "start": FIRST})')
    ended = launches.run()
    assert ended.code == 1, ended.err
    words = launches.run("status").out
    assert "the parameters of upstream trial" in words
    assert ("no such file" if damage == "gone" else "it does not hold what the trial left there") in words
    retried = launches.run("retry")
    assert "2 failed trials, and 1 finished ones whose predictions or parameters cannot be read are planned again" in retried.err
    assert launches.run().code == 0
    assert launches.status() == {"complete": 6}
    assert left.read_bytes() == whole
    assert set(launches.completions().values()) == {1, 2}, "the upstream trial was completed twice, and nothing else"


def test_a_file_is_kept_before_anybody_needs_it_and_its_edit_is_another_study(launches: Launches) -> None:
    from orchestrator.durable import sealed

    weights = launches.folder / "weights.json"
    weights.write_bytes(sealed({"nll": 1.0}))
    write(launches, more='Arm("file", {"start": File("weights.json")})')
    assert launches.run().code == 0
    n = attempts(launches)
    moved = weights.rename(launches.folder / "moved.json")
    write(launches, more='Arm("file", {"start": File("moved.json")})')
    assert launches.run().code == 0
    assert attempts(launches) == n, "a file is what it holds"
    moved.write_bytes(sealed({"nll": 2.0}))
    assert launches.run().code == 0
    assert attempts(launches) == n + 2
    assert len(list((launches.out / "inputs").iterdir())) == 2
    moved.unlink()
    assert "File('moved.json') cannot be read" in launches.run("plan").err
