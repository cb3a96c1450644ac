"""Which kind of file it is, and its arrays by name."""

from __future__ import annotations

import dataclasses
import enum
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from orchestrator.contract import DataError
from trainers.checkpoint import LATEST
from trainers.initialize import augreg, own, released

KINDS = "a .npz of AugReg ViTs, PREFIX of PREFIX.index and PREFIX.data-00000-of-NNNNN, a .safetensors of ours, or the folder of a trial"


class Naming(enum.Enum):
    """Whose names and layouts the arrays have."""

    PUBLISHED = "published"
    OWN = "own"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The parameters in a file.

    Attributes:
        path: Where they were read.
        naming: Whose names these are.
        arrays: Parameters by name, as the file has them, of a float type.
    """

    path: pathlib.Path
    naming: Naming
    arrays: Mapping[str, np.ndarray]


def read(path: str | os.PathLike[str]) -> Source:
    """Reads a file of weights; optimizer states in it are left out.

    Args:
        path: The `.npz` of an AugReg ViT; the prefix, or the index, of a released V-MoE or E³; a checkpoint or parameters of ours,
            `.safetensors`; or the folder of a trial, whose newest checkpoint is taken.

    Raises:
        DataError: It is not there, is none of these, or is damaged.
    """
    text = os.fspath(path)
    if "://" in text:
        raise DataError("weights are read from disks only", found=text, expected=KINDS, fix="copy all their files here first")
    file = pathlib.Path(text)
    if file.suffix == ".npz":
        return Source(path=file, naming=Naming.PUBLISHED, arrays=augreg.read(file))
    if file.suffix == ".safetensors" or file.is_dir():
        file = file / LATEST if file.is_dir() else file
        return Source(path=file, naming=Naming.OWN, arrays=own.read(file))
    prefix = file.with_suffix("") if file.suffix == ".index" else file
    index = prefix.with_name(prefix.name + released.INDEX)
    if index.exists():
        return Source(path=index, naming=Naming.PUBLISHED, arrays=released.read(prefix))
    raise DataError("there are no weights to start from", found=f"{text}: no such file", expected=KINDS, fix="check the path")
