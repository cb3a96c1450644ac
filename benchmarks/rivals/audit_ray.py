"""Ray Tune by its own recipe, for the kill audit: `Tuner.restore` where there is something to restore, else a new `Tuner`.

    python -m benchmarks.rivals.audit_ray JOB.json
    python -m benchmarks.rivals.audit_ray JOB.json --told     # what its result grid and its log of results said, as JSON

Each rung is reported with its checkpoint, trials that fail are retried without end, and a trial goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import os
import pathlib
import shutil
import tempfile
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}

from benchmarks.audit.work import Cell, Job, train
from orchestrator.contract import Report

NAME, GRID = "audit", "grid.json"
NOT_OURS = ("begun", "final")


def objective(config: dict[str, Any]) -> None:
    """One trial."""
    from ray import tune

    job, cell = Job.read(pathlib.Path(config["job"])), Cell(**config["cell"])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lane-"))
    try:
        if checkpoint := tune.get_checkpoint():
            with checkpoint.as_directory() as former:
                shutil.copytree(former, folder, dirs_exist_ok=True)

        def heard(report: Report) -> None:
            tune.report({**report.metrics, "final": False}, checkpoint=tune.Checkpoint.from_directory(str(folder)))

        metrics = train(job, cell, folder, heard)
        tune.report({**metrics, "final": True})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tuner_of(job: Job, file: pathlib.Path) -> Any:
    """The experiment that an earlier launch began, or a new one."""
    from ray import tune

    if tune.Tuner.can_restore(str(job.out / NAME)):
        return tune.Tuner.restore(str(job.out / NAME), trainable=objective, resume_unfinished=True, resume_errored=True)
    cells = [{"size": cell.size, "learning_rate": cell.learning_rate, "seed": cell.seed} for cell in job.cells()]
    return tune.Tuner(
        objective,
        param_space={"job": str(file), "cell": tune.grid_search(cells)},
        tune_config=tune.TuneConfig(max_concurrent_trials=job.workers),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(job.out),
            failure_config=tune.FailureConfig(max_failures=-1),
            verbose=0,
        ),
    )


def launch(job: Job, file: pathlib.Path) -> int:
    """Tunes, and keeps what the result grid says; 0 when no trial has an error."""
    import ray

    # Ray's sockets are named by their path, of which a system takes about 100 letters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=job.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder)
        grid = tuner_of(job, file).fit()
        rows = {str(Cell(**result.config["cell"])): result.metrics or {} for result in grid}
        answer = {cell: ours(metrics) for cell, metrics in rows.items() if metrics.get("final")}
        (job.folder / GRID).write_text(json.dumps(answer), "utf-8")
        ray.shutdown()
    return int(bool(grid.num_errors))


def ours(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that the trainer reported, of all that Ray says of a trial."""
    return {name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))}


def told(job: Job) -> dict[str, Any]:
    """What the result grid said, and how often the log of each trial's results has the final one."""
    completions: collections.Counter[str] = collections.Counter()
    for file in (job.out / NAME).glob("*/result.json"):
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            if row.get("final"):
                completions[str(Cell(**row["config"]["cell"]))] += 1
    return {"results": json.loads((job.folder / GRID).read_text("utf-8")), "completions": dict(completions)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=pathlib.Path)
    parser.add_argument("--told", action="store_true")
    options = parser.parse_args()
    job = Job.read(options.job)
    if options.told:
        print(json.dumps(told(job)))
        return 0
    return launch(job, options.job)


if __name__ == "__main__":
    raise SystemExit(main())
