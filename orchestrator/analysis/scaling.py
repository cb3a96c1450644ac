"""Improvements at different scales, made comparable: one per cent is harder to gain where models are already good.

The paper divides by how fast plain models get better with compute: at FLOPs F their NLL lies on a curve φ(F), and an improvement at
scale v counts φ'(F of the largest) / φ'(F of v) times.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.effects import baseline_of
from orchestrator.analysis.summary import Mean, means_of, paired_values
from orchestrator.keys import Value
from orchestrator.records import ArmRecord, StudyRecord

MOST_DEGREE = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Phi:
    """A polynomial in x = ln(F / unit): NLL as a function of GFLOPs.

    Attributes:
        coefficients: Of x to the power 0, 1, 2, …
        unit: GFLOPs at which x is 0.
    """

    coefficients: tuple[float, ...]
    unit: float = 1.0

    def __call__(self, gflops: float) -> float:
        """φ(F)."""
        x = math.log(gflops / self.unit)
        return math.fsum(factor * x**power for power, factor in enumerate(self.coefficients))

    def slope(self, gflops: float) -> float:
        """φ'(F), for each GFLOP."""
        x = math.log(gflops / self.unit)
        return math.fsum(power * factor * x ** (power - 1) for power, factor in enumerate(self.coefficients) if power) / gflops


# Not from the paper, which does not print its φ: the curve of this form whose weights lie within the rounding of its table of
# plain and normalised improvements, at the GFLOPs of its five models. Two free parameters against four intervals; scale and offset
# cancel.
DERIVED_PHI = Phi(coefficients=(0.0, 1.0, 0.1725, 0.072), unit=3027.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """How much better than the plain model one method is at one scale.

    Attributes:
        scale: Values of the scale's keys.
        arm: The method.
        baseline: The plain model of that scale.
        gflops: What the plain model costs.
        plain: Share of the plain model's metric that it is lower by; its standard error is that of a ratio, paired by replicate.
        weight: φ' at the largest scale over φ' at this one; NaN where φ does not fall there as it does at the largest.
        normalised: Plain times weight.
    """

    scale: tuple[Value, ...]
    arm: str
    baseline: str
    gflops: float
    plain: Mean
    weight: float
    normalised: float


def fit_phi(gflops: Sequence[float], nll: Sequence[float], *, degree: int = MOST_DEGREE) -> Phi:
    """The least-squares polynomial in ln(GFLOPs) through plain models of several scales.

    Raises:
        ValueError: There are not more scales than the degree.
    """
    if len(set(gflops)) <= degree:
        raise ValueError(f"a polynomial of degree {degree} needs {degree + 1} scales, not {len(set(gflops))}")
    unit = math.exp(math.fsum(map(math.log, gflops)) / len(gflops))
    x = np.log(np.array(gflops) / unit)
    matrix = np.stack([x**power for power in range(degree + 1)], axis=1)
    solution = np.linalg.lstsq(matrix, np.array(nll, dtype=np.float64))[0]
    return Phi(coefficients=tuple(float(factor) for factor in solution), unit=unit)


def scale_weights(gflops: Sequence[float], phi: Phi) -> tuple[float, ...]:
    """φ'(largest) / φ'(each); NaN where φ does not fall, or rises, as it does at the largest.

    >>> [round(weight, 4) for weight in scale_weights([23.9, 77.8, 271.4, 1149.0, 3027.0], DERIVED_PHI)]
    [0.0018, 0.0098, 0.0629, 0.4371, 1.0]
    """
    last = phi.slope(max(gflops))
    slopes = [phi.slope(each) for each in gflops]
    return tuple(last / slope if last * slope > 0 else math.nan for slope in slopes)


def improvements(record: StudyRecord, metric: str, cost: str, *, scale: Sequence[str], phi: Phi | None = None) -> tuple[Improvement, ...]:
    """Every method at every scale against the plain model of that scale, smallest scale first.

    Arms that agree in the keys of `scale` are of one scale; the plain model of each is the arm that changes nothing else than the
    study's baseline does. Empty without a baseline, or where fewer than two scales have a plain model with a result.

    Args:
        record: The study.
        metric: What is to be low, such as `test/nll`.
        cost: GFLOPs.
        scale: Config keys that make the scale.
        phi: NLL as a function of GFLOPs; fitted to the plain models if None, as a cubic or as high a degree as their number allows.
    """
    means, costs = means_of(record, metric), means_of(record, cost)
    known = [arm for arm in record.arms if arm.name in means and arm.name in costs and math.isfinite(means[arm.name].mean)]
    origin = next((arm for arm in record.arms if arm.name == baseline_of(record)), None)
    plain = {_scale(record, arm, scale): arm.name for arm in known if origin is not None and _rest(arm, scale) == _rest(origin, scale)}
    if len(plain) < 2:
        return ()
    gflops = [costs[name].mean for name in plain.values()]
    curve = phi or fit_phi(gflops, [means[name].mean for name in plain.values()], degree=min(MOST_DEGREE, len(set(gflops)) - 1))
    weights = dict(zip(plain, scale_weights(gflops, curve), strict=True))
    found: list[Improvement] = []
    for arm in known:
        size = _scale(record, arm, scale)
        if size in plain and plain[size] != arm.name:
            share = relative(*paired_values(record, plain[size], arm.name, metric))
            found.append(
                Improvement(
                    scale=size,
                    arm=arm.name,
                    baseline=plain[size],
                    gflops=costs[plain[size]].mean,
                    plain=share,
                    weight=weights[size],
                    normalised=share.mean * weights[size],
                )
            )
    return tuple(sorted(found, key=lambda one: one.gflops))


def relative(baseline: Sequence[float], other: Sequence[float]) -> Mean:
    """(mean baseline - mean other) / mean baseline, with the standard error of a ratio of paired means.

    Source:
        Cochran, Sampling Techniques (1977), section 6.4.
    """
    before, after = np.array(baseline, dtype=np.float64), np.array(other, dtype=np.float64)
    n = len(before)
    if n == 0 or before.mean() == 0 or not np.isfinite([before, after]).all():
        return Mean(mean=math.nan, se=math.nan, n=n)
    share = 1.0 - float(after.mean() / before.mean())
    left = (before - after - share * before) / before.mean()
    return Mean(mean=share, se=float(left.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan, n=n)


def _scale(record: StudyRecord, arm: ArmRecord, scale: Sequence[str]) -> tuple[Value, ...]:
    values = {**record.base, **arm.overrides}
    return tuple(values[key] for key in scale)


def _rest(arm: ArmRecord, scale: Sequence[str]) -> dict[str, Value]:
    return {key: value for key, value in arm.overrides.items() if key not in scale}
