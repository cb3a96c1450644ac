"""Telling images of no known class from test images by how sure a model is of them: AUROC, AUPR and FPR@95.

Out-of-distribution images are the positives, and an image's score is 1 − the largest mean probability (MSP): the less sure,
the likelier it is one. All three follow from the scores alone, so they are known for any saved predictions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainers.reliability import mean_probabilities

Floats = npt.NDArray[np.floating]

DETECTED = 0.95  # share of positives that FPR@95 asks for


class Detection(NamedTuple):
    """How well scores tell positives from negatives.

    Attributes:
        auroc: Chance that a positive scores higher than a negative, a tie counting half.
        aupr: Average precision: precision where each positive is reached, mean over positives.
        fpr95: Share of negatives that score at least as high as the threshold that finds 95 % of the positives.
    """

    auroc: float
    aupr: float
    fpr95: float


def scores(log_probabilities: Floats) -> npt.NDArray[np.float64]:
    """1 − the largest mean probability, [image], from log-probabilities [member, image, class].

    Source:
        Hendrycks & Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples (2017).
    """
    return 1.0 - mean_probabilities(log_probabilities).max(axis=-1)


def detection(negatives: Floats, positives: Floats) -> Detection:
    """AUROC, AUPR and FPR@95 of scores; images of one score are told apart by none of them.

    Args:
        negatives: Scores of test images, [image].
        positives: Scores of images of another set, [image].

    Raises:
        ValueError: One of them is empty.

    Source:
        Davis & Goadrich, The Relationship Between Precision-Recall and ROC Curves (2006); AUPR is average precision, without
        interpolation. FPR@95 is that of the highest threshold with a true positive rate of 95 % or more.

    >>> detection(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.9]))
    Detection(auroc=0.9166666666666666, aupr=0.8333333333333333, fpr95=0.3333333333333333)
    """
    if not (negatives.size and positives.size):
        raise ValueError("both sets need images")
    both = np.concatenate([negatives, positives])
    if not np.isfinite(both).all():
        return Detection(np.nan, np.nan, np.nan)
    levels, level = np.unique(-both, return_inverse=True)  # highest score first
    false = np.cumsum(np.bincount(level[: negatives.size], minlength=levels.size))
    true = np.cumsum(np.bincount(level[negatives.size :], minlength=levels.size))
    found, wrong = np.diff(true, prepend=0), np.diff(false, prepend=0)
    above = true - found  # positives that score higher
    auroc = (wrong * (above + found / 2)).sum() / (positives.size * negatives.size)
    aupr = (found * true / (true + false)).sum() / positives.size
    # In whole numbers: 0.95 · n is not exact.
    enough = np.argmax(true * 100 >= positives.size * round(DETECTED * 100))
    return Detection(float(auroc), float(aupr), float(false[enough] / negatives.size))
