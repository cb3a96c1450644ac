"""RandAugment on the device: for each image N of 16 changes, one after another, all of one strength, which may be traced.

The changes are those of the paper's code base, on whole pixel values from 0 to 255. Written here because no library has them:
dm-pix, the nearest, has two of the sixteen (rotate, solarize); its brightness and contrast follow other formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
FILL = 128.0  # of what moves in
DESIGNED_FOR = 224  # pixels a side; translations and cutouts are of 100 and 40 of them at magnitude 10, and scale with the image
GREY = np.array([0.299, 0.587, 0.114], np.float32)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def randaugment(key: jax.Array, images: jax.Array, magnitude: jax.Array, *, layers: int) -> jax.Array:
    """Images, each changed in `layers` ways that are drawn for it; those left out with strength 0 differ from one change to another.

    Args:
        key: Draws the changes, their signs and places.
        images: Square, [image, row, column, channel], -1 to 1.
        magnitude: M, 0 to 30; at 10 an image is turned by 30°.
        layers: N.

    Source:
        Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space (2020), and
        `distort_image_with_randaugment` of tensorflow/tpu. Two things are not as there: `contrast` takes the image's mean
        grey, where that code takes the number of pixels over 256, and lengths scale with the image.
    """
    n = len(images)
    draws = jax.random.uniform(key, (layers, 4, n))
    pixels = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255)
    for which, sign, row, column in draws:
        op = jnp.minimum((which * len(OPS)).astype(jnp.int32), len(OPS) - 1)
        level, place = magnitude / 10, jnp.stack([row, column], axis=-1)
        pixels = jax.vmap(change, in_axes=(0, 0, None, 0, 0))(pixels, op, level, jnp.where(sign < 0.5, -1.0, 1.0), place)
    return pixels / 127.5 - 1


def change(image: jax.Array, op: jax.Array, level: jax.Array, sign: jax.Array, place: jax.Array) -> jax.Array:
    """One image [row, column, channel], 0 to 255, by one change.

    Args:
        image: Whole numbers.
        op: Position in `OPS`.
        level: A tenth of the magnitude.
        sign: 1 or -1, of changes that have a direction.
        place: Of a cutout, [row, column] as shares of the side.
    """
    # Every change of place is one sampling of the pixels, which for the others leaves all where they are.
    moved = _sampled(image, _maps(image.shape[0], sign * level)[op])
    return jax.lax.switch(op, [_branch(name) for name in OPS], moved, level, place)


def _maps(side: int, amount: jax.Array) -> jax.Array:
    """Where each pixel's new value comes from, for each of `OPS`: [op, row or column, factor of row, of column, shift]."""
    one, zero = jnp.ones(()), jnp.zeros(())
    angle, shear, shift = jnp.deg2rad(30 * amount), 0.3 * amount, amount * 100 * side / DESIGNED_FOR
    cos, sin, middle = jnp.cos(angle), jnp.sin(angle), (side - 1) / 2
    maps = {
        "rotate": [cos, -sin, middle * (1 - cos + sin), sin, cos, middle * (1 - cos - sin)],
        "shear_x": [one, zero, zero, shear, one, zero],
        "shear_y": [one, shear, zero, zero, one, zero],
        "translate_x": [one, zero, zero, zero, one, shift],
        "translate_y": [one, zero, shift, zero, one, zero],
    }
    stay = [one, zero, zero, zero, one, zero]
    return jnp.stack([jnp.stack(maps.get(name, stay)).reshape(2, 3) for name in OPS])


def _sampled(image: jax.Array, source: jax.Array) -> jax.Array:
    """The nearest pixel of where each comes from; `FILL` from outside."""
    side = image.shape[0]
    rows, columns = jnp.meshgrid(jnp.arange(side, dtype=jnp.float32), jnp.arange(side, dtype=jnp.float32), indexing="ij")
    row, column = (jnp.round(factors[0] * rows + factors[1] * columns + factors[2]).astype(jnp.int32) for factors in source)
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return jnp.where(inside[..., None], image[jnp.clip(row, 0, side - 1), jnp.clip(column, 0, side - 1)], FILL)


