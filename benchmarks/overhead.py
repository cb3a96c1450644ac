"""What it costs to keep the books of a trial, beside training it: CPU milliseconds a trial, side by side in one run.

    python benchmarks/overhead.py [--json] [--save]

Trials of five rungs that train nothing, under Tessera, Optuna's SQLite and journal storages, Ray Tune and submitit.
`docs/benchmarks.md` says how to read the output.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from benchmarks import machine
from benchmarks.bookkeeping.rungs import Figures
from benchmarks.meter import Measured, measure

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = (100, 1_000, 10_000, 100_000)
FEW = 2  # trials of the run whose cost is what starting and ending costs
AN_ARM = 10  # trials of one of Tessera's arms: what a plan made anew is shared by
RESULTS = ROOT / "benchmarks" / "results"
INSTALL = 'not installed: pip install -e ".[benchmarks]"'


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Something that keeps the books of trials.

    Attributes:
        name: In JSON and on the command line.
        title: In the table.
        command: Module in `benchmarks.bookkeeping`, and its arguments.
        most: Trials that it can keep the books of in reasonable time.
        needs: Package that has to be installed.
        told: It tells its phases; otherwise the CPU time of all its processes counts, less that of a run of two trials.
    """

    name: str
    title: str
    command: tuple[str, ...]
    most: int
    needs: str = ""
    told: bool = True


