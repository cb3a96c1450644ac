"""Measuring the lanes of a pack on a split: one compiled forward pass for all splits, then metrics over the whole split.

The last batch of a split is filled up with images from its start, behind its own; what is said of those is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainers import metrics
from trainers.data import Examples
from trainers.step import Program, Traced

LARGEST_BATCH = 512
OF_MEMBERS = ("diversity", "member_nll", "disagreement", "normalised_disagreement", "cosine")


@dataclasses.dataclass(frozen=True, slots=True)
class EvalSplit:
    """A split in equal batches, on the device.

    Attributes:
        batches: Stored images, each [image, row, column, channel], wrapped around at the end.
        batch: Shape and type of each.
        labels: Classes, [image], not wrapped.
        is_scored: Its labels are those of the model's classes; else only what is said of its images counts.
    """

    batches: Sequence[jax.Array]
    batch: jax.ShapeDtypeStruct
    labels: jax.Array
    is_scored: bool = True

    @classmethod
    def cut(cls, split: Examples, batch: int, *, is_fed: bool = False, is_scored: bool = True) -> EvalSplit:
        """The split in batches of `batch` images; with `is_fed` each is put on the device whenever it is asked for.

        Where nothing is scored no labels are read, and all are 0.
        """
        n_images = split.shape[0]
        rows = np.arange(-(-n_images // batch) * batch).reshape(-1, batch) % n_images
        batches = FedBatches(split, rows)
        labels = split.labels if is_scored else np.zeros(n_images, np.int32)
        shape = jax.ShapeDtypeStruct((batch, *split.shape[1:]), np.uint8)
        return cls(batches if is_fed else tuple(batches), shape, jax.device_put(labels), is_scored)


@dataclasses.dataclass(frozen=True, slots=True)
class FedBatches(Sequence[jax.Array]):
    """Batches of images that stay on the host. Asked for one after another, the next is gathered while one is looked at.

    Attributes:
        examples: Whose images they are.
        rows: Which of them are in each batch, [batch, image].
    """

    examples: Examples
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return jax.device_put(self.examples.gather(self.rows[index]).images)

    def __iter__(self) -> Iterator[jax.Array]:
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            ahead = thread.submit(self.__getitem__, 0)
            for index in range(1, len(self.rows)):
                batch, ahead = ahead.result(), thread.submit(self.__getitem__, index)
                yield batch
            yield ahead.result()


def batch_size(configured: int, n_val: int) -> int:
    """Images a batch: as configured, or the whole validation split up to a limit."""
    return configured or min(n_val, LARGEST_BATCH)


def logits_where(program: Program, params: Any, traced: Traced, active: jax.Array, images: jax.Array) -> jax.Array:
    """Logits of one lane, [member, image, class]; zeros, at no cost, where the lane is not active."""

    def predict() -> jax.Array:
        return program.member_logits(params, traced, images)

    shape = jax.eval_shape(predict)
    return lax.cond(active, predict, lambda: jnp.zeros(shape.shape, shape.dtype))


def measure_with(bins: int) -> Callable[[Sequence[jax.Array], jax.Array], Mapping[str, jax.Array]]:
    """Function of every batch's logits, [lane, member, image, class], and the classes to metrics of each lane, [lane].

    What compares members is left out where there is only one: no diversity is not a diversity of 0.
    """

    def measure(logits: Sequence[jax.Array], labels: jax.Array) -> Mapping[str, jax.Array]:
        whole = jnp.concatenate(logits, axis=2)[:, :, : labels.shape[0]]
        found = lax.map(lambda lane: metrics.evaluate(lane, labels, bins=bins), whole)
        return found if whole.shape[1] > 1 else {name: value for name, value in found.items() if name not in OF_MEMBERS}

    return measure
