"""What is held against a tool, by name: trials that are missing, that were recorded twice, or that came out different."""

from __future__ import annotations

import collections
import dataclasses
import struct
from collections.abc import Iterable, Mapping

Metrics = Mapping[str, float]
Results = Mapping[str, Metrics]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a tool's own records say of a study, once it has said that all is done.

    Attributes:
        results: Final metrics of each trial that has some.
        completions: How often each trial was recorded as complete.
    """

    results: Results
    completions: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Trials at fault, by name.

    Attributes:
        missing: Asked for, and without a result.
        finished_twice: Recorded as complete more than once.
        ran_to_the_end_twice: Seen by a witness to be carried to their end more than once, however that was recorded.
        bit_differences: With a result that differs in some bit from that of the undisturbed run.
    """

    missing: tuple[str, ...] = ()
    finished_twice: tuple[str, ...] = ()
    ran_to_the_end_twice: tuple[str, ...] = ()
    bit_differences: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Nothing is lost, nothing is there twice, nothing differs. Work that was done again and recorded once is no fault."""
        return not (self.missing or self.finished_twice or self.bit_differences)


def judge(cells: Iterable[str], told: Told, finished: Iterable[str], undisturbed: Results) -> Findings:
    """Holds a study that was said to be done against what was asked for.

    Args:
        cells: Every trial of the study.
        told: By the tool.
        finished: Trials that witnesses saw come to their end, one entry for each time.
        undisturbed: Results of a run that nobody disturbed.
    """
    seen = collections.Counter(finished)
    asked = list(cells)
    return Findings(
        missing=tuple(cell for cell in asked if not told.results.get(cell)),
        finished_twice=tuple(cell for cell, count in sorted(told.completions.items()) if count > 1),
        ran_to_the_end_twice=tuple(cell for cell, count in sorted(seen.items()) if count > 1),
        bit_differences=tuple(
            cell for cell in asked if told.results.get(cell) and bits(told.results[cell]) != bits(undisturbed.get(cell, {}))
        ),
    )


def bits(metrics: Metrics) -> dict[str, bytes]:
    """The metrics to the last bit, so that 0.0 is not -0.0 and a NaN equals itself.

    >>> bits({"a": 0.1 + 0.2}) == bits({"a": 0.3})
    False
    """
    return {name: struct.pack("<d", value) for name, value in metrics.items()}
