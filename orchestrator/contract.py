"""All that a trainer knows of Tessera. A trainer pulls lanes, trains them, reports per lane, and may be told to stop one.

It never learns that it is swept: the same calls come from a worker of a study and from `python -m` on one config.
`trainers/curves.py` is the whole contract in a file that fits on two screens.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from orchestrator.config import artifact, build, flatten, leaves, outside, resolve, signature_of, static, traced
from orchestrator.durable import DamagedError, read_row, sealed, write_row, write_whole
from orchestrator.errors import DataError, OrchestratorError, Problem
from orchestrator.keys import FlatConfig, Value, content_key

__all__ = [
    "DESCRIPTION",
    "PARAMETERS",
    "PREDICTIONS",
    "Combiner",
    "DamagedError",
    "DataError",
    "FlatConfig",
    "Host",
    "Keeper",
    "Lane",
    "OrchestratorError",
    "Probe",
    "Problem",
    "Report",
    "Starter",
    "Trainer",
    "Usage",
    "Value",
    "Verdict",
    "artifact",
    "build",
    "content_key",
    "fastest",
    "flatten",
    "leaves",
    "outside",
    "read_row",
    "resolve",
    "sealed",
    "signature_of",
    "static",
    "traced",
    "write_row",
    "write_whole",
]


PARAMETERS = "parameters"  # name of the artifact from which later trials start
DESCRIPTION = "description"  # name of the artifact, kept with `write_row`, that the report reads: docs/trainers.md says what it holds
PREDICTIONS = "predictions"  # name of the artifact from which a `Combiner` measures ensembles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One trial, as handed to a trainer.

    Attributes:
        key: Content key of the trial; names it in reports.
        config: The resolved config, every key of the trainer's config class.
        seed: Fixes initialisation, data order and every random draw. Replicate r of every cell has the same seed.
        folder: Where the lane keeps its checkpoints and predictions. The same folder on every attempt.
        inputs: The file that each `artifact` key of the config names, by that key; none for keys that are empty. Read it only.
    """

    key: str
    config: FlatConfig
    seed: int
    folder: pathlib.Path
    inputs: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict[str, pathlib.Path])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one lane has to say at a rung.

    Attributes:
        key: The lane's key.
        step: Optimizer steps done so far. Reporting a step again replaces what was said of it.
        metrics: `split/name` to value, such as `val/nll`. A NaN or infinite value marks the lane as diverged.
        final: The lane is finished and these metrics are its result.
        provenance: How the lane is run, such as device, strategy and width; kept with its result.
        artifacts: Files that belong to a final report, by name: paths within the lane's folder, and on disk before the report is.
    """

    key: str
    step: int
    metrics: Mapping[str, float]
    final: bool = False
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    artifacts: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


class Verdict(enum.Enum):
    """What happens to a lane after a report."""

    CONTINUE = "continue"
    STOP = "stop"  # by a rule, or diverged: drop the lane, its state is already recorded
    PAUSE = "pause"  # others have to reach this rung first: save a checkpoint, drop the lane, and say `parked` once it is on disk
    LOST = "lost"  # the lease is gone: drop the lane, another worker has it
    FINISHED = "finished"  # the final report was recorded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How fast one signature trains here, as measured by the trainer while it trained.

    Attributes:
        signature: Of the lanes it was measured on.
        device: Hardware and software that the figure is true for, such as `cpu · jax 0.10.2`.
        strategy: How lanes were run: `map`, `vmap`, …
        width: Lanes in the pack.
        compile_s: Seconds of tracing and compiling, paid once for a signature and worker.
        lane_step_s: Seconds of the pack per optimizer step of one lane, with its share of the evaluations at rungs.
        lane_s: Seconds of the pack that a lane costs beside its steps: entering, and the final evaluation.
        memory_bytes: That the pack's states and temporaries take on the device; 0 where it is not known.
    """

    signature: str
    device: str
    strategy: str
    width: int
    compile_s: float
    lane_step_s: float
    lane_s: float = 0.0
    memory_bytes: int = 0


