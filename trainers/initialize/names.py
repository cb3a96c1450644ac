"""Parameters of published models under our names and in our layouts.

Published ViTs name their encoder `Transformer` and number the layers of a block through (`MlpBlock_3`) or by kind (`MlpBlock_0`);
released V-MoEs and E³ name it `Encoder`, and their layers by what they are. Both keep the heads of attention and the pixels of a
patch on axes of their own, and an E³ keeps each member's router so; ours are matrices.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.contract import Problem
from trainers.config import DataConfig, ModelConfig
from trainers.initialize.files import Naming, Source

_BLOCK = r"(?:Transformer|Encoder)/encoderblock_(\d+)"
_ATTENTION = r"(?:MultiHeadDotProductAttention_[01]|SelfAttention)"
_RULES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"embedding/(kernel|bias)", r"embedding/\1"),
        (r"cls", r"class_token"),
        (r"(?:Transformer|Encoder)/posembed_input/pos_embedding", r"positions"),
        (rf"{_BLOCK}/LayerNorm_0/(scale|bias)", r"block_\1/norm_attention/\2"),
        (rf"{_BLOCK}/LayerNorm_[12]/(scale|bias)", r"block_\1/norm_mlp/\2"),
        (rf"{_BLOCK}/{_ATTENTION}/(?:query|key|value)/(kernel|bias)", r"block_\1/attention/query_key_value/\2"),
        (rf"{_BLOCK}/{_ATTENTION}/out/(kernel|bias)", r"block_\1/attention/out/\2"),
        (rf"{_BLOCK}/(?:MlpBlock_[03]|Mlp)/Dense_([01])/(kernel|bias)", r"block_\1/mlp/Linear_\2/\3"),
        (rf"{_BLOCK}/Moe/Mlp/Dense_([01])/(kernel|bias)", r"block_\1/moe/experts/Linear_\2/\3"),
        (rf"{_BLOCK}/Moe/Router/dense/kernel", r"block_\1/moe/router/kernel"),
        (r"(?:Transformer|Encoder)/encoder_norm/(scale|bias)", r"norm/\1"),
        (r"(pre_logits|head)/(kernel|bias)", r"\1/\2"),
    )
)
_PACKED = ("query", "key", "value")  # in this order


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The parameters of a file under our names.

    Attributes:
        arrays: In our layouts.
        origins: What each is called in the file; several are put side by side.
        strangers: Names of the file that no model of ours has.
        problems: Of arrays whose layout is not that of the model.
    """

    arrays: Mapping[str, np.ndarray]
    origins: Mapping[str, tuple[str, ...]]
    strangers: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def named(source: Source, model: ModelConfig, data: DataConfig) -> Named:
    """The arrays of a file under our names, for a model whose heads and patches decide how they are laid out."""
    if source.naming is Naming.OWN:
        return Named(arrays=source.arrays, origins={name: (name,) for name in source.arrays})
    origins, strangers = _origins(source.arrays)
    arrays: dict[str, np.ndarray] = {}
    problems: list[Problem] = []
    for name, files in origins.items():
        found = [source.arrays[file] for file in files]
        if problem := _layout_problem(name, files, found, model, data):
            problems.append(problem)
        else:
            arrays[name] = _ours(name, found)
    return Named(arrays=arrays, origins=origins, strangers=strangers, problems=tuple(problems))


def _origins(names: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """What each of our parameters is called in the file, and what has no name with us."""
    origins: dict[str, list[str]] = collections.defaultdict(list)
    strangers: list[str] = []
    for name in names:
        ours = next((match.expand(to) for pattern, to in _RULES if (match := pattern.fullmatch(name))), None)
        (strangers if ours is None else origins[ours]).append(name)
    return {ours: tuple(sorted(files, key=_place)) for ours, files in origins.items()}, tuple(strangers)


def _place(name: str) -> int:
    layer = name.split("/")[-2:-1]
    return _PACKED.index(layer[0]) if layer and layer[0] in _PACKED else 0


def _layout_problem(name: str, files: tuple[str, ...], found: list[np.ndarray], model: ModelConfig, data: DataConfig) -> Problem | None:
    """What keeps arrays of a file from becoming the parameter, though they might have as many numbers."""
    n_files = len(_PACKED) if "query_key_value" in name else 1
    if len(files) != n_files:
        what = "query, key and value, one each" if n_files > 1 else "one of them"
        return Problem(f"parameter {name} cannot be made", found=", ".join(files), expected=what, fix="take a file of one model")
    expected = _published_shape(name, found[0], model, data)
    wrong = [f"{file} {array.shape}" for file, array in zip(files, found, strict=True) if expected not in (None, array.shape)]
    if not wrong:
        return None
    fields = "model.patch, data.channels and model.hidden" if name == "embedding/kernel" else "model.hidden and model.heads"
    return Problem(
        f"parameter {name} has another shape", found=", ".join(wrong), expected=f"{expected}", fix=f"set {fields} as in the file"
    )


def _published_shape(name: str, found: np.ndarray, model: ModelConfig, data: DataConfig) -> tuple[int, ...] | None:
    """What an array must be that becomes the parameter in another layout; None for the others, which are compared as they are."""
    width = model.hidden // model.heads
    if name == "embedding/kernel":  # that of a MIMO model has the channels of M images, and is fresh whatever is found
        channels = found.shape[2] if model.mimo and found.ndim == 4 else data.channels
        return (model.patch, model.patch, channels, model.hidden)
    if "query_key_value" in name:
        return (model.hidden, model.heads, width) if name.endswith("kernel") else (model.heads, width)
    if name.endswith("attention/out/kernel"):
        return (model.heads, width, model.hidden)
    if name.endswith("router/kernel") and found.ndim == 3:
        return (model.hidden, *found.shape[1:])  # [feature, member, expert of it]
    return None


def _ours(name: str, found: list[np.ndarray]) -> np.ndarray:
    """Arrays of a file as the parameter: heads side by side, pixels by row, column and channel, routers side by side."""
    if "query_key_value" in name:
        return np.concatenate([array.reshape(len(array), -1) if name.endswith("kernel") else array.reshape(-1) for array in found], axis=-1)
    array = found[0]
    if name == "embedding/kernel" or name.endswith("attention/out/kernel"):
        return array.reshape(-1, array.shape[-1])
    if name.endswith("router/kernel"):
        return array.reshape(len(array), -1)
    return array
