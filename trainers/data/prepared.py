"""What TFDS has prepared on this machine, read from its JSON files in a millisecond, without importing TFDS."""

from __future__ import annotations

import bisect
import dataclasses
import fnmatch
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

VERSION = re.compile(r"\d+\.\d+\.\d+")
READABLE = ("array_record", "parquet")  # formats that are read here without TensorFlow


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One version of one dataset, as its folder describes it.

    Attributes:
        folder: Holds `dataset_info.json`, `features.json` and the record files.
        name: Of the dataset, without config and version: with it the names of record files begin.
        made_by: Module of the builder that made it.
        formats: File formats it can be read in, such as `array_record`.
        shards: TFDS split to the number of examples in each of its files.
        image: Feature that holds the image; empty if there is none.
        label: Feature that holds the class; empty if there is none.
        encoded: Images are stored as PNG or JPEG and need a decoder.
        channels: Of the images; None when they vary.
        classes: None when the label is a bare number.
    """

    folder: pathlib.Path
    name: str
    made_by: str
    formats: tuple[str, ...]
    shards: Mapping[str, tuple[int, ...]]
    image: str
    label: str
    encoded: bool
    channels: int | None
    classes: int | None

    def examples(self, split: str) -> int:
        """Number of examples of a TFDS split or of a part of it, such as `train[:90%]` or `train[2000:]`."""
        return len(self._rows(split))

    def example_id(self, split: str, row: int) -> str:
        """Example number `row` of a TFDS split, such as `train[:90%]+test`, as TFDS's `add_tfds_id` names it: file, and place in it."""
        before = 0
        for part in split.split("+"):
            rows, name = self._rows(part), part.partition("[")[0]
            if row - before < len(rows):
                place, ends = rows[row - before], [0, *itertools.accumulate(self.shards[name])]
                shard = bisect.bisect_right(ends, place) - 1
                return f"{self._file(name, shard)}__{place - ends[shard]}"
            before += len(rows)
        raise IndexError(f"{split} has no example {row}")

    def missing_files(self) -> tuple[pathlib.Path, ...]:
        """Record files that the description names and that are not there, or are empty."""
        files = [self.folder / self._file(split, shard) for split, lengths in self.shards.items() for shard in range(len(lengths))]
        return tuple(file for file in files if not file.is_file() or file.stat().st_size == 0)

    def _rows(self, split: str) -> range:
        """Places in the whole split of the examples of a part of it."""
        name, _, part = split.partition("[")
        total = sum(self.shards[name])
        start, stop = part.rstrip("]").split(":") if part else ("", "")
        return range(_bound(start or "0", total), _bound(stop or "100%", total))

    def _file(self, split: str, shard: int) -> str:
        """Name of a record file."""
        suffix = next((one for one in self.formats if one in READABLE), READABLE[0])
        return f"{self.name}-{split}.{suffix}-{shard:05d}-of-{len(self.shards[split]):05d}"


def _bound(text: str, total: int) -> int:
    """Where a part of a split begins or ends, in examples."""
    return round(total * int(text[:-1]) / 100) if text.endswith("%") else min(int(text), total)


def tfds_root() -> pathlib.Path:
    """The folder in which TFDS keeps datasets, resolved as TFDS does."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str) -> Prepared | None:
    """The newest prepared version of a dataset, or None.

    Args:
        name: TFDS name: `name`, `name/config`, `name:1.2.3` or `name/config:1.2.3`.

    Raises:
        ValueError: Its description cannot be read.
    """
    path, _, wanted = name.partition(":")
    base, _, config = path.partition("/")
    folder = tfds_root() / base
    folder = folder / config if config else _default_config(folder)
    versions = [version for version in _folders(folder) if VERSION.fullmatch(version.name) and fnmatch.fnmatch(version.name, wanted or "*")]
    complete = [version for version in versions if (version / "dataset_info.json").is_file()]
    if not complete:
        return None
    return describe(max(complete, key=lambda version: [int(part) for part in version.name.split(".")]))


def describe(folder: pathlib.Path) -> Prepared:
    """What the JSON files of a prepared version say.

    Raises:
        ValueError: They are not there, or are not what TFDS writes.
    """
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
        shards = {split["name"]: tuple(int(length) for length in split["shardLengths"]) for split in info["splits"]}
        formats = (info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ()))
        image, label = _supervised(info, features)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} does not describe a dataset: {error!r}") from error
    shape = [int(side) for side in _shape(features.get(image, {}))]
    classes = features.get(label, {}).get("classLabel", {}).get("numClasses")
    return Prepared(
        folder=folder,
        name=info.get("name", folder.parent.name),
        made_by=info.get("moduleName", ""),
        formats=formats,
        shards=shards,
        image=image,
        label=label,
        encoded="image" in features.get(image, {}),
        channels=1 if len(shape) == 2 else shape[2] if len(shape) == 3 and shape[2] > 0 else None,
        classes=None if classes is None else int(classes),
    )


def _supervised(info: Mapping[str, Any], features: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the features that a classifier sees and predicts."""
    keys = [item.get("featureKey", "") for item in info.get("supervisedKeys", {}).get("tuple", {}).get("items", ())]
    image, label = keys if len(keys) == 2 else ("image", "label")
    return (image if image in features else "", label if label in features else "")


def _shape(feature: Mapping[str, Any]) -> list[str]:
    kind = feature.get("image", feature.get("tensor", {}))
    return kind.get("shape", {}).get("dimensions", [])


def _default_config(folder: pathlib.Path) -> pathlib.Path:
    """Where the versions lie of a dataset that was named without a config: TFDS notes which config is the default."""
    named = folder / ".config" / "metadata.json"
    if named.is_file():
        return folder / json.loads(named.read_text())["default_config_name"]
    return folder


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
