"""Downloads a small dataset, in a process of its own: TFDS then loads TensorFlow, which takes 700 MB and stays loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request

from orchestrator.contract import DataError
from trainers.config import DataConfig
from trainers.data.catalog import Dataset, lookup
from trainers.data.prepared import tfds_root
from trainers.data.readable import missing_to_prepare, not_prepared, python_code

REACHABLE_WITHIN_S = 10.0


def download(config: DataConfig) -> None:
    """Downloads and prepares the dataset under the user's TFDS folder.

    Raises:
        DataError: There is no network, no TensorFlow, or TFDS failed; says how to prepare the dataset by hand.
    """
    dataset = lookup(config.dataset)
    if missing := missing_to_prepare():
        raise _error(dataset, f"TFDS prepares it with packages that are not installed: {', '.join(missing)}")
    if (why := _unreachable(dataset.url)) is not None:
        raise _error(dataset, f"{dataset.url} cannot be reached from here ({why})")
    environment = {**os.environ, "TFDS_DATA_DIR": str(tfds_root())}
    ended = subprocess.run(
        [sys.executable, "-c", python_code(dataset)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise _error(dataset, f"TFDS ended with: {lines[-1] if lines else f'exit code {ended.returncode}'}")


def _unreachable(url: str) -> str | None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=REACHABLE_WITHIN_S):
            return None
    except (OSError, urllib.error.URLError) as error:
        return str(error)


def _error(dataset: Dataset, why: str) -> DataError:
    problem = not_prepared(dataset, why=why)
    return DataError(problem.what, found=problem.found, expected=problem.expected, fix=problem.fix)
