"""Which way the images of a split come to the device: held in memory, mapped from files of pixels, or decoded again and again.

The numbers of a trial are the same whichever it is, so the choice is made anew on every machine, by what is free there. It is no
part of a config, whose keys decide what a trial is: the environment variable TESSERA_INPUT overrides it.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import pathlib
import shutil
from collections.abc import Mapping

from orchestrator.contract import Problem
from trainers.config import DataConfig
from trainers.data import mapped, prepared
from trainers.data.catalog import Dataset
from trainers.data.examples import n_bytes
from trainers.data.prepared import Prepared

VARIABLE = "TESSERA_INPUT"
AUTO = "auto"
LIMIT_BYTES = 16 * 2**30  # of all splits in memory: a worker starts with reading them
MEMORY_SHARE = 0.25  # of what is free: there is a worker for each device
DISK_SHARE = 0.25  # of what is free may go to files of pixels: they are many times the size of the dataset, ImageNet's 577 GiB at 384 px
LEARNED = "train"


class Way(enum.StrEnum):
    """How the images of a split are kept."""

    RESIDENT = "resident"
    MAPPED = "mapped"
    STREAMED = "streamed"


def ways(config: DataConfig, dataset: Dataset, found: Prepared) -> Mapping[str, Way]:
    """The way of each of our splits.

    All are resident if they fit in memory together. Else splits that are measured on get the disk first: they are small, and
    read at every rung.
    """
    splits = dataset.splits()
    if (forced := _forced()) is not None:
        return dict.fromkeys(splits, forced)
    if sum(bytes_of(config, dataset, found).values()) <= memory_limit():
        return dict.fromkeys(splits, Way.RESIDENT)
    chosen, room = dict[str, Way](), DISK_SHARE * _free_disk()
    for name, size in sorted(_to_write(config, dataset, found).items(), key=lambda item: item[0] == LEARNED):
        chosen[name] = Way.MAPPED if size <= room else Way.STREAMED
        room -= size if size <= room else 0
    return {name: chosen[name] for name in splits}


def of_one(size: int) -> Way:
    """The way of a split of so many bytes that is looked at once: files of its pixels would not be worth writing."""
    forced = _forced()
    if forced in (None, Way.MAPPED):
        return Way.RESIDENT if size <= memory_limit() else Way.STREAMED
    return forced


def problem(config: DataConfig, dataset: Dataset, found: Prepared) -> Problem | None:
    """Why the images find no room here, or what is wrong with TESSERA_INPUT; None where nothing is."""
    asked = os.environ.get(VARIABLE, AUTO)
    if asked not in (AUTO, *Way):
        return Problem(
            f"{VARIABLE} names no way to read data", found=asked, expected=", ".join((AUTO, *Way)), fix=f"correct or unset {VARIABLE}"
        )
    sizes, to_write = bytes_of(config, dataset, found), sum(_to_write(config, dataset, found).values())
    largest = n_bytes((max(config.size_of(name) for name in sizes),) * 2) * config.channels
    if largest > memory_limit():
        return _too_large(f"an image of dataset {dataset.name!r}", config, largest, memory_limit(), "of memory for all of them")
    if asked == Way.RESIDENT and sum(sizes.values()) > free_memory():
        return _too_large(f"dataset {dataset.name!r}", config, sum(sizes.values()), free_memory(), f"of memory, and {VARIABLE}={asked}")
    if asked == Way.MAPPED and to_write > _free_disk():
        what = f"in {prepared.tfds_root()}, and {VARIABLE}={asked}"
        return _too_large(f"dataset {dataset.name!r}", config, to_write, _free_disk(), what)
    return None


def bytes_of(config: DataConfig, dataset: Dataset, found: Prepared) -> dict[str, int]:
    """What the decoded images of each of our splits take."""
    rows = {name: found.examples(split) for name, split in dataset.splits().items()}
    used = {name: min(n, config.at_most(name) or n) for name, n in rows.items()}
    return {name: n_bytes((n, config.size_of(name), config.size_of(name), config.channels)) for name, n in used.items()}


def memory_limit() -> float:
    """Bytes that all splits may take in memory."""
    return min(LIMIT_BYTES, MEMORY_SHARE * free_memory())


def free_memory() -> float:
    """Bytes that this process could get without others being swapped out: the machine's, or its control group's if those are fewer."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if (meminfo := pathlib.Path("/proc/meminfo")).is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(1024 * int(rows["MemAvailable"].split()[0]))
    limit, used = (pathlib.Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdecimal():
        free.append(int(most) - int(used.read_text()))
    return min(free)


def sized(config: DataConfig, name: str) -> DataConfig:
    """The config with the image size of a split."""
    return dataclasses.replace(config, image_size=config.size_of(name))


def _forced() -> Way | None:
    asked = os.environ.get(VARIABLE, AUTO)
    return None if asked == AUTO else Way(asked)


def _to_write(config: DataConfig, dataset: Dataset, found: Prepared) -> dict[str, int]:
    """Bytes of the files that splits would be mapped from and that are not there."""
    sizes, splits = bytes_of(config, dataset, found), dataset.splits()
    there = {name for name, split in splits.items() if mapped.is_written(found, sized(config, name), split, at_most=config.at_most(name))}
    return {name: 0 if name in there else size for name, size in sizes.items()}


def _free_disk() -> float:
    root = prepared.tfds_root()
    return shutil.disk_usage(root).free if os.access(root, os.W_OK) else -1.0  # then even written files cannot be locked


def _too_large(what: str, config: DataConfig, size: float, room: float, where: str) -> Problem:
    return Problem(
        f"{what} does not fit here",
        found=f"{size / 2**30:,.0f} GiB at {max(config.image_size, config.train_size)} px",
        expected=f"at most {room / 2**30:,.0f} GiB {where}",
        fix=f"lower data.image_size, set data.train_examples, or unset {VARIABLE}",
    )
