"""Published models as independent NumPy functions of their own parameters, and the formats they are published in."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.serialization import msgpack
from scipy import special

Arrays = dict[str, np.ndarray]

MARK = "__msgpack_array_chunk_a87ca2__"
ARRAY, SLICES, LEAF = 1, 6, 8


def write_released(prefix: pathlib.Path, arrays: Mapping[str, np.ndarray], *, shards: int = 2, most: int = 50, **index: Any) -> None:
    """Writes arrays as V-MoE and E³ were released: an index, and shards in which they lie in slices.

    Args:
        prefix: Of the files.
        arrays: By name.
        shards: Files that the slices are dealt out to.
        most: Numbers in a part of a slice.
        index: What the index says instead.
    """
    tree: dict[str, Any] = {}
    parts: list[dict[str, Any]] = [{MARK: True} for _ in range(shards)]
    deal = itertools.cycle(range(shards))
    for place, name in enumerate(sorted(arrays, key=lambda name: name.split("/"))):
        array, cuts = arrays[name], slices_of(arrays[name].shape)
        homes = [next(deal) for _ in cuts]
        for cut, home in zip(cuts, homes, strict=True):
            flat = array[tuple(slice(*row) for row in cut)].reshape(-1)
            pieces = [packed_array(flat[first : first + most]) for first in range(0, flat.size, most)]
            parts[home].setdefault(str(place), []).append([pieces, msgpack.ExtType(SLICES, packed_slices(cut))])
        *way, last = name.split("/")
        node = tree
        for key in way:
            node = node.setdefault(key, {})
        node[last] = packed_leaf(array, cuts, homes)
    content = {"shard_count": shards, "index": tree, "version": "20220622"} | index
    files = {"index": {key: value for key, value in content.items() if value is not None}}
    files |= {f"data-{shard:05d}-of-{shards:05d}": part for shard, part in enumerate(parts)}
    for suffix, document in files.items():
        prefix.with_name(f"{prefix.name}.{suffix}").write_bytes(msgpack.packb(document, strict_types=True))


def slices_of(shape: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """Halves along each axis that has more than one row."""
    cuts = [[(0, size // 2), (size // 2, size)] if size > 1 else [(0, size)] for size in shape]
    return list(itertools.product(*cuts))


def packed_slices(cut: tuple[tuple[int, int], ...]) -> bytes:
    return msgpack.packb([msgpack.packb((start, stop, None)) for start, stop in cut])


def packed_leaf(array: np.ndarray, cuts: list[tuple[tuple[int, int], ...]], homes: list[int]) -> Any:
    said = msgpack.packb((array.shape, array.dtype.name, False, {}))
    return msgpack.ExtType(LEAF, msgpack.packb((said, [packed_slices(cut) for cut in cuts], homes)))


def packed_array(array: np.ndarray) -> Any:
    return msgpack.ExtType(ARRAY, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def make_vit(
    rng: np.random.Generator,
    *,
    side: int,
    patch: int,
    channels: int,
    hidden: int,
    mlp: int,
    heads: int,
    depth: int,
    classes: int,
    representation: int = 0,
) -> Arrays:
    """Parameters of a ViT by their names in an AugReg `.npz`, all random."""
    D, F, R = hidden, mlp, representation
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, D),
        "embedding/kernel": (patch, patch, channels, D),
        "embedding/bias": (D,),
        "Transformer/posembed_input/pos_embedding": (1, side**2 + 1, D),
        "Transformer/encoder_norm/scale": (D,),
        "Transformer/encoder_norm/bias": (D,),
        "head/kernel": (R or D, classes),
        "head/bias": (classes,),
    }
    if R:
        shapes |= {"pre_logits/kernel": (D, R), "pre_logits/bias": (R,)}
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (D,), f"{block}/{norm}/bias": (D,)}
        for layer in ("query", "key", "value"):
            name = f"{block}/MultiHeadDotProductAttention_1/{layer}"
            shapes |= {f"{name}/kernel": (D, heads, D // heads), f"{name}/bias": (heads, D // heads)}
        name = f"{block}/MultiHeadDotProductAttention_1/out"
        shapes |= {f"{name}/kernel": (heads, D // heads, D), f"{name}/bias": (D,)}
        for layer, shape in (("Dense_0", (D, F)), ("Dense_1", (F, D))):
            shapes |= {f"{block}/MlpBlock_3/{layer}/kernel": shape, f"{block}/MlpBlock_3/{layer}/bias": shape[1:]}
    return {name: random(rng, shape) for name, shape in shapes.items()}


def make_vmoe(rng: np.random.Generator, *, sparse: tuple[int, ...], experts: int, members: int = 1, **sizes: int) -> Arrays:
    """Parameters of a V-MoE, or with several members of an E³, by their names in the released files."""
    vit = make_vit(rng, **sizes)
    D, F = sizes["hidden"], sizes["mlp"]
    names = {"Transformer/": "Encoder/", "LayerNorm_2": "LayerNorm_1", "MultiHeadDotProductAttention_1": "SelfAttention"}
    arrays: Arrays = {}
    for name, array in vit.items():
        for old, new in (names | {"MlpBlock_3": "Mlp"}).items():
            name = name.replace(old, new)
        if not any(f"encoderblock_{index}/Mlp/" in name for index in sparse):
            arrays[name] = array
    for index in sparse:
        moe = f"Encoder/encoderblock_{index}/Moe"
        arrays[f"{moe}/Router/dense/kernel"] = random(rng, (D, members, experts // members) if members > 1 else (D, experts))
        for layer, shape in (("Dense_0", (D, F)), ("Dense_1", (F, D))):
            arrays[f"{moe}/Mlp/{layer}/kernel"] = random(rng, (experts, *shape))
            arrays[f"{moe}/Mlp/{layer}/bias"] = random(rng, (experts, shape[1]))
    return arrays


def random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(0, 0.5, shape).astype(np.float32)


def logits(arrays: Arrays, images: np.ndarray, *, k: int = 1) -> np.ndarray:
    """Logits [member, image, class] of a published model, one image and one token at a time, in float64.

    Buffers are without bounds. Source: Dosovitskiy et al. (2021), Riquelme et al. (2021), Allingham et al. (2022).
    """
    layers = {name.replace("Transformer/", "Encoder/"): array.astype(np.float64) for name, array in arrays.items()}
    routers = [array for name, array in layers.items() if name.endswith("Router/dense/kernel")]
    members = routers[0].shape[1] if routers and routers[0].ndim == 3 else 1
    return np.stack([[_predict(layers, image, member, k) for image in images.astype(np.float64)] for member in range(members)])


def _predict(layers: Arrays, image: np.ndarray, member: int, k: int) -> np.ndarray:
    kernel = layers["embedding/kernel"]
    size = len(kernel)
    corners = itertools.product(range(0, image.shape[0], size), range(0, image.shape[1], size))
    tokens = [
        np.tensordot(image[row : row + size, column : column + size], kernel, 3) + layers["embedding/bias"] for row, column in corners
    ]
    x = np.stack([layers["cls"][0, 0], *tokens]) + layers["Encoder/posembed_input/pos_embedding"][0]
    for index in itertools.count():
        block = {name: array for name, array in layers.items() if name.startswith(f"Encoder/encoderblock_{index}/")}
        if not block:
            break
        x = _block({"/".join(name.split("/")[2:]): array for name, array in block.items()}, x, member, k)
    y = _norm(layers, "Encoder/encoder_norm", x[0])
    if "pre_logits/kernel" in layers:
        y = np.tanh(_dense(layers, "pre_logits", y))
    return _dense(layers, "head", y)


def _block(layers: Arrays, x: np.ndarray, member: int, k: int) -> np.ndarray:
    attention = next(name.split("/")[0] for name in layers if "Attention" in name)
    y = _norm(layers, "LayerNorm_0", x)
    query, key, value = (
        np.einsum("td,dhw->thw", y, layers[f"{attention}/{name}/kernel"]) + layers[f"{attention}/{name}/bias"]
        for name in ("query", "key", "value")
    )
    weights = special.softmax(np.einsum("qhw,khw->hqk", query, key) / math.sqrt(query.shape[-1]), axis=-1)
    mixed = np.einsum("hqk,khw->qhw", weights, value)
    x = x + np.einsum("qhw,hwd->qd", mixed, layers[f"{attention}/out/kernel"]) + layers[f"{attention}/out/bias"]
    second = "LayerNorm_1" if "LayerNorm_1/scale" in layers else "LayerNorm_2"
    y = _norm(layers, second, x)
    if "Moe/Router/dense/kernel" in layers:
        return x + np.stack([_sparse(layers, token, member, k) for token in y])
    mlp = next(name.split("/")[0] for name in layers if "Mlp" in name)
    return x + _dense(layers, f"{mlp}/Dense_1", _gelu(_dense(layers, f"{mlp}/Dense_0", y)))


def _sparse(layers: Arrays, token: np.ndarray, member: int, k: int) -> np.ndarray:
    router = layers["Moe/Router/dense/kernel"]
    router = router if router.ndim == 2 else router[:, member]
    gates = special.softmax(token @ router)
    total = np.zeros_like(token)
    for chosen in np.argsort(-gates)[:k]:
        expert = member * router.shape[1] + chosen
        own = {name: array[expert] for name, array in layers.items() if name.startswith("Moe/Mlp/")}
        total += gates[chosen] * _dense(own, "Moe/Mlp/Dense_1", _gelu(_dense(own, "Moe/Mlp/Dense_0", token)))
    return total


def _dense(layers: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ layers[f"{name}/kernel"] + layers[f"{name}/bias"]


def _norm(layers: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * layers[f"{name}/scale"] + layers[f"{name}/bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    """With the tanh of Flax's default, which the published models were trained with."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
