"""The loss that is trained: of each member alone, never of their average."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from trainers.models import Prediction


def training_loss(prediction: Prediction, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each member against the same labels, mean over members and images, plus the auxiliary losses.

    Args:
        prediction: Logits [member, image, class] and the weighted sum of auxiliary losses.
        labels: Probabilities, one-hot or mixed, [image, class].
    """
    log_probs = jax.nn.log_softmax(prediction.logits, axis=-1)
    return -jnp.mean(jnp.sum(labels * log_probs, axis=-1)) + prediction.auxiliary
