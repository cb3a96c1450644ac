"""What `Adaptive` costs and saves against a fixed number of replicates: error, power and replicates, by simulation.

    python -m benchmarks.adaptive            # 20 s; writes benchmarks/results/adaptive.json

Five arms share a baseline, looks at 4, 6, …, 24 replicates, 5 % over all of them. A fixed design tests each arm once, by the t test at
5 % / 5. Both are told how often they call some arm different that is not, and how often, and with how many pairs on average,
they find one true effect (in standard deviations of the paired differences).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.analysis.sequential import boundary

RESULT = pathlib.Path(__file__).parent / "results" / "adaptive.json"
ARMS, ALPHA = 5, 0.05
LOOKS = tuple(range(4, 25, 2))
EFFECTS = (0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
STUDIES = 20_000

Floats = npt.NDArray[np.float64]


def size(differences: Floats) -> Floats:
    """|t| at each look, of [..., replicate]."""
    n = np.array(LOOKS)
    sums, squares = (np.cumsum(values, axis=-1)[..., n - 1] for values in (differences, differences**2))
    return np.abs(sums) / np.sqrt(n) / np.sqrt((squares - sums**2 / n) / (n - 1))


def nulls(rng: np.random.Generator) -> dict[str, Floats]:
    """Differences without a mean, [study, arm, replicate], by their kind."""
    arms, base = (STUDIES, ARMS, LOOKS[-1]), (STUDIES, 1, LOOKS[-1])
    draws: dict[str, Callable[[tuple[int, ...]], Floats]] = {
        "normal": lambda shape: rng.normal(size=shape),
        "log-normal metric": lambda shape: rng.lognormal(sigma=0.5, size=shape),
        "exponential metric": lambda shape: rng.exponential(size=shape),
        "heavy tails (t with 3)": lambda shape: rng.standard_t(3, size=shape),
    }
    found = {name: draw(arms) - draw(base) for name, draw in draws.items()}
    found["skewed arms, normal baseline"] = rng.exponential(size=arms) - 1.0 - rng.normal(size=base)
    for skewness, shape in ((0.5, 16.0), (1.0, 4.0), (2.0, 1.0)):
        found[f"skewed differences, {skewness:g}"] = rng.gamma(shape, size=arms) - shape
    return found


def measure() -> dict[str, object]:
    """Every figure."""
    rng = np.random.default_rng(20)
    level = ALPHA / ARMS
    bounds = np.array([boundary(LOOKS[: number + 1], level) for number in range(len(LOOKS))])
    fixed = {n: float(stats.t.isf(level / 2, n - 1)) for n in (8, 24)}
    errors: dict[str, object] = {}
    for name, differences in nulls(rng).items():
        t = size(differences)
        once = {f"fixed {n}": float((t[..., LOOKS.index(n)] >= critical).any(axis=1).mean()) for n, critical in fixed.items()}
        errors[name] = {"adaptive": float((t >= bounds).any(axis=(1, 2)).mean()), **once}
    noise, power = rng.normal(size=(STUDIES, LOOKS[-1])), list[dict[str, float]]()
    for effect in EFFECTS:
        t = size(noise + effect)
        hit = t >= bounds
        stopped = np.where(hit.any(axis=1), np.array(LOOKS)[hit.argmax(axis=1)], LOOKS[-1])
        once = {f"fixed {n}": float((t[:, LOOKS.index(n)] >= critical).mean()) for n, critical in fixed.items()}
        power.append({"effect": effect, "adaptive": float(hit.any(axis=1).mean()), "replicates": float(stopped.mean()), **once})
    return {"arms": ARMS, "alpha": ALPHA, "looks": list(LOOKS), "studies": STUDIES, "family-wise error": errors, "power": power}


def main() -> None:
    """Prints and saves."""
    found = measure()
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
