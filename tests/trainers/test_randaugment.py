"""RandAugment: every change against a plain NumPy one, and the laws of the whole."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.augment import augment
from trainers.config import AugmentConfig
from trainers.randaugment import GEOMETRIC, OPS, change, randaugment

SIDE = 16
PLACE = np.array([0.3, 0.8], np.float32)
LEVELS = (0.0, 0.7, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    random = np.random.default_rng(0)
    smooth = random.normal(size=(2, SIDE, SIDE, 3)).cumsum(axis=1).cumsum(axis=2)
    smooth[1] = smooth[1, :, :, :1]  # grey
    return np.round(np.interp(smooth, (smooth.min(), smooth.max()), (20, 230))).astype(np.float32)


@pytest.fixture(scope="module")
def changed() -> Callable[..., np.ndarray]:
    compiled = jax.jit(change)

    def run(image: np.ndarray, name: str, level: float, sign: float = 1.0) -> np.ndarray:
        return np.asarray(compiled(image, OPS.index(name), np.float32(level), np.float32(sign), PLACE))

    return run


def grey(image: np.ndarray) -> np.ndarray:
    return np.floor(image @ np.array([0.299, 0.587, 0.114]) + 0.5)[..., None]


def blended(background: np.ndarray, image: np.ndarray, level: float) -> np.ndarray:
    return np.floor(np.clip(background + (1.8 * level + 0.1) * (image - background), 0, 255) + 1e-6)


def source(image: np.ndarray, where: Callable[[int, int], tuple[float, float]]) -> np.ndarray:
    out = np.full_like(image, 128)
    for y in range(SIDE):
        for x in range(SIDE):
            row, column = (round(at) for at in where(y, x))
            if 0 <= row < SIDE and 0 <= column < SIDE:
                out[y, x] = image[row, column]
    return out


def equalized(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    for channel in range(3):
        values = image[..., channel].astype(int)
        counts = np.bincount(values.ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step:
            table = np.clip(np.concatenate([[0], (np.cumsum(counts)[:-1] + step // 2) // step]), 0, 255)
            out[..., channel] = table[values]
    return out


def sharpened(image: np.ndarray, level: float) -> np.ndarray:
    smooth = image.copy()
    for y in range(1, SIDE - 1):
        for x in range(1, SIDE - 1):
            around = image[y - 1 : y + 2, x - 1 : x + 2].sum(axis=(0, 1)) + 4 * image[y, x]
            smooth[y, x] = around // 13
    return blended(smooth, image, level)


def by_hand(image: np.ndarray, name: str, level: float) -> np.ndarray:
    middle, turn = (SIDE - 1) / 2, np.deg2rad(30 * level)
    shift = level * 100 * SIDE / 224
    rows, columns = np.indices((SIDE, SIDE))
    half = int(40 * level * SIDE / 224 + 1e-6)
    cut = (abs(rows + 0.5 - int(PLACE[0] * SIDE)) < half) & (abs(columns + 0.5 - int(PLACE[1] * SIDE)) < half)
    kept = 2 ** max(8 - int(4 * level + 1e-6), 0)
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))

    def turned(y: int, x: int) -> tuple[float, float]:
        dy, dx = y - middle, x - middle
        return middle + np.cos(turn) * dy - np.sin(turn) * dx, middle + np.sin(turn) * dy + np.cos(turn) * dx

    return {
        "rotate": lambda: source(image, turned),
        "shear_x": lambda: source(image, lambda y, x: (y, x + 0.3 * level * y)),
        "shear_y": lambda: source(image, lambda y, x: (y + 0.3 * level * x, x)),
        "translate_x": lambda: source(image, lambda y, x: (y, x + shift)),
        "translate_y": lambda: source(image, lambda y, x: (y + shift, x)),
        "auto_contrast": lambda: np.floor((image - low) * 255 / (high - low) + 1e-6),
        "equalize": lambda: equalized(image),
        "invert": lambda: 255 - image,
        "posterize": lambda: image // kept * kept,
        "solarize": lambda: np.where(image < int(256 * level + 1e-6), image, 255 - image),
        "solarize_add": lambda: np.where(image < 128, np.minimum(image + int(110 * level + 1e-6), 255), image),
        "colour": lambda: blended(grey(image), image, level),
        "contrast": lambda: blended(np.floor(grey(image).mean() + 0.5), image, level),
        "brightness": lambda: blended(np.zeros(()), image, level),
        "sharpness": lambda: sharpened(image, level),
        "cutout": lambda: np.where(cut[..., None], 128, image),
    }[name]()


@pytest.mark.parametrize("name", OPS)
def test_each_change_is_that_of_plain_numpy(name: str, images: np.ndarray, changed: Callable[..., np.ndarray]) -> None:
    for level in LEVELS:
        for image in images:
            found, expected = changed(image, name, level), by_hand(image, name, level)
            if name in GEOMETRIC:  # where a source lies between two pixels, rounding decides
                assert (np.abs(found - expected).max(axis=-1) > 0).mean() < 0.02, level
            else:
                assert np.abs(found - expected).max() <= 1, level
                assert (found != expected).mean() < 0.02, level


@pytest.mark.parametrize("name", GEOMETRIC)
def test_at_no_strength_pixels_stay_where_they_are(name: str, images: np.ndarray, changed: Callable[..., np.ndarray]) -> None:
    np.testing.assert_array_equal(changed(images[0], name, 0.0), images[0])


def test_there_are_the_sixteen_changes() -> None:
    assert len(OPS) == len(set(OPS)) == 16


@pytest.fixture(scope="module")
def drawn() -> Callable[..., np.ndarray]:
    compiled = jax.jit(randaugment, static_argnames="layers")
    return lambda seed, images, magnitude: np.asarray(compiled(jax.random.key(seed), images, jnp.float32(magnitude), layers=2))


def test_images_stay_in_range_and_each_is_changed_in_its_own_way(drawn: Callable[..., np.ndarray], images: np.ndarray) -> None:
    many = np.repeat(images[:1], 64, axis=0) / 127.5 - 1
    found = drawn(0, many, 15.0)
    pixels = (found + 1) * 127.5
    np.testing.assert_allclose(pixels, np.clip(np.round(pixels), 0, 255), atol=1e-3)
    assert len({one.tobytes() for one in found}) > 40
    np.testing.assert_array_equal(found, drawn(0, many, 15.0))
    assert (found != drawn(1, many, 15.0)).any()


def test_the_magnitude_is_traced_and_counts(drawn: Callable[..., np.ndarray], images: np.ndarray) -> None:
    many = np.repeat(images[:1], 64, axis=0) / 127.5 - 1
    assert (drawn(0, many, 5.0) != drawn(0, many, 20.0)).any()


def test_switching_it_on_leaves_what_others_draw_as_it_was(images: np.ndarray) -> None:
    labels, traced = np.eye(2, dtype=np.float32), {"augment.mixup": jnp.float32(0.5), "augment.randaugment_magnitude": jnp.float32(9)}
    without, with_it = (AugmentConfig(mixup=0.5, randaugment_layers=layers) for layers in (0, 1))
    mixed = [augment(jax.random.key(0), jnp.asarray(images / 127.5 - 1), labels, traced, config)[1] for config in (without, with_it)]
    np.testing.assert_array_equal(*mixed)