def _blended(background: jax.Array, image: jax.Array, level: jax.Array) -> jax.Array:
    """Between the background and the image, or beyond it; cut off to whole numbers."""
    factor = 1.8 * level + 0.1
    return _whole(jnp.clip(background + factor * (image - background), 0, 255))


def _grey(image: jax.Array) -> jax.Array:
    return image if image.shape[-1] == 1 else jnp.floor((image * GREY).sum(axis=-1, keepdims=True) + 0.5)


def _whole(number: jax.Array) -> jax.Array:
    """Cut off; 0.7 · 110 is 77, whatever rounding says."""
    return jnp.floor(number + 1e-3)


def _autocontrast(image: jax.Array) -> jax.Array:
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    return jnp.where(high > low, jnp.floor((image - low) * 255 / jnp.maximum(high - low, 1) + 1e-3), image)


def _equalize(image: jax.Array) -> jax.Array:
    def channel(values: jax.Array) -> jax.Array:
        values = values.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[values].add(1)
        step = (values.size - counts[values.max()]) // 255
        below = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)[:-1] + step // 2])
        table = jnp.clip(below.at[1:].set(below[1:] // jnp.maximum(step, 1)), 0, 255)
        return jnp.where(step == 0, values, table[values])

    return jax.vmap(channel, in_axes=2, out_axes=2)(image).astype(image.dtype)


def _invert(image: jax.Array) -> jax.Array:
    return 255 - image


def _posterize(image: jax.Array, level: jax.Array) -> jax.Array:
    dropped = 2.0 ** jnp.maximum(8 - _whole(4 * level), 0)  # as many bits are kept as the level says: none at 0
    return jnp.floor(image / dropped) * dropped


def _solarize(image: jax.Array, level: jax.Array) -> jax.Array:
    return jnp.where(image < _whole(256 * level), image, 255 - image)


def _solarize_add(image: jax.Array, level: jax.Array) -> jax.Array:
    return jnp.where(image < 128, jnp.clip(image + _whole(110 * level), 0, 255), image)


def _colour(image: jax.Array, level: jax.Array) -> jax.Array:
    return _blended(_grey(image), image, level)


def _contrast(image: jax.Array, level: jax.Array) -> jax.Array:
    return _blended(jnp.floor(_grey(image).mean() + 0.5), image, level)


def _brightness(image: jax.Array, level: jax.Array) -> jax.Array:
    return _blended(jnp.zeros(()), image, level)


def _sharpness(image: jax.Array, level: jax.Array) -> jax.Array:
    rows, columns = image.shape[:2]
    smooth = sum(SMOOTH[y, x] * image[y : rows - 2 + y, x : columns - 2 + x] for y in range(3) for x in range(3))
    return _blended(image.at[1:-1, 1:-1].set(jnp.floor(smooth + 1e-3)), image, level)


def _cutout(image: jax.Array, level: jax.Array, place: jax.Array) -> jax.Array:
    side = image.shape[0]
    half = _whole(40 * level * side / DESIGNED_FOR)
    away = jnp.abs(jnp.arange(side)[:, None] + 0.5 - jnp.floor(place * side))  # [pixel, row or column]
    hit = (away[:, None, 0] < half) & (away[None, :, 1] < half)
    return jnp.where(hit[..., None], FILL, image)


OF_IMAGE: dict[str, Callable[[jax.Array], jax.Array]] = {"auto_contrast": _autocontrast, "equalize": _equalize, "invert": _invert}
OF_LEVEL: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
OPS = (*GEOMETRIC, *OF_IMAGE, *OF_LEVEL, "cutout")


def _branch(name: str) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """What a change does to the pixels where they are."""

    def run(image: jax.Array, level: jax.Array, place: jax.Array) -> jax.Array:
        if name == "cutout":
            return _cutout(image, level, place)
        if name in OF_IMAGE:
            return OF_IMAGE[name](image)
        return OF_LEVEL[name](image, level) if name in OF_LEVEL else image

    return run
