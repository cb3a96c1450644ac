"""How confident predictions are and how often they are right, by bins of confidence: what a reliability diagram shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


class Reliability(NamedTuple):
    """Bins (low, high] of equal width on [0, 1], in order.

    Attributes:
        count: Images in each bin, [bin].
        confidence: Mean largest probability of those, [bin]; the middle of the bin where there are none.
        accuracy: Share of those that are classified right, [bin]; 0 where there are none.
    """

    count: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def calibration_error(self) -> float:
        """ECE: distance between confidence and accuracy, mean over bins weighted by their images."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / self.count.sum())


def reliability(log_probabilities: Floats, labels: npt.NDArray[np.integer], *, bins: int) -> Reliability:
    """The bins of a split, of the members' mean probability.

    Args:
        log_probabilities: Of each member, [member, image, class].
        labels: Class of each image, [image].
        bins: Number of bins.

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017), §2; binning as in `metrics.calibration_error`.

    >>> sure = np.log([[[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]])
    >>> found = reliability(sure, np.array([0, 1, 1]), bins=2)
    >>> found.count.tolist(), found.confidence.round(3).tolist(), found.accuracy.round(3).tolist()
    ([0, 3], [0.25, 0.767], [0.0, 0.667])
    """
    probs = mean_probabilities(log_probabilities)
    return binned(probs.max(axis=-1), probs.argmax(axis=-1) == labels, bins=bins)


def binned(confidence: npt.NDArray[np.float64], hit: npt.NDArray[np.bool_], *, bins: int) -> Reliability:
    """The bins of some images.

    Args:
        confidence: Largest mean probability of each, [image].
        hit: Whether that class is right, [image].
        bins: Number of bins.
    """
    # In float32, as on the device, so that an image on the edge of two bins is in the same one here.
    index = np.clip(np.ceil(np.nan_to_num(confidence.astype(np.float32) * np.float32(bins))).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    share = np.maximum(count, 1)
    middle = (np.arange(bins) + 0.5) / bins
    return Reliability(
        count=count,
        confidence=np.where(count > 0, np.bincount(index, confidence, bins) / share, middle),
        accuracy=np.bincount(index, hit, bins) / share,
    )


def mean_probabilities(log_probabilities: Floats) -> npt.NDArray[np.float64]:
    """The members' mean probability, [image, class], from log-probabilities [member, image, class]."""
    return np.exp(log_probabilities.astype(np.float64)).mean(axis=0)
