"""The report of a study: what it says, that it is safe to open, and that the same record gives the same bytes."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import html.parser
import io
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from pyarrow import parquet
from rich.console import Console

from orchestrator.errors import OrchestratorError
from orchestrator.records import Cause, ObjectiveRecord, Phase, StudyRecord, TrialRecord, TrialState
from orchestrator.report import summary_json, terminal_table, write
from orchestrator.report.answer import answer
from orchestrator.report.figures import figures
from orchestrator.report.running import running
from orchestrator.report.trials import trials_parquet
from tests import disks
from tests.studyrecords import ABLATION, OBJECTIVES, FakeArm, study_record, with_descriptions, with_metrics, with_runs, without_result

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "report"
NASTY = "<script>alert('x')</script> & a|b_{c} $d$ \\e"


def gaps(trial: TrialRecord) -> TrialRecord | None:
    """A study in which something of each kind went wrong."""
    replicate = trial.phase is Phase.REPLICATE
    if trial.arm == "E³" and replicate and trial.index > 5:
        failed = without_result(trial, TrialState.FAILED, "out of memory: 12 GiB asked for\nTraceback (most recent call last): …")
        return dataclasses.replace(failed, attempts=3, causes=(Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY))
    if trial.arm == "Tiling" and not replicate and trial.index == 6:
        return without_result(trial, TrialState.DIVERGED, "val/nll is NaN at step 300")
    if trial.arm == "Partitioning" and replicate:
        return None
    return without_result(trial, TrialState.LEASED) if trial.arm == "ViT" and replicate and trial.index == 7 else trial


def accuracy(trial: TrialRecord) -> TrialRecord:
    return with_metrics(trial, {"test/accuracy": 1 - trial.metrics["test/error"]})


def infinite(trial: TrialRecord) -> TrialRecord:
    return with_metrics(trial, {"test/nll": math.inf}) if trial.arm == "Tiling" and trial.index == 2 else trial


def objectives(*pairs: tuple[str, str]) -> tuple[ObjectiveRecord, ...]:
    return tuple(ObjectiveRecord(metric=metric, direction=direction) for metric, direction in pairs)


CASES: dict[str, Callable[[], StudyRecord]] = {
    "whole": study_record,
    "described": lambda: with_descriptions(study_record(replicates=6, tune_trials=4, rungs=2)),
    "gaps": lambda: study_record(change=gaps),
    "with runs": lambda: with_runs(study_record(ABLATION, replicates=2, tune_trials=0, rungs=2)),
    "nothing finished": lambda: study_record(change=lambda trial: without_result(trial, TrialState.PLANNED)),
    "no trials": lambda: study_record(change=lambda _: None),
    "one replicate": lambda: study_record(replicates=1, tune_trials=0),
    "two replicates": lambda: study_record(replicates=2, tune_trials=0, rungs=1),
    "no baseline": lambda: study_record([dataclasses.replace(arm, baseline=False) for arm in ABLATION]),
    "no objectives": lambda: study_record(objectives=()),
    "only a cost": lambda: study_record(objectives=OBJECTIVES[1:]),
    "one objective": lambda: study_record(objectives=OBJECTIVES[:1]),
    "three objectives, one of them maximised": lambda: study_record(
        objectives=objectives(("test/accuracy", "maximize"), ("test/nll", "minimize"), ("cost/train_gflops", "minimize")), change=accuracy
    ),
    "infinite": lambda: study_record(change=infinite),
    "all infinite": lambda: study_record(change=lambda trial: with_metrics(trial, {"test/nll": math.inf})),
    "one arm": lambda: study_record(ABLATION[1:2]),
    "forty arms": lambda: study_record(
        [FakeArm(name=f"k={i}, tile=True", overrides={"model.k": i}, nll=0.2 + 0.01 * i, train_gflops=0.1 * i + 1) for i in range(45)],
        replicates=2,
        tune_trials=1,
        rungs=2,
    ),
    "nasty names": lambda: study_record(
        [dataclasses.replace(arm, name=NASTY if arm.name == "E³" else arm.name) for arm in ABLATION], name=NASTY, question=NASTY
    ),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("reports")
    return {name: write(make(), root / name.replace(" ", "_")).parent for name, make in CASES.items()}


def page_of(folder: pathlib.Path) -> str:
    return (folder / "index.html").read_text("utf-8")


def scripts(text: str) -> set[str]:
    """Hashes of the scripts of a page."""
    found = re.findall(r"(?s)<script[^>]*>(.*?)</script>", text)
    return {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found}


def allowed_scripts(text: str) -> set[str]:
    """Hashes of the scripts that a page lets browsers run."""
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    return set(re.findall(r"'sha256-([^']*)'", policy))


def shown(text: str) -> str:
    """What a reader sees of a page, without figures, styles and what is read out alone."""
    text = re.sub(r"(?s)<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>|<nav.*?</nav>|<caption>.*?</caption>", "", text)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


class Checked(html.parser.HTMLParser):
    """Every tag that is opened is closed, and nothing is loaded."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values)
        for name in ("src", "href", "xlink:href", "action"):
            assert (values.get(name) or "data:,").startswith(("data:", "#"))
        self.ids += [values["id"]] if values.get("id") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_whole_and_loads_nothing(case: str, reports: dict[str, pathlib.Path]) -> None:
    text, checked = page_of(reports[case]), Checked()
    checked.feed(text)
    assert checked.open == []
    assert allowed_scripts(text) == scripts(text)
    assert len(scripts(text)) == 1
    assert len(checked.ids) == len(set(checked.ids))
    assert not re.search(r"@import|url\((?!#)|undefined|NaN(?! at step)", text)
    links = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize("case", CASES)
