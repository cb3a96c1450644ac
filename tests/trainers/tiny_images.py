"""Tiny datasets in the exact formats of TFDS: the names, features, splits and files of ImageNet, Pets, Flowers and CIFAR, few examples.

Images are encoded, of differing sizes, and some are grey, as in the originals. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(seed: int, *, rows: int, columns: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """An image file of smooth colours, which JPEG keeps, that differ by seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.convert(mode).save(file, kind)
    return file.getvalue()


def pixels(encoded: bytes) -> np.ndarray:
    """What a file holds, decoded without any code of ours, [row, column, channel]."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def sized(seed: int) -> bytes:
    """A JPEG of a size of its own; every seventh is grey."""
    return picture(seed, rows=20 + seed % 9, columns=31 - seed % 11, mode="L" if seed % 7 == 3 else "RGB")


def prepare(
    root: pathlib.Path,
    name: str,
    features: Mapping[str, Any],
    splits: Mapping[str, list[dict[str, Any]]],
    *,
    config: str = "",
    version: str = "1.0.0",
    n_shards: int | None = None,
) -> pathlib.Path:
    """Writes a dataset under a TFDS folder, as `download_and_prepare` does, and gives the folder of its version."""
    configs = [tfds.core.BuilderConfig(name=config)] if config else []

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = configs
        code_path = None  # TFDS 4.9 looks for it with importlib_resources, which it does not install

        def _info(self) -> tfds.core.DatasetInfo:
            described = tfds.features.FeaturesDict(dict(features))
            return tfds.core.DatasetInfo(builder=self, features=described, supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
            # TFDS shuffles by key, so datasets of the same images come in orders of their own.
            yield from ((f"{name}_{place}", example) for place, example in enumerate(examples))

    Builder.name = name
    tfds.disable_progress_bar()
    builder = Builder(data_dir=root, **({"config": config} if config else {}))
    builder.download_and_prepare(file_format="array_record", download_config=tfds.download.DownloadConfig(num_shards=n_shards))
    return pathlib.Path(builder.data_dir)


def imagenet(
    root: pathlib.Path, *, train: int = 40, validation: int = 12, broken: int | None = None, n_shards: int | None = None
) -> pathlib.Path:
    """`imagenet2012`, of which `broken` is the number of the training image that is cut off."""
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    }

    def example(seed: int) -> dict[str, Any]:
        return {"image": sized(seed), "label": 7 * seed % 1000, "file_name": f"n{seed:08d}_1.JPEG"}

    learned = [example(seed) for seed in range(train)]
    if broken is not None:
        learned[broken]["image"] = learned[broken]["image"][:-30]
    held_out = [example(1000 + seed) for seed in range(validation)]
    return prepare(root, "imagenet2012", features, {"train": learned, "validation": held_out}, version="5.1.0", n_shards=n_shards)


def pets(root: pathlib.Path) -> pathlib.Path:
    """`oxford_iiit_pet`, with its masks and boxes."""
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=37),
        "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
        "file_name": tfds.features.Text(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
        "head_bbox": tfds.features.BBoxFeature(),
    }

    def example(seed: int) -> dict[str, Any]:
        return {
            "image": sized(seed),
            "label": seed % 37,
            "species": seed % 2,
            "file_name": f"cat_{seed}.jpg",
            "segmentation_mask": picture(seed, rows=20, columns=20, mode="L", kind="PNG"),
            "head_bbox": tfds.features.BBox(0.0, 0.0, 0.5, 0.5),
        }

    return prepare(root, "oxford_iiit_pet", features, _splits(example), version="4.0.0")


def flowers(root: pathlib.Path) -> pathlib.Path:
    """`oxford_flowers102`, which has a validation split that the paper does not use."""
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=102),
        "file_name": tfds.features.Text(),
    }

    def example(seed: int) -> dict[str, Any]:
        return {"image": sized(seed), "label": seed % 102, "file_name": f"image_{seed:05d}.jpg"}

    return prepare(root, "oxford_flowers102", features, _splits(example) | {"validation": [example(300)]}, version="2.1.1")


def cifar(root: pathlib.Path, classes: int) -> pathlib.Path:
    """`cifar10` or `cifar100`: PNG files of 32 by 32 pixels."""
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=classes),
        **({"coarse_label": tfds.features.ClassLabel(num_classes=20)} if classes == 100 else {}),
    }

    def example(seed: int) -> dict[str, Any]:
        coarse = {"coarse_label": seed % 20} if classes == 100 else {}
        return {"id": f"train_{seed}", "image": _small(seed), "label": seed % classes, **coarse}

    return prepare(root, f"cifar{classes}", features, _splits(example), version="3.0.2")


def cifar_corrupted(root: pathlib.Path, config: str, *, shift: int, n: int) -> pathlib.Path:
    """One config of `cifar10_corrupted`, such as `fog_3`: `n` images of a shade of their own, `shift` brighter, and their labels."""
    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
    examples = [{"image": shade(10 * place + shift), "label": place % 10} for place in range(n)]
    return prepare(root, "cifar10_corrupted", features, {"test": examples}, config=config)


def imagenet_corrupted(root: pathlib.Path, config: str, *, shift: int, n: int) -> pathlib.Path:
    """One config of `imagenet2012_corrupted`: JPEG files of 224 by 224 pixels, `validation` alone."""
    features = {
        "image": tfds.features.Image(shape=(224, 224, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    }
    examples = [
        {"image": shade(10 * place + shift, side=224, kind="JPEG"), "label": place, "file_name": f"ILSVRC2012_val_{place}.JPEG"}
        for place in range(n)
    ]
    return prepare(root, "imagenet2012_corrupted", features, {"validation": examples}, config=config, version="3.1.0")


def shade(value: int, *, side: int = 32, kind: str = "PNG") -> bytes:
    """An image file of one grey value."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value % 256,) * 3).save(file, kind, quality=95)
    return file.getvalue()


def _small(seed: int) -> bytes:
    return picture(seed, rows=32, columns=32, kind="PNG")


def _splits(example: Any) -> dict[str, list[dict[str, Any]]]:
    return {"train": [example(seed) for seed in range(50)], "test": [example(100 + seed) for seed in range(6)]}
