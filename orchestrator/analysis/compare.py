"""Two studies side by side: which arms they share, what differs between these, and both as one record for the report's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from orchestrator.analysis.effects import ArmEffect, between
from orchestrator.analysis.trials import trials_of
from orchestrator.keys import FlatConfig
from orchestrator.records import ArmRecord, Phase, StudyRecord, TrialRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An arm that two studies share.

    Attributes:
        first: Its name in `joined(…)`, of the first study.
        second: Likewise, of the second.
        same_trials: Its replicates are the same trials: one result that both studies show.
        changes: Config key to its value in the first and in the second study, of those that differ.
        same_seeds: Replicate r has one seed in both, so that replicates can be paired.
    """

    first: str
    second: str
    same_trials: bool
    changes: Mapping[str, tuple[object, object]]
    same_seeds: bool


def name_in(record: StudyRecord, arm: str) -> str:
    """What an arm of a study is called in `joined`."""
    return f"{arm} · {record.name}"


def joined(first: StudyRecord, second: StudyRecord) -> StudyRecord:
    """Both studies as one, without a baseline: arms that they share follow each other, then come those that only one has.

    Tuning is left out: how arms of a study were tuned is told in its own report.
    """
    partner = {one: other for one, other in _partners(first, second)}
    ordered: list[tuple[StudyRecord, str]] = []
    for arm in first.arms:
        ordered += [(first, arm.name), *([(second, partner[arm.name])] if arm.name in partner else [])]
    ordered += [(second, arm.name) for arm in second.arms if arm.name not in partner.values()]
    shared = {key: value for key, value in first.base.items() if key in second.base and second.base[key] == value}
    objectives = {objective.metric: objective for objective in (*second.objectives, *first.objectives)}
    return dataclasses.replace(
        first,
        name=f"{first.name} and {second.name}",
        question=f"How do {first.name} and {second.name} differ?",
        version=first.version if first.version == second.version else f"{first.version} and {second.version}",
        trainer=first.trainer if first.trainer == second.trainer else f"{first.trainer} and {second.trainer}",
        profile=first.profile if first.profile == second.profile else f"{first.profile} and {second.profile}",
        select="",
        nuisance={},
        sampler="",
        objectives=tuple(objectives[row.metric] for row in dict.fromkeys((*first.objectives, *objectives.values()))),
        base=shared,
        arms=tuple(_arm(record, name, shared) for record, name in ordered),
        trials=tuple(trial for record, name in ordered for trial in _trials(record, name)),
        provenance=_both(first.provenance, second.provenance),
        stopping="",
        adaptive=None,  # what was looked at is each study's own comparisons, not these
        runs=(),
    )


def matches(first: StudyRecord, second: StudyRecord) -> tuple[Match, ...]:
    """The arms that both studies have, by name and else by what they compute, in the order of the first one."""
    return tuple(_match(first, one, second, other) for one, other in _partners(first, second))


def differences(both: StudyRecord, found: Sequence[Match], metric: str) -> tuple[ArmEffect, ...]:
    """Second minus first of each match, paired by seed; without pairs where the seeds differ, and none of the same trials.

    Args:
        both: As `joined` gives it.
        found: As `matches` gives them.
        metric: What is compared.
    """
    return between(both, metric, [(row.first, row.second) for row in found if not row.same_trials and row.same_seeds])


def _partners(first: StudyRecord, second: StudyRecord) -> list[tuple[str, str]]:
    names = {arm.name for arm in second.arms}
    found = {arm.name: arm.name for arm in first.arms if arm.name in names}
    left = {tuple(_keys(second, arm.name)): arm.name for arm in second.arms if arm.name not in found}
    for arm in first.arms:
        keys = tuple(_keys(first, arm.name))
        if arm.name not in found and keys and keys in left:
            found[arm.name] = left.pop(keys)
    return [(arm.name, found[arm.name]) for arm in first.arms if arm.name in found]


def _match(first: StudyRecord, one: str, second: StudyRecord, other: str) -> Match:
    before, after = _config(first, one), _config(second, other)
    keys = [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]
    seeds = [{trial.index: trial.seed for trial in _trials(record, name)} for record, name in ((first, one), (second, other))]
    return Match(
        first=name_in(first, one),
        second=name_in(second, other),
        same_trials=bool(_keys(first, one)) and _keys(first, one) == _keys(second, other),
        changes={key: (before.get(key), after.get(key)) for key in keys},
        same_seeds=all(seeds[1][index] == seed for index, seed in seeds[0].items() if index in seeds[1]),
    )


def _arm(record: StudyRecord, name: str, shared: FlatConfig) -> ArmRecord:
    """An arm as it stands in both studies' record: what its study's base has of its own is an override of it."""
    arm = next(arm for arm in record.arms if arm.name == name)
    own = {key: value for key, value in record.base.items() if key not in shared}
    return dataclasses.replace(
        arm,
        name=name_in(record, name),
        baseline=False,
        overrides={**own, **arm.overrides},
        tune_trials=0,
        of=tuple(name_in(record, part) for part in arm.of),
    )


def _trials(record: StudyRecord, arm: str) -> list[TrialRecord]:
    return [dataclasses.replace(trial, arm=name_in(record, arm)) for trial in trials_of(record, arm, Phase.REPLICATE)]


def _keys(record: StudyRecord, arm: str) -> list[str]:
    return [trial.key for trial in trials_of(record, arm, Phase.REPLICATE)]


def _config(record: StudyRecord, name: str) -> FlatConfig:
    """The config of an arm's replicates, as far as it is known."""
    trials = trials_of(record, name, Phase.REPLICATE)
    if trials:
        return trials[0].config
    arm = next(arm for arm in record.arms if arm.name == name)
    return {**record.base, **arm.overrides, **(arm.selected or {})}


def _both(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """What holds for both studies, and where they differ both values."""
    found: dict[str, str] = {}
    for key in dict.fromkeys((*first, *second)):
        values = dict.fromkeys(row[key] for row in (first, second) if key in row)
        found[key] = " and ".join(values)
    return found
