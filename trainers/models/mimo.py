"""Which image each member of a MIMO model sees and predicts."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from trainers.config import ModelConfig


def paired(key: jax.Array, n_images: int, model: ModelConfig, traced: Mapping[str, jax.Array]) -> jax.Array:
    """Images that pass through the model together, [member, row]: each member sees each image of the batch R times.

    The batch is repeated R times. Of its B · R rows the first (1 - ρ) part is put in an order of its own for each member; in the
    others all members have the same image.

    Args:
        key: Draws the orders.
        n_images: B.
        model: M, and R in `batch_repetition`.
        traced: ρ in `model.input_repetition`.

    Source:
        Havasi et al., Training Independent Subnetworks for Robust Prediction, ICLR 2021, §4.2 and appendix B; the first rows
        and no random ones, as in google/uncertainty-baselines, baselines/jft/mimo.py.
    """
    n_rows = n_images * model.batch_repetition
    # A share such as 0.9 of 20 rows must not leave one row less apart than two, for want of a bit.
    n_apart = jnp.floor(n_rows * (1.0 - traced["model.input_repetition"]) + 1e-3)
    row = jnp.arange(n_rows)
    draws = jax.random.uniform(key, (model.members + 1, n_rows))
    order = jnp.argsort(jnp.where(row < n_apart, draws[1:], 1.0 + draws[0]), axis=-1)
    return order % n_images
