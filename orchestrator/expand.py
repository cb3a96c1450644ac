"""From designs to arms: finite designs by walking a define-by-run space, sampled ones by asking a sampler."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from orchestrator.axes import Distribution, Values, is_active
from orchestrator.designs import Arm, AxisPairs, Cross, Design, Grid, LeaveOneOut, OneFactorAtATime, Sampled, point_name
from orchestrator.keys import FlatConfig, Value

if TYPE_CHECKING:
    import optuna

#: Mean of a design's `select` metric for an arm with these overrides; None while it is not known.
Score = Callable[[Arm, Sampled], float | None]

ADAPTIVE_BATCH = 4  # proposals of an adaptive sampler made together; the next wait for all of them, so timing changes nothing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Arms with equal rights: those that one sampled design makes, beside the same other parts, compared at rungs.

    Attributes:
        design: Which design, with its rule.
        number: Of the design in the study file, from 0.
        beside: Name of the arm that it is crossed with; empty for none.
    """

    design: Sampled
    number: int
    beside: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An arm, and the cohort that it is compared in; None for one that is never dropped."""

    arm: Arm
    cohort: Cohort | None = None


def no_scores(arm: Arm, design: Sampled) -> float | None:
    """Before anything has run."""
    del arm, design


def arms_of(designs: Sequence[Design], axes: Design | None, base: FlatConfig, score: Score = no_scores) -> tuple[Arm, ...]:
    """Every arm of a study, in the order of its tables; adaptive designs as far as the scores allow."""
    return tuple(made.arm for made in made_by(designs, axes, base, score))


def made_by(designs: Sequence[Design], axes: Design | None, base: FlatConfig, score: Score = no_scores) -> tuple[Made, ...]:
    """Every arm of a study with its cohort; see `arms_of`.

    Crossed with scientific axes, a baseline arm stays the baseline at the first point only: effects have one origin.
    """
    made = [row for number, design in enumerate(designs) for row in _made(design, base, score, number)]
    if axes is None:
        return tuple(made)
    crossed: list[Made] = []
    for row in made:
        for number, point in enumerate(_made(axes, {**base, **row.arm.overrides}, score, len(designs))):
            both = _merged((row, point))
            baseline = row.arm.baseline and number == 0
            crossed.append(dataclasses.replace(both, arm=Arm(both.arm.name, both.arm.overrides, baseline=baseline)))
    return tuple(crossed)


def proposals(
    axes: AxisPairs,
    n: int,
    *,
    sampler: str,
    seed: int,
    direction: str,
    context: FlatConfig,
    score: Callable[[FlatConfig], float | None],
    earlier: Sequence[tuple[FlatConfig, float]] = (),
) -> list[FlatConfig]:
    """Points of a space, in order: all n of a sampler that ignores results, of an adaptive one as many as the scores allow.

    The points of an adaptive sampler are made in batches of `ADAPTIVE_BATCH`, each from the scores of all batches before
    it, so that the same results lead to the same points however the trials were timed.

    Args:
        axes: Dotted keys and distributions; those whose conditions fail in `context` are left out.
        n: How many points in all.
        sampler: `random`, `sobol` or `tpe`.
        seed: Fixes the draw.
        direction: Which way the score is better.
        context: Values of the other keys.
        score: The score of a point, NaN if it has none because it diverged or failed, None if it is not known yet.
        earlier: Whole batches that were proposed before and their scores; what follows them is asked for.
    """
    from orchestrator.samplers import Past, SamplerKind, propose

    kind, points = SamplerKind(sampler), [point for point, _ in earlier]
    history = [Past(point=point, value=value) for point, value in earlier]
    while len(points) < n:
        size = min(ADAPTIVE_BATCH, n - len(points)) if kind.is_adaptive else n - len(points)
        batch = propose(dict(axes), history, size, sampler=kind, seed=seed, direction=direction, context=context)
        points += batch
        scores = [score(point) for point in batch] if len(points) < n else []
        if any(value is None for value in scores):
            break
        history += [Past(point=point, value=value) for point, value in zip(batch, scores, strict=False)]
    return points


def _made(design: Design, context: FlatConfig, score: Score, number: int) -> Iterator[Made]:
    match design:
        case Sampled():
            cohort = None if design.stopping is None else Cohort(design=design, number=number)
            for index, point in enumerate(_sampled(design, context, score)):
                yield Made(arm=Arm(f"#{index} {point_name(point)}", point), cohort=cohort)
        case Cross():
            parts = [tuple(_made(part, context, score, number)) for part in design.designs]
            yield from (_merged(row) for row in itertools.product(*parts))
        case Arm() | Grid() | OneFactorAtATime() | LeaveOneOut():
            yield from (Made(arm=arm) for arm in _listed(design, context))


def _listed(design: Arm | Grid | OneFactorAtATime | LeaveOneOut, context: FlatConfig) -> Iterator[Arm]:
    match design:
        case Arm():
            yield design
        case Grid():
            for point in grid_points(design.axes, context):
                yield Arm(point_name(point), point)
        case OneFactorAtATime():
            yield Arm(design.base_name, {}, baseline=True)
            for key, axis in design.axes:
                for value in cast(Values, axis).values:
                    yield Arm(point_name({key: value}), {key: value})
        case LeaveOneOut():
            yield Arm(design.full_name, {}, baseline=True)
            for name, changes in design.removals:
                yield Arm(f"− {name}", dict(changes))


def _sampled(design: Sampled, context: FlatConfig, score: Score) -> list[FlatConfig]:
    return proposals(
        design.axes,
        design.n,
        sampler=design.sampler,
        seed=design.seed,
        direction=design.direction,
        context=context,
        score=lambda point: score(Arm("point", point), design),
    )


def grid_points(axes: AxisPairs, context: FlatConfig) -> list[dict[str, Value]]:
    """Every point of a finite space with conditional axes, in the order of the listed values.

    Args:
        axes: Dotted keys and `Values`; a condition may name an axis that stands before it, or a key of `context`.
        context: Values of the other keys.
    """
    from orchestrator.samplers import enumerate_space

    listed = {key: cast(Values, axis).values for key, axis in axes}
    names = {key: [str(number) for number in range(len(values))] for key, values in listed.items()}

    def space(trial: optuna.trial.BaseTrial) -> None:
        point = {name: value for name, value in context.items() if name not in listed}
        for key, axis in axes:
            if is_active(axis.when, point):
                point[key] = listed[key][int(trial.suggest_categorical(key, names[key]))]

    return [{key: listed[key][int(cast(str, choice))] for key, choice in leaf.items()} for leaf in enumerate_space(space)]


def _merged(parts: Sequence[Made]) -> Made:
    """The arms joined. One drawn beside another is compared with the others that are drawn beside it."""
    arms = [part.arm for part in parts]
    overrides: Mapping[str, Value] = {key: value for arm in arms for key, value in arm.changes}
    joined = Arm(" · ".join(arm.name for arm in arms), overrides, baseline=all(arm.baseline for arm in arms))
    cohorts = [part.cohort for part in parts if part.cohort is not None]
    if not cohorts:
        return Made(arm=joined)
    # A study in which two designs stop the same arm is refused when it is checked.
    beside = [part.cohort.beside if part.cohort is not None else part.arm.name for part in parts]
    return Made(arm=joined, cohort=dataclasses.replace(cohorts[0], beside=" · ".join(filter(None, beside))))


def sampled_in(design: Design) -> tuple[Sampled, ...]:
    """Every sampled design in a design."""
    match design:
        case Sampled():
            return (design,)
        case Cross():
            return tuple(row for part in design.designs for row in sampled_in(part))
        case Arm() | Grid() | OneFactorAtATime() | LeaveOneOut():
            return ()


def axes_of(design: Design) -> tuple[tuple[str, Distribution], ...]:
    """Every axis that a design varies."""
    match design:
        case Grid() | OneFactorAtATime() | Sampled():
            return design.axes
        case Cross():
            return tuple(pair for part in design.designs for pair in axes_of(part))
        case Arm() | LeaveOneOut():
            return ()
