"""Everything wrong with a study, found before anything is written or spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from orchestrator.axes import edges
from orchestrator.check_sources import misfits, source_problems, standing_in
from orchestrator.config import check_value, leaves, resolve
from orchestrator.contract import Combiner, Trainer
from orchestrator.designs import Arm, AxisPairs
from orchestrator.errors import Problem, did_you_mean
from orchestrator.expand import arms_of, axes_of, sampled_in
from orchestrator.keys import FlatConfig
from orchestrator.replicates import Adaptive
from orchestrator.study import Protocol, Study, Tune, adaptive_in, nuisance_axes, replication


def study_problems(study: Study, trainer: Trainer, base: FlatConfig) -> list[Problem]:
    """Every problem of a study whose profile was chosen, in the order of the file.

    Args:
        study: Without `Profiles`.
        trainer: Which it names.
        base: Its base config, flat, with the command line's settings applied.
    """
    arms = arms_of(study.arms, study.axes, base)
    axes = nuisance_axes(study)
    problems = [*_name_problems(arms), *_collisions(study, base, axes), *_protocol_problems(study, axes)]
    problems += _adaptive_problems(study, arms)
    problems += [*_axis_problems(study, trainer, axes), *source_problems(study, trainer, base, arms)]
    sound: list[FlatConfig] = []
    configs: dict[str, FlatConfig] = {}
    for arm in arms:
        config, wrong = resolve(trainer.config_class, base, arm.overrides, where=f"arm {arm.name!r}")
        problems += wrong
        configs[arm.name] = {} if wrong else config
        if not wrong:
            unfit = misfits(trainer, base, config)
            config = standing_in(trainer, config)
            found = [*trainer.problems(config), *unfit]
            problems += _in_arm(arm, found)
            sound += [] if found else [config]
    problems += _stopping_problems(study, trainer, sound)
    problems += _ensemble_problems(study, trainer, configs)
    return list(dict.fromkeys(problems))


def _name_problems(arms: Sequence[Arm]) -> Iterator[Problem]:
    for name, count in Counter(arm.name for arm in arms).items():
        if count > 1:
            yield Problem(f"{count} arms are named {name!r}", found=name, expected="a name for each arm", fix="rename one of them")
    baselines = [arm.name for arm in arms if arm.baseline]
    if len(baselines) > 1:
        found = ", ".join(repr(name) for name in baselines)
        yield Problem("more than one arm is the baseline", found=found, expected="one at most", fix="drop baseline=True from the others")


def _collisions(study: Study, base: FlatConfig, axes: AxisPairs) -> Iterator[Problem]:
    explicit = {arm.name: arm.overrides for arm in arms_of(study.arms, None, base)}
    scientific = dict(axes_of(study.axes)) if study.axes is not None else {}
    for kind, keys in (("nuisance axis", [key for key, _ in axes]), ("scientific axis", list(scientific))):
        for key in keys:
            names = [repr(name) for name, overrides in explicit.items() if key in overrides]
            if names:
                fix = "an axis has the same values in every arm: drop it from the arms, or from the axes"
                yield Problem(f"{kind} {key!r} collides with an arm", found=f"set by {', '.join(names)}", expected="one place", fix=fix)
    for key, _ in axes:
        if key in scientific:
            yield Problem(
                f"{key!r} is both a scientific and a nuisance axis", found=key, expected="one role", fix="drop it from one of the two"
            )


def _protocol_problems(study: Study, axes: AxisPairs) -> Iterator[Problem]:
    tunes = isinstance(study.protocol, Tune)
    if axes and not tunes:
        keys = ", ".join(key for key, _ in axes)
        fix = "write protocol=Tune(trials=..., select=..., then=Replicates(...))"
        yield Problem("nuisance axes need a protocol that tunes them", found=f"{keys} with {study.protocol}", expected="Tune(...)", fix=fix)
    if tunes and not axes:
        yield Problem(
            "Tune has nothing to tune", found="no nuisance axes", expected="nuisance={...}", fix="name an axis, or use Replicates(n)"
        )


def _adaptive_problems(study: Study, arms: Sequence[Arm]) -> Iterator[Problem]:
    """What is wrong with adding replicates to comparisons that are not settled."""
    rule = adaptive_in(study)
    if rule is None:
        return
    if not any(arm.baseline for arm in arms) or len(arms) < 2:
        yield Problem(
            "Adaptive has nothing to compare",
            found=f"{len(arms)} arms, {'one' if any(arm.baseline for arm in arms) else 'none'} of them the baseline",
            expected="a baseline and an arm beside it",
            fix="mark one arm with baseline=True, or use Replicates(n)",
        )
    if not rule.metric:
        fix = 'write Adaptive(metric="test/nll"), or add an objective that is not a cost'
        yield Problem("Adaptive has no metric", found="objectives that are all costs", expected="a metric to settle arms by", fix=fix)
    least = rule.first * len(arms)
    if rule.budget is not None and rule.budget < least:
        yield Problem(
            "Adaptive's budget ends before the first look",
            found=f"budget={rule.budget}",
            expected=f"{least} or more: {rule.first} replicates of {len(arms)} arms",
            fix="raise budget, or lower first",
        )
    designs = (*study.arms, *(() if study.axes is None else (study.axes,)))
    if any(row.sampler == "tpe" or row.rule is not None for design in designs for row in sampled_in(design)):
        yield Problem(
            "Adaptive needs arms that are known from the start and trained to their end",
            found='Sampled(sampler="tpe") or Sampled(stopping=...)',
            expected="named arms, grids, or Sampled by sobol or random",
            fix="write protocol=Replicates(n), or drop the sampler or the rule",
        )


def _stopping_problems(study: Study, trainer: Trainer, configs: Sequence[FlatConfig]) -> Iterator[Problem]:
    """What is wrong with rules that stop trials.

    Args:
        study: Whose rules they are.
        trainer: Knows steps and costs.
        configs: Of the arms that have no problem of their own.
    """
    tune = study.protocol if isinstance(study.protocol, Tune) else None
    designs = (*study.arms, *(() if study.axes is None else (study.axes,)))
    halving = [row for design in designs for row in sampled_in(design) if row.rule is not None]
    if halving and tune is not None:
        fix = "stop the tuning trials, with Tune(stopping=...), or draw arms without nuisance axes and write protocol=Replicates(n)"
        yield Problem(
            "Sampled(stopping=...) stops arms, and this study tunes them first", found="protocol=Tune", expected="Replicates", fix=fix
        )
    axes = [] if study.axes is None else [row for row in sampled_in(study.axes) if row.rule is not None]
    if any(len([*(row for row in sampled_in(design) if row.rule is not None), *axes]) > 1 for design in study.arms):
        yield Problem(
            "two designs stop the same arms", found="Sampled × Sampled", expected="one of them", fix="drop stopping= from the others"
        )
    rules = [row.rule for row in halving] + ([] if tune is None else [tune.rule])
    for rule in (rule for rule in rules if rule is not None):
        steps = min((trainer.steps(config) for config in configs), default=rule.first + 1)
        if rule.first >= steps:
            fix = f"write first={max(1, steps // 4)}, or drop the rule"
            yield Problem(
                "the first rung is not before the end",
                found=f"first={rule.first}",
                expected=f"less than the {steps} steps of a trial",
                fix=fix,
            )
        for name in (name for name in rule.metrics if name.startswith("cost/") and configs):
            if name not in (known := trainer.cost(configs[0])):
                yield Problem(
                    f"the trainer knows no cost {name!r}", found=name, expected=did_you_mean(name, list(known)), fix="correct the name"
                )


def _ensemble_problems(study: Study, trainer: Trainer, configs: Mapping[str, FlatConfig]) -> Iterator[Problem]:
    """What is wrong with arms that are derived.

    Args:
        study: Whose they are.
        trainer: Has to be able to combine.
        configs: Of each trained arm, by its name; empty of one that has a problem.
    """
    then = replication(cast(Protocol, study.protocol))
    n = then.first if isinstance(then, Adaptive) else then.n
    if study.ensembles and not isinstance(trainer, Combiner):
        yield Problem(
            f"the trainer {trainer.name} cannot make ensembles",
            found=f"Ensemble({study.ensembles[0].name!r}) and no method `combine` in the trainer",
            expected="a trainer that says how saved predictions are averaged",
            fix="drop the ensembles, or add the method: docs/trainers.md",
        )
    names = Counter([*configs, *(row.name for row in study.ensembles)])
    for name in dict.fromkeys(row.name for row in study.ensembles):
        if names[name] > 1:
            yield Problem(f"{names[name]} arms are named {name!r}", found=name, expected="a name for each arm", fix="rename the ensemble")
    for row in study.ensembles:
        what = f"ensemble {row.name!r}"
        for name in (name for name in row.of if name not in configs):
            derived = any(name == other.name for other in study.ensembles)
            yield Problem(
                f"{what} is made of {name!r}, which is {'derived itself' if derived else 'no arm'}",
                found=name,
                expected=did_you_mean(name, list(configs)).replace("keys", "trained arms"),
                fix="name trained arms, as the plan shows them",
            )
        found = [sorted(configs[name].items(), key=lambda pair: pair[0]) for name in row.of if configs.get(name)]
        if len(set(map(repr, found))) < len(found):
            yield Problem(
                f"{what} averages the same trials twice",
                found=", ".join(row.of),
                expected="arms of different configs",
                fix="name each config once; members=… takes more of its replicates",
            )
        if row.members > n:
            yield Problem(
                f"{what} has more members than there are replicates",
                found=f"members={row.members}",
                expected=f"at most the {n} replicates of each arm",
                fix=f"plan {2 * row.members} replicates or more: each group of {row.members} is one replicate of the ensemble",
            )


def _axis_problems(study: Study, trainer: Trainer, axes: AxisPairs) -> Iterator[Problem]:
    known = leaves(trainer.config_class)
    for key, axis in axes:
        if key not in known:
            expected = did_you_mean(key, list(known))
            yield Problem(
                f"axis {key!r} is not a key of {trainer.config_class.__name__}", found=key, expected=expected, fix="rename the axis"
            )
            continue
        wrong = (check_value(known[key], value, where=f"axis {key!r}")[1] for value in edges(axis))
        yield from (problem for problem in wrong if problem is not None)
    designs = (*study.arms, *(() if study.axes is None else (study.axes,)))
    for key, axis in (*axes, *(pair for design in designs for pair in axes_of(design))):
        for name, _ in axis.when:
            if name not in known:
                expected = did_you_mean(name, list(known))
                yield Problem(
                    f"axis {key!r} depends on {name!r}, which is no key", found=name, expected=expected, fix="rename it in when={...}"
                )


def _in_arm(arm: Arm, problems: Sequence[Problem]) -> Iterator[Problem]:
    for problem in problems:
        yield Problem(f"arm {arm.name!r}: {problem.what}", problem.found, problem.expected, problem.fix)
