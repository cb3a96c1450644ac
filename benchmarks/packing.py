"""How long trials take, side by side: Tessera's packs against five other ways to train the same trials, in one run.

    python benchmarks/packing.py [--json] [--save]

Every rival trains the same trials of the same model with the same step and evaluates them once, under the same malloc
settings and with compiled programs in its cache; only the way of running trials differs, and all results are compared
with Tessera's. `docs/benchmarks.md` says how to read the output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from benchmarks import machine
from benchmarks.contest import RIVALS, TESSERA, Contest, Rival, Run
from benchmarks.rivals.workload import SEEDS
from benchmarks.standings import Standing, bounds, ratios, standings, text

FEW_TRIALS = SEEDS  # packing cannot pay where no trial shares a worker with another
RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def main() -> int:
    """Runs everything, prints the table or the JSON; 1 if a rival that is installed failed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    rivals = [rival for rival in RIVALS if not options.only or rival.name in options.only]
    rounds = _rounds(options)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="packing-"))
    try:
        document = _measured(options, rivals, rounds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.save:
        file = RESULTS / f"packing-{document['machine']['platform']}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(document, indent=1, ensure_ascii=False) if options.json else text(document))
    return int(any(row["error"] and not row["error"].startswith("not installed") for row in document["rows"]))


def _measured(
    options: argparse.Namespace, rivals: Sequence[Rival], rounds: Sequence[tuple[int, int]], folder: pathlib.Path
) -> dict[str, Any]:
    """Warms every rival, then lets them take turns; the document that is printed and saved."""
    started, load_start = time.monotonic(), machine.load()
    platform, kind = machine.device(Contest(folder=folder, gpus=0, within_s=options.within).environment(TESSERA))
    contest = Contest(folder=folder, gpus=int(platform == "gpu"), within_s=options.within)
    warmed = {rival.name: _said(contest.warm(rival, options.trials)) for rival in rivals}
    runs: list[Run] = []
    for number, (steps, trials) in enumerate(rounds):
        for repeat in range(options.repeats):
            for rival in rivals:
                error = warmed[rival.name].error
                run = Run(rival=rival.name, steps=steps, trials=trials, error=error) if error else None
                runs.append(run or _said(contest.run(rival, steps=steps, trials=trials, name=f"{number}-{repeat}")))
    rows = [dataclasses.asdict(standing) for standing in _placed(runs, rounds)]
    return {
        **ratios(rows),
        "machine": {**machine.describe(), "platform": platform, "device": kind},
        "load_average": {"start": load_start, "end": machine.load()},
        "took_s": round(time.monotonic() - started, 1),
        "asked": {"steps": options.steps, "trials": options.trials, "repeats": options.repeats, "most_steps": options.most_steps},
        "settings": {"at_once": machine.cores(), **machine.MALLOC},
        "bounds": bounds(rows),
        "rows": rows,
    }


def _placed(runs: Sequence[Run], rounds: Sequence[tuple[int, int]]) -> list[Standing]:
    return [row for steps, trials in rounds for row in standings([run for run in runs if (run.steps, run.trials) == (steps, trials)])]


def _rounds(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Steps and trials of each round; the last one is too small for packing to pay."""
    rounds = [(steps, min(options.trials, max(SEEDS, options.most_steps // steps // SEEDS * SEEDS))) for steps in options.steps]
    few = (sorted(options.steps)[len(options.steps) // 2], FEW_TRIALS)
    return rounds if few in rounds else [*rounds, few]


def _said(run: Run) -> Run:
    """The run, after a line about it on stderr."""
    seconds = "" if run.measured is None else f"{run.measured.wall_s:8.1f} s, {run.measured.cpu_s:8.1f} CPU s"
    error = f"  {run.error}" if run.error else ""
    print(f"{run.rival:22} {run.trials:3} trials of {run.steps:5} steps {seconds}{error}", file=sys.stderr, flush=True)
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help="also write it to benchmarks/results/packing-<cpu or gpu>.json")
    parser.add_argument("--steps", type=_counts, default=[20, 100, 1000], metavar="N,N,…", help="steps of a trial (default 20,100,1000)")
    parser.add_argument("--trials", type=_even, default=32, metavar="N", help="an even number (default 32)")
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="times that the rivals take turns; the fastest counts (default 1)"
    )
    parser.add_argument(
        "--most-steps", type=int, default=8000, metavar="N", help="fewer trials where they would take more steps in all (default 8000)"
    )
    parser.add_argument("--only", nargs="+", choices=[rival.name for rival in RIVALS], metavar="RIVAL", help="only these rivals")
    parser.add_argument("--within", type=float, default=1800, metavar="S", help="end a rival that takes longer (default 1800)")
    return parser


def _counts(value: str) -> list[int]:
    return [int(part) for part in value.split(",")]


def _even(value: str) -> int:
    if int(value) < SEEDS or int(value) % SEEDS:
        raise argparse.ArgumentTypeError(f"{value} is not an even number from {SEEDS}")
    return int(value)


if __name__ == "__main__":
    raise SystemExit(main())
