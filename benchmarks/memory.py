"""Whether a worker's memory stays flat: resident memory while one process trains many short trials of one program.

    python benchmarks/memory.py [--trials 500] [--json]

Lanes enter and leave one pack; every trial is a few steps of the laptop preset with its own learning rate and seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import psutil

from orchestrator.contract import FlatConfig, Lane, Probe, Report, Usage, Verdict, flatten
from trainers import presets
from trainers.vision import Vision

STEPS = 10
EVERY = 50


@dataclasses.dataclass(slots=True)
class Stream:
    """A host that hands out so many trials, and notes the resident memory each time another fifty are finished."""

    trials: int
    folder: pathlib.Path
    begun: int = 0
    finished: int = 0
    resident_mb: dict[int, float] = dataclasses.field(default_factory=dict)
    stopping: bool = False

    @property
    def waiting(self) -> int:
        return self.trials - self.begun

    def pull(self, n: int) -> Sequence[Lane]:
        numbers = range(self.begun, min(self.begun + n, self.trials))
        self.begun = numbers.stop
        return [self._lane(number) for number in numbers]

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        for report in reports:
            assert all(math.isfinite(value) for value in report.metrics.values())
            self.finished += report.final
            if report.final and self.finished % EVERY == 0:
                self.resident_mb[self.finished] = psutil.Process().memory_info().rss / 1e6
        return {report.key: Verdict.FINISHED if report.final else Verdict.CONTINUE for report in reports}

    def failed(self, key: str, error: Exception) -> None:  # noqa: ARG002 - any ends the measurement
        raise error

    def parked(self, keys: Sequence[str]) -> None:
        raise AssertionError(f"nothing is paused: {keys}")

    def upcoming(self) -> FlatConfig | None:
        return None

    def probes(self) -> Sequence[Probe]:
        return ()

    def probed(self, probe: Probe) -> None:
        """Nothing is planned after this."""

    def used(self, usage: Usage) -> None:
        """Time is not what this is about."""

    def _lane(self, number: int) -> Lane:
        base = flatten(presets.laptop())
        config = base | {"train.steps": STEPS, "train.rung_steps": STEPS // 2, "optim.learning_rate": 1e-3 * (1 + number % 10)}
        return Lane(key=f"trial-{number}", config=config, seed=number, folder=self.folder / str(number))


def main() -> None:
    """Prints a row for every fifty trials, and what a trial adds after the first fifty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500, help="default 500")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stream = Stream(options.trials, pathlib.Path(folder))
        Vision().train(stream)
    first, last = min(stream.resident_mb), max(stream.resident_mb)
    kb_a_trial = 1e3 * (stream.resident_mb[last] - stream.resident_mb[first]) / max(last - first, 1)
    if options.json:
        print(json.dumps({"resident_mb": stream.resident_mb, "kb_a_trial": kb_a_trial}, indent=1))
        return
    print("trials  resident, MB")
    for finished, resident in stream.resident_mb.items():
        print(f"{finished:6}  {resident:12.0f}")
    print(f"after the first {first} trials: {kb_a_trial:+.1f} kB a trial")


if __name__ == "__main__":
    main()
