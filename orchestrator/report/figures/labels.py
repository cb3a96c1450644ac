"""Places names beside points and curves so that none covers another."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Sequence

from orchestrator.report.figures.theme import FONT_SIZE

_GAP = 8.0
_LINE = FONT_SIZE * 1.2
_REACH = (1.0, 2.2, 3.8, 5.6, 8.0, 11.0)  # how many gaps away a label is tried
_NARROW, _SLIM, _WIDE = frozenset("ijl.,:;'|!"), frozenset("frtI()[] -³²¹"), frozenset("mwMW%@")
_TRIES = 24
_NOT_PLACED = 1e6
_MISLEADS = 900.0
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """They share some area."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom

    def distance(self, point: tuple[float, float]) -> float:
        """From a point to the nearest place of the rectangle."""
        across = max(self.left - point[0], 0.0, point[0] - self.right)
        return math.hypot(across, max(self.top - point[1], 0.0, point[1] - self.bottom))

    def within(self, other: Box) -> bool:
        """All of it lies in the other."""
        return self.left >= other.left and self.top >= other.top and self.right <= other.right and self.bottom <= other.bottom


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where a text goes: its left end and its middle height, and whether it stands so far off that a line must lead to it."""

    text: str
    x: float
    y: float
    leads: bool


def text_width(text: str) -> float:
    """Width of a text in pixels, to a few percent: the font's letters come in four widths."""
    ems = [
        0.25 if letter in _NARROW else 0.33 if letter in _SLIM else 0.72 if letter in _WIDE or letter.isupper() else 0.55 for letter in text
    ]
    return FONT_SIZE * sum(ems)


def short_names(names: Sequence[str], *, most: int = 26) -> dict[str, str]:
    """A shorter text for each name: without the settings that all share, and with an ellipsis in the middle if still too long.

    Names of a design differ at their ends as often as at their beginnings. Where shortening makes two the same, none is cut.

    >>> short_names(["k=1, tile=True", "k=2, tile=True"])
    {'k=1, tile=True': 'k=1', 'k=2, tile=True': 'k=2'}
    """
    settings = {name: name.split(", ") for name in names}
    shared = {part for part in settings[names[0]] if all(part in parts for parts in settings.values())} if len(names) > 1 else set[str]()
    kept = {name: ", ".join(part for part in parts if part not in shared) or name for name, parts in settings.items()}
    cut = {name: _cut(text, most) for name, text in kept.items()}
    return cut if len(set(cut.values())) == len(cut) else kept


def _cut(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half].rstrip()}…{text[-half:].lstrip()}"


def place(points: Sequence[tuple[float, float]], texts: Sequence[str], obstacles: Sequence[Box], *, area: Box) -> list[Label | None]:
    """A place for the text of each point, in pixels; None where none is free.

    Which text takes its place first decides what is left for the others, so several orders are tried and the nearest wins.
    A place that is nearer to another point is a last resort, and gets a line.

    Args:
        points: x and y of each point.
        texts: One for each point, most important first: if not all find a place, it is the last that go without.
        obstacles: What no label may cover, such as the points themselves.
        area: What no label may leave.
    """
    count = len(points)
    free = [
        [_judged(spot, index, points) for spot in _spots(*points[index], text) if _is_free(spot.box, obstacles, area)]
        for index, text in enumerate(texts)
    ]
    free = [sorted(spots, key=lambda spot: spot.cost) for spots in free]
    orders = [
        list(range(count)),
        sorted(range(count), key=lambda index: points[index][1]),
        sorted(range(count), key=lambda i: len(free[i])),
    ]
    orders += [order[::-1] for order in orders] + [random.Random(seed).sample(range(count), count) for seed in range(_TRIES)]
    _, chosen = min((_in_order(free, order) for order in orders), key=lambda found: found[0])
    return [
        None if spot is None else Label(text=text, x=spot.box.left, y=(spot.box.top + spot.box.bottom) / 2, leads=spot.leads)
        for spot, text in zip(chosen, texts, strict=True)
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """Where a label could go, and how far from its point that is, squared."""

    box: Box
    leads: bool
    cost: float


def _is_free(box: Box, obstacles: Sequence[Box], area: Box) -> bool:
    return box.within(area) and not any(box.meets(other) for other in obstacles)


def _judged(spot: _Spot, index: int, points: Sequence[tuple[float, float]]) -> _Spot:
    """The spot, dearer and with a line if some other point is about as near to it as its own."""
    own = spot.box.distance(points[index])
    if all(spot.box.distance(point) > own + 2 for other, point in enumerate(points) if other != index):
        return spot
    return _Spot(box=spot.box, leads=True, cost=spot.cost + _MISLEADS)


def _in_order(free: Sequence[Sequence[_Spot]], order: Sequence[int]) -> tuple[float, list[_Spot | None]]:
    """What each point gets if they choose in this order, and how far off that is in all."""
    taken: list[Box] = []
    chosen: list[_Spot | None] = [None] * len(free)
    cost = 0.0
    for index in order:
        spot = next((spot for spot in free[index] if not any(spot.box.meets(box) for box in taken)), None)
        chosen[index] = spot
        cost += _NOT_PLACED * (len(free) - index) if spot is None else spot.cost
        taken += [] if spot is None else [spot.box]
    return cost, chosen


def spread(heights: Sequence[float], *, low: float, high: float, distance: float = _LINE) -> list[float]:
    """Heights moved as little as needed to stand a distance apart, in the same order; closer only if the range is too small.

    >>> spread([10.0, 11.0, 50.0], low=0.0, high=100.0, distance=12.0)
    [10.0, 22.0, 50.0]
    """
    order = sorted(range(len(heights)), key=lambda index: (heights[index], index))
    if len(order) > 1:
        distance = min(distance, (high - low) / (len(order) - 1))
    moved = [0.0] * len(heights)
    floor = low
    for index in order:
        moved[index] = floor = max(floor, heights[index])
        floor += distance
    ceiling = high
    for index in reversed(order):
        moved[index] = ceiling = min(ceiling, moved[index])
        ceiling -= distance
    return moved


def _spots(x: float, y: float, text: str) -> Iterator[_Spot]:
    width = text_width(text)
    for reach in _REACH:
        for across, down in _SIDES:
            dx, dy = across * _GAP * (reach if not down else 0.7 * reach), down * _GAP * (reach + 0.4)
            left = x + dx if across > 0 else x + dx - width if across < 0 else x - width / 2
            box = Box(left=left, top=y + dy - _LINE / 2, right=left + width, bottom=y + dy + _LINE / 2)
            yield _Spot(box=box, leads=reach > 2, cost=dx * dx + dy * dy)
