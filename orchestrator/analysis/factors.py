"""Which axes a study varied, read from what its arms override: crossed axes, conditional ones, plain lists of arms, drawn points.

Arms of a grid name every axis in their overrides; of conditional axes only where these exist. Keys are crossed if every combination of
their values was planned; keys that are not are one factor, since what they do cannot be told apart.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from orchestrator.keys import Value
from orchestrator.records import ArmRecord, StudyRecord

ARM = "arm"  # the factor of a list of arms; config keys have dots or are fields of the trainer's config
_MANY = 8  # a key that takes as many values as there are arms, and at least so many, was drawn rather than listed

Point: TypeAlias = Mapping[str, Value]


class Layout(enum.Enum):
    """How the arms of a study stand to each other."""

    CROSSED = "crossed"  # every combination of the factors' values
    LISTED = "listed"  # named arms, which differ in whatever they differ in
    DRAWN = "drawn"  # points of a space, no two alike


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What a share of the variance is given to.

    Attributes:
        name: The key; several joined by ` + ` where they move together.
        keys: Arms that agree in these are at one level of it. A conditional axis has its parents' keys as well.
    """

    name: str
    keys: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The design of a study.

    Attributes:
        layout: How the arms stand to each other.
        factors: In the order in which arms name their keys, which the ledger sorts; of a drawn design, its axes.
        points: Arm to its value of each key; arms that are no part of the design are not in it.
        notes: What was left out or put together, and why, in sentences.
    """

    layout: Layout
    factors: tuple[Factor, ...]
    points: Mapping[str, Point]
    notes: tuple[str, ...]


def factors_of(record: StudyRecord) -> Factors:
    """The design behind the trained arms of a study."""
    arms = [arm for arm in record.arms if not arm.is_derived]
    notes = [] if len(arms) == len(record.arms) else ["Derived arms are left out: their replicates are groups of other arms' replicates."]
    counts = Counter(key for arm in arms for key in arm.overrides)
    most = max(counts.values(), default=0)
    everywhere = {key for key, count in counts.items() if count == most}
    inside = [arm for arm in arms if everywhere <= arm.overrides.keys()]
    outside = [arm.name for arm in arms if not everywhere <= arm.overrides.keys()]
    few = len(outside) <= max(1, len(arms) // 5)
    design = (_drawn(record, inside) or _crossed(record, inside)) if few else None
    if design is None:
        points = {arm.name: {ARM: arm.name} for arm in arms}
        return Factors(layout=Layout.LISTED, factors=(Factor(name=ARM, keys=(ARM,)),), points=points, notes=tuple(notes))
    if outside:
        notes.append(f"Left out, as no part of the design: {', '.join(outside)}.")
    return dataclasses.replace(design, notes=(*notes, *design.notes))


def _points(record: StudyRecord, arms: Sequence[ArmRecord]) -> dict[str, dict[str, Value]]:
    """Values of the keys that differ between arms; of two arms that agree in all, the first."""
    keys = list(dict.fromkeys(key for arm in arms for key in arm.overrides))
    whole = {arm.name: {key: {**record.base, **arm.overrides}.get(key) for key in keys} for arm in arms}
    varied = [key for key in keys if len({point[key] for point in whole.values()}) > 1]
    first: dict[tuple[Value, ...], str] = {}
    for name, point in whole.items():
        first.setdefault(tuple(point[key] for key in varied), name)
    return {name: {key: whole[name][key] for key in varied} for name in first.values()}


def _drawn(record: StudyRecord, arms: Sequence[ArmRecord]) -> Factors | None:
    """Points of a space: some number takes another value in (nearly) every arm, and no combination of values comes back."""
    points = _points(record, arms)
    everywhere = [key for key in _keys(points) if all(key in arm.overrides for arm in arms)]
    wide = [key for key in everywhere if _is_number(points, key) and 2 * len(_levels(points, (key,))) > len(points)]
    if len(points) < _MANY or len(everywhere) < 2 or not wide:
        return None
    partly = [key for key in _keys(points) if key not in everywhere]
    notes = [f"{key} is left out: it exists in {sum(key in arm.overrides for arm in arms)} of {len(arms)} arms only." for key in partly]
    return Factors(
        layout=Layout.DRAWN,
        factors=tuple(Factor(name=key, keys=(key,)) for key in everywhere),
        points=points,
        notes=tuple(notes),
    )


def _crossed(record: StudyRecord, arms: Sequence[ArmRecord]) -> Factors | None:
    """Factors of which every combination was planned; None where there are no two such, and no single axis."""
    points = _points(record, arms)
    groups = _groups(points)
    parts = [_nested(points, group, arms) or _single(points, group) for group in groups]
    joint = [group for group, part in zip(groups, parts, strict=True) if not part]
    if len(groups) < 2 and (joint or not groups):
        return None
    named = {group: ARM if len(joint) == 1 else " + ".join(group) for group in joint}
    factors = [part or [Factor(name=named[group], keys=group)] for group, part in zip(groups, parts, strict=True)]
    words = [
        f"{factor.name} exists in {sum(factor.name in arm.overrides for arm in arms)} of {len(arms)} arms; its share is of those."
        for factor in itertools.chain.from_iterable(parts)
        if len(factor.keys) > 1 and factor.name in factor.keys
    ]
    words += [f"{', '.join(group)} are one factor, {named[group]}: not every combination of their values is there." for group in joint]
    return Factors(layout=Layout.CROSSED, factors=tuple(itertools.chain.from_iterable(factors)), points=points, notes=tuple(words))


def _single(points: Mapping[str, Point], group: tuple[str, ...]) -> list[Factor]:
    """A key, or several of which each says what the others are, as one factor; empty for other groups."""
    moves_as_one = all(len(_levels(points, (key,))) == len(_levels(points, group)) for key in group)
    return [Factor(name=" + ".join(group), keys=group)] if moves_as_one else []


def _groups(points: Mapping[str, Point]) -> list[tuple[str, ...]]:
    """The keys in groups that are crossed with each other: all combinations of the groups' levels are there."""
    groups = [(key,) for key in _keys(points)]
    merged = True
    while merged:
        merged = False
        for one, other in itertools.combinations(groups, 2):
            if len(_levels(points, one + other)) != len(_levels(points, one)) * len(_levels(points, other)):
                groups = [group if group != one else one + other for group in groups if group != other]
                merged = True
                break
    whole = math.prod(len(_levels(points, group)) for group in groups) == len(points)
    return groups if whole or not groups else [tuple(itertools.chain.from_iterable(groups))]


