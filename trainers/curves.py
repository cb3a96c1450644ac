"""A trainer that draws seeded learning curves in milliseconds: for tests, demos, and as the whole contract in one file.

The curve relaxes from ln 10 towards a floor that depends on the learning rate (a bowl around an optimum, in decades)
and on the model's size, with noise that only the seed and the step decide. Everything a real trainer must do is here:
pull, resume, report at rungs, obey verdicts, checkpoint when asked to stop, refill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import random
import signal
import time
from collections.abc import Mapping, Sequence

from orchestrator.contract import (
    PARAMETERS,
    PREDICTIONS,
    DamagedError,
    DataError,
    FlatConfig,
    Host,
    Lane,
    Probe,
    Problem,
    Report,
    Verdict,
    artifact,
    build,
    outside,
    read_row,
    signature_of,
    static,
    traced,
    write_row,
)

log = logging.getLogger(__name__)

START = math.log(10.0)  # nll of a guess among ten classes
WIDTH = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CurvesConfig:
    """Everything that decides a curve, beside its seed."""

    family: str = static("plain", "name of the curve: trials of two families never share a pack", choices=("plain", "wide", "deep"))
    size: int = static(100, "width of the pretended model: its cost grows with the square, its floor falls slowly", low=1)
    learning_rate: float = traced(1e-2, "its distance to `optimum`, in decades, lifts the floor", low=1e-12)
    optimum: float = traced(1e-2, "learning rate with the lowest floor", low=1e-12)
    floor: float = traced(0.3, "nll that a model of size 100 ends at, at the best rate", low=0.0)
    noise: float = traced(0.01, "standard deviation of the noise that each rung adds, in nats", low=0.0)
    steps: int = traced(100, "steps of a trial", low=1)
    rung_steps: int = static(20, "steps between reports and checkpoints", low=1)
    sleep_s: float = traced(0.0, "seconds that a rung of this lane takes", low=0.0)
    diverge_above: float = traced(1e6, "learning rate above which the first rung is NaN", low=0.0)
    raise_at: int = traced(0, "step at which the trainer raises; 0 is never", low=0)
    kill_at: int = traced(0, "step at which the process kills itself, on every attempt; 0 is never", low=0)
    kill_once_at: int = traced(0, "step at which the process kills itself, on the first attempt; 0 is never", low=0)
    start: str = artifact("what an earlier curve left: this one begins where it ended, not at a guess")
    keep: bool = outside(False, "leave, as parameters, where the curve ends")


class Curves:
    """The trainer. See `orchestrator.contract.Trainer` for what each method promises."""

    name = "trainers.curves:Curves"
    version = "1"
    config_class = CurvesConfig
    keeps = "keep"

    def problems(self, config: FlatConfig) -> Sequence[Problem]:  # noqa: ARG002 - any two settings go together
        return ()

    def cost(self, config: FlatConfig) -> Mapping[str, float]:
        """Of a square layer, counted as 6 FLOPs a parameter."""
        parameters = float(build(CurvesConfig, config).size ** 2)
        return {"cost/parameters": parameters, "cost/train_gflops": 6e-9 * parameters}

    def steps(self, config: FlatConfig) -> int:
        return build(CurvesConfig, config).steps

    def width(self, config: FlatConfig) -> int:  # noqa: ARG002 - every curve is as light as the next
        return WIDTH

    def data_problem(self, config: FlatConfig) -> Problem | None:  # noqa: ARG002 - there is no data
        return None

    def prepare(self, config: FlatConfig) -> None:
        """There is no data."""

    def probe(self, config: FlatConfig) -> Sequence[Probe]:
        """A curve takes the time that it is told to sleep, whatever its pack."""
        curve = build(CurvesConfig, config)
        return [_probe(config, self, lane_step_s=curve.sleep_s / min(curve.rung_steps, curve.steps))]

    def provenance(self) -> Mapping[str, str]:
        return {"curves": self.version}

    def preload(self) -> None:
        """All that is needed is imported above."""

    def train(self, host: Host) -> None:
        """Advances the lanes it holds by one rung at a time, and fills the places that fall free."""
        curves: dict[str, _Curve] = {}
        probed = False
        while True:
            for lane in host.pull(WIDTH - len(curves)):
                try:
                    curves[lane.key] = _Curve.opened(lane)
                except (OSError, DamagedError) as error:
                    host.failed(lane.key, error)
            started = time.monotonic()
            ends = started + sum(curve.config.sleep_s for curve in curves.values())
            while not host.stopping and (left := ends - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))
            if not curves or host.stopping:  # every curve was saved at its last rung
                return
            reports = {key: curve.advance() for key, curve in curves.items()}
            if not probed:
                lane_step_s = (time.monotonic() - started) / sum(report.step for report in reports.values())
                host.probed(_probe(next(iter(curves.values())).lane.config, self, lane_step_s=lane_step_s))
                probed = True
            verdicts = host.report(list(reports.values()))
            for key, verdict in verdicts.items():
                if verdict in (Verdict.CONTINUE, Verdict.PAUSE) and not reports[key].final:
                    curves[key].save()
                if verdict is not Verdict.CONTINUE or reports[key].final:
                    del curves[key]
            if paused := [key for key, verdict in verdicts.items() if verdict is Verdict.PAUSE]:
                host.parked(paused)

    def combine(self, files: Sequence[pathlib.Path], keys: Sequence[str], config: FlatConfig) -> Mapping[str, float]:  # noqa: ARG002
        """As if each split had one image: of the mean probability exp(−nll) that the curves give its class."""
        rows = [_predicted(file, key) for file, key in zip(files, keys, strict=True)]
        return _metrics({split: _of_mean([row[split] for row in rows]) for split in ("val", "test")})


@dataclasses.dataclass(slots=True)
class _Curve:
    """One lane and where its curve stands."""

    lane: Lane
    config: CurvesConfig
    step: int = 0
    nll: float = START

    @classmethod
    def opened(cls, lane: Lane) -> _Curve:
        """The lane as its checkpoint left it, or at step 0 where there is none, or a torn one.

        Raises:
            OSError, DamagedError: What it starts from cannot be read.
        """
        curve = cls(lane, build(CurvesConfig, lane.config))
        if "start" in lane.inputs:
            curve.nll = read_row(lane.inputs["start"])["nll"]
        with contextlib.suppress(OSError, DamagedError):
            row = read_row(curve.file)
            if row["key"] == lane.key:
                curve.step, curve.nll = row["step"], row["nll"]
        return curve

    @property
    def file(self) -> pathlib.Path:
        return self.lane.folder / "curve.json"

    def save(self) -> None:
        """Replaces the checkpoint at once, so that a reader meets the old one or the new one. A full disk costs it, and no more."""
        try:
            write_row(self.file, {"key": self.lane.key, "step": self.step, "nll": self.nll}, sync=False)
        except OSError as error:
            log.warning("%s: a checkpoint could not be written: %s", self.file, error)

    def advance(self) -> Report:
        """One rung on: the curve relaxes towards its floor, and the seed and the step draw the noise."""
        config, before = self.config, self.step
        self.step = min(before + config.rung_steps - before % config.rung_steps, config.steps)
        self._fail_between(before, self.step)
        decades = math.log10(config.learning_rate / config.optimum)
        floor = config.floor * (100 / config.size) ** 0.25 + 0.2 * decades**2
        draw = random.Random(f"{self.lane.seed} {self.step}")
        self.nll = floor + (self.nll - floor) * math.exp(5 * (before - self.step) / config.steps) + draw.gauss(0.0, config.noise)
        self.nll = math.nan if config.learning_rate > config.diverge_above else abs(self.nll)
        final = self.step == config.steps
        splits = {"val": self.nll} | ({"test": abs(self.nll + draw.gauss(0.0, config.noise))} if final else {})
        artifacts = (
            {**self._left(PREDICTIONS, splits), **(self._left(PARAMETERS, {"nll": self.nll}) if config.keep else {})} if final else {}
        )
        return Report(key=self.lane.key, step=self.step, metrics=_metrics(splits), final=final, artifacts=artifacts)

    def _left(self, name: str, row: Mapping[str, float]) -> dict[str, str]:
        """Keeps what the curve ends with, and gives the artifact; none where the disk has no room."""
        file = self.lane.folder / f"{name}.json"
        try:
            write_row(file, {"key": self.lane.key, **row}, sync=False)
        except OSError as error:
            log.warning("%s: %s could not be written: %s", file, name, error)
            return {}
        return {name: file.name}

    def _fail_between(self, before: int, now: int) -> None:
        killed = self.lane.folder / "killed-once"
        if before < self.config.raise_at <= now:
            raise RuntimeError(f"raise_at={self.config.raise_at}, as configured")
        if before < self.config.kill_at <= now or (before < self.config.kill_once_at <= now and not killed.exists()):
            killed.parent.mkdir(parents=True, exist_ok=True)
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def _metrics(splits: Mapping[str, float]) -> dict[str, float]:
    """From the nll of each split."""
    return {f"{split}/{name}": value for split, nll in splits.items() for name, value in (("nll", nll), ("error", 1 - math.exp(-nll)))}


def _of_mean(nlls: Sequence[float]) -> float:
    """−log of the mean of exp(−nll)."""
    least = min(nlls)
    return least - math.log(sum(math.exp(least - nll) for nll in nlls) / len(nlls))


def _predicted(file: pathlib.Path, key: str) -> Mapping[str, float]:
    """What `_Curve._left` kept."""
    try:
        row = read_row(file)
        if row["key"] != key:
            raise DamagedError(f"it belongs to trial {row['key']}")
    except (OSError, DamagedError) as error:
        raise DataError(
            f"the predictions of trial {key} cannot be read",
            found=f"{file}: {error}",
            expected="the file as the trial left it",
            fix="copy it back from where the study was run",
        ) from error
    return row


def _probe(config: FlatConfig, trainer: Curves, *, lane_step_s: float) -> Probe:
    signature = signature_of(CurvesConfig, config, program=f"{trainer.name} {trainer.version}")
    return Probe(signature=signature, device="cpu", strategy="sequence", width=WIDTH, compile_s=0.0, lane_step_s=lane_step_s)


if __name__ == "__main__":
    from trainers import solo

    solo.main(Curves())
