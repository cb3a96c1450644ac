"""Whether the statistics keep what they promise: simulated studies of which the truth is known, and how often each method is right.

    python benchmarks/coverage.py [--json] [--save] [--studies N]

Five claims: 95 % intervals hold the true effect 95 % of the time; of several arms that change nothing, one is called an effect in
at most 5 % of the studies; the smallest effect that a study says it can resolve is found 80 % of the time; the intervals of
hypervolume and ranks hold the true ones. Seeds are fixed: the same versions print the same table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from benchmarks import machine
from orchestrator.analysis.dominance import hypervolume
from orchestrator.analysis.frontier_odds import odds_of
from orchestrator.analysis.paired import ALPHA, Floats, holm, sign_flip_ps, t_interval
from orchestrator.analysis.power import smallest_effect
from orchestrator.analysis.ranks import stability_of
from orchestrator.analysis.resampling import Cells, drawn_weights
from orchestrator.analysis.summary import mean_of

RESULTS = pathlib.Path(__file__).parent / "results" / "coverage.json"
STUDIES = 20_000
SIZES = (3, 5, 8, 16)
FAMILIES = (1, 3, 6, 12)
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _skewed(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.exponential(size=shape) - 1.0


def _very_skewed(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.lognormal(size=shape) - math.exp(0.5)


# Differences of a mean of 0. Skewness of the last two: 2 and 6.2.
SHAPES: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "uniform": lambda random, shape: random.uniform(-1.0, 1.0, size=shape),
    "heavy tails (t, 3 df)": lambda random, shape: random.standard_t(3, size=shape),
    "skewed (exponential)": _skewed,
    "very skewed (log-normal)": _very_skewed,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of the table.

    Attributes:
        claim: What is asked.
        method: Of the statistics.
        shape: What the values were drawn from.
        n: Replicates.
        arms: Beside the baseline.
        found: Share of the studies.
        error: Its Monte Carlo standard error.
    """

    claim: str
    method: str
    shape: str
    n: int
    arms: int
    found: float
    error: float


def _row(claim: str, method: str, shape: str, n: int, arms: int, hits: Floats) -> Row:
    share = float(np.mean(hits))
    return Row(
        claim=claim, method=method, shape=shape, n=n, arms=arms, found=share, error=math.sqrt(max(share * (1 - share), 1e-9) / len(hits))
    )


def intervals(studies: int = STUDIES, *, sizes: tuple[int, ...] = SIZES, shapes: tuple[str, ...] = tuple(SHAPES)) -> Iterator[Row]:
    """How often 95 % intervals hold a true mean difference of 0; the plain bootstrap beside the t interval that is used."""
    for shape in shapes:
        for n in sizes:
            random = np.random.default_rng(n)
            differences = SHAPES[shape](random, (studies, n))
            ends = np.array([t_interval(mean_of(row)) for row in differences.tolist()])
            means = differences @ drawn_weights(n, 400).T / n
            low, high = np.quantile(means, [0.025, 0.975], axis=1)
            for method, lows, highs in (("paired t", ends[:, 0], ends[:, 1]), ("percentile bootstrap (not used)", low, high)):
                yield _row("95 % interval holds the truth", method, shape, n, 1, (lows <= 0) & (highs >= 0))


def false_effects(studies: int = STUDIES, *, sizes: tuple[int, ...] = (3, 5, 8, 12), families: tuple[int, ...] = FAMILIES) -> Iterator[Row]:
    """How often a study of arms that change nothing calls at least one of them an effect. All arms share the baseline's noise.

    Arms and baseline are drawn alike, so differences are symmetric whatever the shape, except in the last: there arms have skewed noise
    and the baseline has none, which is no difference in the mean but one that a test of symmetry may find.
    """
    values: dict[str, Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]] = {
        name: lambda random, shape, draw=SHAPES[name]: (draw(random, shape), draw(random, (*shape[:1], 1, *shape[2:])))
        for name in ("normal", "very skewed (log-normal)")
    }
    values["very skewed arms, even baseline"] = lambda random, shape: (_very_skewed(random, shape), np.zeros((shape[0], 1, shape[2])))
    for shape, draw in values.items():
        for arms in families:
            for n in sizes:
                own, baseline = draw(np.random.default_rng([arms, n]), (studies, arms, n))
                differences = (own - baseline).reshape(studies * arms, n)
                flips = sign_flip_ps(differences).reshape(studies, arms)
                ts = _t_ps(differences).reshape(studies, arms)
                both = np.array(
                    [[max(a, b) for a, b in zip(holm(f), t, strict=True)] for f, t in zip(flips.tolist(), ts.tolist(), strict=True)]
                )
                ways = {
                    "sign flips, Holm, and the interval (used)": both,
                    "t test, Holm": np.array([holm(row) for row in ts.tolist()]),
                    "sign flips, not corrected": flips,
                }
                for method, ps in ways.items():
                    yield _row("some arm that changes nothing is called an effect", method, shape, n, arms, (ps <= ALPHA).any(axis=1))


