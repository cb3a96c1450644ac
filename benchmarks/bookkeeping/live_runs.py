"""Fills live W&B runs row by row, as the publisher does while trials train, and says how much CPU each part took.

python -m benchmarks.bookkeeping.live_runs FOLDER RUNS ROWS
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import psutil

from orchestrator.keys import content_key
from orchestrator.records import ArmRecord, ObjectiveRecord, Phase, Rung, TrialRecord, TrialState
from orchestrator.trackers import Links, Pages, StudyHeader, WandbMode, WandbTracker

METRICS = ("train/loss", "val/nll", "val/error", "val/ece")
ARM = ArmRecord(name="arm", baseline=True, overrides={}, tune_trials=0, replicates=32, selected={})
STUDY = StudyHeader(
    name="benchmark",
    question="What does a copy cost?",
    trainer="none:None",
    version="1",
    profile="",
    objectives=(ObjectiveRecord(metric="val/nll", direction="minimize"),),
    nuisance={},
    space={},
    base={"optim.learning_rate": 0.1},
    arms=(ARM,),
)


def main(arguments: list[str]) -> int:
    """Prints one line of JSON."""
    folder, runs, rows = pathlib.Path(arguments[0]), int(arguments[1]), int(arguments[2])
    warnings: list[str] = []
    parts = {"before": _cpu_s()}
    tracker = WandbTracker(folder / "wandb", mode=WandbMode.ONLINE, warn=warnings.append, pages=Pages(Links(), lambda _: None))
    tracker.open(STUDY)
    parts["start"] = _cpu_s()
    curve = tuple(Rung(step=10 * row, metrics={name: 1.0 / row for name in METRICS}) for row in range(1, rows + 1))
    for row in range(1, rows + 1):
        for run in range(runs):
            tracker.follow(_trial(run, curve[:row], TrialState.LEASED))
    parts["rows"] = _cpu_s()
    done = [tracker.publish(_trial(run, curve, TrialState.COMPLETE)) for run in range(runs)]
    parts["finish"] = _cpu_s()
    tracker.close()
    began, spent = parts.pop("before"), dict[str, float]()
    for name, at in parts.items():
        spent[name], began = at - began, at
    print(json.dumps({"parts": spent, "published": sum(done), "warnings": warnings}), flush=True)
    return int(not all(done) or bool(warnings))


def _trial(run: int, rungs: tuple[Rung, ...], state: TrialState) -> TrialRecord:
    is_complete = state is TrialState.COMPLETE
    return TrialRecord(
        key=content_key({"run": run}),
        cell="cell",
        arm=ARM.name,
        phase=Phase.REPLICATE,
        index=run,
        seed=run,
        config=STUDY.base,
        point={},
        state=state,
        reason="",
        signature="signature",
        cost={"cost/train_gflops": 1.0},
        metrics=rungs[-1].metrics if is_complete else {},
        rungs=rungs,
        attempts=1,
        elapsed_s=1.0,
        finished_at="2026-01-01T00:00:00Z" if is_complete else "",
        provenance={},
    )


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that live, the library's among them; of its own clock too."""
    mine = psutil.Process()
    children = sum(sum(child.cpu_times()[:2]) for child in mine.children(recursive=True))
    return time.process_time() + children


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
