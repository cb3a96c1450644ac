"""What the ledger keeps of a study beside its trials: enough to rebuild every report without the study file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from orchestrator.axes import Distribution, IntUniform, LogUniform, Values
from orchestrator.contract import Trainer
from orchestrator.expand import sampled_in
from orchestrator.keys import FlatConfig, Json
from orchestrator.planned import Plan
from orchestrator.records import ArmRecord, ObjectiveRecord, Phase, SpaceRecord, StudyRecord, TrialRecord, UpstreamRecord
from orchestrator.replicates import Adaptive
from orchestrator.study import Study, Tune, adaptive_in, nuisance_axes


def spec_of(study: Study, trainer: Trainer, base: FlatConfig, profile: str, plan: Plan, provenance: Mapping[str, str]) -> dict[str, Json]:
    """The description of a study as JSON.

    Args:
        study: Whose profile was chosen.
        trainer: Which it names.
        base: Its base config, flat, with the command line's settings applied.
        profile: Name of the profile; empty if the study has none.
        plan: Its newest plan.
        provenance: Of the launcher.
    """
    tune, rule = study.protocol if isinstance(study.protocol, Tune) else None, adaptive_in(study)
    return {
        "name": study.name,
        "question": study.question,
        "trainer": trainer.name,
        "version": trainer.version,
        "profile": profile,
        "select": tune.select if tune else "",
        "select_direction": tune.direction if tune else "",
        "sampler": tune.sampler if tune else "",
        "stopping": _stopping(study),
        "adaptive": None if rule is None else dataclasses.asdict(rule),
        "nuisance": {key: str(axis) for key, axis in nuisance_axes(study)},
        "space": {key: _space(axis) for key, axis in nuisance_axes(study)},
        "objectives": [[objective.metric, objective.direction] for objective in study.objectives],
        "base": cast(Json, dict(base)),
        "provenance": {**provenance, **trainer.provenance()},
        "arms": [
            {
                "name": planned.arm.name,
                "baseline": planned.arm.baseline,
                "overrides": cast(Json, planned.arm.overrides),
                "tune_trials": planned.tune_trials,
                "replicates": planned.replicates,
                "selected": None if planned.selected is None else cast(Json, dict(planned.selected)),
            }
            for planned in plan.arms
        ],
        "upstream": [
            {
                "name": row.name,
                "overrides": cast(Json, row.upstream.overrides),
                "seeds": row.upstream.seeds,
                "trials": len(row.trials) + len(row.held),
                "arms": [arm.name for arm in plan.arms if not row.keys.isdisjoint(arm.starts)],
            }
            for row in plan.upstream
        ],
        "derived": [{"name": row.name, "of": list(row.of), "members": row.members} for row in study.ensembles],
    }


def _space(axis: Distribution) -> dict[str, Json]:
    if isinstance(axis, Values):
        return {"values": cast(Json, list(axis.values))}
    whole = isinstance(axis, IntUniform)
    return {"low": axis.low, "high": axis.high, "log": axis.log if whole else isinstance(axis, LogUniform), "whole": whole}


def _stopping(study: Study) -> str:
    """The rules of a study in words."""
    tune = study.protocol if isinstance(study.protocol, Tune) else None
    designs = (*study.arms, *(() if study.axes is None else (study.axes,)))
    drawn = [f"arms drawn by {row.sampler}, {row.rule}" for design in designs for row in sampled_in(design) if row.rule is not None]
    tuned = [] if tune is None or tune.rule is None else [f"tuning trials of each arm, {tune.rule}"]
    return "; ".join(dict.fromkeys([*tuned, *drawn]))


def study_record(spec: Mapping[str, Json], trials: Sequence[TrialRecord]) -> StudyRecord:
    """A study and everything recorded of it, from the ledger alone."""
    values = cast(Mapping[str, Any], spec)
    arms = tuple(_arm(arm) for arm in values["arms"])
    rule = values["adaptive"] if "adaptive" in values else None  # noqa: SIM401 - studies planned before there was such a protocol
    if rule is not None:
        arms = _with_all(arms, trials)
    derived: list[Mapping[str, Any]] = values["derived"] if "derived" in values else []  # noqa: SIM401 - studies planned before there were derived arms
    upstream: list[Mapping[str, Any]] = values["upstream"] if "upstream" in values else []  # noqa: SIM401 - planned before there were any
    plain = ("name", "question", "trainer", "version", "profile", "select", "select_direction", "nuisance", "sampler", "provenance")
    return StudyRecord(
        **{name: values[name] for name in plain},
        stopping=values["stopping"] if "stopping" in values else "",  # noqa: SIM401 - studies planned before there were rules
        adaptive=None if rule is None else Adaptive(**rule),
        space={key: _axis(row) for key, row in values["space"].items()} if "space" in values else {},  # as above
        base=_tuples(values["base"]),
        objectives=tuple(ObjectiveRecord(metric=metric, direction=direction) for metric, direction in values["objectives"]),
        arms=(*arms, *(_derived(row, arms) for row in derived)),
        trials=tuple(trials),
        upstreams=tuple(_upstream(row) for row in upstream),
    )


def _upstream(values: Mapping[str, Any]) -> UpstreamRecord:
    return UpstreamRecord(
        name=values["name"],
        overrides=_tuples(values["overrides"]),
        seeds=values["seeds"],
        trials=values["trials"],
        arms=tuple(values["arms"]),
    )


def _with_all(arms: Sequence[ArmRecord], trials: Sequence[TrialRecord]) -> tuple[ArmRecord, ...]:
    """Arms with the replicates that they were given since they were last described."""
    given = Counter(trial.arm for trial in trials if trial.phase is Phase.REPLICATE)
    return tuple(dataclasses.replace(arm, replicates=max(arm.replicates, given[arm.name])) for arm in arms)


def _axis(row: Mapping[str, Any]) -> SpaceRecord:
    return SpaceRecord(values=_tuple(row["values"])) if "values" in row else SpaceRecord(**row)


def _arm(values: Mapping[str, Any]) -> ArmRecord:
    selected = values["selected"]
    return ArmRecord(
        name=values["name"],
        baseline=values["baseline"],
        overrides=_tuples(values["overrides"]),
        tune_trials=values["tune_trials"],
        replicates=values["replicates"],
        selected=None if selected is None else _tuples(selected),
    )


def _derived(values: Mapping[str, Any], trained: Sequence[ArmRecord]) -> ArmRecord:
    """An arm without trials of its own; `derived` gives it what follows from the trials of others."""
    own = [arm.replicates for arm in trained if arm.name in values["of"]]
    return ArmRecord(
        name=values["name"],
        baseline=False,
        overrides={},
        tune_trials=0,
        replicates=min(own, default=0) // values["members"],
        selected=None,
        of=tuple(values["of"]),
        members=values["members"],
    )


def _tuples(flat: Mapping[str, Any]) -> FlatConfig:
    """Lists back to the tuples that configs hold."""
    return {key: _tuple(value) for key, value in flat.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in cast(list[Any], value)) if isinstance(value, list) else value
