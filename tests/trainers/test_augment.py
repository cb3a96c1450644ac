"""Augmentation: the laws of crop, mirror and mixup, under every way in which lanes are run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trainers.augment import augment, crop, flip, larger_share, mixup, to_model_range
from trainers.config import AugmentConfig

B, S, C, CLASSES = 6, 8, 3, 10
EVERYTHING = AugmentConfig(crop=True, flip=True, mixup=0.4)
SEEDS = st.integers(0, 2**31 - 1)

Augment = Callable[[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (B, S, S, C), minval=-1.0)


@pytest.fixture(scope="module")
def labels() -> jax.Array:
    return jax.nn.one_hot(jnp.arange(B) % CLASSES, CLASSES)


@pytest.fixture(scope="module")
def everything() -> Augment:
    return jax.jit(lambda key, images, labels, traced: augment(key, images, labels, traced, EVERYTHING))


@pytest.fixture(scope="module")
def jitted_mixup() -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(mixup)


@pytest.fixture(scope="module")
def jitted_crop() -> Callable[..., jax.Array]:
    return jax.jit(crop)


@pytest.fixture(scope="module")
def shares() -> Callable[..., jax.Array]:
    return jax.jit(jax.vmap(larger_share, in_axes=(0, None)))


def traced(mixup: float = 0.4, crop_min_area: float = 0.3) -> dict[str, jax.Array]:
    return {"augment.mixup": jnp.float32(mixup), "augment.crop_min_area": jnp.float32(crop_min_area)}


def test_bytes_and_shares_reach_the_range_of_the_model() -> None:
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(to_model_range(everything), everything / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(to_model_range(everything), to_model_range(jnp.float32(everything / 255)), atol=1e-6)
    assert to_model_range(everything).dtype == jnp.float32


def test_nothing_switched_on_changes_nothing_and_reads_nothing(images: jax.Array, labels: jax.Array) -> None:
    same_images, same_labels = augment(jax.random.key(0), images, labels, {}, AugmentConfig())
    assert same_images is images
    assert same_labels is labels


@settings(deadline=None)
@given(SEEDS, st.floats(1e-38, 1e38))
def test_mixup_keeps_label_mass_and_weighs_the_own_image_most(
    jitted_mixup: Callable[..., tuple[jax.Array, jax.Array]], seed: int, concentration: float
) -> None:
    one_hot = jax.nn.one_hot(jnp.arange(4), 4)
    images = jnp.broadcast_to(one_hot[:, :, None, None], (4, 4, 1, 1))
    mixed, mixed_labels = jitted_mixup(jax.random.key(seed), images, one_hot, jnp.float32(concentration))
    np.testing.assert_allclose(mixed_labels.sum(1), 1, atol=1e-6)
    own = np.diag(mixed_labels)
    assert (own >= 0.5).all()
    assert (own == own[0]).all()  # one weight a batch
    np.testing.assert_array_equal(mixed[:, :, 0, 0], mixed_labels)  # images and labels by the same weight
    np.testing.assert_allclose(mixed_labels[jnp.arange(4), (jnp.arange(4) + 1) % 4], 1 - own, atol=1e-6)  # with the next one


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.8, 1.0, 2.0])
def test_mixup_weights_are_the_larger_of_two_beta_shares(shares: Callable[..., jax.Array], p: float) -> None:
    own = np.float64(shares(jax.random.split(jax.random.key(7), 20_000), jnp.float32(p)))
    edges = np.array([0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0])  # bins, since float32 rounds the last 1e-7 to 1
    expected = 2 * np.diff(stats.beta(p, p).cdf(edges)) * len(own)
    assert stats.chisquare(np.histogram(own, edges)[0], expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize(("p", "own"), [(1e-30, 1.0), (1e30, 0.5)])
def test_mixup_at_the_ends_blends_not_at_all_or_half_and_half(
    images: jax.Array, labels: jax.Array, jitted_mixup: Callable[..., tuple[jax.Array, jax.Array]], p: float, own: float
) -> None:
    mixed, _ = jitted_mixup(jax.random.key(3), images, labels, jnp.float32(p))
    np.testing.assert_allclose(mixed, own * images + (1 - own) * jnp.roll(images, -1, axis=0), atol=2e-3)


@settings(deadline=None)
@given(SEEDS)
def test_a_crop_of_the_whole_image_is_the_image(images: jax.Array, jitted_crop: Callable[..., jax.Array], seed: int) -> None:
    np.testing.assert_allclose(jitted_crop(jax.random.key(seed), images, jnp.float32(1.0)), images, atol=1e-5)


@settings(deadline=None)
@given(SEEDS, st.floats(0.01, 1.0))
def test_a_crop_invents_no_brightness(images: jax.Array, jitted_crop: Callable[..., jax.Array], seed: int, min_area: float) -> None:
    cropped = jitted_crop(jax.random.key(seed), images, jnp.float32(min_area))
    assert jnp.isfinite(cropped).all()
    assert (cropped.min(axis=(1, 2)) >= images.min(axis=(1, 2)) - 1e-5).all()
    assert (cropped.max(axis=(1, 2)) <= images.max(axis=(1, 2)) + 1e-5).all()


@pytest.mark.parametrize("min_area", [0.05, 0.5, 0.9])
def test_crops_keep_the_area_and_the_aspect_they_may(min_area: float) -> None:
    n, size = 500, 32
    # On a ramp, a bilinear crop is again a ramp: its slope is the share of the side that was kept.
    ramp = jnp.linspace(0, 1, size)
    ramps = jnp.stack(jnp.meshgrid(ramp, ramp, indexing="ij"), axis=-1)
    cropped = jax.jit(crop)(jax.random.key(1), jnp.broadcast_to(ramps, (n, size, size, 2)), jnp.float32(min_area))
    middle = slice(size // 4, 3 * size // 4)  # away from the borders, which are repeated
    height = np.diff(cropped[:, middle, 0, 0], axis=1).mean(1) * (size - 1)
    width = np.diff(cropped[:, 0, middle, 1], axis=1).mean(1) * (size - 1)
    assert (height * width).min() >= min_area - 1e-3
    assert (height * width).max() <= 1 + 1e-3
    aspect = width / height
    assert aspect.min() >= max(3 / 4, min_area) - 1e-3
    assert aspect.max() <= min(4 / 3, 1 / min_area) + 1e-3
    assert aspect.max() - aspect.min() > 0.85 * (min(4 / 3, 1 / min_area) - max(3 / 4, min_area))


def test_half_of_the_images_are_mirrored_and_the_rest_are_not(images: jax.Array) -> None:
    many = jnp.tile(images, (200, 1, 1, 1))
    flipped = np.asarray(flip(jax.random.key(2), many))
    same = (flipped == np.asarray(many)).all(axis=(1, 2, 3))
    mirrored = (flipped == np.asarray(many)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 0.42 < mirrored.mean() < 0.58  # 5 standard errors


def test_the_same_key_gives_the_same_images_and_another_key_others(images: jax.Array, labels: jax.Array, everything: Augment) -> None:
    first, again, other = (everything(jax.random.key(seed), images, labels, traced())[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not jnp.allclose(first, other)


def test_switching_mixup_off_leaves_crop_and_mirror_as_they_were(images: jax.Array, labels: jax.Array, everything: Augment) -> None:
    key = jax.random.key(9)
    unmixed, same_labels = augment(key, images, labels, traced(), AugmentConfig(crop=True, flip=True))  # eager: labels are passed through
    barely_mixed, _ = everything(key, images, labels, traced(mixup=1e-6))
    np.testing.assert_allclose(unmixed, barely_mixed, atol=1e-5)
    assert same_labels is labels


def test_a_lane_is_augmented_as_it_would_be_alone(images: jax.Array, labels: jax.Array, everything: Augment) -> None:
    keys = jax.random.split(jax.random.key(4), 3)
    knobs = {name: jnp.stack([traced(p, area)[name] for p, area in ((0.1, 0.1), (0.5, 0.5), (2.0, 1.0))]) for name in traced()}
    alone = [everything(key, images, labels, {name: knob[lane] for name, knob in knobs.items()}) for lane, key in enumerate(keys)]

    def lane(arguments: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, jax.Array]:
        return augment(arguments[0], images, labels, arguments[1], EVERYTHING)

    mapped = jax.jit(lambda keys, knobs: jax.lax.map(lane, (keys, knobs)))(keys, knobs)
    batched = jax.jit(jax.vmap(lambda key, knobs: lane((key, knobs))))(keys, knobs)
    for position in range(len(keys)):
        for solo, as_mapped, as_batched in zip(alone[position], mapped, batched, strict=True):
            np.testing.assert_array_equal(as_mapped[position], solo)
            np.testing.assert_allclose(as_batched[position], solo, atol=1e-5)


def test_a_crop_from_a_larger_image_keeps_its_detail() -> None:
    # Of a whole crop nothing but the size changes; of a quarter, stripes that half as many pixels cannot show are left.
    stripes = jnp.tile(jnp.array([1.0, -1.0]), 16)[None, None, :, None] * jnp.ones((4, 32, 1, 1))
    whole = crop(jax.random.key(0), stripes, jnp.float32(1.0), size=16)
    assert whole.shape == (4, 16, 16, 1)
    detailed = crop(jax.random.key(0), stripes, jnp.float32(0.05), size=16)
    assert float(jnp.abs(detailed).max()) > 0.9
    assert float(jnp.abs(whole).max()) < 1e-5


def test_a_crop_to_the_size_of_the_images_is_the_crop_as_it_was(images: jax.Array) -> None:
    key = jax.random.key(3)
    np.testing.assert_array_equal(crop(key, images, jnp.float32(0.2)), crop(key, images, jnp.float32(0.2), size=S))
