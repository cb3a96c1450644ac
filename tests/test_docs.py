"""What the documentation says is true of the files: links resolve, blocks of code run, CI runs the README's commands."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*.md")] if path.name != "LICENSE.md"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: pathlib.Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def anchor(heading: str) -> str:
    """The anchor that renderers of Markdown give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: pathlib.Path) -> set[str]:
    return {anchor(line.lstrip("#")) for line in prose(page).splitlines() if line.startswith("#")}


def broken_links(page: pathlib.Path) -> Iterator[str]:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif fragment and fragment not in anchors(file):
            yield f"{target}: no such heading"


def readme_command(name: str) -> str:
    found = re.search(
        rf"^<!-- command: {name} -->\n```sh\n(.*?)\n```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found, f"README.md names no command {name!r}"
    return found[1]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_resolves(page: pathlib.Path) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_python_runs(page: pathlib.Path) -> None:
    for number, block in enumerate(blocks(page, "python")):
        done = subprocess.run([sys.executable, "-"], input=block, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"block {number} of {name_of(page)}:\n{done.stderr}"


@pytest.mark.parametrize("name", ["study", "test"])
def test_the_two_commands_are_one_line_each(name: str) -> None:
    assert "\n" not in readme_command(name)


def test_ci_takes_the_commands_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "readme_command study" in script
    assert "readme_command test" in script
    for name in ("study", "test"):
        done = subprocess.run(
            ["bash", "-c", f"{shell_function(script, 'fail')}\n{shell_function(script, 'readme_command')}\nreadme_command {name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == readme_command(name)


def shell_function(script: str, name: str) -> str:
    found = re.search(rf"^{name}\(\) \{{\n.*?^\}}$", script, re.MULTILINE | re.DOTALL)
    assert found, f".ci/run defines no {name}"
    return found[0]


def launch(verb: str, study: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    file = folder / "studies" / "width.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(study, encoding="utf-8")
    command = [sys.executable, "launch.py", str(file), verb, "--out", str(folder / "runs"), "--wandb", "disabled"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", ["README.md", "docs/first-study.md"])
def test_the_study_of_the_page_can_be_planned(page: str, tmp_path: pathlib.Path) -> None:
    done = launch("plan", blocks(ROOT / page, "python")[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "16 new, 16 to follow from tuning" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_the_mistakes_of_the_tutorial_are_answered_as_it_says(tmp_path: pathlib.Path) -> None:
    page = ROOT / "docs" / "first-study.md"
    study = blocks(page, "python")[0].replace('"size": 50', '"sizes": 50').replace("LogUniform(1e-3", "LogUniform(-1")
    done = launch("plan", study, tmp_path)
    assert done.returncode == 2
    assert blocks(page, "")[0].strip() in done.stderr
    assert "found:    LogUniform(low=-1" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_tutorial_shows_what_its_study_gives(tmp_path: pathlib.Path) -> None:
    page = ROOT / "docs" / "first-study.md"
    done = launch("run", blocks(page, "python")[0], tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout[: done.stdout.index("report: ")].rstrip() + "\n"
    shown = blocks(page, "")[1]
    if os.environ.get("UPDATE_GOLDEN") == "1":
        page.write_text(page.read_text(encoding="utf-8").replace(shown, said), encoding="utf-8")
    assert blocks(page, "")[1] == said


def test_every_study_is_listed() -> None:
    page = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    studies = [path.name for path in (ROOT / "studies").glob("*.py") if path.name != "__init__.py"]
    assert not [name for name in studies if f"({name})" not in page]


def test_every_extra_is_explained_where_it_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in project["optional-dependencies"] if f"[{name}]" not in readme and name != "slurm"]


def test_tensorflow_is_not_installed_by_default() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [row for row in project["dependencies"] if re.match(r"tensorflow(?!-datasets)\b", row)]


@pytest.mark.parametrize("path", ["docs", "studies", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "orchestrator", "trainers", ".ci/run"])
def test_no_path_of_somebodys_machine_is_written_down(path: str) -> None:
    start = ROOT / path
    texts = (
        [start]
        if start.is_file()
        else [file for file in start.rglob("*") if file.suffix in (".md", ".py", ".toml", ".j2", ".html", ".css")]
    )
    assert not [str(file) for file in texts if re.search(r"(?<![\w.])/(?:home|root|Users|work)/", file.read_text(encoding="utf-8"))]
