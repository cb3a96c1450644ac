"""A folder that nobody may write is one clear message, before anything is spent."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.disks import held_to_permissions

ROOT = pathlib.Path(__file__).parents[2]

STUDY = '''"""Does it start?"""
from orchestrator import Arm, Objective, Replicates, Study
from trainers.curves import CurvesConfig

STUDY = Study(
    name="closed",
    trainer="trainers.curves:Curves",
    base=CurvesConfig(),
    arms=[Arm("a", {}, baseline=True), Arm("b", {"size": 50})],
    protocol=Replicates(2),
    objectives=[Objective("test/nll", "minimize")],
)
'''


@pytest.mark.parametrize("verb", ["run", "report", "retry"])
def test_a_folder_without_permission_is_one_message_and_starts_nothing(tmp_path: pathlib.Path, verb: str) -> None:
    study, closed = tmp_path / "study.py", tmp_path / "closed"
    study.write_text(STUDY)
    closed.mkdir(mode=0o555)
    command = [*held_to_permissions(), sys.executable, "launch.py", str(study), verb, "--wandb", "disabled", "--out", str(closed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("fix:") == 1, done.stderr
    assert str(closed) in done.stderr
    assert not list(closed.iterdir())
