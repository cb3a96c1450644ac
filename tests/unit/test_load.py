"""A study file's mistakes: found while it is read, all at once, in words that say what to do."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import textwrap

import pytest

from orchestrator.context import read_study
from orchestrator.errors import StudyError
from orchestrator.load import load_study

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

HEAD = """
from orchestrator import *
from trainers.curves import CurvesConfig
"""


def write(folder: pathlib.Path, text: str, *, head: str = HEAD) -> pathlib.Path:
    path = folder / "study.py"
    path.write_text(head + textwrap.dedent(text))
    return path


def complaint(path: pathlib.Path, **options: object) -> str:
    values = {"study": str(path), "profile": "", "set": [], "out": path.parent / "runs", "storage": ""} | options
    with pytest.raises(StudyError, match="fix:") as caught:
        read_study(argparse.Namespace(**values))
    assert not (path.parent / "runs").exists()
    return str(caught.value).replace(str(path.parent), "FOLDER")


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text + "\n")
    assert path.read_text() == text + "\n"


STUDY = 'Study(name="s", trainer="trainers.curves:Curves", base=CurvesConfig(), arms=[Arm("a")], protocol=Replicates(2))'


def test_every_mistake_of_a_study_is_reported_in_one_message(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path,
        """
        from trainers.config import VisionConfig

        STUDY = Study(
            name="bad/name",
            trainer="trainers.vision:Vision",
            base=VisionConfig(),
            arms=[
                Arm("A", {"model.members": 3, "model.partition": True, "model.tile": True}),
                Arm("A", {"model.k": 5, "model.members": 2, "model.partition": True}),
                Arm("B", {"model.kk": 2}, baseline=True),
                Arm("C", {"model.k": "two", "optim.learning_rate": 0.1}, baseline=True),
                Arm("D", {"optim.lr": 0.1, "model.dropout": 1.5}),
            ],
            nuisance={"optim.learning_rate": LogUniform(1e-1, 1e-3), "optim.warmup": Values(1, 2)},
            protocol=Tune(trials=4, select="test/nll", then=Replicates(0)),
        )
        """,
    )
    golden("every_mistake.txt", complaint(path, set=["train.stepps=3", "model.hidden=x", "nonsense"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module", "does not import.*no_such_module.*line 4 to run: import no_such_module"),
        ("STUDY = Study(", "not Python.*study.py:4"),
        ("STUDY = 1 / 0", "raises an error.*ZeroDivisionError.*line 4 to run: STUDY = 1 / 0"),
        ("x = 1", "defines no STUDY.*no Study.* at the top level"),
        (f"EXPERIMENT = {STUDY}", "defines no STUDY.*found:    EXPERIMENT"),
        (f"STUDY = {STUDY}\nOTHER = {STUDY}", "defines 2 studies.*OTHER, STUDY"),
        ("STUDY = " + STUDY.replace(":Curves", ":Curvse"), "does not exist.*Curvse.*Curves"),
        ("STUDY = " + STUDY.replace("trainers.curves:", "trainers.nothing:"), "does not import: trainers.nothing"),
        ("STUDY = " + STUDY.replace("CurvesConfig()", "3"), "base config is of the wrong type.*found:    3.*CurvesConfig"),
    ],
)
def test_a_file_that_defines_no_study_says_why(tmp_path: pathlib.Path, text: str, said: str) -> None:
    message = complaint(write(tmp_path, text))
    assert re.search(said, message, flags=re.DOTALL), message


def test_a_missing_file_names_its_neighbours(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ablation.py").touch()
    with pytest.raises(StudyError, match=r"no study file at .*ablatoin.py\n.*ablation.py"):
        load_study(tmp_path / "ablatoin.py")


def test_the_docstring_is_the_question(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, f"STUDY = {STUDY}", head='"""Why?"""\n' + HEAD)
    assert load_study(path).study.question == "Why?"


def test_a_setting_changes_the_base_and_the_protocol_with_types(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, f"STUDY = {STUDY}")
    options = argparse.Namespace(study=str(path), profile="", set=["learning_rate=1", "protocol.replicates=5"], out=tmp_path, storage="")
    context = read_study(options)
    assert context.planner.base["learning_rate"] == 1.0
    assert isinstance(context.planner.base["learning_rate"], float)
    assert len(list(context.planner.plan({}).trials)) == 5


def test_an_unknown_profile_names_those_there_are(tmp_path: pathlib.Path) -> None:
    both = STUDY.replace("base=CurvesConfig()", "base=Profiles(small=CurvesConfig(), big=CurvesConfig(size=200))")
    path = write(tmp_path, f"STUDY = {both}")
    assert "one of small, big" in complaint(path, profile="huge")
    assert read_study(argparse.Namespace(study=str(path), profile="big", set=[], out=tmp_path, storage="")).planner.base["size"] == 200
    assert read_study(argparse.Namespace(study=str(path), profile="", set=[], out=tmp_path, storage="")).profile == "small"
    plain = write(tmp_path, f"STUDY = {STUDY}")
    assert "no profiles" in complaint(plain, profile="big")