KEEPERS = (
    Keeper(name="tessera", title="Tessera", command=("tessera",), most=100_000),
    Keeper(name="optuna_sqlite", title="Optuna, SQLite", command=("optuna_storage", "sqlite"), most=1_000, needs="optuna"),
    Keeper(name="optuna_journal", title="Optuna, journal file", command=("optuna_storage", "journal"), most=10_000, needs="optuna"),
    Keeper(name="ray_tune", title="Ray Tune, actors reused", command=("ray_tune",), most=1_000, needs="ray", told=False),
    Keeper(name="submitit", title="submitit, a job each", command=("submitit_jobs",), most=100, needs="submitit", told=False),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One keeper at one number of trials.

    Attributes:
        keeper: Its name.
        trials: How many.
        error: Why there are no figures.
        ms: CPU milliseconds a trial, in all.
        parts: The same by part: plan, ask, lease, record, finish, …; `follow` is the plan made anew when an arm is tuned.
        once: Seconds, CPU seconds and megabytes that are not a trial's: opening, a look of the driver, memory.
        processes_cpu_s: CPU seconds of the whole command with all its processes, start and end included.
        peak_mb: Memory of all its processes.
        load_before: Load average over the last minute, as it started.
    """

    keeper: str
    trials: int
    error: str = ""
    ms: float | None = None
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    once: Mapping[str, float] = dataclasses.field(default_factory=dict)
    processes_cpu_s: float | None = None
    peak_mb: float | None = None
    load_before: float = 0.0


def main() -> int:
    """Measures, prints the table or the JSON; 1 if a keeper that is installed failed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        document = _measured(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "overhead-cpu.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(document, indent=1, ensure_ascii=False) if options.json else text(document))
    return int(any(row["error"] and not row["error"].startswith(("not installed", "left out")) for row in document["rows"]))


def _measured(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Every keeper at every size; the document that is printed and saved."""
    started, load_start = time.monotonic(), machine.load()
    keepers = [keeper for keeper in KEEPERS if not options.only or keeper.name in options.only]
    sizes = [size for size in SIZES if size <= options.most] or [options.most]
    rows = [dataclasses.asdict(row) for keeper in keepers for row in _rows(keeper, sizes, folder, options.within)]
    return {
        "machine": machine.describe(),
        "load_average": {"start": load_start, "end": machine.load()},
        "took_s": round(time.monotonic() - started, 1),
        "aims": aims(rows),
        "rows": rows,
    }


def _rows(keeper: Keeper, sizes: Sequence[int], folder: pathlib.Path, within_s: float) -> Iterator[Row]:
    if keeper.needs and importlib.util.find_spec(keeper.needs) is None:
        yield _said(Row(keeper=keeper.name, trials=sizes[0], error=INSTALL))
        return
    start_s = 0.0 if keeper.told else _run(keeper, FEW, folder, within_s)[0].cpu_s
    for size in sizes:
        if size > keeper.most:
            yield Row(keeper=keeper.name, trials=size, error=f"left out: {keeper.most} trials are the most in reasonable time")
            continue
        load_before = machine.load()[0]
        measured, figures = _run(keeper, size, folder, within_s)
        row = Row(keeper=keeper.name, trials=size, load_before=load_before)
        yield _said(_counted(row, keeper, measured, figures, start_s))


def _run(keeper: Keeper, trials: int, folder: pathlib.Path, within_s: float) -> tuple[Measured, Figures]:
    """One keeper in a process and a folder of its own."""
    place = folder / f"{keeper.name}-{trials}"
    place.mkdir()
    module, *arguments = keeper.command
    command = [sys.executable, "-m", f"benchmarks.bookkeeping.{module}", *arguments, str(trials), str(place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))}
    measured = measure(command, environment=environment, log=folder / f"{keeper.name}-{trials}.log", within_s=within_s)
    file = place / "figures.json"
    figures = json.loads(file.read_text("utf-8")) if file.exists() else {}
    shutil.rmtree(place, ignore_errors=True)
    return measured, figures


def _counted(row: Row, keeper: Keeper, measured: Measured, figures: Figures, start_s: float) -> Row:
    """The row with its figures, or with the reason why there are none."""
    if measured.code != 0:
        ended = "took too long" if measured.code is None else f"exit code {measured.code}"
        return dataclasses.replace(row, error=f"{ended}: {measured.said.strip()[-800:]}")
    parts, once = parts_of(figures, row.trials) if keeper.name == "tessera" else _rival_parts(figures, row.trials)
    total = sum(parts.values()) if keeper.told else 1e3 * (measured.cpu_s - start_s) / row.trials
    return dataclasses.replace(row, ms=total, parts=parts, once=once, processes_cpu_s=measured.cpu_s, peak_mb=measured.peak_bytes / 2**20)


def parts_of(figures: Mapping[str, float], trials: int) -> tuple[Figures, Figures]:
    """Tessera's figures: CPU milliseconds a trial by part, and what is not a trial's.

    Trials that take long end one by one, and each arm that is tuned is followed by a plan made anew: so a trial is charged
    its share of one such plan, though a driver that finds several arms tuned makes one plan for all of them.
    """
    parts = {name: 1e3 * figures[name] / trials for name in ("plan", "lease", "record", "finish")}
    parts["worker"] = 1e3 * figures["other"] / trials
    parts["follow"] = 1e3 * figures["replan"] / AN_ARM
    asked = {name: 1e3 * figures[name] for name in ("ask_sobol", "ask_random", "ask_tpe")}
    kept = (
        "look",
        "replan",
        "plans",
        "launcher_mb",
        "status_wall",
        "status_cpu",
        "plan_wall",
        "plan_cpu",
        "report_wall",
        "report_cpu",
        "report_mb",
    )
    return parts, {**asked, **{name: figures[name] for name in kept}}


def _rival_parts(figures: Mapping[str, float], trials: int) -> tuple[Figures, Figures]:
    parts = {name: 1e3 * figures[name] / trials for name in ("ask", "record", "finish") if name in figures}
    return parts, {"open_cpu": figures["open"]} if "open" in figures else {}


def aims(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures that were promised: at 10,000 trials, and how much a trial costs more or less at 100,000."""
    ours = {row["trials"]: row for row in rows if row["keeper"] == "tessera" and not row["error"]}
    at, most = ours.get(10_000), ours.get(100_000)
    return {
        "ms_at_10000": at and at["ms"],
        "ms_at_100000_over_10000": most["ms"] / at["ms"] if at and most else None,
        "open_10000_s": at and at["once"]["status_wall"],
        "launcher_mb_at_100000": most and most["once"]["launcher_mb"],
    }


def text(document: Mapping[str, Any]) -> str:
    """The tables, for a terminal."""
    where, rows = document["machine"], document["rows"]
    lines = [
        f"{where['cores']} cores · {where['processor']} · {where['memory_gib']} GiB",
        f"{where['date']} · {where['system']} · Python {where['python']}",
        " · ".join(f"{name} {version}" for name, version in where["versions"].items()),
        f"load average {document['load_average']['start']} at the start, {document['load_average']['end']} at the end",
        "",
        f"{'CPU ms a trial':26} {'trials':>7} {'in all':>9}  of which",
    ]
    titles = {keeper.name: keeper.title for keeper in KEEPERS}
    for row in rows:
        parts = "  ".join(f"{name} {value:.3f}" for name, value in row["parts"].items())
        said = row["error"].splitlines()[0][:100] if row["error"] else f"{row['ms']:9.3f}  {parts}"
        lines.append(f"{titles[row['keeper']]:26} {row['trials']:7} {said}".rstrip())
    lines += ["", "beside the trials"]
    for row in rows:
        if row["once"]:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in row["once"].items())
            lines.append(f"{titles[row['keeper']]:26} {row['trials']:7}  {shown}")
    lines += ["", *(f"{name:26} {'not measured' if value is None else f'{value:.3f}'}" for name, value in document["aims"].items())]
    return "\n".join(lines)


def _said(row: Row) -> Row:
    """The row, after a line about it on stderr."""
    what = row.error.splitlines()[0] if row.error else f"{row.ms:9.3f} ms a trial"
    print(f"{row.keeper:16} {row.trials:7} trials  {what}", file=sys.stderr, flush=True)
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help="also write it to benchmarks/results/overhead-cpu.json")
    parser.add_argument("--only", nargs="+", choices=[keeper.name for keeper in KEEPERS], metavar="NAME", help="only these")
    parser.add_argument("--most", type=int, default=SIZES[-1], metavar="N", help=f"no more trials than that (default {SIZES[-1]})")
    parser.add_argument("--within", type=float, default=1800, metavar="S", help="end one that takes longer (default 1800)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
