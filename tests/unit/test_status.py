"""What `status` says of trials that went wrong, and where to read on."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence

import pytest
from rich.console import Console

from orchestrator.ledger import Trouble
from orchestrator.records import Cause, Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.status import status_json, status_table
from tests.studyrecords import ABLATION, study_record

ARM = "ViT"


def changed(index: int, state: TrialState, reason: str = "") -> StudyRecord:
    """A study one of whose replicates is in that state."""

    def change(trial: TrialRecord) -> TrialRecord:
        is_it = (trial.arm, trial.phase, trial.index) == (ARM, Phase.REPLICATE, index)
        return dataclasses.replace(trial, state=state, reason=reason, metrics={}) if is_it else trial

    return study_record(ABLATION[:2], replicates=3, tune_trials=2, rungs=2, change=change)


def key_of(record: StudyRecord, index: int) -> str:
    return next(trial.key for trial in record.of(ARM, Phase.REPLICATE) if trial.index == index)


def trouble(key: str, cause: Cause, attempt: int = 1, reason: str = "why", worker: str = "study/worker-0-a1") -> Trouble:
    return Trouble(trial=key, attempt=attempt, cause=cause, reason=reason, worker=worker, host="node7", at="2026-01-01T00:00:00+00:00")


def shown(record: StudyRecord, troubles: Sequence[Trouble], logs: pathlib.Path) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(status_table(record, [], troubles, logs))
    out = console.file
    assert isinstance(out, io.StringIO)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_failed_trial_is_told_with_cause_attempt_reason_and_the_line_before_its_traceback(tmp_path: pathlib.Path) -> None:
    record = changed(1, TrialState.FAILED, "ValueError: no\nat all")
    key = key_of(record, 1)
    log = f"hello\na pack of 2: {key} other raised Traceback\n  ...\ntrial {key} raised Traceback\n  ...\ntrial {key}: failed (raised)\n"
    (tmp_path / "worker-0-a1.log").write_text(log)
    troubles = [trouble(key, Cause.KILLED), *(trouble(key, Cause.RAISED, attempt) for attempt in (2, 3, 4))]
    line = f"{ARM}, replicate 1 ({key}): failed: raised, attempt 3 of 3: ValueError: no: {tmp_path}/worker-0-a1.log:4"
    text = shown(record, troubles, tmp_path)
    assert line in text.splitlines()
    assert "attempts that ended early: 3 raised, 1 killed" in text.splitlines()


def test_a_trial_that_waits_after_a_kill_is_told_with_the_last_words_of_its_worker(tmp_path: pathlib.Path) -> None:
    record = changed(0, TrialState.LOST)
    key = key_of(record, 0)
    (tmp_path / "worker-0-a1.log").write_text(f"trial {key}: leased, attempt 1\nFatal Python error: Segmentation fault\n")
    line = f"{ARM}, replicate 0 ({key}): lost: crashed, attempt 1 of 3: its worker crashed: {tmp_path}/worker-0-a1.log:2"
    assert line in shown(record, [trouble(key, Cause.CRASHED, reason="its worker crashed")], tmp_path).splitlines()


def test_a_diverged_trial_is_found_in_the_log_of_whichever_worker_had_it(tmp_path: pathlib.Path) -> None:
    record = changed(2, TrialState.DIVERGED, "val/nll is nan at step 40")
    key = key_of(record, 2)
    (tmp_path / "worker-0-a1.log").write_text("nothing\n")
    (tmp_path / "worker-1-a1.log").write_text(f"trial {key}: stop at step 40\n")
    assert f"({key}): diverged: val/nll is nan at step 40: {tmp_path}/worker-1-a1.log:1" in shown(record, [], tmp_path)


@pytest.mark.parametrize("cause", [Cause.PREEMPTED, Cause.ORPHANED])
def test_what_no_trial_is_to_blame_for_is_counted_and_not_listed(tmp_path: pathlib.Path, cause: Cause) -> None:
    record = changed(0, TrialState.PREEMPTED)
    key = key_of(record, 0)
    text = shown(record, [trouble(key, cause)] * 2, tmp_path)
    assert key not in text
    assert f"attempts that ended early: 2 {cause.value}" in text


def test_what_a_finished_trial_went_through_is_not_listed(tmp_path: pathlib.Path) -> None:
    record = study_record(ABLATION[:2], replicates=3, tune_trials=2, rungs=2)
    key = key_of(record, 0)
    assert key not in shown(record, [trouble(key, Cause.KILLED)], tmp_path)


def test_attempts_that_were_forgiven_are_not_counted_against_the_bound(tmp_path: pathlib.Path) -> None:
    record = changed(0, TrialState.FAILED, "no")
    key = key_of(record, 0)
    assert ": raised, 4 attempts: no" in shown(record, [trouble(key, Cause.RAISED, n) for n in range(1, 5)], tmp_path)


def test_without_a_log_here_there_is_no_line(tmp_path: pathlib.Path) -> None:
    record = changed(0, TrialState.FAILED, "no")
    key = key_of(record, 0)
    assert f"({key}): failed: killed, attempt 1 of 6: no" in shown(record, [trouble(key, Cause.KILLED)], tmp_path / "none").splitlines()[-2]


def test_the_document_has_every_attempt(tmp_path: pathlib.Path) -> None:
    record = changed(0, TrialState.FAILED, "no")
    key = key_of(record, 0)
    (tmp_path / "worker-0-a1.log").write_text("bye\n")
    document = json.loads(json.dumps(status_json(record, [], [trouble(key, Cause.PREEMPTED), trouble(key, Cause.KILLED, 2)], tmp_path)))
    assert document["causes"] == {"preempted": 1, "killed": 1}
    assert [(row["trial"], row["attempt"], row["cause"], row["host"]) for row in document["troubles"]] == [
        (key, 1, "preempted", "node7"),
        (key, 2, "killed", "node7"),
    ]
    (bad,) = document["ended_badly"]
    assert (bad["cause"], bad["reason"], bad["log"]) == ("killed", "no", f"{tmp_path}/worker-0-a1.log:1")
