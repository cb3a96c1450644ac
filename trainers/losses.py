"""The loss that is trained: of each member alone, or, to compare, of their average."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from trainers.models import Prediction


def training_loss(prediction: Prediction, labels: jax.Array, *, of_mean: bool = False) -> jax.Array:
    """Cross-entropy of each member against the labels of its images, mean over members and images, plus the auxiliary losses.

    Args:
        prediction: Logits [member, image, class] and the weighted sum of auxiliary losses.
        labels: Probabilities, one-hot or mixed, [image, class].
        of_mean: Takes the cross-entropy of the mean of the members' probabilities instead, `ModelConfig.member_loss`.
    """
    log_probs = jax.nn.log_softmax(prediction.logits, axis=-1)
    if of_mean:
        log_probs = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))
    if prediction.rows is not None:
        labels = labels[prediction.rows]
    return -jnp.mean(jnp.sum(labels * log_probs, axis=-1)) + prediction.auxiliary
