"""A folder that nobody may write is one clear message, before anything is spent."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

import pytest

from tests.disks import need_a_checkout_for_all, uncounted

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

# Root may write everywhere, so the process becomes nobody once it has imported what it needs: nobody may not read root's Python.
AS_NOBODY = """
import os, sys
from orchestrator import cli, commands
from orchestrator.executors import fleet, local, nursery
from orchestrator.ledger import Ledger
arguments = sys.argv[1:]
assert cli.main([arguments[0], "plan", "--out", arguments[-1] + "-not-there"]) == 0
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print("now", file=sys.stderr)
sys.exit(cli.main(arguments))
"""


@pytest.mark.parametrize("verb", ["run", "report", "retry"])
def test_a_folder_without_permission_is_one_message_and_starts_nothing(verb: str) -> None:
    need_a_checkout_for_all()
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own are closed to nobody
        folder = pathlib.Path(place)
        folder.chmod(0o755)
        (folder / "study.py").write_text(STUDY)
        closed = folder / "closed"
        closed.mkdir(mode=0o555)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder / "study.py"), verb, "--wandb", "disabled", "--out", str(closed)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=uncounted() | {"TESSERA_NO_NURSERY": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=120,
            check=False,
        )
        said = done.stderr.partition("now\n")[2]
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in said
        assert said.count("fix:") == 1, said
        assert str(closed) in said
        assert not list(closed.iterdir())
