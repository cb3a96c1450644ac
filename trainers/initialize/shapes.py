"""Names and shapes of a model's parameters, from its config alone, without JAX: a plan asks what could start from what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainers.config import DataConfig, ModelConfig
from trainers.geometry import copies, predictions, routed_experts, routers, sparse_blocks, tokens_per_image

Shape = tuple[int, ...]


def shapes(model: ModelConfig, data: DataConfig) -> dict[str, Shape]:
    """Shape of every parameter of a model by its name, such as `block_0/mlp/Linear_0/kernel`. Nothing is computed."""
    D, M = model.hidden, model.members
    channels = data.channels * (M if model.mimo else 1)
    found = {"class_token": (1, 1, D), "positions": (1, tokens_per_image(model, data), D)}
    found |= _linear("embedding", model.patch**2 * channels, D)
    for index in range(model.depth):
        found |= _block(f"block_{index}", model, index)
    found |= _norm("norm", D)
    if model.representation:
        found |= _linear("pre_logits", D, model.representation)
    # Heads side by side where members read one token, each of its own where they have one each.
    side_by_side = predictions(model) if not model.tile else 1
    own = (M,) if model.member_heads and model.tile else ()
    return found | _linear("head", model.representation or D, side_by_side * data.classes, own)


def leaves(tree: Mapping[str, Any], *way: str) -> Iterator[tuple[str, Any]]:
    """Parameters of a tree of dicts by name.

    >>> dict(leaves({"head": {"kernel": 1, "bias": 2}}))
    {'head/kernel': 1, 'head/bias': 2}
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, *way, key)
        else:
            yield "/".join((*way, key)), value


def replaced(tree: Mapping[str, Any], by: Mapping[str, Any], *way: str) -> dict[str, Any]:
    """The tree with those of its parameters that are named.

    >>> replaced({"head": {"kernel": 1, "bias": 2}}, {"head/bias": 3})
    {'head': {'kernel': 1, 'bias': 3}}
    """
    return {
        key: replaced(value, by, *way, key) if isinstance(value, Mapping) else by.get("/".join((*way, key)), value)
        for key, value in tree.items()
    }


def _block(name: str, model: ModelConfig, index: int) -> dict[str, Shape]:
    D, F, M = model.hidden, model.mlp, model.members
    found = _norm(f"{name}/norm_attention", D) | _norm(f"{name}/norm_mlp", D)
    found |= _linear(f"{name}/attention/query_key_value", D, 3 * D) | _linear(f"{name}/attention/out", D, D)
    for layer, (rows, columns) in enumerate(((D, F), (F, D))):
        if index in sparse_blocks(model):
            found |= _linear(f"{name}/moe/experts/Linear_{layer}", rows, columns, (model.experts,))
        elif model.batch_ensemble and copies(model, index) > 1:
            mlp = f"{name}/mlp/Linear_{layer}"
            found |= {
                f"{mlp}/alpha": (M, rows),
                f"{mlp}/gamma": (M, columns),
                f"{mlp}/kernel": (rows, columns),
                f"{mlp}/bias": (M, columns),
            }
        else:
            found |= _linear(f"{name}/mlp/Linear_{layer}", rows, columns)
    if index in sparse_blocks(model):
        found[f"{name}/moe/router/kernel"] = (D, routers(model) * routed_experts(model))
    return found


def _linear(name: str, rows: int, columns: int, each: Shape = ()) -> dict[str, Shape]:
    return {f"{name}/kernel": (*each, rows, columns), f"{name}/bias": (*each, columns)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}
