"""What a finished trial is measured by beside its splits: corrupted images, images of other sets, few-shot tasks, expert load.

All of it is off unless `eval` asks for it, costs nothing then, and changes no other number. What does not fit in a metric, the
bins of reliability diagrams and the share of each expert, is described in a small sealed file beside the predictions.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from orchestrator.contract import DataError, FlatConfig, build, content_key, write_row
from trainers import corruptions, fewshot, ood, predictions
from trainers.config import DataConfig, VisionConfig
from trainers.data import Examples, Split, beside, load
from trainers.data.catalog import lookup
from trainers.evaluate import EvalSplit
from trainers.geometry import predictions as predicted_members
from trainers.geometry import sparse_blocks
from trainers.observe import observer
from trainers.pack import Pack
from trainers.reliability import reliability
from trainers.step import Program, traced_numbers

Arrays = dict[str, np.ndarray]
MOST_CORRUPTED_BYTES = predictions.MOST_BYTES // 2  # of what a trial says of corrupted images; more is measured and not kept


@dataclasses.dataclass(slots=True)
class Found:
    """What is found of one trial.

    Attributes:
        metrics: By `split/name`.
        said: Arrays for the file of its predictions.
        described: What its description holds.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    said: Arrays = dataclasses.field(default_factory=dict)
    described: dict[str, Any] = dataclasses.field(default_factory=dict)


def measured(pack: Pack, lanes: Mapping[int, FlatConfig], said: Mapping[int, Mapping[str, np.ndarray]]) -> dict[int, Found]:
    """Everything that is asked for, of the finished lanes in these places.

    Args:
        pack: Where they lie.
        lanes: Their configs, which differ in traced values alone.
        said: Their predictions of the validation and test images, as `predictions.save` takes them.
    """
    found = {place: Found() for place in lanes}
    if not lanes:
        return found
    config = build(VisionConfig, next(iter(lanes.values())))
    for place, one in found.items():
        one.described["reliability"] = _diagrams(said[place], bins=config.eval.ece_bins)
    if config.eval.corruptions != "none":
        _under_corruption(pack, config, found)
    for name in config.eval.ood:
        _against(name, pack, config, found, said)
    if config.eval.load and sparse_blocks(config.model):
        _loads(pack, lanes, found)
    if config.eval.few_shot:
        _few_shot(pack, lanes, config, found)
    return found


def save(folder: pathlib.Path, key: str, described: Mapping[str, Any]) -> str:
    """Keeps the description of a trial in its folder and returns the name of the file, which `read_row` reads.

    Raises:
        DataError: It cannot be written.
    """
    row = {"key": key, **described}
    name = f"description-{content_key(row)[:12]}.json"
    try:
        write_row(folder / name, row)
    except OSError as error:
        raise DataError(
            f"the description of trial {key} cannot be written",
            found=str(error),
            expected="a folder with room",
            fix="make room, then `retry`",
        ) from error
    return name


def _diagrams(said: Mapping[str, np.ndarray], *, bins: int) -> dict[str, dict[str, list[float]]]:
    """Reliability bins of each split: count, confidence and accuracy, [bin] each. A diverged trial has none."""
    found = {}
    for split in predictions.SPLITS:
        log_probabilities = said[f"{split}/{predictions.LOG_PROBABILITIES}"]
        if np.isfinite(np.exp(log_probabilities)).all():
            rows = reliability(log_probabilities, said[f"{split}/{predictions.LABELS}"], bins=bins)
            found[split] = {name: column.tolist() for name, column in rows._asdict().items()}
    return found


def _under_corruption(pack: Pack, config: VisionConfig, found: Mapping[int, Found]) -> None:
    """`corrupt/<metric>`, the plain mean over kinds and severities, and `corrupt/<kind>/<metric>`, that over severities."""
    places, test = list(found), pack.measured["test"]
    rows: dict[int, dict[str, list[Mapping[str, float]]]] = {place: collections.defaultdict(list) for place in places}
    said: dict[int, dict[str, list[np.ndarray]]] = {place: collections.defaultdict(list) for place in places}
    labels: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    n_bytes = (
        4 * len(test.labels) * config.data.classes * predicted_members(config.model) * len(corruptions.KINDS) * len(corruptions.SEVERITIES)
    )
    keep = places if n_bytes <= MOST_CORRUPTED_BYTES else ()
    for kind, data in _corrupted_splits(test, config):
        if config.eval.corruptions == "published":
            labels[kind].append(np.asarray(data.labels))
        for place, one in pack.measure_on(data, "corrupt", places, keep=keep).items():
            rows[place][kind].append(one.metrics)
            if one.log_probabilities is not None:
                said[place][kind].append(one.log_probabilities)
    for place, by_kind in said.items():
        found[place].said |= {f"corrupt/{kind}/{predictions.LOG_PROBABILITIES}": np.stack(each) for kind, each in by_kind.items()}
        # Published images come in an order of their own; those made here are in that of the test images.
        found[place].said |= {f"corrupt/{kind}/{predictions.LABELS}": np.stack(labels[kind]) for kind in by_kind if kind in labels}
    for place, by_kind in rows.items():
        means = {kind: _means(each) for kind, each in by_kind.items()}
        found[place].metrics |= _means(list(means.values()))  # each kind has all severities, so this is the mean over both
        for kind, each in means.items():
            found[place].metrics |= {f"corrupt/{kind}/{name.partition('/')[2]}": value for name, value in each.items()}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _corrupted_splits(test: EvalSplit, config: VisionConfig) -> Iterator[tuple[str, EvalSplit]]:
    """Each kind at each severity, one at a time: on the device where the test images are, else batch by batch."""
    if config.eval.corruptions == "published":
        tfds_split = lookup(config.data.dataset).test
        for kind, _, name in beside.published(config.data.dataset):
            yield kind, _cut(beside.read(name, tfds_split, config.data), test, scored=True)
        return
    for kind in corruptions.KINDS:
        for severity in corruptions.SEVERITIES:
            batches = Corrupted(test, kind, severity)
            yield kind, dataclasses.replace(test, batches=tuple(batches) if isinstance(test.batches, tuple) else batches)


