"""One trial in one process, as a training script runs: import, compile (or read the cache), train, print.

python -m benchmarks.rivals.one_trial JOB.json INDEX
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.rivals.workload import Job


def in_process_of_its_own(job_file: pathlib.Path, index: int) -> Mapping[str, float]:
    """Runs the script and reads what it prints.

    Raises:
        RuntimeError: It failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.rivals.one_trial", str(job_file), str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"trial {index} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main() -> None:
    """Trains the trial with that index and prints its metrics."""
    started = time.monotonic()
    from benchmarks.rivals.loop import train

    imported = time.monotonic()
    job = Job.read(pathlib.Path(sys.argv[1]))
    metrics = train(job, job.each_trial()[int(sys.argv[2])])
    seconds = {"s/import": imported - started, "s/whole": time.monotonic() - started}
    print(json.dumps(metrics | seconds))


if __name__ == "__main__":
    main()
