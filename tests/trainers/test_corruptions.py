"""The fifteen corruptions: against SciPy and NumPy where they follow from the image, by their laws where they are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from scipy import fft, ndimage

from trainers import corruptions
from trainers.corruptions import KINDS, SEVERITIES, corrupted, filters, jpeg
from trainers.corruptions.severities import PUBLISHED, rows_of

SIDE = 32
DRAWN = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "synthetic_frost",
    "fog",
    "elastic_transform",
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    smooth = np.random.default_rng(0).normal(size=(4, SIDE, SIDE, 3)).cumsum(axis=1).cumsum(axis=2)
    return np.round(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255))).astype(np.uint8)


@pytest.fixture(scope="module")
def made(images: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Every kind at its lowest and highest severity, of the same four images."""
    rows = np.arange(len(images), dtype=np.int32)
    return {(kind, severity): np.asarray(corrupted(jnp.asarray(images), kind, severity, rows)) for kind in KINDS for severity in (1, 5)}


def test_there_are_fifteen_of_five_severities_for_small_and_large_images() -> None:
    assert len(KINDS) == 15
    for kind in KINDS:
        assert rows_of(kind, 32).shape == rows_of(kind, 224).shape, kind
        assert len(rows_of(kind, 32)) == len(SEVERITIES)
    assert rows_of("gaussian_noise", 32)[0] == 0.04
    assert rows_of("gaussian_noise", 224)[0] == 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_the_highest_severity_changes_images_more_than_the_lowest(
    kind: str, images: np.ndarray, made: dict[tuple[str, int], np.ndarray]
) -> None:
    distance = [np.abs(made[kind, severity].astype(int) - images).mean() for severity in (1, 5)]
    assert 0.3 < distance[0] < 60
    assert distance[1] > distance[0] * (0.5 if kind == "elastic_transform" else 1.1)  # its first severity is a large affine map


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_image_in_the_same_place_is_the_same_whatever_its_batch(
    kind: str, images: np.ndarray, made: dict[tuple[str, int], np.ndarray]
) -> None:
    again = corrupted(jnp.asarray(images[::-1].copy()), kind, 5, np.arange(4, dtype=np.int32)[::-1].copy())
    np.testing.assert_array_equal(np.asarray(again)[::-1], made[kind, 5])


def test_two_places_have_other_draws(images: np.ndarray) -> None:
    same = jnp.asarray(np.repeat(images[:1], 4, axis=0))
    for kind in ("gaussian_noise", "impulse_noise"):
        found = np.asarray(corrupted(same, kind, 5, np.arange(4, dtype=np.int32)))
        assert len({one.tobytes() for one in found}) == 4


def floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) / 255


def to_bytes(images: np.ndarray) -> np.ndarray:
    return np.floor(255 * np.clip(images, 0, 1) + 1e-3).astype(int)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """To one of 255, which rounding is."""
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.05


