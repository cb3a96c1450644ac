"""What it costs to have training images at hand, by the way they are kept: images a second and CPU time an image.

    python benchmarks/input.py [--images 512] [--size 384] [--repeats 3] [--save] [--json]

A TFDS dataset of JPEG files of 500 by 375 pixels and 100 kB, much like ImageNet's, is written to a temporary folder, and batches of
random rows of it are gathered as a worker's feed gathers them, up to the copy to the device. The ways take turns, several times, and
the fastest turn of each counts. The floor is Pillow alone, decoding the same files on one thread: what no way that decodes can
undercut. Files are in the system's cache, so no disk is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks import machine
from trainers.config import DataConfig
from trainers.data import Examples, kept, prepared
from trainers.data.reading import usable_cores
from trainers.data.resize import resize_into
from trainers.data.ways import Way

RESULT = pathlib.Path(__file__).parent / "results" / "input-cpu.json"
ROWS, COLUMNS, QUALITY, GRAIN = 375, 500, 92, 9.5  # with these a file takes 100 kB
BATCH = 32


def photograph(seed: int) -> bytes:
    """A JPEG with detail at all scales, so that decoding it takes as long as a photograph."""
    random = np.random.default_rng(seed)
    pixels = random.normal(0, GRAIN, (ROWS, COLUMNS, 3))
    for side, strength in ((4, 25.0), (16, 60.0)):
        coarse = np.clip(random.normal(128, strength, (ROWS // side + 2, COLUMNS // side + 2, 3)), 0, 255).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(coarse).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC), np.float64) - 128
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As many JPEG files as were set, with classes in turn."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS 4.9 looks for it with importlib_resources, which it does not install
    files: tuple[bytes, ...] = ()

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(encoding_format="jpeg"), "label": tfds.features.ClassLabel(num_classes=1000)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, file in enumerate(self.files):
            yield place, {"image": file, "label": place % 1000}


def timed(turn: Callable[[], object], n_images: int) -> dict[str, float]:
    """Images a second, and milliseconds of CPU an image on all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    turn()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images_a_s": n_images / wall, "cpu_ms": 1e3 * cpu / n_images}


def measured(*, n_images: int, size: int, repeats: int) -> dict[str, Any]:
    """The document that is printed and saved."""
    load_start, files = machine.load(), tuple(photograph(seed) for seed in range(n_images))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TFDS_DATA_DIR"] = folder
        Photographs.files = files
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            Photographs(data_dir=folder).download_and_prepare(file_format="array_record")
        found = prepared.find("photographs")
        assert found is not None, "it was written just now"
        config = DataConfig(dataset="photographs", classes=1000, channels=3, image_size=size)
        kinds = {way: kept(found, config, "train", way=way) for way in Way}
        turns = {way.value: gathering(examples, n_images) for way, examples in kinds.items()} | floors(files, size)
        rounds = [{name: timed(turn, n_images) for name, turn in turns.items()} for _ in range(repeats)]
    best = {name: max((one[name] for one in rounds), key=lambda row: row["images_a_s"]) for name in turns}
    return {
        "machine": machine.describe(),
        "load_average": {"start": load_start, "end": machine.load()},
        "asked": {"n_images": n_images, "size": size, "repeats": repeats, "batch": BATCH},
        "mean_file_kb": sum(map(len, files)) / len(files) / 1e3,
        "threads": usable_cores(),
        "rows": best,
        "all_rounds": rounds,
    }


def gathering(examples: Examples, n_images: int) -> Callable[[], object]:
    """Every image once, in a random order, batch by batch, as far as the device."""
    batches = np.random.default_rng(0).permutation(n_images)[: n_images // BATCH * BATCH].reshape(-1, BATCH)
    return lambda: [jax.block_until_ready(jax.device_put(tuple(examples.gather(rows)))) for rows in batches]


def floors(files: tuple[bytes, ...], size: int) -> dict[str, Callable[[], object]]:
    """Pillow alone, and resizing alone, on one thread."""
    with Image.open(io.BytesIO(files[0])) as image:
        pixels = np.asarray(image)
    resized = np.empty((size, size, 3), np.uint8)
    return {
        "decode alone": lambda: [np.asarray(Image.open(io.BytesIO(file))) for file in files],
        "resize alone": lambda: [resize_into(pixels, resized) for _ in files],
    }


def text(found: Mapping[str, Any]) -> str:
    """The table."""
    where, asked, rows = found["machine"], found["asked"], found["rows"]
    floor = rows["decode alone"]
    lines = [
        f"{where['cores']} cores · {where['processor']} · {where['date']}",
        f"load average {found['load_average']['start']} at the start, {found['load_average']['end']} at the end",
        f"{asked['n_images']} JPEG files of {ROWS} × {COLUMNS} pixels, {found['mean_file_kb']:.0f} kB, to {asked['size']} px",
        "",
        f"{'':14} {'images/s':>9} {'of streamed':>12} {'CPU ms/image':>13} {'of decoding':>12}",
    ]
    for name, row in rows.items():
        of_streamed, of_floor = row["images_a_s"] / rows["streamed"]["images_a_s"], row["cpu_ms"] / floor["cpu_ms"]
        lines.append(f"{name:14} {row['images_a_s']:9,.0f} {of_streamed:11.2f}× {row['cpu_ms']:13.2f} {of_floor:11.2f}×")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, metavar="N", help="files written (default 512)")
    parser.add_argument("--size", type=int, default=384, metavar="PX", help="pixels a side that images are resized to (default 384)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each way, of which the fastest counts (default 3)")
    parser.add_argument("--save", action="store_true", help=f"keep the document in {RESULT.parent.name}/{RESULT.name}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.images < BATCH:
        parser.error(f"--images: {options.images} is less than a batch of {BATCH}")
    found = measured(n_images=options.images, size=options.size, repeats=options.repeats)
    document = json.dumps(found, indent=1, ensure_ascii=False)
    if options.save:
        RESULT.write_text(document + "\n", "utf-8")
    print(document if options.json else text(found))


if __name__ == "__main__":
    main()