def fastest(probes: Iterable[Probe], *, memory_bytes: float = math.inf) -> Probe | None:
    """The measurement with the least time a lane-step among those whose pack fits; the first of equals. None where none fits.

    A trainer chooses by it, so that a plan is made for what will be chosen.
    """
    fitting = (probe for probe in probes if probe.memory_bytes <= memory_bytes)
    return min(fitting, key=lambda probe: probe.lane_step_s, default=None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Where the time of a pack went, in seconds of the worker's wall clock.

    Attributes:
        signature: Of its lanes.
        strategy: How they were run.
        width: Places for lanes.
        lane_steps: Optimizer steps, over all lanes.
        compile_s: Spent before the first step could start.
        train_s: In training steps.
        evaluate_s: In evaluations.
        other_s: In reports, checkpoints, entering and leaving.
        lane_s: Place-seconds in which a place held a lane, of all of the above but compiling.
        place_s: Place-seconds in which a place could have held one: while trials of the signature waited, or it held one.
    """

    signature: str
    strategy: str
    width: int
    lane_steps: int
    compile_s: float
    train_s: float
    evaluate_s: float
    other_s: float
    lane_s: float
    place_s: float


class Host(Protocol):
    """What runs a trainer: a worker of a study, or a command line with a single config."""

    @property
    def stopping(self) -> bool:
        """The process was asked to end: checkpoint the lanes and return. Read it at every chunk boundary."""
        ...

    def pull(self, n: int) -> Sequence[Lane]:
        """Up to n further lanes of the pack's signature. Empty when none waits now, or the host is stopping."""
        ...

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        """Records what several lanes say at a rung, in one transaction, and says what happens to each."""
        ...

    def failed(self, key: str, error: Exception) -> None:
        """This lane cannot be trained, for a reason of its own, such as what it starts from. It is dropped, and the others go on."""
        ...

    def parked(self, keys: Sequence[str]) -> None:
        """The checkpoints of these paused lanes are on disk: whoever goes on with them finds them."""
        ...

    @property
    def waiting(self) -> int:
        """Trials of the pack's signature that wait in the queue, for this worker or another."""
        ...

    def upcoming(self) -> FlatConfig | None:
        """A config of the signature that would be trained next, to compile meanwhile; None when no other one waits."""
        ...

    def probes(self) -> Sequence[Probe]:
        """Every speed measurement of the pack's signature that is known, on whatever device."""
        ...

    def probed(self, probe: Probe) -> None:
        """Keeps a speed measurement, for the choice of a strategy and for the time estimates of later plans."""
        ...

    def used(self, usage: Usage) -> None:
        """Notes where the time of a pack went, when the pack ends."""
        ...


class Trainer(Protocol):
    """A way to train a config. Instances are cheap, hold no state and import nothing heavy until `train`."""

    @property
    def name(self) -> str:
        """`module:Class`, as a study file names it."""
        ...

    @property
    def version(self) -> str:
        """Part of every trial's key: raise it when the same config would give other numbers."""
        ...

    @property
    def config_class(self) -> type:
        """Dataclass tree whose fields are declared with `static` and `traced`."""
        ...

    def problems(self, config: FlatConfig) -> Sequence[Problem]:
        """What is wrong with a config whose single values are fine, such as `members` that does not divide `experts`."""
        ...

    def cost(self, config: FlatConfig) -> Mapping[str, float]:
        """What is known before training: `cost/parameters`, `cost/train_gflops` (per image), …

        It is asked once for each cell, so it is cheap.
        """
        ...

    def steps(self, config: FlatConfig) -> int:
        """Optimizer steps that a trial of this config takes."""
        ...

    def width(self, config: FlatConfig) -> int:
        """Lanes of this config's signature that a pack holds, for the plan."""
        ...

    def data_problem(self, config: FlatConfig) -> Problem | None:
        """Why the data of this config cannot be read here, with how to prepare it; None when it can. Fast."""
        ...

    def prepare(self, config: FlatConfig) -> None:
        """Makes the data of this config readable. Called once for each dataset, before workers start.

        Raises:
            DataError: It cannot be prepared here.
        """
        ...

    def probe(self, config: FlatConfig) -> Sequence[Probe]:
        """Compiles the program of a config and times a few steps of each way to run it here. Trains nothing that is kept."""
        ...

    def provenance(self) -> Mapping[str, str]:
        """Versions of what trains, read without importing it: `jax`, `flax`, …"""
        ...

    def preload(self) -> None:
        """Imports what `train` needs, and touches no device and starts no thread: workers are forked from a process that did this."""
        ...

    def train(self, host: Host) -> None:
        """Pulls lanes (all of one signature) until none is left, trains them, reports at every rung.

        A lane found with a checkpoint in its folder goes on from it. When `host.stopping` turns true the lanes are
        checkpointed and the call returns; lanes without a final report go back to the queue.
        """
        ...


@runtime_checkable
class Keeper(Protocol):
    """A trainer whose trials can leave their parameters for others to start from: what `Upstream` needs beside `Trainer`."""

    @property
    def keeps(self) -> str:
        """Dotted key of the boolean, outside of the program, with which a trial's final report names the artifact `parameters`."""
        ...


@runtime_checkable
class Starter(Protocol):
    """A trainer that can tell, before anything is trained, what a config could not start from."""

    def misfits(self, config: FlatConfig, start: FlatConfig | pathlib.Path) -> Sequence[Problem]:
        """What keeps trials of a config from starting, as far as the plan can know. Fast, and the same pair is asked for often.

        Args:
            config: Of what is started.
            start: Config of the trials whose parameters it starts from, or a file.

        Raises:
            DataError: The file cannot be read.
        """
        ...


@runtime_checkable
class Combiner(Protocol):
    """A trainer whose finished trials can be measured together: what derived arms need beside `Trainer`."""

    def combine(self, files: Sequence[pathlib.Path], keys: Sequence[str], config: FlatConfig) -> Mapping[str, float]:
        """Final metrics of the mean of what some trials predict, named as a trial's own. Nothing is trained, no device is touched.

        Args:
            files: The artifact `predictions` of each trial.
            keys: Of the trials, in that order.
            config: Of the first of them.

        Raises:
            DataError: A file is missing, damaged, or of another trial; or the trials cannot be averaged.
        """
        ...