def test_contrast_and_brightness_are_those_of_a_formula(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    x = floats(images)
    mean = x.mean(axis=(1, 2), keepdims=True)
    assert_near(made["contrast", 5], to_bytes(mean + 0.15 * (x - mean)))
    value = x.max(axis=-1, keepdims=True)
    expected = np.where(value > 0, x * np.clip(value + 0.3, 0, 1) / np.where(value > 0, value, 1), 0.3)
    assert_near(made["brightness", 5], to_bytes(expected))


def test_a_lens_out_of_focus_is_a_disk_and_scipy_says_so(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    kernel = filters.disk(1.5, 0.1)
    assert kernel.sum() == pytest.approx(1.0)
    assert (kernel > 1e-3).sum() == 9  # all pixels within 1.5 of the middle
    assert_near(made["defocus_blur", 5], to_bytes(ndimage.correlate(floats(images), kernel[None, :, :, None], mode="mirror")))


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    side = len(image)
    kept = int(np.ceil(side / factor))
    top = (side - kept) // 2
    large = ndimage.zoom(image[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
    cut = (len(large) - side) // 2
    return large[cut : cut + side, cut : cut + side]


def test_zoom_blur_is_the_mean_of_scipys_zooms(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    for severity, factors in ((1, np.arange(1, 1.06, 0.01)), (5, np.arange(1, 1.26, 0.01))):
        expected = [(image + sum(zoomed(image, factor) for factor in factors)) / (len(factors) + 1) for image in floats(images)]
        assert_near(made["zoom_blur", severity], to_bytes(np.array(expected)))


@pytest.mark.parametrize("factor", [1.0, 1.25, 1.75, 2.25, 3.0, 4.5])
def test_a_zoom_is_scipys(factor: float, images: np.ndarray) -> None:
    matrix = np.asarray(jax.jit(filters.zoom_matrix, static_argnums=0)(SIDE, jnp.array(filters.zoom_span(SIDE, factor))))
    image = floats(images)[0]
    np.testing.assert_allclose(np.einsum("yr,rcd,xc->yxd", matrix, image, matrix), zoomed(image, factor), atol=1e-5)


@pytest.mark.parametrize(("border", "sigma"), [("nearest", 0.4), ("nearest", 3.0), ("reflect", 0.6), ("reflect", 20.0)])
def test_a_gaussian_is_scipys(border: str, sigma: float) -> None:
    image = np.random.default_rng(1).normal(size=(SIDE, SIDE))
    [matrix] = filters.gaussian_matrices(SIDE, (sigma,), 3.0, border)
    np.testing.assert_allclose(matrix @ image @ matrix.T, ndimage.gaussian_filter(image, sigma, mode=border, truncate=3.0), atol=1e-12)


def test_coarse_pixels_are_box_means(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    def boxed(image: np.ndarray, new: int) -> np.ndarray:
        for axis in (1, 0):
            old = image.shape[axis]
            ends = [(int((at + 0.5) * old / new - max(old / new, 1) / 2 + 0.5), int((at + 0.5) * old / new + max(old / new, 1) / 2 + 0.5))
                    for at in range(new)]  # fmt: skip
            parts = [image.take(range(max(low, 0), min(high, old)), axis=axis).mean(axis=axis, keepdims=True) for low, high in ends]
            image = np.floor(np.concatenate(parts, axis=axis) + 0.5)
        return image

    for severity, few in ((1, 30), (5, 20)):
        expected = [boxed(boxed(image.astype(np.float64), few), SIDE) for image in images]
        np.testing.assert_array_equal(made["pixelate", severity], np.array(expected).astype(np.uint8))


def test_a_jpeg_of_one_block_is_its_rounded_cosines() -> None:
    image = np.random.default_rng(2).integers(0, 256, (8, 8)).astype(np.float64)
    table = np.floor((np.array(jpeg.LUMINANCE.split(), float).reshape(8, 8) * 84 + 50) / 100)  # quality 58
    waves = fft.dctn(image - 128, norm="ortho")
    expected = np.clip(np.round(fft.idctn(np.round(waves / table) * table, norm="ortho") + 128), 0, 255)
    found = jax.jit(jpeg.compressed)(image[..., None].astype(np.float32), jnp.float32(58))
    assert np.abs(np.asarray(found)[..., 0] - expected).max() <= 1


def test_pillow_writes_the_same_jpeg(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    for severity, quality in ((1, 80), (5, 40)):
        for image, ours in zip(images, made["jpeg_compression", severity], strict=True):
            file = io.BytesIO()
            PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
            theirs = np.asarray(PIL.Image.open(file)).astype(int)
            assert np.abs(ours - theirs).mean() < 0.15 * np.abs(theirs - image).mean()


def test_salt_and_pepper_hit_the_published_share_and_leave_the_rest(images: np.ndarray) -> None:
    grey = jnp.full((64, SIDE, SIDE, 1), 128, jnp.uint8)
    found = np.asarray(corrupted(grey, "impulse_noise", 5, np.arange(64, dtype=np.int32)))
    assert set(np.unique(found)) == {0, 128, 255}
    assert (found != 128).mean() == pytest.approx(0.07, abs=0.005)
    assert (found == 255).sum() == pytest.approx((found == 0).sum(), rel=0.1)


def test_gaussian_and_shot_noise_have_the_published_deviation() -> None:
    grey, rows = jnp.full((64, SIDE, SIDE, 1), 128, jnp.uint8), np.arange(64, dtype=np.int32)
    assert np.asarray(corrupted(grey, "gaussian_noise", 5, rows)).std() / 255 == pytest.approx(0.1, rel=0.02)
    assert np.asarray(corrupted(grey, "shot_noise", 5, rows)).std() / 255 == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.02)


def test_glass_takes_pixels_from_above_and_the_left() -> None:
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8)[:, None, None] * 4, (1, 1, SIDE, 1))
    found = np.asarray(corrupted(jnp.asarray(ramp), "glass_blur", 1, np.zeros(1, np.int32))).astype(int)
    moved = (ramp.astype(int) - found)[0, ..., 0]
    assert set(np.unique(moved)) <= {0, 1, 4, 5}  # of a row or none, but for what bytes cut off
    assert 0.3 < (moved[2:-1, 2:-1] >= 4).mean() < 0.7


def test_motion_is_along_a_line_and_keeps_the_mean() -> None:
    point = np.zeros((1, SIDE, SIDE, 1), np.float32)
    point[0, 16, 16] = 1.0
    smear: Callable[..., jax.Array] = jax.jit(filters.smeared, static_argnames="widest")
    flat = np.asarray(smear(point[0], jnp.float32(0.0), jnp.float32(6.0), jnp.float32(1.5), widest=6))
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(flat[16, 16 - 12 : 17, 0], (weights / weights.sum())[::-1], atol=1e-6)
    steep = np.asarray(smear(point[0], jnp.float32(45.0), jnp.float32(6.0), jnp.float32(1.5), widest=6))
    assert np.count_nonzero(steep) == np.count_nonzero(np.diagonal(steep[..., 0])) + np.count_nonzero(
        steep[..., 0] - np.diag(np.diagonal(steep[..., 0]))
    )
    assert steep.sum() == pytest.approx(1.0, abs=1e-5)


def test_clouds_are_whole_and_wrap_around() -> None:
    clouds = np.asarray(jax.jit(filters.plasma, static_argnums=1)(jax.random.key(0), 32, jnp.float32(2.0)))
    assert clouds.min() == 0
    assert clouds.max() == 1
    inside, around = np.abs(np.diff(clouds, axis=0)).mean(), np.abs(clouds[0] - clouds[-1]).mean()
    assert around < 3 * inside


def test_fog_and_snow_brighten_and_frost_has_a_name_of_its_own(images: np.ndarray, made: dict[tuple[str, int], np.ndarray]) -> None:
    assert made["snow", 5].mean() > images.mean() + 20
    assert made["synthetic_frost", 5].std() < images.std()
    assert "frost" not in PUBLISHED


def test_the_smallest_images_can_be_corrupted_in_every_way() -> None:
    small = jnp.asarray(np.random.default_rng(3).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8))
    for kind, change in corruptions.CHANGES.items():
        shape = jax.eval_shape(change, jax.random.key(0), jnp.zeros(small.shape[1:]), jnp.int32(4))
        assert shape.shape == (8, 8, 1), kind
