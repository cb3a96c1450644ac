"""One process for each trial, as many at once as there are cores: what a shell script or a job array does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.rivals import workload
from benchmarks.rivals.one_trial import in_process_of_its_own
from benchmarks.rivals.workload import Job, Results


def do(job: Job) -> Results:
    """Every trial of the job."""
    file = job.folder / "trials.json"
    job.write(file)
    with ThreadPoolExecutor(job.at_once) as threads:
        found = threads.map(lambda trial: (trial.index, in_process_of_its_own(file, trial.index)), job.each_trial())
        return dict(found)


if __name__ == "__main__":
    workload.main(do)
