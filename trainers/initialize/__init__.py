"""Starting a model from weights that exist: published ones, or those of an earlier trial.

Three steps, each a pure function: a file is read into arrays by name (`files`), the names and layouts of the published models become
those of ours (`names`), and the arrays are fitted to a model (`fitting`). Whatever does not fit is reported at once. JAX is not
needed for any of it: a plan asks what would fit.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import numpy as np

from orchestrator.contract import PARAMETERS, DataError, Problem
from trainers.config import DataConfig, ModelConfig, VisionConfig
from trainers.initialize import own
from trainers.initialize.files import Naming, Source, read
from trainers.initialize.fitting import Fit, How, Row, Shapes, fit
from trainers.initialize.own import load_parameters, save_parameters, sealed_parameters
from trainers.initialize.shapes import leaves, replaced, shapes

__all__ = [
    "Fit",
    "How",
    "Row",
    "Source",
    "fit",
    "load_parameters",
    "misfits",
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
    fitted = fit(read(path), model, data, {name: tuple(leaf.shape) for name, leaf in leaves(template)}, fresh_head=fresh_head)
    if fitted.problems:
        raise DataError.of(fitted.problems)
    return replaced(template, fitted.arrays)


def misfits(config: VisionConfig, start: VisionConfig | pathlib.Path) -> tuple[Problem, ...]:
    """What will keep trials of a config from starting, as far as names and shapes tell. Nothing is read but a file's head.

    Args:
        config: Of what is started.
        start: Config of the trial whose parameters it starts from, or a file. Of published files nothing is told here.

    Raises:
        DataError: The file cannot be read.
    """
    if isinstance(start, pathlib.Path):
        if start.suffix != own.SUFFIX:
            return ()
        return _misfits(start, own.shapes_in(start), config.model, config.data, fresh_head=config.start.fresh_head)
    return _between(start.model, start.data, config.model, config.data, config.start.fresh_head)


@functools.lru_cache(maxsize=256)  # arms of a study differ in rates more often than in shapes
def _between(given: ModelConfig, seen: DataConfig, model: ModelConfig, data: DataConfig, fresh_head: bool) -> tuple[Problem, ...]:
    return _misfits(pathlib.Path(PARAMETERS), shapes(given, seen), model, data, fresh_head=fresh_head)


def _misfits(path: pathlib.Path, given: Shapes, model: ModelConfig, data: DataConfig, *, fresh_head: bool) -> tuple[Problem, ...]:
    # Of one number each, whatever their shape: a model of any size takes no memory.
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in given.items()}
    source = Source(path=path, naming=Naming.OWN, arrays=arrays)
    return fit(source, model, data, shapes(model, data), fresh_head=fresh_head, is_dry=True).problems
