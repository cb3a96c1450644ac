"""Position embeddings of a model for images of another size."""

from __future__ import annotations

import math

import numpy as np


def grid_side(tokens: int) -> int | None:
    """Patches a side of a square image of that many tokens, the class token among them; None where it is not square.

    >>> grid_side(50), grid_side(51)
    (7, None)
    """
    side = math.isqrt(max(tokens - 1, 0))
    return side if side > 0 and side * side == tokens - 1 else None


def zoomed(positions: np.ndarray, side: int) -> np.ndarray:
    """Position embeddings [1, token, feature] for another grid; the class token, which stands first, keeps its own.

    Linear along rows and columns, with the first and the last patch of each staying where they are.

    Args:
        positions: Of a square grid and the class token.
        side: Patches a side of the new grid.

    Source:
        Dosovitskiy et al., An Image Is Worth 16x16 Words, ICLR 2021, §3.2. The corners that stay are those of
        `scipy.ndimage.zoom(…, order=1)`, which google-research/vision_transformer and google-research/vmoe call.
    """
    found = grid_side(positions.shape[1])
    assert found is not None, "no square grid"
    if found == side:
        return positions
    along = _weights(found, side)
    grid = positions[0, 1:].astype(np.float32).reshape(found, found, -1)
    grid = np.einsum("ir,jc,rcf->ijf", along, along, grid).astype(np.float32)
    return np.concatenate([positions[:, :1].astype(np.float32), grid.reshape(1, side * side, -1)], axis=1)


def _weights(found: int, side: int) -> np.ndarray:
    """What each of the old points gives to each of the new, [new, old]."""
    at = np.arange(side) * ((found - 1) / (side - 1) if side > 1 else 0.0)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(found)))
