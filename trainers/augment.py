"""Random changes of training images on the device: crop, mirror, mixup. What is done is static, how much is traced.

Everything is batched arithmetic without data-dependent shapes, so it runs under `jit`, `lax.map` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from trainers.config import AugmentConfig
from trainers.randaugment import randaugment

ASPECTS = (3 / 4, 4 / 3)  # width over height of a crop
RANDAUGMENT = 3  # folded into the key of a step, which is split in three for the others. Part of the numbers of every trial
LARGEST_EXPONENT = 80.0  # e^80 is finite in float32, and a share of 1 - e^-80 is 1


def to_model_range(images: jax.Array) -> jax.Array:
    """Images as the model sees them, -1 to 1 in float32, from bytes or from floats in 0 to 1.

    >>> to_model_range(jnp.array([0, 255], jnp.uint8)).tolist(), to_model_range(jnp.array([0.5])).tolist()
    ([-1.0, 1.0], [0.0])
    """
    scale = 2 / 255 if jnp.issubdtype(images.dtype, jnp.integer) else 2.0
    return images.astype(jnp.float32) * scale - 1


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    traced: Mapping[str, jax.Array],
    config: AugmentConfig,
    *,
    size: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Crop, then mirror, then RandAugment, then mixup, each if the config switches it on.

    Each draws from its own part of the key, so switching one on leaves what the others draw as it was.

    Args:
        key: Typed or raw PRNG key of this step.
        images: [image, row, column, channel], -1 to 1.
        labels: Probabilities of the classes, [image, class].
        traced: `augment.crop_min_area`, `augment.randaugment_magnitude` and `augment.mixup`, scalars; needed where switched on.
        config: Only `crop`, `flip`, `randaugment_layers` and whether `mixup` is 0 are read.
        size: Pixels a side that a crop is stretched to; None keeps those of the images.
    """
    crop_key, flip_key, mixup_key = jax.random.split(key, 3)
    if config.crop:
        images = crop(crop_key, images, traced["augment.crop_min_area"], size=size)
    if config.flip:
        images = flip(flip_key, images)
    if config.randaugment_layers:
        own = jax.random.fold_in(key, RANDAUGMENT)
        images = randaugment(own, images, traced["augment.randaugment_magnitude"], layers=config.randaugment_layers)
    if config.mixup:
        images, labels = mixup(mixup_key, images, labels, traced["augment.mixup"])
    return images, labels


def crop(key: jax.Array, images: jax.Array, min_area: jax.Array, *, size: int | None = None) -> jax.Array:
    """A random rectangle of each image, stretched back to the whole (Inception crop).

    Aspect ratio uniform in 3/4..4/3, height uniform in what the area and the image allow, place uniform. Aspect ratios
    that no rectangle of the smallest area has are left out, which is what drawing until one fits comes to.

    Args:
        key: Draws one rectangle an image.
        images: [image, row, column, channel].
        min_area: Smallest share of the image's area, 0 to 1; the largest is 1.
        size: Pixels a side of the result; None keeps those of the images, which then lose detail where a crop is small.

    Source:
        `GenerateRandomCrop` of TensorFlow's sample_distorted_bounding_box, without rounding to whole pixels.
    """
    n, rows, columns, _ = images.shape
    aspect_u, height_u, top_u, left_u = jax.random.uniform(key, (4, n))
    low, high = jnp.maximum(ASPECTS[0], min_area), jnp.minimum(ASPECTS[1], 1 / min_area)
    aspect = low + aspect_u * (high - low)
    tallest = jnp.minimum(1.0, 1 / aspect)  # at most the image's height, and its width
    shortest = jnp.minimum(jnp.sqrt(min_area / aspect), tallest)
    height = shortest + height_u * (tallest - shortest)
    width = height * aspect
    down = _bilinear(top_u * (1 - height), height, rows, size or rows)
    along = _bilinear(left_u * (1 - width), width, columns, size or columns)
    # Matrix products, and not gathers, which are slow on accelerators; HIGHEST, lest a TPU rounds pixels to bfloat16.
    return jnp.einsum("nyr,nrcd,nxc->nyxd", down, images, along, precision=jax.lax.Precision.HIGHEST)


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image, mirrored left to right with probability 1/2; [image, row, column, channel]."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def mixup(key: jax.Array, images: jax.Array, labels: jax.Array, concentration: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each image and its label, blended with the next of the batch; one weight a batch, at least 1/2 on the own image.

    Args:
        key: Draws the weight.
        images: [image, row, column, channel].
        labels: [image, class].
        concentration: p of Beta(p, p), above 0; small values blend little, large ones half and half.

    Source:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018; sorted weights and `roll` by -1 as in V-MoE.
    """
    own = larger_share(key, concentration)
    return tuple(own * x + (1 - own) * jnp.roll(x, -1, axis=0) for x in (images, labels))  # type: ignore[return-value]


def larger_share(key: jax.Array, concentration: jax.Array) -> jax.Array:
    """max(X, 1 - X) for X from Beta(p, p): a scalar in 0.5..1, finite for every p above 0.

    In closed form, since `jax.random.beta` rejects in loops, which compile seven times as long as this.

    Source:
        Devroye, Random Variate Generation in One Line of Code, WSC 1996, from Bailey's polar method for Student's t.
    """
    u, v = jax.random.uniform(key, (2,))
    odds = jnp.expm1(jnp.minimum(-jnp.log(u) / concentration, LARGEST_EXPONENT)) * jnp.cos(2 * jnp.pi * v) ** 2
    return (1 + jnp.sqrt(odds / (1 + odds))) / 2


def _bilinear(start: jax.Array, length: jax.Array, n_pixels: int, n_new: int) -> jax.Array:
    """Weights of old pixels in new ones along one side, [image, new pixel, old pixel]; rows sum to 1.

    Args:
        start: Where the crop starts, as a share of the side, [image].
        length: How much of the side it keeps, [image].
        n_pixels: Old pixels along the side.
        n_new: New ones.
    """
    centres = (jnp.arange(n_new) + 0.5) / n_new
    at = (start[:, None] + length[:, None] * centres) * n_pixels - 0.5
    at = jnp.clip(at, 0, n_pixels - 1)  # borders are repeated
    return jnp.maximum(0.0, 1 - jnp.abs(at[:, :, None] - jnp.arange(n_pixels)))