@dataclasses.dataclass(frozen=True, slots=True)
class Corrupted(Sequence[jax.Array]):
    """The batches of a split, corrupted when they are asked for; an image is changed by its place in the split alone."""

    split: EvalSplit
    kind: str
    severity: int

    def __len__(self) -> int:
        return len(self.split.batches)

    def __getitem__(self, index: Any) -> Any:
        return self._changed(index, self.split.batches[index])

    def __iter__(self) -> Iterator[jax.Array]:
        return itertools.starmap(self._changed, enumerate(self.split.batches))

    def _changed(self, index: int, batch: jax.Array) -> jax.Array:
        rows = (index * len(batch) + np.arange(len(batch))) % len(self.split.labels)
        return corruptions.corrupted(batch, self.kind, self.severity, rows.astype(np.int32))


def _against(name: str, pack: Pack, config: VisionConfig, found: Mapping[int, Found], said: Mapping[int, Mapping[str, np.ndarray]]) -> None:
    """`ood/<set>/auroc`, `aupr` and `fpr95` against the test images; what is said of the set's images is kept."""
    test, places = pack.measured["test"], list(found)
    short = name.replace("/", "-").partition(":")[0]
    data = _cut(_other_split(name, config.data), test, scored=False)
    for place, one in pack.measure_on(data, "ood", places, keep=places).items():
        assert one.log_probabilities is not None, "they are kept"
        negatives = ood.scores(said[place][f"test/{predictions.LOG_PROBABILITIES}"])
        values = ood.detection(negatives, ood.scores(one.log_probabilities))
        found[place].metrics |= {f"ood/{short}/{metric}": value for metric, value in values._asdict().items()}
        found[place].said[f"ood/{short}/{predictions.LOG_PROBABILITIES}"] = one.log_probabilities


@functools.lru_cache(maxsize=8)
def _other_split(name: str, data: DataConfig) -> Examples:
    return beside.inverted(load(data)["test"]) if name == beside.INVERTED else beside.other(name, data)


def _cut(split: Examples, like: EvalSplit, *, scored: bool) -> EvalSplit:
    """A split in batches of the size of another one's; on the device where that one is and it is at hand."""
    is_fed = not isinstance(like.batches, tuple) or not isinstance(split, Split)
    return EvalSplit.cut(split, like.batch.shape[0], is_fed=is_fed, is_scored=scored)


def _loads(pack: Pack, lanes: Mapping[int, FlatConfig], found: Mapping[int, Found]) -> None:
    """Share of tokens that each expert of each sparse layer is sent, and `test/load_cv`, its spread over the mean, mean over layers."""
    test = pack.measured["test"]
    for place, (tokens, _) in _observed(pack, lanes, test):
        share = tokens[: len(test.labels)].sum(axis=0)
        share = share / share.sum(axis=-1, keepdims=True)
        found[place].described["load"] = share.tolist()
        found[place].metrics["test/load_cv"] = float((share.std(axis=-1) / share.mean(axis=-1)).mean())


def _few_shot(pack: Pack, lanes: Mapping[int, FlatConfig], config: VisionConfig, found: Mapping[int, Found]) -> None:
    tables: dict[int, dict[str, Mapping[int, np.ndarray]]] = {place: {} for place in found}
    for name in config.eval.few_shot:
        task = _task(name, config.data)
        features: dict[int, list[np.ndarray]] = {place: [] for place in found}
        for split in task:
            for place, (_, some) in _observed(pack, lanes, _cut(split, pack.measured["test"], scored=False)):
                features[place].append(some[: split.shape[0]])
        for place, (train, test) in features.items():
            labelled = (train, task[0].labels), (test, task[1].labels)
            tables[place][name.replace("/", "-").partition(":")[0]] = fewshot.table(*labelled, draws=config.eval.few_shot_draws)
    for place, table in tables.items():
        found[place].metrics |= fewshot.metrics(table)


@functools.lru_cache(maxsize=16)
def _task(name: str, data: DataConfig) -> tuple[Examples, Examples]:
    return beside.few_shot_split(name, "train", data), beside.few_shot_split(name, "test", data)


def _observed(pack: Pack, lanes: Mapping[int, FlatConfig], split: EvalSplit) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """By place: tokens of each image by layer and expert, [image, layer, expert], and features, [image, feature]; one lane at a time."""
    for place, flat in lanes.items():
        params = jax.device_put(pack.states([place])[place].params)
        run, numbers = observer(Program(build(VisionConfig, flat))), jax.device_put(traced_numbers(flat))
        seen = [jax.device_get(run(params, numbers, batch)) for batch in split.batches]
        yield place, (np.concatenate([one.tokens for one in seen]), np.concatenate([one.features for one in seen]))