def test_every_format_is_written_and_none_is_empty(case: str, reports: dict[str, pathlib.Path]) -> None:
    folder = reports[case]
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "index.html",
        "report.md",
        "table.tex",
        "table.csv",
        "trials.parquet",
    }
    figures = sorted((folder / "figures").glob("*")) if (folder / "figures").is_dir() else []
    assert {path.suffix for path in figures} in ({".svg", ".png", ".pdf"}, set())
    for path in figures:
        starts = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
        assert path.read_bytes().startswith(starts[path.suffix])


def test_every_trial_is_a_row_of_the_parquet_file_with_its_types(tmp_path: pathlib.Path) -> None:
    def change(trial: TrialRecord) -> TrialRecord:
        mixed = {"mixed": 1 if trial.index % 2 else 0.5, "either": 1 if trial.index % 2 else "all", "many": ("a", trial.index)}
        done = trial if trial.index else without_result(trial, TrialState.FAILED, "it raised")
        return dataclasses.replace(done, config={**trial.config, **mixed})

    record = study_record(change=change)
    (tmp_path / "trials.parquet").write_bytes(trials_parquet(record))
    rows = parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["key"] for row in rows] == [trial.key for trial in record.trials]
    for row, trial in zip(rows, record.trials, strict=True):
        assert (row["arm"], row["phase"], row["seed"], row["state"]) == (trial.arm, trial.phase, trial.seed, trial.state)
        assert row["test/nll"] == trial.metrics.get("test/nll")
        assert (row["config.model.tile"], row["config.mixed"]) == (trial.config["model.tile"], float(cast(float, trial.config["mixed"])))
        assert row["config.either"] == ("1" if trial.index % 2 else '"all"')
        assert json.loads(row["config.many"]) == ["a", trial.index]
    assert trials_parquet(record) == trials_parquet(study_record(change=change))


def test_a_metric_that_never_varies_is_reported(tmp_path: pathlib.Path) -> None:
    arms = [FakeArm(name=f"K = {k}", overrides={"model.k": k}, nll=0.3, train_gflops=0.01, baseline=k == 1) for k in (1, 2, 4)]
    record = study_record(arms, tune_trials=0, change=lambda trial: with_metrics(trial, {"test/nll": 0.5}))
    text = page_of(write(record, tmp_path).parent)
    assert "K = 4" in text
    assert not re.search(r"\bnan\b", text.lower())


def test_figures_are_as_wide_as_a_column(reports: dict[str, pathlib.Path]) -> None:
    for path in (reports["whole"] / "figures").glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 1100 <= width <= 1600, path.name
        assert 400 <= height <= 1600, path.name


def test_the_question_and_its_answer_come_first(reports: dict[str, pathlib.Path]) -> None:
    text = shown(page_of(reports["whole"]))
    question = text.index("Does E³ need both tiling and partitioning? (expected: yes")
    claim = text.index(
        "E³ lowers test NLL by 0.082 ± 0.006 against V-MoE (95\u00a0% interval −0.096 to −0.068, p = 0.0078".replace("\u00a0", " ")
    )
    assert question < claim < text.index("Arms")
    assert "Incomplete" not in text


