"""Metrics from saved predictions alone: those that a trial reported, those of an ensemble of finished trials, and later ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from trainers import metrics, ood
from trainers.evaluate import OF_MEMBERS
from trainers.predictions import LABELS, LOG_PROBABILITIES, SPLITS

Arrays = Mapping[str, np.ndarray]


def ensemble(trials: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """The predictions of several trials as those of one: the members of all, side by side.

    The mean over them is the mean of the trials' own means, since all have as many. What one of them has not is left out.

    Args:
        trials: As `predictions.load` gives them, of one dataset and split.

    Raises:
        ValueError: They speak of other images, or have other numbers of members.
    """
    if not trials:
        raise ValueError("an ensemble needs a trial")
    common = [name for name in trials[0] if all(name in trial for trial in trials)]
    for name in common:
        if name.endswith(LABELS) and not all(np.array_equal(trial[name], trials[0][name]) for trial in trials):
            raise ValueError(f"the trials speak of other images: {name} differ")
        if len({trial[name].shape for trial in trials}) > 1:
            raise ValueError(f"the trials differ in images, classes or members: {name}")
    members = -3  # [member, image, class], behind severities where images are corrupted
    return {
        name: trials[0][name] if name.endswith(LABELS) else np.concatenate([trial[name] for trial in trials], axis=members)
        for name in common
    }


def scores(arrays: Arrays, *, bins: int) -> dict[str, float]:
    """Every metric that predictions decide, as `split/name`: of both splits, of corrupted images and against other sets.

    Args:
        arrays: As `predictions.load` or `ensemble` gives them.
        bins: Equal-width confidence bins of the calibration error, `eval.ece_bins`.
    """
    found: dict[str, float] = {}
    for split in SPLITS:
        found |= _named(split, _evaluated(arrays[f"{split}/{LOG_PROBABILITIES}"], arrays[f"{split}/{LABELS}"], bins=bins))
    negatives, by_kind = ood.scores(arrays[f"test/{LOG_PROBABILITIES}"]), list[dict[str, float]]()
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        which = rest.rpartition("/")[0]
        if group == "ood":
            found |= _named(name.rpartition("/")[0], ood.detection(negatives, ood.scores(array))._asdict())
        if group == "corrupt":
            each = [_evaluated(severity, arrays[f"test/{LABELS}"], bins=bins) for severity in array]
            by_kind.append({metric: float(np.mean([row[metric] for row in each])) for metric in each[0]})
            found |= _named(f"corrupt/{which}", by_kind[-1])
    if by_kind:
        found |= _named("corrupt", {metric: float(np.mean([row[metric] for row in by_kind])) for metric in by_kind[0]})
    return found


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": float(value) for name, value in values.items()}


def _evaluated(log_probabilities: np.ndarray, labels: np.ndarray, *, bins: int) -> dict[str, float]:
    found = jax.device_get(_evaluate(log_probabilities, labels, bins=bins))
    left_out = OF_MEMBERS if len(log_probabilities) == 1 else ()
    return {name: float(value) for name, value in found.items() if name not in left_out}


@functools.partial(jax.jit, static_argnames="bins")
def _evaluate(log_probabilities: jax.Array, labels: jax.Array, *, bins: int) -> dict[str, jax.Array]:
    # Log-probabilities are logits of themselves.
    return metrics.evaluate(log_probabilities, labels, bins=bins)
