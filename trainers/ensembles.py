"""Deep ensembles: the metrics of several finished trials' mean prediction, from what each saved. NumPy alone, nothing is trained.

The report asks this of a launcher that must not touch a device, so JAX is not imported; `tests/trainers/test_ensembles.py` holds
every metric against the one that trials report.

Source:
    Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles (2017).
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.contract import DataError
from trainers import ood, predictions
from trainers.predictions import KEPT, LABELS, LOG_PROBABILITIES
from trainers.reliability import binned

Arrays = Mapping[str, np.ndarray]
Floats = npt.NDArray[np.float64]

SMALLEST_PROBABILITY, SMALLEST_ERROR = 1e-7, 1e-7  # as in `trainers.metrics`
CHUNK = 2**22  # numbers of a trial's predictions that are worked on at once


def combine(files: Sequence[pathlib.Path], keys: Sequence[str], *, bins: int, corrupted: bool) -> dict[str, float]:
    """The metrics of the mean prediction of some trials.

    Args:
        files: Predictions of each trial.
        keys: Of the trials, in that order.
        bins: Equal-width confidence bins of the calibration error, `eval.ece_bins`.
        corrupted: Corrupted images without labels of their own are the test images in their order.

    Raises:
        DataError: Predictions cannot be read, or those of two trials are not of the same images and classes.
    """
    trials = [predictions.load(file, key) for file, key in zip(files, keys, strict=True)]
    _check(trials, keys)
    return scores(trials, bins=bins, corrupted=corrupted)


def scores(trials: Sequence[Arrays], *, bins: int, corrupted: bool = True) -> dict[str, float]:
    """Every metric that predictions decide, as `split/name`, with the names that single trials report.

    Each trial counts the same, however many members it has. What compares members compares those of all trials with each other.

    Args:
        trials: As `predictions.load` gives them, of the same images. What one of them lacks is left out.
        bins: Equal-width confidence bins.
        corrupted: See `combine`.
    """
    found: dict[str, float] = {}
    shared = [name for name in trials[0] if all(name in trial for trial in trials)]
    for split in (split for split in KEPT if f"{split}/{LABELS}" in shared):
        members = [trial[f"{split}/{LOG_PROBABILITIES}"] for trial in trials]
        found |= _named(split, evaluated(members, trials[0][f"{split}/{LABELS}"], bins=bins))
    negatives = _unsureness([trial[f"test/{LOG_PROBABILITIES}"] for trial in trials])
    for name in (name for name in shared if name.startswith("ood/")):
        detected = ood.detection(negatives, _unsureness([trial[name] for trial in trials]))
        found |= _named(name.rpartition("/")[0], detected._asdict())
    kinds: list[dict[str, float]] = []
    for name in (name for name in shared if name.startswith("corrupt/") and name.endswith(LOG_PROBABILITIES)):
        own = trials[0].get(f"{name.rpartition('/')[0]}/{LABELS}")
        if own is None and not corrupted:
            continue
        labels = itertools.repeat(trials[0][f"test/{LABELS}"]) if own is None else own
        by_severity = zip(zip(*(trial[name] for trial in trials), strict=True), labels, strict=False)
        kinds.append(_means([evaluated(members, right, bins=bins) for members, right in by_severity]))
        found |= _named(name.rpartition("/")[0], kinds[-1])
    return found | (_named("corrupt", _means(kinds)) if kinds else {})


def evaluated(trials: Sequence[np.ndarray], labels: npt.NDArray[np.integer], *, bins: int) -> dict[str, float]:
    """The metrics of one split; see `trainers.metrics.evaluate` for what each is.

    Args:
        trials: Log-probabilities of each trial's members, each [member, image, class].
        labels: Class of each image, [image].
        bins: Equal-width confidence bins.
    """
    rows = [_of_images(chunk, weights, labels[place]) for place, chunk, weights in _chunks(trials)]
    each = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    confidence, hit = each.pop("confidence"), each.pop("hit")
    found = {name: float(values.mean()) for name, values in each.items()}
    found["error"] = 1.0 - float(hit.mean())
    found["ece"] = binned(confidence, hit > 0, bins=bins).calibration_error
    if "disagreement" in found:
        found["normalised_disagreement"] = found["disagreement"] / (found["error"] + SMALLEST_ERROR)
    return found


def _of_images(log_probs: Floats, weights: Floats, labels: npt.NDArray[np.integer]) -> dict[str, Floats]:
    """What is said of each image, [image] each, from log-probabilities [member, image, class] and the members' weights."""
    images, probs = np.arange(len(labels)), np.exp(log_probs)
    mean = np.einsum("m,mic->ic", weights, probs)
    right = log_probs[:, images, labels]
    found = {
        "confidence": mean.max(axis=-1),
        "hit": (mean.argmax(axis=-1) == labels).astype(np.float64),
        # Not the log of the mean: of members that are all sure of something else, that is the log of 0.
        "nll": -np.logaddexp.reduce(right + np.log(weights)[:, None], axis=0),
        "brier": (mean**2).sum(axis=-1) - 2 * mean[images, labels] + 1,
    }
    return found if len(probs) == 1 else found | {"member_nll": -right.mean(axis=0), **_between(probs)}


