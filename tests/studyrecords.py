"""Made-up but realistic study records, for tests of what reads them. Deterministic on every platform and Python version."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence

from orchestrator.keys import FlatConfig, content_key
from orchestrator.records import (
    ArmRecord,
    Bins,
    Description,
    ObjectiveRecord,
    PackRecord,
    Phase,
    Rung,
    RunRecord,
    SpaceRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
    WorkerRecord,
)

QUESTION = """Does E³ need both tiling and partitioning?   (expected: yes; ~8 min on two CPU cores)

Tiling alone repeats the batch, partitioning alone splits the experts: the paper finds that neither lowers NLL by itself.

    python launch.py studies/ablation.py
"""
BASE: FlatConfig = {
    "data.dataset": "digits",
    "model.experts": 8,
    "model.k": 4,
    "model.members": 1,
    "model.partition": False,
    "model.router_noise": 1.0,
    "model.tile": False,
    "optim.learning_rate": 0.003,
    "train.steps": 1000,
}
LEARNING_RATE = "optim.learning_rate"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FakeArm:
    """An arm and the mean that its test NLL is drawn around."""

    name: str
    overrides: FlatConfig
    nll: float
    train_gflops: float
    diversity: float | None = None
    baseline: bool = False


_E3 = {"model.k": 2, "model.members": 2, "model.partition": True, "model.tile": True}
_TILING = {"model.k": 2, "model.members": 2, "model.tile": True}
ABLATION = (
    FakeArm(name="ViT", overrides={"model.moe_placement": "none"}, nll=0.342, train_gflops=0.00262),
    FakeArm(name="V-MoE", overrides={}, nll=0.296, train_gflops=0.00671, baseline=True),
    FakeArm(name="E³", overrides=_E3, nll=0.213, train_gflops=0.00684, diversity=0.192),
    FakeArm(name="Tiling", overrides=_TILING, nll=0.291, train_gflops=0.00684, diversity=0.0004),
    FakeArm(name="Tiling (σ×2)", overrides={**_TILING, "model.router_noise": 2.0}, nll=0.289, train_gflops=0.00684, diversity=0.0011),
    FakeArm(name="Tiling (σ×4)", overrides={**_TILING, "model.router_noise": 4.0}, nll=0.301, train_gflops=0.00684, diversity=0.0023),
    FakeArm(name="Partitioning", overrides={"model.k": 2, "model.members": 2, "model.partition": True}, nll=0.298, train_gflops=0.00671),
)
OBJECTIVES = (ObjectiveRecord(metric="test/nll", direction="minimize"), ObjectiveRecord(metric="cost/train_gflops", direction="minimize"))


def study_record(
    arms: Sequence[FakeArm] = ABLATION,
    *,
    name: str = "tiling-and-partitioning",
    question: str = QUESTION,
    replicates: int = 8,
    tune_trials: int = 8,
    rungs: int = 10,
    objectives: tuple[ObjectiveRecord, ...] = OBJECTIVES,
    change: Callable[[TrialRecord], TrialRecord | None] = lambda trial: trial,
) -> StudyRecord:
    """A finished study, tuned on the learning rate; `change` edits each trial, or drops it by returning None."""
    trials = [trial for arm in arms for trial in _trials(arm, replicates=replicates, tune_trials=tune_trials, rungs=rungs)]
    changed = [after for after in map(change, trials) if after is not None]
    return StudyRecord(
        name=name,
        question=question,
        trainer="trainers.vision:Vision",
        version="1",
        profile="laptop",
        select="val/nll" if tune_trials else "",
        select_direction="minimize",
        nuisance={LEARNING_RATE: "log-uniform 0.001 to 0.03"} if tune_trials else {},
        space={LEARNING_RATE: SpaceRecord(low=0.001, high=0.03, log=True)} if tune_trials else {},
        sampler="sobol" if tune_trials else "",
        objectives=objectives,
        base=BASE,
        arms=tuple(_arm(arm, changed, replicates=replicates, tune_trials=tune_trials) for arm in arms),
        trials=tuple(changed),
        provenance={"commit": "0123abc", "platform": "Linux x86_64", "python": "3.11.7", "tessera": "0.1.0"},
    )


def with_descriptions(record: StudyRecord) -> StudyRecord:
    """The study as one whose finished replicates describe themselves and were measured on other images too."""
    return dataclasses.replace(record, trials=tuple(map(_described, record.trials)))


def _described(trial: TrialRecord) -> TrialRecord:
    if trial.phase is not Phase.REPLICATE or trial.state is not TrialState.COMPLETE:
        return trial
    draw = random.Random(f"description {trial.arm} {trial.index}")
    nll, accuracy = trial.metrics["test/nll"], 1 - trial.metrics["test/error"]
    confidence = tuple((place + 0.5) / 5 for place in range(5))
    right = tuple(round(middle - 0.3 * trial.metrics["test/ece"] + draw.gauss(0, 0.02), 4) for middle in confidence)
    bins = Bins(count=(0, 4, 20, 60, 276), confidence=confidence, accuracy=(0.0, *right[1:]))
    tokens = sorted((draw.uniform(0.5, 1.5) for _ in range(8)), key=lambda _: draw.random())
    load = (tuple(one / sum(tokens) for one in tokens),) if trial.arm != "ViT" else ()
    other = {
        **{f"corrupt/{kind}nll": factor * nll for kind, factor in (("", 2.5), ("fog/", 2.0), ("gaussian_noise/", 3.0))},
        "corrupt/error": 1 - 0.7 * accuracy,
        "ood/waves/auroc": 0.8 * accuracy,
        "ood/waves/fpr95": 1 - 0.6 * accuracy,
        "fewshot/1shot_accuracy": 0.4 * accuracy,
        "fewshot/25shot_accuracy": 0.9 * accuracy,
        "fewshot/gratings/25shot_accuracy": 0.9 * accuracy,
    }
    return dataclasses.replace(
        trial, metrics={**trial.metrics, **other}, described=Description(reliability={"test": bins, "val": bins}, load=load)
    )


def with_runs(record: StudyRecord) -> StudyRecord:
    """The study as run twice: interrupted, and gone on with by three workers, of which one died and one came for it."""
    names = list(dict.fromkeys(trial.signature for trial in record.trials))

    def pack(program: int, ended_s: float, *, compile_s: float = 3.5, train_s: float = 30.0) -> PackRecord:
        return PackRecord(
            signature=names[program % len(names)],
            strategy="solo" if program % 2 else "map",
            width=8,
            lane_steps=8000,
            compile_s=compile_s,
            train_s=train_s,
            evaluate_s=2.5,
            other_s=0.75,
            lane_s=238.0,
            place_s=248.0,
            ended_s=ended_s,
        )

    def crew(*workers: tuple[float, float, bool, tuple[PackRecord, ...]]) -> tuple[WorkerRecord, ...]:
        return tuple(WorkerRecord(leased_s=leased, ended_s=ended, died=died, packs=packs) for leased, ended, died, packs in workers)

    first = crew((0.9, 41.0, False, (pack(0, 38.5),)), (1.0, 41.0, False, (pack(1, 39.0),)))
    second = crew(
        (0.9, 130.0, False, (pack(2, 40.0), pack(3, 78.0), pack(6, 127.5))),
        (1.0, 55.0, True, (pack(4, 42.0),)),
        (56.5, 130.0, False, (pack(4, 94.0, compile_s=0.5), pack(5, 128.0))),
    )
    runs = (
        RunRecord(workers=2, trials=112, estimate_s=None, inferred=0, wall_s=41.5, finished=16, ending="interrupted", crew=first),
        RunRecord(workers=2, trials=96, estimate_s=118.0, inferred=16, wall_s=131.0, finished=96, ending="done", crew=second),
    )
    return dataclasses.replace(record, runs=runs)


def without_result(trial: TrialRecord, state: TrialState, reason: str = "") -> TrialRecord:
    """The trial in a state in which it has no final metrics."""
    ended = trial.finished_at if state.is_terminal else ""
    return dataclasses.replace(trial, state=state, reason=reason, metrics={}, finished_at=ended)


def with_metrics(trial: TrialRecord, metrics: Mapping[str, float]) -> TrialRecord:
    """A finished trial with some final metrics replaced."""
    return dataclasses.replace(trial, metrics={**trial.metrics, **metrics}) if trial.state is TrialState.COMPLETE else trial


def _arm(arm: FakeArm, trials: Sequence[TrialRecord], *, replicates: int, tune_trials: int) -> ArmRecord:
    tuned = [trial for trial in trials if trial.arm == arm.name and trial.phase is Phase.TUNE]
    finished = len(tuned) == tune_trials and all(trial.state.is_terminal for trial in tuned)
    scored = [trial for trial in tuned if trial.state is TrialState.COMPLETE]
    selected = min(scored, key=lambda trial: trial.metrics["val/nll"]).point if scored and finished else None
    return ArmRecord(
        name=arm.name,
        baseline=arm.baseline,
        overrides=arm.overrides,
        tune_trials=tune_trials,
        replicates=replicates,
        selected=selected if tune_trials else {},
    )


def _trials(arm: FakeArm, *, replicates: int, tune_trials: int, rungs: int) -> list[TrialRecord]:
    tuned = [
        _trial(arm, Phase.TUNE, index, learning_rate=_spread(index, tune_trials), rungs=rungs, tuned=True) for index in range(tune_trials)
    ]
    best = min(tuned, key=lambda trial: trial.metrics["val/nll"]).point[LEARNING_RATE] if tuned else 0.003
    assert isinstance(best, float)
    return [
        *tuned,
        *(_trial(arm, Phase.REPLICATE, index, learning_rate=best, rungs=rungs, tuned=bool(tuned)) for index in range(replicates)),
    ]


def _spread(index: int, count: int) -> float:
    """Values of a log-uniform axis, in the scattered order of a low-discrepancy sequence."""
    share = (index * 0.6180339887 + 0.5) % 1.0
    return float(f"{0.001 * 30 ** (share if count > 1 else 0.5):.4g}")


def _trial(arm: FakeArm, phase: Phase, index: int, *, learning_rate: float, rungs: int, tuned: bool) -> TrialRecord:
    seed = index if phase is Phase.REPLICATE else 1000 + index
    point: FlatConfig = {LEARNING_RATE: learning_rate} if tuned else {}
    config = {**BASE, **arm.overrides, **point}
    cell = content_key({"config": config})
    noise = random.Random(f"{arm.name} {phase} {index}")
    shared = random.Random(f"seed {seed}").gauss(0.0, 0.02)  # what replicates of one index have in common
    penalty = 0.09 * math.log(learning_rate / 0.006) ** 2
    nll = arm.nll + shared + noise.gauss(0.0, 0.012) + (penalty if phase is Phase.TUNE else 0.0)
    cost = {"cost/parameters": 84_000.0 if arm.name == "ViT" else 252_000.0, "cost/train_gflops": arm.train_gflops}
    return TrialRecord(
        key=content_key({"cell": cell, "seed": seed, "arm": arm.name}),
        cell=cell,
        arm=arm.name,
        phase=phase,
        index=index,
        seed=seed,
        config=config,
        point=point,
        state=TrialState.COMPLETE,
        reason="",
        signature=content_key({"static": arm.name}),
        cost=cost,
        metrics={**_metrics(arm, nll, noise), **cost},
        rungs=tuple(_rung(nll, rung, rungs, noise) for rung in range(1, rungs + 1)),
        attempts=1,
        elapsed_s=4.25,
        finished_at=f"2026-03-01T10:{index:02d}:00Z",
        provenance={"device": "cpu", "jax": "0.10.2", "strategy": "map"},
    )


def _metrics(arm: FakeArm, nll: float, noise: random.Random) -> dict[str, float]:
    error = 0.28 * nll + noise.gauss(0.0, 0.004)
    metrics = {
        "val/nll": nll + noise.gauss(0.0, 0.01),
        "test/nll": nll,
        "test/error": error,
        "test/ece": abs(0.1 * nll + noise.gauss(0.0, 0.003)),
        "test/brier": 1.5 * error,
        "corrupted/nll": 3.1 * nll,
        "corrupted/error": 2.6 * error,
    }
    return metrics if arm.diversity is None else {**metrics, "test/diversity": arm.diversity * noise.uniform(0.9, 1.1)}


def _rung(nll: float, rung: int, rungs: int, noise: random.Random) -> Rung:
    done = rung / rungs
    value = nll + 2.0 * math.exp(-6.0 * done) + noise.gauss(0.0, 0.01)
    return Rung(step=100 * rung, metrics={"val/nll": value, "train/loss": value - 0.1 * done})
