"""The published strengths of regularisation and grids of fine-tuning, as studies use them."""

from __future__ import annotations

import pytest

from orchestrator.contract import flatten, resolve
from trainers import presets
from trainers.config import VisionConfig
from trainers.vision import Vision


def test_strengths_grow_as_published() -> None:
    assert list(presets.REGULARISATION) == ["light0", "light1", "medium1", "medium2", "strong1", "strong2", "extreme1", "extreme2"]
    assert presets.REGULARISATION["medium2"] == (0.5, 2, 15.0)
    assert presets.REGULARISATION["extreme2"] == (0.8, 4, 20.0)


@pytest.mark.parametrize("name", presets.REGULARISATION)
def test_a_regularised_config_is_the_arm_of_its_overrides(name: str) -> None:
    config, problems = resolve(VisionConfig, flatten(presets.laptop()), presets.regularisation_overrides(name), where="test")
    assert not problems
    assert config == flatten(presets.regularised(presets.laptop(), name))
    assert not Vision().problems(config)


@pytest.mark.parametrize("dataset", presets.TABLE_7)
def test_every_point_of_a_grid_is_a_config_without_a_problem(dataset: str) -> None:
    base = flatten(presets.fine_tuned(dataset))
    assert not Vision().problems(base)
    for key, values in presets.TABLE_7[dataset].items():
        for value in values:
            assert not resolve(VisionConfig, base, {key: value}, where="test")[1]


def test_the_grid_of_imagenet_is_the_one_in_print() -> None:
    assert presets.TABLE_7["imagenet2012"]["train.steps"] == (10_000, 20_000, 30_000, 40_000)
    assert presets.TABLE_7["imagenet2012"]["optim.learning_rate"] == (0.0024, 0.003, 0.01, 0.03)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no regularisation 'medium'; one of light0"):
        presets.regularised(presets.laptop(), "medium")
    with pytest.raises(ValueError, match="Table 7 has no 'mnist'; one of imagenet2012"):
        presets.fine_tuned("mnist")