def _between(probs: Floats) -> dict[str, Floats]:
    """How much members differ on each image, [image] each, mean over ordered pairs of them; probabilities [member, image, class]."""
    n_members, _, n_classes = probs.shape
    pairs = n_members * (n_members - 1)
    bounded = np.maximum(probs, SMALLEST_PROBABILITY)
    logs = np.log(bounded)
    # Σ_{m,m'} p_m (log p_m − log p_m') = M Σ_m (p_m − mean p)(log p_m − mean log p)
    spread = ((bounded - bounded.mean(axis=0)) * (logs - logs.mean(axis=0))).sum(axis=(0, 2))
    votes = (probs.argmax(axis=-1)[..., None] == np.arange(n_classes)).sum(axis=0)
    directions = probs / np.linalg.norm(probs, axis=-1, keepdims=True)
    return {
        "diversity": spread / (n_members - 1),
        "disagreement": (pairs - (votes * (votes - 1)).sum(axis=-1)) / pairs,
        "cosine": ((directions.sum(axis=0) ** 2).sum(axis=-1) - n_members) / pairs,
    }


def _unsureness(trials: Sequence[np.ndarray]) -> Floats:
    """1 − the largest mean probability, [image]; see `ood.scores`."""
    return 1.0 - np.concatenate([np.einsum("m,mic->ic", weights, np.exp(chunk)).max(axis=-1) for _, chunk, weights in _chunks(trials)])


def _chunks(trials: Sequence[np.ndarray]) -> Iterator[tuple[slice, Floats, Floats]]:
    """Some images at a time: which, log-probabilities of the members of all trials [member, image, class], the members' weights."""
    weights = np.concatenate([np.full(len(trial), 1 / (len(trial) * len(trials))) for trial in trials])
    n_images, n_classes = trials[0].shape[1:]
    size = max(1, CHUNK // n_classes)
    for start in range(0, n_images, size):
        place = slice(start, start + size)
        yield place, np.concatenate([trial[:, place] for trial in trials]).astype(np.float64), weights


def _check(trials: Sequence[Arrays], keys: Sequence[str]) -> None:
    first = trials[0]
    for key, trial in zip(keys, trials, strict=True):
        others = sorted(name.removesuffix(f"/{LABELS}") for name in first if name.startswith("corrupt/") and name.endswith(LABELS))
        for split in (split for split in (*KEPT, *others) if f"{split}/{LABELS}" in first and f"{split}/{LABELS}" in trial):
            labels, said = f"{split}/{LABELS}", f"{split}/{LOG_PROBABILITIES}"
            shapes = [row[said].shape[-2:] for row in (first, trial)]
            if shapes[0] != shapes[1] or not np.array_equal(first[labels], trial[labels]):
                raise DataError(
                    f"trials {keys[0]} and {key} speak of other {split} images",
                    found=" and ".join(f"{images} images of {classes} classes" for images, classes in shapes),
                    expected="members of an ensemble that were trained on one dataset",
                    fix="make the ensemble of arms with one dataset and split",
                )


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": float(value) for name, value in values.items()}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
