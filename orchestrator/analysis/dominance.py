"""Which points no other point dominates, and the volume that points dominate; exact, for many drawn sets of points at once."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.analysis.paired import Floats

Flags: TypeAlias = npt.NDArray[np.bool_]
_AT_ONCE = 1 << 24  # pairs of points that are compared at once


def non_dominated(points: Floats) -> Flags:
    """Which of [..., point, objective] no other of its set dominates, every objective being minimised. Equal ones keep each other.

    >>> non_dominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]])).tolist()
    [True, True, False]
    """
    sets = points.reshape(math.prod(points.shape[:-2]), *points.shape[-2:])
    kept = _kept_of_two(sets) if points.shape[-1] == 2 else np.array([_kept(each) for each in sets], dtype=np.bool_)
    return kept.reshape(points.shape[:-1])


def _kept_of_two(sets: Floats) -> Flags:
    """By sorting [set, point, 2]: a point falls to one that is left of it and no higher, or above none but lower at its place."""
    if sets.shape[1] == 0:
        return np.zeros(sets.shape[:2], dtype=np.bool_)
    order = np.lexsort((sets[..., 1], sets[..., 0]), axis=-1)
    x, y = (np.take_along_axis(sets[..., axis], order, axis=-1) for axis in (0, 1))
    places = np.broadcast_to(np.arange(x.shape[1], dtype=np.int64), x.shape)
    is_new = np.concatenate([np.ones((len(x), 1), dtype=np.bool_), x[:, 1:] != x[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(is_new, places, 0), axis=1)
    lowest = np.concatenate([np.full((len(x), 1), np.inf), np.minimum.accumulate(y, axis=1)], axis=1)
    left, same = np.take_along_axis(lowest, first, axis=1), np.take_along_axis(y, first, axis=1)
    kept = np.empty(x.shape, dtype=np.bool_)
    np.put_along_axis(kept, order, (y < left) & (y <= same), axis=1)
    return kept


def _kept(points: Floats) -> Flags:
    """By comparing each pair of [point, objective], some rows at a time."""
    size = max(1, _AT_ONCE // max(1, len(points)))
    return np.concatenate([np.zeros(0, dtype=np.bool_), *(_stand(points[at : at + size], points) for at in range(0, len(points), size))])


def _stand(some: Floats, points: Floats) -> Flags:
    no_worse, better = np.ones((2, len(points), len(some)), dtype=np.bool_)
    better[:] = False
    for column in range(points.shape[1]):
        other, own = points[:, None, column], some[None, :, column]
        no_worse &= other <= own
        better |= other < own
    return np.logical_not((no_worse & better).any(axis=0))


def hypervolume(points: Floats, reference: Floats) -> Floats:
    """The volume between a reference point and the points that dominate it, for each set of [..., point, objective].

    Every objective is minimised. A point that is worse than the reference in any objective adds nothing.

    Source:
        Zitzler and Thiele, Multiobjective Evolutionary Algorithms, IEEE Trans. Evolutionary Computation 3 (1999). Two objectives
        by sorting, more by slices along the last one (While et al., A Faster Algorithm for Calculating Hypervolume, ibid. 10, 2006).

    >>> float(hypervolume(np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([4.0, 4.0])))
    5.0
    """
    sets = points.reshape(math.prod(points.shape[:-2]), *points.shape[-2:])
    inside = (sets < reference).all(axis=2, keepdims=True)
    sets = np.where(inside, sets, reference)
    found = _area(sets, reference) if points.shape[-1] == 2 else np.array([_volume(each, reference) for each in sets])
    return found.reshape(points.shape[:-2])


def _area(sets: Floats, reference: Floats) -> Floats:
    order = np.argsort(sets[..., 0], axis=-1, kind="stable")
    x, y = (np.take_along_axis(sets[..., axis], order, axis=-1) for axis in (0, 1))
    widths = np.diff(x, axis=1, append=reference[0])
    return (widths * (reference[1] - np.minimum.accumulate(y, axis=1))).sum(axis=1)


def _volume(points: Floats, reference: Floats) -> float:
    """Slices between neighbouring values of the last objective, each as thick as the next value is away."""
    if points.shape[1] == 1:
        return float(reference[0] - points.min(initial=reference[0]))
    if points.shape[1] == 2:
        return float(_area(points[None], reference)[0])
    points = points[non_dominated(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=reference[-1])
    return math.fsum(float(thick) * _volume(points[: at + 1, :-1], reference[:-1]) for at, thick in enumerate(thickness) if thick > 0)