def _t_ps(differences: Floats) -> Floats:
    n = differences.shape[1]
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / math.sqrt(n))
    return 2 * special.stdtr(n - 1, -np.abs(t))


def powers(studies: int = STUDIES) -> Iterator[Row]:
    """How often the smallest effect that a study says it can resolve is resolved, of normal differences; 80 % is said."""
    for method, p_of, exact in (("sign flips", sign_flip_ps, True), ("t test", _t_ps, False)):
        for arms in (1, 6):
            for n in (6, 8, 10, 12, 16):
                size = smallest_effect(1.0, n, alpha=ALPHA / arms, exact=exact)
                if math.isfinite(size):
                    differences = np.random.default_rng([n, arms]).normal(size=(studies, n)) + size
                    yield _row("the smallest effect is found", method, "normal", n, arms, p_of(differences) <= ALPHA / arms)


def volumes(studies: int = STUDIES // 40) -> Iterator[Row]:
    """How often the interval of the hypervolume holds that of the true means; six cells that share their seeds' noise."""
    fronts = {
        "six cells apart": (np.arange(1.0, 7.0), np.array([0.34, 0.30, 0.26, 0.23, 0.21, 0.20])),
        "two times three cells alike": (np.repeat([1.0, 2.0], 3), np.repeat([0.30, 0.25], 3)),
    }
    reference = (7.0, 0.4)
    for shape, (cost, quality) in fronts.items():
        truth = float(hypervolume(np.stack([cost, quality], axis=1), np.array(reference)))
        for n in (3, 5, 8):
            random, hits = np.random.default_rng(n), []
            for _ in range(studies):
                noisy = quality[:, None] + 0.01 * random.normal(size=(6, n)) + 0.015 * random.normal(size=(1, n))
                values = np.stack([np.repeat(cost[:, None], n, axis=1), noisy], axis=-1)[:, :, None, :]
                odds = odds_of(Cells(arms=tuple("abcdef"), values=values), ("cost", "nll"), np.ones(2), reference=reference)
                hits.append(odds.low <= truth <= odds.high)
            yield _row("hypervolume's interval holds the truth", "t, bootstrap's error", shape, n, 5, np.array(hits))


def ranks(studies: int = STUDIES // 40) -> Iterator[Row]:
    """How often the interval of a rank holds the rank by the true means, on average over six arms that share their seeds' noise."""
    orders = {
        "six arms apart": np.array([0.200, 0.210, 0.220, 0.235, 0.250, 0.270]),
        "six arms within noise": 0.2 + 0.002 * np.arange(6),
        "three, two and one": np.array([0.200, 0.201, 0.202, 0.250, 0.251, 0.300]),
    }
    for shape, quality in orders.items():
        for n in (3, 5, 8):
            random, hits = np.random.default_rng(n), []
            for _ in range(studies):
                noisy = quality[:, None] + 0.01 * random.normal(size=(6, n)) + 0.015 * random.normal(size=(1, n))
                found = stability_of(Cells(arms=tuple("abcdef"), values=noisy[:, :, None, None]), "nll", 1.0)
                hits.append(np.mean([arm.low <= place <= arm.high for place, arm in enumerate(found.arms, start=1)]))
            yield _row("a rank's interval holds the true rank", "bootstrap, widened to t", shape, n, 5, np.array(hits))


def document(studies: int) -> dict[str, object]:
    """Every claim; what is printed and saved."""
    rows = [*intervals(studies), *false_effects(studies // 4), *powers(studies // 4), *volumes(studies // 40), *ranks(studies // 40)]
    return {"machine": machine.describe(), "studies": studies, "rows": [dataclasses.asdict(row) for row in rows]}


def text(rows: list[Row]) -> str:
    """The table: a block for each claim, a line for each method and shape, a column for each number of replicates."""
    lines: list[str] = []
    for claim in dict.fromkeys(row.claim for row in rows):
        mine = [row for row in rows if row.claim == claim]
        sizes = sorted({row.n for row in mine})
        lines += ["", f"{claim}, %", f"{'':43}{'':33}{'arms':>5}" + "".join(f"{f'n = {n}':>9}" for n in sizes)]
        for method, shape, arms in dict.fromkeys((row.method, row.shape, row.arms) for row in mine):
            cells = {row.n: row for row in mine if (row.method, row.shape, row.arms) == (method, shape, arms)}
            figures = "".join(f"{100 * cells[n].found:9.1f}" if n in cells else f"{'–':>9}" for n in sizes)
            lines.append(f"{method:43}{shape:33}{arms:5}{figures}")
    worst = 100 * max(row.error for row in rows)
    return "\n".join([*lines, "", f"Monte Carlo standard error: {worst:.2f} points at most."])


def main() -> None:
    """Prints the table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help=f"also write it to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--studies", type=int, default=STUDIES, help=f"simulated studies for a figure (default: {STUDIES})")
    options = parser.parse_args()
    found = document(options.studies)
    if options.save:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [Row(**row) for row in found["rows"]]
    print(json.dumps(found, indent=1) if options.json else text(rows))


if __name__ == "__main__":
    main()
