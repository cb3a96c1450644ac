"""Linear few-shot learning on a model's pre-logits, in closed form: what representations are worth to someone with few images.

Ridge regression to targets of ±1, for 1, 5, 10 and 25 images a class and 30 strengths of regularisation, of which one is taken
for each number of images. It is taken by the accuracy on the test images, as the published numbers are: a comparison of
models, not an estimate of what a user would get.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

SHOTS = (1, 5, 10, 25)
L2S = tuple(2.0**power for power in range(-10, 20))
BIAS = 100.0  # a constant feature, so large that it is hardly regularised
SMALLEST_DEVIATION = 1e-5
SEED = 25  # of the images that are drawn. Part of the numbers of every trial: never change


def ridge(features: Floats, targets: Floats, l2s: tuple[float, ...] = L2S) -> npt.NDArray[np.float64]:
    """Weights (XᵀX + λ)⁻¹ XᵀY for every λ at the cost of one, [λ, feature, class].

    Args:
        features: X, [image, feature].
        targets: Y, [image, class].
        l2s: λ, above 0.
    """
    x, y, powers = features.astype(np.float64), targets.astype(np.float64), np.array(l2s)[:, None, None]
    if len(x) >= x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        return vectors @ ((vectors.T @ (x.T @ y)) / (values[:, None] + powers))
    values, vectors = np.linalg.eigh(x @ x.T)  # (XᵀX + λ)⁻¹ Xᵀ = Xᵀ (XXᵀ + λ)⁻¹
    return x.T @ (vectors @ ((vectors.T @ y) / (values[:, None] + powers)))


def accuracies(train: tuple[Floats, Labels], test: tuple[Floats, Labels], l2s: tuple[float, ...] = L2S) -> npt.NDArray[np.float64]:
    """Share of test images that the ridge classifier of the training images gets right, for every λ, [λ].

    Features are standardised by mean and deviation of the training images, and get a constant one as bias.

    Args:
        train: Features [image, feature] and classes [image].
        test: Likewise.
        l2s: λ, above 0.
    """
    mean, deviation = train[0].mean(axis=0, dtype=np.float64), train[0].std(axis=0, dtype=np.float64) + SMALLEST_DEVIATION
    (x, labels), (x_test, labels_test) = (
        (np.pad((features - mean) / deviation, ((0, 0), (0, 1)), constant_values=BIAS), labels) for features, labels in (train, test)
    )
    classes = int(max(labels.max(), labels_test.max())) + 1
    weights = ridge(x, 2.0 * np.eye(classes)[labels] - 1, l2s)
    return np.array([(np.argmax(x_test @ each, axis=-1) == labels_test).mean() for each in weights])


def drawn(labels: Labels, shots: int, *, draw: int) -> npt.NDArray[np.int64] | None:
    """Rows of `shots` images of each class, the same in every trial; None where a class has fewer. More shots add to fewer."""
    order = np.random.RandomState((SEED, draw)).permutation(len(labels))  # RandomState: numpy keeps its stream for ever
    rows = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return None if min(map(len, rows)) < shots else np.sort(np.concatenate(rows))


def table(train: tuple[Floats, Labels], test: tuple[Floats, Labels], *, draws: int) -> dict[int, npt.NDArray[np.float64]]:
    """Accuracy on one dataset for every λ, [λ], by images a class, mean over draws; only of those that every class has."""
    found: dict[int, npt.NDArray[np.float64]] = {}
    for shots in SHOTS:
        rows = [drawn(train[1], shots, draw=draw) for draw in range(draws)]
        tried = [accuracies((train[0][some], train[1][some]), test) for some in rows if some is not None]
        if tried:
            found[shots] = np.mean(tried, axis=0)
    return found


def chosen(tables: Mapping[str, Mapping[int, Floats]], shots: int) -> int:
    """Which λ is taken for all datasets: the one whose rank by accuracy is best on average, the smaller of equals.

    Source:
        Riquelme et al., Scaling Vision with Sparse Mixture of Experts (2021), and the authors' evaluate/fewshot.py.
    """
    rows = np.array([table[shots] for table in tables.values() if shots in table])
    ranks = (rows[:, None, :] > rows[:, :, None]).sum(axis=-1)  # how many λ do better
    return int(np.argmin(ranks.mean(axis=0)))


def metrics(tables: Mapping[str, Mapping[int, Floats]]) -> dict[str, float]:
    """`fewshot/<dataset>/<n>shot_accuracy`, and `fewshot/<n>shot_accuracy`, the mean over the datasets that have it."""
    found: dict[str, float] = {}
    for shots in SHOTS:
        having = {name: table[shots] for name, table in tables.items() if shots in table}
        if having:
            place = chosen(tables, shots)
            each = {name: float(row[place]) for name, row in having.items()}
            found |= {f"fewshot/{name}/{shots}shot_accuracy": value for name, value in each.items()}
            found[f"fewshot/{shots}shot_accuracy"] = float(np.mean(list(each.values())))
    return found
