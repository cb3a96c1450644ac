"""The published figures, and the command that shows them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from orchestrator.contract import flatten, resolve
from trainers import cost, presets
from trainers.config import ModelConfig, VisionConfig
from trainers.constraints import problems
from trainers.vision import Vision

ROOT = pathlib.Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit, match=r"^\d$") as exit_:
        cost.main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, out, err


@pytest.mark.parametrize("row", cost.paper_gflops(), ids=lambda row: row.name)
def test_each_published_cost_is_met_within_half_a_percent(row: cost.Row) -> None:
    assert abs(row.difference) <= 0.005
    assert row.is_close


@pytest.mark.parametrize("row", cost.paper_parameters(), ids=lambda row: row.name)
def test_each_published_parameter_count_is_met_within_a_tenth_of_a_million(row: cost.Row) -> None:
    assert row.counted == pytest.approx(row.published, abs=0.1)
    assert row.is_close


@pytest.mark.parametrize("name", presets.EFFICIENT_ENSEMBLES)
def test_every_published_method_is_an_arm_of_the_recipe(name: str) -> None:
    flat, wrong = resolve(VisionConfig, flatten(presets.paper()), presets.EFFICIENT_ENSEMBLES[name], where=name)
    assert [*wrong, *Vision().problems(flat)] == []


@pytest.mark.parametrize("name", presets.SIZES)
@pytest.mark.parametrize("placement", ["none", "last"])
def test_every_size_can_be_trained_at_384_pixels(name: str, placement: str) -> None:
    model = presets.size(name, moe_placement=placement)
    assert problems(VisionConfig(model=model, data=presets.paper().data)) == []
    flat = flatten(presets.paper()) | presets.size_overrides(name)
    assert Vision().problems(flat) == []
    assert flat["model.hidden"] == model.hidden


def test_an_unknown_size_is_told() -> None:
    with pytest.raises(ValueError, match="one of S/32, B/32"):
        presets.size("B/8")


def test_the_recipe_is_as_it_was_before_sizes_had_names() -> None:
    assert presets.paper().model == ModelConfig(
        hidden=768,
        mlp=3072,
        depth=12,
        heads=12,
        patch=32,
        experts=32,
        group_images=8,
        expert_dropout=0.1,
        dtype="bfloat16",
    )


def test_the_paper_is_shown_as_a_table_and_to_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code, table, _ = run(capsys, "--paper")
    assert code == 0
    assert all(word in table for word in ("published", "counted", "difference", "BE ViT", "105.9", "2688.6"))
    assert "off" not in table
    code, document, _ = run(capsys, "--paper", "--json")
    rows = json.loads(document)["train_gflops"]
    assert (code, len(rows)) == (0, 7)
    assert all(row["difference"] == pytest.approx(row["counted"] / row["published"] - 1) for row in rows)


def test_a_missed_figure_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.PUBLISHED_GFLOPS, "ViT", 79.0)
    code, table, _ = run(capsys, "--paper")
    assert code == 1
    assert table.count("off") == 1


def test_a_config_is_counted_from_a_preset_a_file_and_assignments(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model.moe_placement": "none"}))
    figures = json.loads(run(capsys, str(file), "--json")[1])
    assert figures["cost/train_gflops"] == pytest.approx(78.0, rel=0.005)
    huge = json.loads(run(capsys, str(file), "--size", "H/14", "--json")[1])
    assert huge["cost/parameters"] > 6 * figures["cost/parameters"]
    assert run(capsys, "--set", "model.moe_placement=none", "--json")[1] == run(capsys, str(file), "--json")[1]
    assert "training GFLOPs" in run(capsys, "--preset", "laptop")[1]


def test_mistakes_are_the_users_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--set", "model.mim=true")
    assert (code, out) == (2, "")
    assert "closest: model.mimo" in err
    code, _, err = run(capsys, "studies/ablation.py")
    assert code == 2
    assert "launch.py studies/ablation.py plan" in err
    assert run(capsys, "--set", "model.mimo=true")[0] == 2


def test_the_command_needs_no_jax() -> None:
    code = """
import sys
from trainers import cost
try:
    cost.main(["--paper"])
except SystemExit as exit_:
    found = {"jax", "flax", "optax", "numpy"} & sys.modules.keys()
    sys.exit(" ".join(found) or exit_.code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
