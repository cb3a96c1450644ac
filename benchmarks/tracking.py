"""What live W&B runs cost beside the trials: CPU seconds of the publisher and of the library's own process.

    python benchmarks/tracking.py [--json] [--save]

Runs are filled row by row, all at once, against a server on loopback in this process, which does not count; then each row is
looked for there. `docs/benchmarks.md` says how to read the output.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from benchmarks import machine
from benchmarks.meter import measure
from tests.wandb_server import WandbServer, serving

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
AIM_S = 3.0  # for 32 live runs of 100 rows


def main() -> int:
    """Measures, prints the table or the JSON; 1 if a row is missing or there twice."""
    options = _parser().parse_args()
    document = measured(options.runs, options.rows)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "tracking-cpu.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(document, indent=1, ensure_ascii=False) if options.json else text(document))
    return int(not document["each_row_once"])


def measured(runs: int, rows: int) -> dict[str, Any]:
    """One run of the publisher's part; the document that is printed and saved."""
    before = machine.load()
    with serving() as server, tempfile.TemporaryDirectory(prefix="tracking-") as folder:
        log = pathlib.Path(folder) / "log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",
            "HOME": folder,
        }
        command = [sys.executable, "-m", "benchmarks.bookkeeping.live_runs", folder, str(runs), str(rows)]
        found = measure(command, environment=environment, log=log, within_s=300)
        if found.code != 0:
            raise SystemExit(f"the publisher ended with {found.code}:\n{found.said}")
        told = json.loads(found.said.splitlines()[-1])
        return {
            "machine": machine.describe(),
            "load_average": {"start": before, "end": machine.load()},
            "runs": runs,
            "rows": rows,
            "parts_cpu_s": told["parts"],
            "import_and_end_cpu_s": found.cpu_s - sum(told["parts"].values()),
            "cpu_s": found.cpu_s,
            "wall_s": found.wall_s,
            "peak_mb": found.peak_bytes / 1e6,
            "requests": len(server.requests),
            "each_row_once": _each_once(server, runs, rows),
            "aim_cpu_s": AIM_S,
        }


def text(document: dict[str, Any]) -> str:
    """The document for a reader."""
    parts = document["parts_cpu_s"]
    lines = [
        f"{document['runs']} live runs of {document['rows']} rows, CPU seconds of all processes but the server's",
        f"  library and sweep   {parts['start']:6.2f}",
        f"  begin and fill      {parts['rows']:6.2f}",
        f"  finish              {parts['finish']:6.2f}",
        f"  modules, end        {document['import_and_end_cpu_s']:6.2f}",
        f"  in all              {document['cpu_s']:6.2f}   (aim: at most {document['aim_cpu_s']:g})",
        f"wall {document['wall_s']:.1f} s, {document['peak_mb']:.0f} MB, {document['requests']} requests",
        "each row is on the server once" if document["each_row_once"] else "ROWS ARE MISSING OR THERE TWICE",
    ]
    return "\n".join(lines)


def _each_once(server: WandbServer, runs: int, rows: int) -> bool:
    return len(server.runs) == runs and all(run.steps == [10 * row for row in range(1, rows + 1)] for run in server.runs.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=32, help="live at once (32; at most 64)")
    parser.add_argument("--rows", type=int, default=100, help="of each run (100)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help="keep the document in benchmarks/results/")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
