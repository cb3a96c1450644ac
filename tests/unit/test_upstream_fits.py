"""A plan tells what trials could not start from, by the shapes of the vision trainer's models."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from orchestrator import Arm, File, Objective, Replicates, Study, Upstream
from orchestrator.check import study_problems
from orchestrator.contract import Starter, flatten
from orchestrator.keys import Value
from trainers import presets
from trainers.initialize import save_parameters
from trainers.vision import Vision

E3 = {"model.k": 1, "model.members": 2, "model.tile": True, "model.partition": True}


def said(**arms: Mapping[str, Value]) -> list[str]:
    study = Study(
        name="fits",
        trainer="trainers.vision:Vision",
        base=presets.laptop(),
        arms=[Arm(name, dict(changes)) for name, changes in arms.items()],
        protocol=Replicates(2),
        objectives=[Objective("test/nll")],
    )
    return [problem.what for problem in study_problems(study, Vision(), flatten(presets.laptop()))]


def test_the_vision_trainer_can_tell() -> None:
    assert isinstance(Vision(), Starter)


def test_models_that_share_their_parameters_start_from_one_another() -> None:
    vmoe, e3 = Upstream("V-MoE", {"data.dataset": "formulas", "data.classes": 99}), Upstream("E³", E3)
    assert said(a=E3 | {"start.parameters": vmoe}, b={"start.parameters": e3}, c={"data.image_size": 16, "start.parameters": vmoe}) == []


def test_an_arm_of_another_shape_than_its_upstream_is_told_of_with_every_parameter() -> None:
    wide = Upstream("wide", {"model.mlp": 96})
    found = said(a={"start.parameters": wide}, b={"start.parameters": wide, "model.mlp": 96})
    assert len(found) == 6, "in each of two blocks two kernels and a bias"
    assert all(text.startswith("arm 'a': it cannot start from wide: parameter block_") and "has another shape" in text for text in found)


def test_a_link_of_a_chain_that_does_not_fit_is_told_of() -> None:
    dense = Upstream("dense", {"model.moe_placement": "none", "start.parameters": Upstream("sparse", {})})
    [*found] = said(a={"start.parameters": dense})
    assert found
    assert all(text.startswith("upstream 'dense': it cannot start from sparse: block_") for text in found)


def test_a_file_is_looked_into_and_one_that_is_damaged_told_of(tmp_path: pathlib.Path) -> None:
    file, torn = tmp_path / "weights.safetensors", tmp_path / "torn.safetensors"
    save_parameters(file, {"head": {"kernel": np.zeros((32, 10), np.float32)}, "strange": np.zeros(3, np.float32)})
    torn.write_bytes(file.read_bytes()[:-1])
    found = said(a={"start.parameters": File(file)}, b={"start.parameters": File(torn)})
    assert f"arm 'a': it cannot start from {file}: strange has no place in the model" in found
    assert f"arm 'b': it cannot start from {torn}: parameters cannot be read" in found