def test_a_page_says_what_is_missing_and_why(reports: dict[str, pathlib.Path]) -> None:
    text = shown(page_of(reports["gaps"]))
    assert "Incomplete: 11 of 56 replicates missing." in text
    assert "E³ lacks 2 of 8 replicates: 2 failed (out of memory: 12 GiB asked for)" in text
    assert "Partitioning lacks 8 of 8 replicates: 8 not planned yet" in text
    assert "ViT lacks 1 of 8 replicates: 1 running" in text
    assert "val/nll is NaN at step 300" in text
    assert "Traceback" not in text
    assert text.index("Incomplete") < text.index("Arms")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("nothing finished", "No answer yet: none of 56 replicates is finished"),
        ("no trials", "Incomplete: 56 of 56 replicates and 56 of 56 tuning trials missing."),
        ("no trials", "7 arms (ViT, V-MoE, E³, Tiling, Tiling (σ×2), Tiling (σ×4) and Partitioning) each lack 8 of 8 replicates"),
        ("one replicate", "Not resolved: E³ differs from V-MoE by −0.1092 in test NLL (one replicate, so there is no interval)"),
        ("two replicates", "With 2 replicates no difference can be resolved, however large: an exact test over 6 arms takes at least 8."),
        ("no baseline", "E³ has the lowest test NLL of 7 arms: 0.209 ± 0.005 over 8 replicates"),
        ("no objectives", "The study has no objective beside costs, so there is nothing to compare"),
        ("only a cost", "The study has no objective beside costs, so there is nothing to compare"),
        ("three objectives, one of them maximised", "E³ raises test accuracy by 0.0219 ± 0.0018 against V-MoE"),
        ("infinite", "Not finite in some replicate: Tiling."),
        ("infinite", "∞"),
        ("all infinite", "No answer yet: no arm shares a finished replicate of finite test NLL with the baseline V-MoE"),
        ("one arm", "V-MoE reaches a test NLL of 0.291 ± 0.005 over 8 replicates"),
        ("gaps", "With 6 replicates no difference can be resolved, however large: an exact test over 5 arms takes at least 8."),
    ],
)
def test_the_answer_says_how_far_it_goes(case: str, said: str, reports: dict[str, pathlib.Path]) -> None:
    assert said in shown(page_of(reports[case]))


def test_of_arms_that_cannot_be_told_apart_the_one_listed_first_leads() -> None:
    baseline = FakeArm(name="V-MoE", overrides={}, nll=0.3, train_gflops=1.0, baseline=True)
    arms = [FakeArm(name=name, overrides={}, nll=nll, train_gflops=1.0) for name, nll in (("first", 0.2002), ("second", 0.2))]
    assert answer(study_record([baseline, *arms])).claim.startswith("first lowers test NLL by ")
    arms[0] = dataclasses.replace(arms[0], nll=0.25)
    assert answer(study_record([baseline, *arms])).claim.startswith("second lowers test NLL by ")


def test_the_best_is_bold_and_the_baseline_marked(reports: dict[str, pathlib.Path]) -> None:
    rows = re.findall(r"(?s)<tr[^>]*>.*?</tr>", page_of(reports["whole"]))
    marked = [row for row in rows if 'class="baseline"' in row]
    assert marked
    assert all(">V-MoE<" in row for row in marked)
    assert any(">E³<" in row and "<b>0.209</b>" in row for row in rows)
    assert "**0.209** ± 0.005" in (reports["whole"] / "report.md").read_text("utf-8")
    assert r"\textbf{0.209}" in (reports["whole"] / "table.tex").read_text("utf-8")


def test_names_stay_text_in_every_format(reports: dict[str, pathlib.Path]) -> None:
    folder = reports["nasty names"]
    assert len(scripts(page_of(folder))) == 1
    assert "&lt;script&gt;" in page_of(folder)
    assert "\\<script\\>" in (folder / "report.md").read_text("utf-8")
    assert "a\\|b\\_\\{c\\}" in (folder / "report.md").read_text("utf-8")
    tex = (folder / "table.tex").read_text("utf-8")
    assert (
        r"\textless{}script\textgreater{}alert('x')\textless{}/script\textgreater{} \& a\textbar{}b\_\{c\} \$d\$ \textbackslash{}e" in tex
    )
    arms = [row["arm"] for row in csv.DictReader(io.StringIO((folder / "table.csv").read_text("utf-8")))]
    assert NASTY in arms
    for path in (folder / "figures").glob("*.svg"):
        assert "<script" not in path.read_text("utf-8")


