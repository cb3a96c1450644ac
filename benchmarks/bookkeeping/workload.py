"""Tessera's study of trials that train nothing: any number of them, in arms of ten, five rungs each."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bookkeeping.rungs import RUNGS, Clock, metrics
from orchestrator import Arm, LogUniform, Replicates, Study, Tune
from orchestrator.contract import Host, Report, Verdict
from trainers import presets
from trainers.vision import Vision

PACK = 8
NAME = "overhead"
TUNE, REPLICATES = 8, 2
AN_ARM = TUNE + REPLICATES
SPACE = {"optim.learning_rate": LogUniform(1e-3, 1e-1), "optim.weight_decay": LogUniform(1e-4, 1.0)}


class Empty(Vision):
    """The vision trainer, with its configs, costs and signatures, and no training."""

    name = "benchmarks.bookkeeping.workload:Empty"

    def __init__(self, clock: Clock | None = None, dry: Callable[[], None] = lambda: None) -> None:
        self._clock, self._dry = clock or Clock(), dry

    def train(self, host: Host) -> None:
        """Packs of eight lanes, from the first rung to the last; `dry` is called when no further one waits."""
        done: dict[str, int] = {}
        while True:
            with self._clock.of("lease"):
                done |= {lane.key: 0 for lane in host.pull(PACK - len(done))}
            if not done:
                if not host.waiting:
                    self._dry()
                return
            done = {key: rung + 1 for key, rung in done.items()}
            reports = [_report(key, rung) for key, rung in done.items()]
            with self._clock.of("finish" if reports[0].final else "record"):
                verdicts = host.report(reports)
            done = {key: rung for key, rung in done.items() if verdicts[key] is Verdict.CONTINUE}


def study(trials: int) -> Study:
    """Arms of ten trials each: eight that tune two axes, and two replicates of what was selected."""
    arms = [Arm(f"noise {number}", {"model.router_noise": 1.0 + number / trials}) for number in range(trials // AN_ARM)]
    return Study(
        name=NAME,
        trainer=Empty.name,
        base=presets.laptop(),
        arms=arms,
        nuisance=SPACE,
        protocol=Tune(trials=TUNE, select="val/nll", then=Replicates(REPLICATES)),
    )


def _report(key: str, rung: int) -> Report:
    final = rung == RUNGS
    finals = {"test/nll": 0.5, "test/error": 0.1} if final else {}
    provenance = {"device": "cpu", "strategy": "none", "width": str(PACK)} if final else {}
    return Report(key=key, step=100 * rung, metrics=metrics(int(key[:6], 16), rung) | finals, final=final, provenance=provenance)
