"""From designs to arms: finite designs by walking a define-by-run space, sampled ones by asking a sampler."""

from __future__ import annotations

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


def no_scores(arm: Arm, design: Sampled) -> float | None:
    """Before anything has run."""
    del arm, design


def arms_of(designs: Sequence[Design], axes: Design | None, base: FlatConfig, score: Score = no_scores) -> tuple[Arm, ...]:
    """Every arm of a study, in the order of its tables; adaptive designs as far as the scores allow.

    Crossed with scientific axes, a baseline arm stays the baseline at the first point only: effects have one origin.
    """
    arms = [arm for design in designs for arm in _arms(design, base, score)]
    if axes is None:
        return tuple(arms)
    crossed: list[Arm] = []
    for arm in arms:
        for number, point in enumerate(_arms(axes, {**base, **arm.overrides}, score)):
            both = _merged((arm, point))
            crossed.append(Arm(both.name, both.overrides, baseline=arm.baseline and number == 0))
    return tuple(crossed)


def proposals(
    axes: AxisPairs, n: int, *, sampler: str, seed: int, direction: str, context: FlatConfig, score: Callable[[FlatConfig], float | None]
) -> list[dict[str, Value]]:
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
    """
    from orchestrator.samplers import Past, SamplerKind, propose

    kind, points, history = SamplerKind(sampler), list[dict[str, Value]](), list[Past]()
    while len(points) < n:
        size = min(ADAPTIVE_BATCH, n - len(points)) if kind.is_adaptive else n - len(points)
        batch = propose(dict(axes), history, size, sampler=kind, seed=seed, direction=direction, context=context)
        points += batch
        scores = [score(point) for point in batch] if len(points) < n else []
        if any(value is None for value in scores):
            break
        history += [Past(point=point, value=value) for point, value in zip(batch, scores, strict=False)]
    return points


def _arms(design: Design, context: FlatConfig, score: Score) -> Iterator[Arm]:
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
        case Sampled():
            for number, point in enumerate(_sampled(design, context, score)):
                yield Arm(f"#{number} {point_name(point)}", point)
        case Cross():
            yield from (_merged(parts) for parts in itertools.product(*(tuple(_arms(part, context, score)) for part in design.designs)))


def _sampled(design: Sampled, context: FlatConfig, score: Score) -> list[dict[str, Value]]:
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


def _merged(parts: Sequence[Arm]) -> Arm:
    overrides: Mapping[str, Value] = {key: value for part in parts for key, value in part.changes}
    return Arm(" · ".join(part.name for part in parts), overrides, baseline=all(part.baseline for part in parts))


def axes_of(design: Design) -> tuple[tuple[str, Distribution], ...]:
    """Every axis that a design varies."""
    match design:
        case Grid() | OneFactorAtATime() | Sampled():
            return design.axes
        case Cross():
            return tuple(pair for part in design.designs for pair in axes_of(part))
        case Arm() | LeaveOneOut():
            return ()
