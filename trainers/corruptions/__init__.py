"""The 15 corruptions of ImageNet-C at 5 severities, made on the device from test images of any size of 8 pixels or more.

Draws come from the kind, the severity and the image's place in its split, never from a trial: every arm sees the same images.
What is as published and what is only near it stands in `docs/trainers.md`; `synthetic_frost` has a name of its own, since the
photographs that `frost` is blended with are not here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from trainers.corruptions import blurs, digital, noise, weather
from trainers.corruptions.severities import KINDS, SEVERITIES

__all__ = ["KINDS", "SEVERITIES", "corrupted"]

SEED = 2019  # of all draws. Part of the numbers of every trial that is measured under corruption: never change
Change = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
CHANGES: dict[str, Change] = {
    "gaussian_noise": noise.gaussian,
    "shot_noise": noise.shot,
    "impulse_noise": noise.impulse,
    "defocus_blur": blurs.defocus,
    "glass_blur": blurs.glass,
    "motion_blur": blurs.motion,
    "zoom_blur": blurs.zoom,
    "snow": weather.snow,
    "synthetic_frost": weather.synthetic_frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg,
}
assert tuple(CHANGES) == KINDS


def corrupted(images: jax.Array, kind: str, severity: int, rows: jax.Array) -> jax.Array:
    """Images changed by one corruption, uint8 like them.

    Args:
        images: Square, 0 to 255, [image, row, column, 1 or 3 channels].
        kind: One of `KINDS`.
        severity: 1 to 5.
        rows: Place of each image in its split, from which its draws come, [image].
    """
    root = jax.random.fold_in(jax.random.key(SEED), KINDS.index(kind) * len(SEVERITIES) + severity)
    return _program(kind)(images, jnp.int32(severity - 1), rows, root)


@functools.cache
def _program(kind: str) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
    """One compiled program a kind: the severity is traced."""
    change = CHANGES[kind]

    def run(images: jax.Array, severity: jax.Array, rows: jax.Array, root: jax.Array) -> jax.Array:
        def one(image: jax.Array, row: jax.Array) -> jax.Array:
            return change(jax.random.fold_in(root, row), image.astype(jnp.float32) / 255, severity)

        changed = jnp.clip(jax.vmap(one)(images, rows), 0, 1) * 255
        # Cut off and not rounded, as published; what was a whole number stays the same one.
        return jnp.floor(changed + np.float32(1e-3)).astype(jnp.uint8)

    return jax.jit(run)
