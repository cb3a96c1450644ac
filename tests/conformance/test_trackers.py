"""What every tracker does, whether it writes text, W&B's files, or to W&B's server."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest

from orchestrator.durable import unsealed
from orchestrator.records import Phase, Rung, TrialRecord, TrialState
from orchestrator.trackers import JsonLinesTracker, StudyHeader, Tracker, WandbMode, WandbTracker
from orchestrator.trackers.wandb_file import read_run
from tests.studyrecords import study_record
from tests.wandb_server import WandbServer, flattened, serving

KEY = "f" * 40
STUDY = study_record(replicates=2, tune_trials=1, rungs=3)
HEADER = StudyHeader.of(STUDY)
TRIALS = tuple(row for row in STUDY.trials if row.arm in ("V-MoE", "E³"))
REPLICATE = next(row for row in TRIALS if row.arm == "E³" and row.phase is Phase.REPLICATE and row.index == 1)

ADDED = {"_step", "_runtime", "_timestamp", "_wandb"}  # by the W&B client


@dataclasses.dataclass(kw_only=True)
class Copy:
    """What is found of a trial at the other end."""

    name: str
    study: str
    arm: str
    tags: set[str]
    config: Mapping[str, Any]
    history: list[Mapping[str, Any]]
    summary: Mapping[str, Any]
    exit_code: int | None


@dataclasses.dataclass(kw_only=True)
class Case:
    """One kind of tracker: how to make one, and how to read what it wrote."""

    tracker: Callable[[], Tracker]
    copies: Callable[[], dict[str, Copy]]
    warnings: list[str]
    folder: pathlib.Path

    def publish(self, *trials: TrialRecord) -> list[bool]:
        """Publishes from a process that starts anew."""
        tracker = self.tracker()
        tracker.open(HEADER)
        try:
            return [tracker.publish(trial) for trial in trials]
        finally:
            tracker.close()


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ADDED}


def in_lines(path: pathlib.Path) -> dict[str, Copy]:
    rows = [unsealed(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    assert len({row["key"] for row in rows}) == len(rows), "a trial has two lines"
    return {row.pop("key"): Copy(tags=set(row.pop("tags")), **row) for row in rows}


def in_files(folder: pathlib.Path) -> dict[str, Copy]:
    found: dict[str, Copy] = {}
    for path in sorted(folder.glob("*run-*/*.wandb")):
        file = read_run(path)
        assert file.run["id"] not in found, "a trial has two run folders"
        found[file.run["id"]] = Copy(
            name=file.run["name"],
            study=file.run["group"],
            arm=file.run["job_type"],
            tags=set(file.run["tags"]),
            config=dict(flattened(plain(file.config))),
            history=[plain(row) for row in file.history],
            summary=plain(file.summary),
            exit_code=file.exit_code,
        )
    return found


def on_server(server: WandbServer) -> dict[str, Copy]:
    return {
        run.name: Copy(
            name=run.fields["displayName"],
            study=run.fields["groupName"],
            arm=run.fields["jobType"],
            tags=set(run.fields["tags"]),
            config=run.flat,
            history=[plain(row) for row in run.history],
            summary=plain(run.summary),
            exit_code=run.exit_code,
        )
        for run in server.runs.values()
    }


@pytest.fixture(params=["jsonlines", "wandb-offline", "wandb-online"])
def case(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Case]:
    warnings: list[str] = []
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folder = tmp_path / "out" / "wandb"
    if request.param == "jsonlines":
        yield Case(
            tracker=lambda: JsonLinesTracker(folder, warn=warnings.append),
            copies=lambda: in_lines(folder / "trials.jsonl"),
            warnings=warnings,
            folder=folder,
        )
    elif request.param == "wandb-offline":
        yield Case(
            tracker=lambda: WandbTracker(folder, mode=WandbMode.OFFLINE, warn=warnings.append),
            copies=lambda: in_files(folder),
            warnings=warnings,
            folder=folder,
        )
    else:
        with serving() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            yield Case(
                tracker=lambda: WandbTracker(folder, mode=WandbMode.ONLINE, warn=warnings.append),
                copies=lambda: on_server(server),
                warnings=warnings,
                folder=folder,
            )


def test_a_finished_trial_is_copied_as_a_whole(case: Case) -> None:
    assert case.publish(*TRIALS) == [True] * len(TRIALS)
    copies = case.copies()
    assert copies.keys() == {trial.key for trial in TRIALS}
    copy = copies[REPLICATE.key]
    assert (copy.name, copy.study, copy.arm, copy.exit_code) == ("E³ r1", STUDY.name, "E³", 0)
    assert copy.tags == {"laptop", "replicate"}
    assert copy.config.items() >= dict(REPLICATE.config).items()
    assert copy.config["optim.learning_rate"] == REPLICATE.config["optim.learning_rate"]
    assert (copy.config["arm"], copy.config["phase"], copy.config["replicate"], copy.config["seed"]) == (
        "E³",
        "replicate",
        1,
        REPLICATE.seed,
    )
    assert copy.history == [{**rung.metrics, "train/step": rung.step} for rung in REPLICATE.rungs]
    assert copy.summary.items() >= {**REPLICATE.metrics, **REPLICATE.cost, "state": "complete"}.items()
    assert case.warnings == []


def test_publishing_twice_leaves_one_copy(case: Case) -> None:
    tracker = case.tracker()
    tracker.open(HEADER)
    assert [tracker.publish(REPLICATE), tracker.publish(REPLICATE)] == [True, True]
    tracker.close()
    once = case.copies()
    assert case.publish(REPLICATE) == [True]
    assert case.copies() == once
    assert once.keys() == {REPLICATE.key}


def test_a_trial_that_changed_is_brought_up_to_date(case: Case) -> None:
    failed = dataclasses.replace(REPLICATE, state=TrialState.FAILED, reason="out of memory", metrics={}, rungs=REPLICATE.rungs[:1])
    renamed = dataclasses.replace(REPLICATE, arm="E3")
    assert case.publish(failed) == [True]
    assert case.copies()[REPLICATE.key].exit_code == 1
    assert case.publish(renamed, *TRIALS[:1]) == [True, True]
    copy = case.copies()[REPLICATE.key]
    assert (copy.arm, copy.config["arm"], copy.exit_code, copy.summary["state"]) == ("E3", "E3", 0, "complete")
    assert [row["train/step"] for row in copy.history] == [rung.step for rung in REPLICATE.rungs]
    assert case.publish(REPLICATE) == [True]
    assert case.copies()[REPLICATE.key].arm == "E³"
    assert case.warnings == []


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.DIVERGED, TrialState.STOPPED])
def test_how_a_trial_ended_is_seen(case: Case, state: TrialState) -> None:
    rungs = (*REPLICATE.rungs[:2], Rung(step=10**6, metrics={"train/loss": math.nan, "val/nll": math.inf}))
    ended = dataclasses.replace(REPLICATE, state=state, reason="because", metrics={}, rungs=rungs)
    assert case.publish(ended) == [True]
    copy = case.copies()[REPLICATE.key]
    assert copy.tags == {"laptop", "replicate", state.value}
    assert (copy.summary["state"], copy.summary["reason"]) == (state.value, "because")
    assert copy.exit_code == (1 if state is TrialState.FAILED else 0)
    assert copy.history[-1]["train/step"] == 10**6


def test_a_trial_without_a_curve_is_copied_too(case: Case) -> None:
    lost = dataclasses.replace(REPLICATE, state=TrialState.FAILED, reason="import error", metrics={}, rungs=(), provenance={})
    assert case.publish(lost) == [True]
    assert case.copies()[lost.key].history == []


def test_a_trial_that_is_not_finished_is_refused(case: Case) -> None:
    tracker = case.tracker()
    tracker.open(HEADER)
    with pytest.raises(ValueError, match="is leased, and only a finished trial is published"):
        tracker.publish(dataclasses.replace(REPLICATE, state=TrialState.LEASED))
    tracker.close()


def test_open_comes_first_and_close_may_come_twice(case: Case) -> None:
    tracker = case.tracker()
    with pytest.raises(ValueError, match=r"publish\(\) comes after open"):
        tracker.publish(REPLICATE)
    tracker.close()
    tracker.close()


def test_a_place_that_cannot_be_written_is_said_once_and_tried_again(case: Case) -> None:
    case.folder.parent.write_text("in the way")
    tracker = case.tracker()
    tracker.open(HEADER)
    assert [tracker.publish(trial) for trial in TRIALS[:3]] == [False] * 3
    assert len(set(case.warnings)) == len(case.warnings)
    assert all("\n" not in line and str(case.folder) in line for line in case.warnings)
    case.folder.parent.unlink()
    assert [tracker.publish(trial) for trial in TRIALS[:3]] == [True] * 3
    tracker.close()
    assert len(case.copies()) == 3


def test_no_key_is_found_in_any_file_or_output(case: Case, capfd: pytest.CaptureFixture[str], private_home: pathlib.Path) -> None:
    case.publish(*TRIALS[:2])
    written = [path for root in (case.folder.parent, private_home) for path in root.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
