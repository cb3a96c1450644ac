"""Starting a model from weights that exist: published ones, or those of an earlier trial.

Three steps, each a pure function: a file is read into arrays by name (`files`), the names and layouts of the published models become
those of ours (`names`), and the arrays are fitted to a model (`fitting`). Whatever does not fit is reported at once.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp

from orchestrator.contract import DataError, flatten
from trainers.config import DataConfig, ModelConfig
from trainers.initialize.files import Source, read
from trainers.initialize.fitting import Fit, How, Row, fit
from trainers.initialize.own import load_parameters, save_parameters, sealed_parameters
from trainers.models import make_model

__all__ = [
    "Fit",
    "How",
    "Row",
    "Source",
    "fit",
    "load_parameters",
    "parameters",
    "read",
    "save_parameters",
    "sealed_parameters",
    "shapes",
]


def parameters(path: str | os.PathLike[str], model: ModelConfig, data: DataConfig, template: Any, *, fresh_head: bool = False) -> Any:
    """The template with the parameters of a file in it, float32; what the file does not decide stays as the template has it.

    Args:
        path: See `read`.
        model: Of the model that is started.
        data: What it will see.
        template: Its parameters as freshly drawn, as `make_model(model, data).init(…)["params"]`.
        fresh_head: Start with a new head though one of the right shape is in the file.

    Raises:
        DataError: The file cannot be read, or any parameter does not fit; all are named.
    """
    leaves = {_name(where): leaf for where, leaf in jax.tree_util.tree_leaves_with_path(template)}
    fitted = fit(read(path), model, data, {name: tuple(leaf.shape) for name, leaf in leaves.items()}, fresh_head=fresh_head)
    if fitted.problems:
        raise DataError.of(fitted.problems)
    return jax.tree_util.tree_map_with_path(lambda where, leaf: fitted.arrays.get(_name(where), leaf), template)


def shapes(model: ModelConfig, data: DataConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a model by its name, such as `block_0/mlp/Linear_0/kernel`. Nothing is computed."""
    values = {f"model.{name}": value for name, value in flatten(model).items() if isinstance(value, (bool, int, float))}
    images = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), jnp.float32)

    def init(images: jax.Array) -> Any:
        keys: dict[str, jax.Array] = dict(zip(("params", "dropout", "gating"), jax.random.split(jax.random.key(0), 3), strict=True))
        traced = {name: jnp.asarray(value) for name, value in values.items()}
        return make_model(model, data).init(keys, images, traced, train=False)["params"]

    return {_name(where): leaf.shape for where, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(init, images))}


def _name(where: Any) -> str:
    return jax.tree_util.keystr(where, simple=True, separator="/")
