"""Tessera, as a user runs it: a study file, `launch.py`, and the results read from its ledger."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import sys
from collections.abc import Mapping, Sequence

from benchmarks.rivals.workload import SEEDS, Job, Results, learning_rates
from orchestrator.ledger import Ledger

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "packing"

STUDY = '''"""How long do these trials take?"""

from benchmarks.rivals import workload
from orchestrator import Grid, Objective, Replicates, Study, Values

STUDY = Study(
    name="{name}",
    trainer="trainers.vision:Vision",
    base=workload.base({steps}),
    arms=[Grid({{"optim.learning_rate": Values({rates})}})],
    protocol=Replicates({seeds}),
    objectives=[Objective("val/nll")],
)
'''


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the ledger knows of a finished study.

    Attributes:
        results: Final metrics of each trial.
        last_finished: When the last trial was finished, in seconds since 1970.
        provenance: Strategies, widths and devices that the trials were run with, each once.
    """

    results: Results
    last_finished: float
    provenance: Sequence[Mapping[str, str]]


def command(job: Job) -> list[str]:
    """Writes the study file; the command line that runs it."""
    study = job.folder / "study.py"
    rates = ", ".join(map(repr, learning_rates(job.trials // SEEDS)))
    study.write_text(STUDY.format(name=NAME, steps=job.steps, rates=rates, seeds=SEEDS), "utf-8")
    options = ["--out", str(job.folder / "runs"), "--workers", str(job.at_once), "--wandb", "disabled", "--json"]
    return [sys.executable, str(ROOT / "launch.py"), str(study), *options]


def told(job: Job) -> Told:
    """Reads the ledger of a job that was run."""
    index = {(trial.learning_rate, trial.seed): trial.index for trial in job.each_trial()}
    with Ledger.open(job.folder / "runs" / "ledger.db", create=False) as ledger:
        records = ledger.trial_records(NAME)
    places = [(index[record.config["optim.learning_rate"], record.seed], record) for record in records]  # type: ignore[index]
    ways = {tuple(sorted((key, record.provenance.get(key, "")) for key in ("device", "strategy", "width"))) for record in records}
    return Told(
        results={place: dict(record.metrics) for place, record in places if record.metrics},
        last_finished=max(datetime.datetime.fromisoformat(record.finished_at).timestamp() for record in records if record.finished_at),
        provenance=[dict(way) for way in sorted(ways)],
    )
