"""The analysis of variance of crossed designs and of named arms, with replicates as blocks.

Replicate r of every cell has the same seed, split and data order. What a seed shifts in all cells alike is told apart from noise,
which is what is left once cells and seeds are accounted for; effects are tested against that noise.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import scipy.special as _special  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.analysis.components import HIGHER, NOISE, REST, SEED, Component, Part, Table, Variance, ratio
from orchestrator.analysis.factors import Factor, Factors, Point
from orchestrator.analysis.paired import Floats, holm

Codes: TypeAlias = npt.NDArray[np.int64]
MOST_COLUMNS = 400  # of the least-squares fit where values are missing

special = cast(Any, _special)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Squares:
    """A sum of squares and its degrees of freedom."""

    ss: float
    df: int


def crossed_variance(metric: str, design: Factors, table: Table) -> Variance:
    """The analysis of variance of a crossed design, or of named arms, with replicates as blocks.

    Sums of squares are those of marginal means where no value is missing and axes are crossed evenly; otherwise each is what its
    factor adds to a least-squares fit of all that does not contain it (type II).

    Source:
        Fisher, Statistical Methods for Research Workers (1925); Yates, J. American Statistical Association 29 (1934) for missing
        values; ω² with blocks: Olejnik and Algina, Psychological Methods 8 (2003).
    """
    terms = _terms(design.factors)
    codes = {keys: _codes(table.points, keys) for _, keys in terms}
    notes = list(design.notes)
    if missing := len(design.points) - len(table.points):
        notes.append(f"{missing} of {len(design.points)} cells have no result.")
    whole = table.is_whole and not missing
    is_even = whole and _is_even([codes[tuple(sorted(factor.keys))] for factor in design.factors], _contained(terms))
    if not is_even and sum(int(code.max()) + 1 for code in codes.values()) > MOST_COLUMNS:
        terms = [term for term in terms if term[0].count(" × ") == 0]
        notes.append("Interactions are left out: too many levels to fit by least squares.")
    sums, seed, noise = (_balanced if is_even else _least_squares)(table.values, [codes[keys] for _, keys in terms], _contained(terms))
    named = [(name, keys, square) for (name, keys), square in zip(terms, sums, strict=False)]
    named.append((REST if noise.df == 0 else HIGHER, (), sums[-1]))
    untold = [name for name, keys, square in named if keys and square.df == 0]
    if untold:
        notes.append(f"Not told apart from other rows, for lack of cells: {', '.join(untold)}.")
    if noise.df == 0:
        notes.append("Too few replicates are shared by two cells: noise is unknown, and nothing is tested.")
    if not is_even:
        why = "Levels of one axis have unequal shares of those of another" if whole else "Values are missing"
        notes.append(f"{why}: shares need not add up to 1.")
    values = table.values[np.isfinite(table.values)]
    total = float(((values - values.mean()) ** 2).sum())
    rows = [(name, square) for name, _, square in named if square.df > 0]
    return Variance(
        metric=metric,
        layout=design.layout,
        components=_components(rows, seed, noise, total, values.size),
        cells=len(table.points),
        n=table.values.shape[1],
        balanced=whole,
        notes=tuple(notes),
    )


def _terms(factors: Sequence[Factor]) -> list[tuple[str, tuple[str, ...]]]:
    """Each factor and each pair of them, with the keys that say at which level an arm is."""
    single = [(factor.name, tuple(sorted(factor.keys))) for factor in factors]
    pairs = [
        (f"{one.name} × {other.name}", tuple(sorted({*one.keys, *other.keys})))
        for one, other in itertools.combinations(factors, 2)
        if not {*one.keys} <= {*other.keys} and not {*other.keys} <= {*one.keys}
    ]
    return single + pairs


def _contained(terms: Sequence[tuple[str, tuple[str, ...]]]) -> list[list[int]]:
    """For each term those that are part of it: its factors, and what they are nested in."""
    return [[at for at, (_, part) in enumerate(terms) if {*part} < {*keys}] for _, keys in terms]


def _codes(points: Mapping[str, Point], keys: Sequence[str]) -> Codes:
    """The level of each cell, [cell], counted from 0."""
    seen: dict[tuple[object, ...], int] = {}
    return np.array([seen.setdefault(tuple(point[key] for key in keys), len(seen)) for point in points.values()], dtype=np.int64)


def _is_even(codes: Sequence[Codes], contained: Sequence[Sequence[int]]) -> bool:
    """Every level of a factor has the same share of cells at each level of every other one, unless the one is nested in the other."""
    for one, other in itertools.combinations(range(len(codes)), 2):
        if one not in contained[other] and other not in contained[one]:
            width = int(codes[other].max()) + 1
            both = np.bincount(codes[one] * width + codes[other], minlength=(int(codes[one].max()) + 1) * width)
            if (both != np.outer(np.bincount(codes[one]), np.bincount(codes[other])).ravel() / len(codes[one])).any():
                return False
    return True


def _balanced(values: Floats, codes: Sequence[Codes], contained: Sequence[Sequence[int]]) -> tuple[list[Squares], Squares, Squares]:
    """Sums of squares of each term and of all interactions beyond, of seeds, and of noise.

    A term's is that of its marginal means less those of the terms that are part of it, which is exact where cells are crossed or
    nested and every one has all replicates.
    """
    cells, n = values.shape
    means, grand = values.mean(axis=1), values.mean()
    found = [Squares(ss=0.0, df=0)] * len(codes)
    for at in sorted(range(len(codes)), key=lambda at: len(contained[at])):  # the parts of a term before it
        count = np.bincount(codes[at])
        level = np.bincount(codes[at], weights=means) / count
        ss = n * float((count * (level - grand) ** 2).sum()) - sum(found[part].ss for part in contained[at])
        found[at] = Squares(ss=ss, df=len(count) - 1 - sum(found[part].df for part in contained[at]))
    between = n * float(((means - grand) ** 2).sum())
    found.append(Squares(ss=between - sum(one.ss for one in found), df=cells - 1 - sum(one.df for one in found)))
    seed = Squares(ss=cells * float(((values.mean(axis=0) - grand) ** 2).sum()), df=n - 1)
    left = values - means[:, None] - values.mean(axis=0)[None, :] + grand
    noise = Squares(ss=float((left**2).sum()), df=(cells - 1) * (n - 1))
    return [_cleaned(one, values) for one in found], _cleaned(seed, values), _cleaned(noise, values)


def _cleaned(square: Squares, values: Floats) -> Squares:
    """What rounding leaves of a sum of squares that is 0 is 0."""
    return square if square.ss > 1e-12 * float(np.nansum(values**2)) else Squares(ss=0.0, df=square.df)


def _least_squares(values: Floats, codes: Sequence[Codes], contained: Sequence[Sequence[int]]) -> tuple[list[Squares], Squares, Squares]:
    """The same where values are missing: what each term adds to a fit of seeds and all terms that do not contain it."""
    cell, replicate = (places.astype(np.int64) for places in np.nonzero(np.isfinite(values)))
    y = values[cell, replicate] - values[cell, replicate].mean()
    blocks = _indicators(replicate)
    columns = [np.ones((len(y), 1)), blocks, *(_indicators(code[cell]) for code in codes)]
    found: list[Squares] = []
    for at in range(len(codes)):
        others = [other for other in range(len(codes)) if other != at and at not in contained[other]]
        fits = [_explained([*columns[:2], *(columns[2 + other] for other in chosen)], y) for chosen in ([*others, at], others)]
        found.append(Squares(ss=fits[0].ss - fits[1].ss, df=fits[0].df - fits[1].df))
    inside = _centred(y[:, None], cell)[:, 0]
    seed = _explained([_centred(blocks, cell)], inside)  # what blocks add to a fit of every cell's own mean
    between = Squares(ss=float((y**2).sum() - (inside**2).sum()) + seed.ss, df=len(np.unique(cell)) + seed.df)
    model = _explained(columns, y)
    found.append(Squares(ss=between.ss - model.ss, df=between.df - model.df))
    noise = Squares(ss=float((inside**2).sum()) - seed.ss, df=len(y) - between.df)
    return [_cleaned(one, values) for one in found], _cleaned(seed, values), _cleaned(noise, values)


def _indicators(code: Codes) -> Floats:
    """[row, level], 1 where the row is of the level."""
    return (code[:, None] == np.arange(int(code.max()) + 1, dtype=np.int64)[None, :]).astype(np.float64)


def _centred(columns: Floats, cell: Codes) -> Floats:
    """Columns [row, column] less their mean within each cell."""
    count = np.bincount(cell)[:, None]
    sums = np.stack([np.bincount(cell, weights=column) for column in columns.T], axis=1)
    return columns - (sums / np.maximum(count, 1))[cell]


def _explained(columns: Sequence[Floats], y: Floats) -> Squares:
    """The part of y that lies in the span of some columns, and the span's dimension."""
    matrix = np.concatenate(columns, axis=1)
    roots, vectors = np.linalg.eigh(matrix.T @ matrix)  # small whole numbers: the rank is clear
    kept = roots > 1e-9 * max(float(roots[-1]), 1e-300)
    along = vectors[:, kept].T @ (matrix.T @ y)
    return Squares(ss=float((along**2 / roots[kept]).sum()), df=int(kept.sum()))


def _components(rows: Sequence[tuple[str, Squares]], seed: Squares, noise: Squares, total: float, trials: int) -> tuple[Component, ...]:
    mean_square = noise.ss / noise.df if noise.df else math.nan
    block = seed.ss / seed.df if seed.df else 0.0
    whole = total + block

    def component(name: str, part: Part, square: Squares, unbiased: float) -> Component:
        f = ratio(square.ss / square.df, mean_square) if square.df and part is not Part.NOISE else math.nan
        p = float(special.fdtrc(square.df, noise.df, f)) if not math.isnan(f) else math.nan
        return Component(name=name, part=part, df=square.df, share=ratio(square.ss, total), unbiased=ratio(unbiased, whole), f=f, p=p)

    found = [
        component(
            name, Part.INTERACTION if " × " in name or name in (HIGHER, REST) else Part.AXIS, square, square.ss - square.df * mean_square
        )
        for name, square in rows
    ]
    corrected = holm([one.p for one in found])
    found = [dataclasses.replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
    n = seed.df + 1
    if seed.df:
        found.append(component(SEED, Part.SEED, seed, n * (block - mean_square)))
    if noise.df:
        found.append(component(NOISE, Part.NOISE, noise, trials * mean_square))
    return tuple(found)
