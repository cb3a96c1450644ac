"""How good a prediction of several members is: of their mean probability, of each alone, and how much they differ."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SMALLEST_PROBABILITY = 1e-7  # below it a probability is taken as this one in the divergence between members
SMALLEST_ERROR = 1e-7  # added to the error that disagreement is divided by, as in the library that the authors measured with


def ensemble_log_probs(logits: jax.Array) -> jax.Array:
    """Log of the members' mean probability, [image, class], from logits [member, image, class].

    Probabilities are averaged, not logits.
    """
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, axis=-1), axis=0) - jnp.log(logits.shape[0])


def evaluate(logits: jax.Array, labels: jax.Array, *, bins: int) -> dict[str, jax.Array]:
    """Every metric of one split.

    Args:
        logits: [member, image, class].
        labels: Class of each image, integers [image].
        bins: Equal-width confidence bins of the calibration error.

    Returns:
        `nll`, `error`, `ece`, `brier` (sum over classes, 0 to 2) of the mean probability; `member_nll`, the mean over
        members; `diversity`, the mean divergence between members in nats, 0 for one; `disagreement`, how often two of them
        answer differently; `normalised_disagreement`, that over the error of the mean probability; `cosine`, how alike they are.
    """
    log_probs = ensemble_log_probs(logits)
    probs = jnp.exp(log_probs)
    confidence, hit = probs.max(axis=-1), probs.argmax(axis=-1) == labels
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    member_log_probs = jax.nn.log_softmax(logits, axis=-1)
    differ, wrong = disagreement(logits), jnp.mean((~hit).astype(jnp.float32))
    return {
        "nll": -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=-1)),
        "error": 1.0 - jnp.mean(hit.astype(jnp.float32)),
        "ece": calibration_error(confidence, hit, bins=bins),
        "brier": jnp.mean(jnp.sum((probs - one_hot) ** 2, axis=-1)),
        "diversity": diversity(jnp.exp(member_log_probs)),
        "member_nll": -jnp.mean(jnp.take_along_axis(member_log_probs, labels[None, :, None], axis=-1)),
        "disagreement": differ,
        "normalised_disagreement": differ / (wrong + SMALLEST_ERROR),
        "cosine": cosine(jnp.exp(member_log_probs)),
    }


def calibration_error(confidence: jax.Array, hit: jax.Array, *, bins: int) -> jax.Array:
    """ECE: distance between confidence and accuracy, mean over bins (low, high] weighted by their images.

    Args:
        confidence: Largest probability of each image, [image].
        hit: Whether that class is right, [image].
        bins: Equal-width bins on [0, 1].

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017), eq. 3.
    """
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    gap = jax.ops.segment_sum(hit.astype(jnp.float32) - confidence, index, num_segments=bins)
    # n_b/N |acc_b - conf_b| is the absolute sum of the bin's gaps over N.
    return jnp.abs(gap).sum() / confidence.shape[0]


def diversity(probs: jax.Array) -> jax.Array:
    """Mean KL(p_m ‖ p_m') over images and ordered pairs of members, from probabilities [member, image, class]."""
    n_members, n_images, _ = probs.shape
    if n_members == 1:
        return jnp.zeros((), probs.dtype)
    probs = jnp.maximum(probs, SMALLEST_PROBABILITY)
    log_probs = jnp.log(probs)
    # Σ_{m,m'} p_m (log p_m − log p_m') = M Σ_m (p_m − mean p)(log p_m − mean log p): no [M, M] array, and no
    # difference of large sums where members agree.
    spread = (probs - probs.mean(axis=0)) * (log_probs - log_probs.mean(axis=0))
    return spread.sum() / ((n_members - 1) * n_images)


def disagreement(scores: jax.Array) -> jax.Array:
    """Share of images for which two members answer with different classes, mean over pairs.

    Args:
        scores: Logits or probabilities, [member, image, class]; the first of equal ones is the answer.

    Source:
        Fort et al., Deep Ensembles: A Loss Landscape Perspective (2019), §4; there and in "Sparse MoEs meet Efficient Ensembles"
        it is also divided by the error of the ensemble.
    """
    n_members, _, n_classes = scores.shape
    if n_members == 1:
        return jnp.zeros(())
    votes = jax.nn.one_hot(scores.argmax(axis=-1), n_classes).sum(axis=0)
    pairs = n_members * (n_members - 1)
    differing = pairs - jnp.sum(votes * (votes - 1), axis=-1)  # ordered pairs, [image]; whole numbers, so that none is none
    # A NaN is no answer, and must show.
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, jnp.mean(differing) / pairs)


def cosine(probs: jax.Array) -> jax.Array:
    """Cosine between the probabilities of two members, mean over images and pairs, from [member, image, class]; 1 if equal."""
    n_members = probs.shape[0]
    if n_members == 1:
        return jnp.ones((), probs.dtype)
    directions = probs / jnp.linalg.norm(probs, axis=-1, keepdims=True)
    # Σ_{m≠m'} u_m·u_m' = |Σ u_m|² − M
    return jnp.mean((jnp.sum(directions.sum(axis=0) ** 2, axis=-1) - n_members) / (n_members * (n_members - 1)))
