"""The loop of a careful person: one process for each core at most, one compiled step in each, one trial after another."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from benchmarks.rivals import workload
from benchmarks.rivals.workload import Job, Results


def share(job: Job, part: int) -> Results:
    """The trials of one process: every `at_once`-th."""
    from benchmarks.rivals.loop import train

    return {trial.index: train(job, trial) for trial in job.each_trial()[part :: job.at_once]}


def do(job: Job) -> Results:
    """Every trial of the job; the processes start together, and one alone is this one."""
    if job.at_once == 1:
        return share(job, 0)
    file = job.folder / "trials.json"
    job.write(file)
    command = [sys.executable, "-m", "benchmarks.rivals.hand_loop", str(file)]
    started = [
        subprocess.Popen([*command, str(part)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for part in range(min(job.at_once, job.trials))
    ]
    results = {}
    for process in started:
        out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a part of the loop ended with {process.returncode}: {err[-2000:]}")
        results |= {int(index): metrics for index, metrics in json.loads(out).items()}
    return results


if __name__ == "__main__":
    if sys.argv[2].isdigit():
        print(json.dumps(share(Job.read(pathlib.Path(sys.argv[1])), int(sys.argv[2]))))
    else:
        workload.main(do)