def test_every_row_of_a_table_has_the_cells_of_its_head(reports: dict[str, pathlib.Path]) -> None:
    for folder in reports.values():
        rows = [
            re.sub(r"\\\\|\\\|", "", line).count("|")
            for line in (folder / "report.md").read_text("utf-8").splitlines()
            if line.startswith("|")
        ]
        assert rows
        tables = re.findall(r"(?m)(?:^\|.*\n)+", (folder / "report.md").read_text("utf-8"))
        for table in tables:
            assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1, table
        tex = [line for line in (folder / "table.tex").read_text("utf-8").splitlines() if line.endswith(r"\\")]
        assert len({re.sub(r"\\&", "", line).count("&") for line in tex}) == 1


def test_the_sheet_holds_more_digits_than_are_shown(reports: dict[str, pathlib.Path]) -> None:
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO((reports["whole"] / "table.csv").read_text("utf-8")))}
    arms: Any = summary_json(study_record())["arms"]
    for arm in arms:
        assert float(rows[arm["arm"]]["test/nll mean"]) == pytest.approx(arm["metrics"]["test/nll"]["mean"], rel=1e-11)
    assert (rows["E³"]["test/nll effect resolved"], rows["V-MoE"]["test/nll effect resolved"]) == ("1", "")


def test_the_same_record_gives_the_same_bytes_and_touches_no_file(tmp_path: pathlib.Path, reports: dict[str, pathlib.Path]) -> None:
    first = {path.relative_to(reports["gaps"]): path for path in reports["gaps"].rglob("*") if path.is_file()}
    index = write(CASES["gaps"](), tmp_path)
    again = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert first.keys() == again.keys()
    assert [name for name in first if first[name].read_bytes() != again[name].read_bytes()] == []
    before = {path: os.stat(path).st_mtime_ns for path in again.values()}
    assert write(CASES["gaps"](), tmp_path) == index
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_figure_that_no_longer_holds_is_taken_away(tmp_path: pathlib.Path) -> None:
    write(study_record(rungs=2), tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"a reader's own file")
    write(study_record(tune_trials=0, rungs=2), tmp_path)
    assert sorted({path.stem for path in (tmp_path / "figures").iterdir()}) == ["curves", "effects", "frontier", "importance", "mine"]


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, disks.tear, disks.flip])
def test_a_report_that_lost_a_byte_is_whole_again_and_its_other_files_are_not_touched(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    record = study_record(tune_trials=0, rungs=2)
    write(record, tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    whole = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    for path in files[::2]:
        damage(path)
    write(record, tmp_path)
    assert [path for path, (content, _) in whole.items() if path.read_bytes() != content] == []
    assert [path for path in files[1::2] if path.stat().st_mtime_ns != whole[path][1]] == []
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files


def test_a_report_on_a_full_disk_says_so_and_keeps_the_one_before(tmp_path: pathlib.Path) -> None:
    write(study_record(tune_trials=0, rungs=2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with disks.full(after_bytes=100), pytest.raises(OrchestratorError, match=r"(?s)^the report cannot be written.*File too large"):
        write(study_record(tune_trials=0, rungs=3), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("case", "folder"), [("whole", "whole"), ("gaps", "gaps"), ("with runs", "runs"), ("described", "described")])
@pytest.mark.parametrize("name", ["report.md", "table.tex", "table.csv"])
def test_the_text_of_a_report_is_the_one_on_record(case: str, folder: str, name: str, reports: dict[str, pathlib.Path]) -> None:
    text, golden = (reports[case] / name).read_text("utf-8"), GOLDEN / folder / name
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


@pytest.mark.parametrize("case", CASES)
def test_the_summary_is_json_that_any_reader_takes(case: str) -> None:
    text = json.dumps(summary_json(CASES[case]()), allow_nan=False)
    assert json.loads(text)["answer"]["headline"].endswith(".")


def test_the_summary_names_effects_frontier_and_gaps() -> None:
    found: Any = summary_json(CASES["gaps"]())
    assert found["answer"]["standing"] == "not resolved"
    assert found["frontier"] == {"cost": "cost/train_gflops", "quality": "test/nll", "arms": ["ViT", "V-MoE", "E³"]}
    assert [(row["arm"], row["count"]) for row in found["missing"]] == [("ViT", 1), ("E³", 2), ("Partitioning", 8)]
    (effect,) = (row for row in found["effects"] if (row["arm"], row["metric"]) == ("Partitioning", "test/nll"))
    assert (effect["n"], effect["mean"], effect["resolved"]) == (0, "nan", False)


def test_the_summary_says_how_sure_its_numbers_are() -> None:
    found: Any = summary_json(study_record())
    tiling = next(row for row in found["effects"] if (row["arm"], row["metric"]) == ("Tiling", "test/nll"))
    assert abs(tiling["mean"]) < tiling["smallest_t"] < tiling["smallest"]
    sure = found["certainty"]
    assert (sure["metric"], sure["frontier"]["on_frontier"]["E³"]) == ("test/nll", 1.0)
    assert [row["name"] for row in sure["variance"]["components"]] == ["arm", "seed", "noise"]
    assert next(row["best"] for row in sure["ranks"]["arms"] if row["arm"] == "E³") == 1.0
    assert {row["arm"]: row["bargain"] for row in sure["efficiency"]}["E³"] == "gains, and costs more"
    assert summary_json(study_record(objectives=()))["certainty"] == {}


def test_the_summary_tells_how_the_run_went() -> None:
    found: Any = summary_json(CASES["with runs"]())["running"]
    interrupted, done = found["runs"]
    assert (interrupted["ending"], interrupted["ratio"], done["ratio"]) == ("interrupted", None, pytest.approx(131 / 118))
    assert (found["packs"], found["workers"], found["occupied"]) == (8, 5, pytest.approx(238 / 248))
    assert [row["packs"] for row in found["programs"]] == [1, 1, 1, 1, 1, 2, 1]
    assert summary_json(study_record())["running"] is None


def test_a_run_of_which_no_pack_told_is_told_in_a_sentence() -> None:
    record = with_runs(study_record())
    quiet = dataclasses.replace(record, runs=tuple(dataclasses.replace(run, crew=()) for run in record.runs))
    told = running(quiet)
    assert told is not None
    assert len(told.runs) == 2
    assert told.programs == told.parts == ()
    assert "workers" not in {figure.name for figure in figures(quiet)}
    assert running(study_record()) is None


def printed(record: StudyRecord, *, color: bool, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=color, color_system="truecolor" if color else None)
    console.print(terminal_table(record))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_the_terminal_shows_arms_objectives_and_the_answer() -> None:
    text = printed(study_record(), color=False)
    assert re.search(r"V-MoE \(baseline\) +8 +0\.291 ± 0\.005 +0\.00671", text)
    assert re.search(r"E³ +8 +0\.209 ± 0\.005 \*", text)
    assert "E³ lowers test NLL by 0.082 ± 0.006 against V-MoE" in text
    assert "\x1b[" not in text
    colored = printed(study_record(), color=True)
    assert "\x1b[" in colored
    assert "*" not in colored


def test_the_terminal_says_what_is_missing_and_obeys_no_markup() -> None:
    assert "Incomplete: 11 of 56 replicates missing." in printed(CASES["gaps"](), color=False)
    named = study_record([dataclasses.replace(arm, name=f"[red]{arm.name}[/red]") for arm in ABLATION])
    assert "[red]E³[/red]" in printed(named, color=True)


@pytest.mark.parametrize("case", CASES)
def test_any_study_fits_a_terminal(case: str) -> None:
    assert max(len(line) for line in printed(CASES[case](), color=False, width=80).splitlines()) <= 80


def test_the_table_and_the_summary_start_no_drawing_library() -> None:
    code = (
        "import sys; from tests.studyrecords import study_record; import orchestrator.report as report; r = study_record(tune_trials=0);"
        "assert not {'altair', 'vl_convert', 'jinja2', 'numpy', 'rich'} & set(sys.modules);"
        "report.terminal_table(r); report.summary_json(r); assert not {'altair', 'vl_convert', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=GOLDEN.parents[2])


def test_records_are_not_taken_for_one_another() -> None:
    """What analysis remembers of a record belongs to that record alone."""
    changed = study_record(change=lambda trial: with_metrics(trial, {"test/nll": 0.5}))
    assert summary_json(study_record()) == summary_json(study_record())
    assert summary_json(changed) != summary_json(study_record())
