"""Which parameter of a model starts from what, and what keeps a file from being its start."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping

import numpy as np

from orchestrator.contract import Problem
from trainers.config import DataConfig, ModelConfig
from trainers.geometry import own_experts, routed_experts, routers, sparse_blocks
from trainers.initialize.files import Source
from trainers.initialize.names import Named, named
from trainers.initialize.positions import grid_side, zoomed

Shapes = Mapping[str, tuple[int, ...]]

_SPARSE = re.compile(r"(block_\d+)/moe/(?:experts/)?(.+)")
_DENSE = re.compile(r"(block_\d+)/mlp/(.+)")
HEAD, PRE_LOGITS = ("head/kernel", "head/bias"), ("pre_logits/kernel", "pre_logits/bias")


class How(enum.Enum):
    """How a parameter starts, or why one of the file is not used."""

    COPIED = "copied"
    ZOOMED = "zoomed to another grid"
    REPEATED = "copied to each expert"
    EACH_MEMBER = "copied to each member"
    WINDOWS = "columns of each router's experts"
    FRESH = "fresh"
    LEFT_OUT = "not used"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A parameter of the model and where its values come from.

    Attributes:
        name: Of the parameter; empty for what is not used of the file.
        shape: In the model.
        origins: Names in the file; none where the parameter starts afresh.
        found: Shape after it was brought into our layout.
        how: What became of it.
    """

    name: str
    shape: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()
    found: tuple[int, ...] = ()
    how: How


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A file against a model.

    Attributes:
        rows: Every parameter of the model that has a start, then what of the file is left out on purpose.
        arrays: Values of the parameters that start from the file, float32, by name.
        problems: Everything that does not fit; empty when the model can be started.
    """

    rows: tuple[Row, ...]
    arrays: Mapping[str, np.ndarray]
    problems: tuple[Problem, ...]


def fit(source: Source, model: ModelConfig, data: DataConfig, shapes: Shapes, *, fresh_head: bool = False, is_dry: bool = False) -> Fit:
    """The start of each parameter of a model.

    Heads are fresh where the classes differ, or the layer before; positions are zoomed; a layer that is sparse in the model alone
    gets the dense MLP in each expert and a fresh router. Nothing else may differ, and a sparse layer never becomes a dense one.

    Args:
        source: What is started from.
        model: What is started.
        data: What it will see.
        shapes: Of all its parameters, by name.
        fresh_head: Start with a new head in any case.
        is_dry: Only names and shapes are looked at: no values come out.
    """
    fitting = _Fitting(named(source, model, data), model, shapes, is_dry=is_dry)
    fitting.refuse_dense_layers()
    fitting.leave_out_heads(fresh_head=fresh_head)
    for name in shapes:
        fitting.place(name)
    fitting.name_what_is_left()
    return Fit(rows=tuple(fitting.rows), arrays=fitting.arrays, problems=tuple(fitting.problems))


class _Fitting:
    """A fit that is being made."""

    def __init__(self, given: Named, model: ModelConfig, shapes: Shapes, *, is_dry: bool) -> None:
        self.rows: list[Row] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.problems = list(given.problems)
        self._given, self._model, self._shapes, self._is_dry = given, model, shapes, is_dry
        self._left = dict(given.arrays)  # what has no place yet
        self._unused: list[Row] = []
        self._fresh: set[str] = set()

    def refuse_dense_layers(self) -> None:
        """What an MLP would be of several experts is nowhere defined."""
        sparse = {f"block_{index}" for index in sparse_blocks(self._model)}
        found = sorted({match[1] for name in self._left if (match := _SPARSE.fullmatch(name))} - sparse)
        self._fresh |= {name for name in self._shapes if (match := _DENSE.fullmatch(name)) and match[1] in found}
        for block in found:
            names = [name for name in self._left if name.startswith(f"{block}/moe/")]
            experts = ", ".join(f"{self._said(name)} {self._left.pop(name).shape}" for name in names)
            if f"{block}/mlp/Linear_0/kernel" in self._shapes:
                self.problems.append(
                    Problem(
                        f"{block}/mlp is dense in the model and sparse in the file",
                        found=experts,
                        expected=f"{block}/mlp/Linear_0/kernel {self._shapes[f'{block}/mlp/Linear_0/kernel']}",
                        fix="set model.moe_placement and model.moe_layers as in the file; experts are not merged into one MLP",
                    )
                )
            else:
                self.problems.append(Problem(f"{block} has no place in the model", found=experts, fix="set model.depth as in the file"))

    def leave_out_heads(self, *, fresh_head: bool) -> None:
        """A head that reads other features, or names other classes, is no start; the layer before it may be left out."""
        stays = all((name in self._left) == (name in self._shapes) for name in PRE_LOGITS)
        fits = all(name in self._left and self._left[name].shape == self._shapes[name] for name in HEAD)
        dropped = [] if stays and fits and not fresh_head else list(HEAD)
        dropped += [name for name in PRE_LOGITS if name not in self._shapes]
        for name in dropped:
            if (array := self._left.pop(name, None)) is not None:
                self._unused.append(Row(name="", origins=self._given.origins[name], found=array.shape, how=How.LEFT_OUT))
        self._fresh |= {name for name in (*HEAD, *PRE_LOGITS) if name in self._shapes and name not in self._left}

    def place(self, name: str) -> None:
        """Gives a parameter of the model its start."""
        shape = self._shapes[name]
        match = _SPARSE.fullmatch(name)
        dense = f"{match[1]}/mlp/{match[2]}" if match else ""
        if name in self._left:
            array = self._left.pop(name)
            adapted, how = self._adapted(name, array, shape)
            self._put(name, name, array, adapted, how)
        elif dense in self._given.arrays:
            array = self._given.arrays[dense]
            self._left.pop(dense, None)
            self._put(name, dense, array, np.broadcast_to(array, (shape[0], *array.shape)), How.REPEATED)
        elif name in self._fresh or self._may_be_fresh(name):
            self.rows.append(Row(name=name, shape=shape, how=How.FRESH))
        elif not any(problem.what.startswith(f"parameter {name} ") for problem in self.problems):
            fix = "take another file, or change the model"
            self.problems.append(Problem(f"parameter {name} is not in the file", expected=f"{shape}", fix=fix))

    def name_what_is_left(self) -> None:
        """What of the file has no place in the model, each by its name."""
        for name, array in self._left.items():
            self._stranger(self._said(name), array.shape)
        for name in self._given.strangers:
            self._stranger(name, ())
        self.rows += self._unused

    def _may_be_fresh(self, name: str) -> bool:
        """Parameters that a method adds to the model that it starts from."""
        block, _, layer = name.partition("/moe/router/")
        if layer:
            return f"{block}/mlp/Linear_0/kernel" in self._given.arrays
        fast = name.removesuffix("/alpha").removesuffix("/gamma")
        return fast != name and f"{fast}/kernel" in self._given.arrays

    def _adapted(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, How]:
        """The array as the model has it, or as it is where that cannot be."""
        model = self._model
        if array.shape == shape:
            return array, How.COPIED
        if name == "positions" and array.shape[::2] == shape[::2] and array.ndim == 3:
            side = grid_side(shape[1])
            return (zoomed(array, side), How.ZOOMED) if side and grid_side(array.shape[1]) else (array, How.COPIED)
        if name.endswith("router/kernel") and model.overlap and array.shape == (model.hidden, model.experts):
            first = own_experts(model) * np.arange(routers(model))[:, None]
            return array[:, ((first + np.arange(routed_experts(model))) % model.experts).reshape(-1)], How.WINDOWS
        if model.batch_ensemble and _DENSE.fullmatch(name) and (model.members, *array.shape) == shape:
            return np.broadcast_to(array, shape), How.EACH_MEMBER
        return array, How.COPIED

    def _put(self, name: str, given: str, array: np.ndarray, adapted: np.ndarray, how: How) -> None:
        """Takes the array as the parameter, or says why it cannot be."""
        shape, origins = self._shapes[name], self._given.origins[given]
        if name == "embedding/kernel" and self._model.mimo and adapted.shape != shape:
            # Of one image, where members see one each: as in uncertainty-baselines, a new one.
            self._unused.append(Row(name="", origins=origins, found=array.shape, how=How.LEFT_OUT))
            self.rows.append(Row(name=name, shape=shape, how=How.FRESH))
        elif adapted.shape != shape:
            fix = "set the sizes of the model as in the file"
            self.problems.append(
                Problem(f"parameter {name} has another shape", found=f"{self._said(given)} {array.shape}", expected=f"{shape}", fix=fix)
            )
        elif not self._is_dry and not _is_finite(array):
            fix = "take weights of a model that did not diverge"
            self.problems.append(Problem(f"parameter {name} is not finite", found=self._said(given), expected="numbers", fix=fix))
        else:
            self.rows.append(Row(name=name, shape=shape, origins=origins, found=array.shape, how=how))
            if not self._is_dry:
                self.arrays[name] = np.array(adapted, np.float32, order="C")

    def _stranger(self, name: str, shape: tuple[int, ...]) -> None:
        fix = "take the file of another model, or change this one: model.depth, model.moe_placement, model.moe_layers"
        self.problems.append(Problem(f"{name} has no place in the model", found=f"{shape}" if shape else "", fix=fix))

    def _said(self, name: str) -> str:
        return ", ".join(self._given.origins[name])


def _is_finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):  # of float64, which is what is asked
        return bool(np.isfinite(array.astype(np.float32)).all())
