"""How strong each corruption is at severities 1 to 5, as published: for small images (CIFAR-10-C, 32 px) and large ones (ImageNet-C,
224 px). Lengths are pixels, and are not scaled to other sizes, but for those of `elastic_transform`, which are shares of the side.

Source:
    Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (2019), and their
    make_cifar_c.py and make_imagenet_c.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST_SMALL = 64  # pixels a side to which an image counts as small
SEVERITIES = (1, 2, 3, 4, 5)

# By name, small and large; a row for each severity.
PUBLISHED: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]] = {
    # standard deviation
    "gaussian_noise": (((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)), ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    # photons of a white pixel
    "shot_noise": (((500,), (250,), (100,), (75,), (50,)), ((60,), (25,), (12,), (5,), (3,))),
    # share of values that are set to 0 or 1
    "impulse_noise": (((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)), ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    # radius, blur of the disk's edge
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # σ of the blur before and after, farthest that a pixel moves, times
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # radius, σ
    "motion_blur": (((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    # end of the enlargements from 1 on, step
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # mean and deviation of flakes, enlargement, threshold, radius and σ of their motion, share of the image that stays
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # weight of the image, of the frost
    "synthetic_frost": (
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    # weight of the fog, how fast its details fade
    "fog": (((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    # added to the value
    "brightness": (((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)), ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    # kept of the distance from the mean
    "contrast": (((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)), ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    # in shares of the side: amplitude of the field, its σ, farthest that a corner of the affine map moves
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            tuple(244 / 224 * share for share in row)  # 244 is theirs
            for row in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    # side, as a share
    "pixelate": (((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)), ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    # quality
    "jpeg_compression": (((80,), (65,), (58,), (50,), (40,)), ((25,), (18,), (15,), (10,), (7,))),
}
KINDS = tuple(PUBLISHED)


def rows_of(kind: str, side: int) -> npt.NDArray[np.float64]:
    """The parameters of a corruption for images of that many pixels a side, [severity, parameter]."""
    small, large = PUBLISHED[kind]
    return np.array(small if side <= LARGEST_SMALL else large, np.float64)
