"""A lane's state from its checkpoint, and how the lane was run when it was saved."""

from __future__ import annotations

import logging

import jax
import numpy as np

from orchestrator.contract import Lane
from trainers.checkpoint import load, program_of
from trainers.packing import Packing
from trainers.step import LaneState

log = logging.getLogger(__name__)


def packing_of(lane: Lane) -> Packing | None:
    """How the lane was run when it was last saved; None where it was not, or in a way unknown here."""
    program = program_of(lane.folder, lane.key)
    return None if program is None else Packing.parse(program)


def restored(lane: Lane, template: LaneState, program: str) -> LaneState | None:
    """The lane's newest sound checkpoint; None where it has to start from step 0.

    Args:
        lane: Whose folder is looked into.
        template: Shapes and types of a state.
        program: Of the pack that the lane enters; where it would end with other bits than before, a warning says so.
    """
    found = load(lane.folder, lane.key)
    if found is None:
        return None
    leaves = named_arrays(template)
    if {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()} != {
        name: (array.shape, array.dtype) for name, array in found.arrays.items()
    }:
        log.warning("checkpoint in %s is passed over: its arrays are not those of this model", lane.folder)
        return None
    if _decides_bits(found.program) != _decides_bits(program):
        log.warning("trial %s goes on under %r, began under %r: its last bits may differ", lane.key, program, found.program)
    return jax.tree.unflatten(jax.tree.structure(template), [found.arrays[name] for name in leaves])


def named_arrays(state: LaneState) -> dict[str, np.ndarray]:
    """Every leaf of a lane's state, by its path, such as `params/head/kernel`, in the order of the tree."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _decides_bits(program: str) -> str:
    """A program without what changes no bit: of lanes that take turns on this device, the width and whose turn it is."""
    packing = Packing.parse(program)
    return program.rpartition(" · ")[0] if packing is not None and packing.is_exact else program
