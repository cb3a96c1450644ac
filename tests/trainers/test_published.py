"""CIFAR-10-C and ImageNet-C as TFDS has them: read by kind and severity, checked at plan time, measured and kept for ensembles."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from orchestrator.contract import Report
from tests.trainers import tiny_images
from tests.trainers.scripted import TINY_VISION, ScriptedHost, lane
from trainers import backend, ensembles, predictions
from trainers.config import DataConfig, EvalConfig
from trainers.data import beside, ways
from trainers.vision import Vision

N_TEST = 6
CIFAR = DataConfig(dataset="cifar10", classes=10, channels=3, image_size=8)
IMAGENET = DataConfig(dataset="imagenet2012", classes=1000, channels=3, image_size=24)
PUBLISHED = EvalConfig(corruptions="published")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """CIFAR-10 and ImageNet with all their published sets: image number i of set number s has the grey value 10 i + s."""
    root = tmp_path_factory.mktemp("tfds")
    tiny_images.cifar(root, 10)
    tiny_images.imagenet(root, train=60, validation=N_TEST)
    for shift, (_, _, name) in enumerate(beside.published("cifar10")):
        tiny_images.cifar_corrupted(root, name.partition("/")[2], shift=shift, n=N_TEST)
    for shift, (_, _, name) in enumerate(beside.published("imagenet2012")):
        tiny_images.imagenet_corrupted(root, name.partition("/")[2], shift=shift, n=N_TEST)
    return root


@pytest.fixture
def root(written: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(written))
    return written


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("way", ["resident", "streamed"])
@pytest.mark.parametrize(("data", "split"), [(CIFAR, "test"), (IMAGENET, "validation")])
def test_every_published_set_is_read_by_its_kind_and_severity(
    monkeypatch: pytest.MonkeyPatch, data: DataConfig, split: str, way: str
) -> None:
    monkeypatch.setenv(ways.VARIABLE, way)
    assert beside.problem(data, PUBLISHED) is None
    found = list(beside.published(data.dataset))
    assert len({(kind, severity) for kind, severity, _ in found}) == 75
    for shift, (_, _, name) in list(enumerate(found))[:: 1 if way == "resident" else 9]:
        images, labels = beside.read(name, split, data).gather(np.arange(N_TEST))
        assert images.shape == (N_TEST, data.image_size, data.image_size, 3)
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 10 * labels + shift, atol=1.0)  # JPEG keeps a shade to a level
        assert sorted(labels) == list(range(N_TEST))


@pytest.mark.parametrize("data", [CIFAR, IMAGENET])
@pytest.mark.parametrize("wrong", ["gone", "tfrecord", "split", "count", "damaged"])
def test_a_set_that_cannot_be_measured_on_is_named_at_plan_time(
    root: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, data: DataConfig, wrong: str
) -> None:
    base, split = beside.PUBLISHED[data.dataset], "test" if data is CIFAR else "validation"
    for name in (data.dataset, base):
        shutil.copytree(root / name, tmp_path / name)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    [info] = (tmp_path / base / "fog_3").rglob("dataset_info.json")
    text = info.read_text()
    match wrong:
        case "gone":
            shutil.rmtree(tmp_path / base / "fog_3")
        case "tfrecord":
            info.write_text(text.replace('"array_record"', '"tfrecord"'))
        case "split":
            info.write_text(text.replace(f'"{split}"', '"other"'))
        case "count":
            info.write_text(text.replace(f'"{N_TEST}"', '"5"'))
        case _:
            info.write_text(text[:-20])
    found = beside.problem(data, PUBLISHED)
    assert found is not None
    assert found.what == "eval.corruptions: 1 of the 75 published sets cannot be measured on"
    assert found.found.startswith(f"{base}/fog_3: ")
    assert f"tfds.builder(f'{base}/{{kind}}_{{severity}}')" in found.fix
    if data is IMAGENET:
        assert found.fix.startswith("put ILSVRC2012_img_train.tar and")
        assert "install ImageMagick, then run: pip install" in found.fix


@pytest.fixture(scope="module")
def trial(written: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, dict[str, np.ndarray]]:
    """A trial on CIFAR-10 that is measured on CIFAR-10-C, and its predictions."""
    backend.prepare()
    config = {f"data.{key}": value for key, value in dataclasses.asdict(CIFAR).items()}
    dense = {"model.moe_placement": "none", "model.depth": 1, "model.tile": False, "model.members": 1, "model.partition": False}
    short = {"train.steps": 1, "train.rung_steps": 1, "eval.corruptions": "published"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(written))
        one = lane(Vision(), tmp_path_factory.mktemp("trial"), {**TINY_VISION, **config, **dense, **short})
        host = ScriptedHost([one])
        Vision().train(host)
    report = host.calls[-1][0]
    return report, predictions.load(one.folder / report.artifacts["predictions"], report.key)


def test_a_trial_reports_every_kind_and_keeps_what_it_said_with_the_right_classes(trial: tuple[Report, dict[str, np.ndarray]]) -> None:
    report, said = trial
    for kind in beside.PUBLISHED_KINDS:
        labels, log_probabilities = said[f"corrupt/{kind}/labels"], said[f"corrupt/{kind}/log_probabilities"]
        assert labels.shape == (5, N_TEST)
        assert not np.array_equal(labels[0], said["test/labels"]), "published images come in an order of their own"
        right = np.take_along_axis(np.exp(log_probabilities).mean(axis=1), labels[..., None].astype(int), axis=-1)
        assert report.metrics[f"corrupt/{kind}/nll"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
    each = [report.metrics[f"corrupt/{kind}/nll"] for kind in beside.PUBLISHED_KINDS]
    assert report.metrics["corrupt/nll"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("corrupted", [True, False])
def test_ensembles_are_measured_on_published_images(trial: tuple[Report, dict[str, np.ndarray]], corrupted: bool) -> None:
    report, said = trial
    again = ensembles.scores([said, said], bins=15, corrupted=corrupted)
    names = [name for name in report.metrics if name.startswith("corrupt/") and name.endswith("/nll")]
    assert len(names) == 16
    for name in names:
        assert again[name] == pytest.approx(report.metrics[name], rel=1e-4)
    other = said | {"corrupt/fog/labels": said["corrupt/fog/labels"][:, ::-1]}
    with pytest.raises(ensembles.DataError, match="trials a and b speak of other corrupt/fog images"):
        ensembles._check([said, other], ["a", "b"])