def _nested(points: Mapping[str, Point], group: tuple[str, ...], arms: Sequence[ArmRecord]) -> list[Factor]:
    """A group as axes that are everywhere, crossed, and conditional ones within their levels; empty if it is not so made."""
    overrides = {arm.name: arm.overrides for arm in arms if arm.name in points}
    roots = tuple(key for key in group if all(key in own for own in overrides.values()))
    partly = [key for key in group if key not in roots]
    if not roots or not partly or len(_levels(points, roots)) != math.prod(len(_levels(points, (key,))) for key in roots):
        return []
    factors = [Factor(name=key, keys=(key,)) for key in roots]
    for level in _levels(points, roots):
        inside = {name: point for name, point in points.items() if _level(point, roots) == level}
        present = [key for key in partly if any(key in overrides[name] for name in inside)]
        if len(_levels(inside, group)) != math.prod(len(_levels(inside, (key,))) for key in present):
            return []
        if any(key not in overrides[name] for key in present for name in inside):
            return []
    for key in partly:
        parents = _parents(points, overrides, key, roots)
        factors.append(Factor(name=key, keys=(*parents, key)))
    return factors


def _parents(points: Mapping[str, Point], overrides: Mapping[str, Point], key: str, roots: tuple[str, ...]) -> tuple[str, ...]:
    """The fewest axes whose values say whether a conditional one exists."""
    for size in range(1, len(roots) + 1):
        for parents in itertools.combinations(roots, size):
            known = {(_level(point, parents), key in overrides[name]) for name, point in points.items()}
            if len(known) == len(_levels(points, parents)):
                return parents
    return roots


def _keys(points: Mapping[str, Point]) -> list[str]:
    return list(dict.fromkeys(key for point in points.values() for key in point))


def _levels(points: Mapping[str, Point], keys: Sequence[str]) -> set[tuple[Value, ...]]:
    return {_level(point, keys) for point in points.values()}


def _level(point: Point, keys: Sequence[str]) -> tuple[Value, ...]:
    return tuple(point[key] for key in keys)


def _is_number(points: Mapping[str, Point], key: str) -> bool:
    return all(isinstance(point[key], (int, float)) and not isinstance(point[key], bool) for point in points.values())
