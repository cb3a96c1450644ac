"""From `python launch.py` to the first finished training step, and the same of a further worker: all ways in one run.

    python benchmarks/startup.py [--json] [--repeats N]

The study has trials of one step of the laptop's E³, so a trial that the ledger counts as finished is a step that was taken,
evaluated and recorded. When the first is, the worker is killed, and the one that takes its place is the further worker.
The ways, each on top of the one before it:

    cold      empty caches, every worker a process of its own
    cached    XLA's persistent cache is warm: what any JAX program can have
    exported  programs that an earlier worker traced are read, not traced
    forked    workers are forked from a process that has imported what they need: what a run does

Wall seconds are those of this machine under its load at the time; CPU seconds count the launcher and all that it started.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import psutil

ROOT = pathlib.Path(__file__).resolve().parents[1]
POLL_S = 0.01
PATIENCE_S = 600.0
NO_EXPORTS, NO_NURSERY = {"TESSERA_NO_EXPORTS": "1"}, {"TESSERA_NO_NURSERY": "1"}
WAYS = {"cold": NO_EXPORTS | NO_NURSERY, "cached": NO_EXPORTS | NO_NURSERY, "exported": NO_NURSERY, "forked": {}}

STUDY = '''"""How long until the first step?"""

from orchestrator import Arm, Objective, Replicates, Study
from trainers import presets

STUDY = Study(
    name="startup",
    trainer="trainers.vision:Vision",
    base=presets.laptop(),
    arms=[Arm("E³", {"model.k": 2, "model.members": 2, "model.tile": True, "model.partition": True}, baseline=True)],
    protocol=Replicates(200),
    objectives=[Objective("test/nll")],
)
'''


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """One launch, to its first finished step and to that of a further worker."""

    wall_s: float
    cpu_s: float
    further_wall_s: float
    further_cpu_s: float


def launched(folder: pathlib.Path, cache: pathlib.Path, way: str) -> Started:
    """Launches the study in a fresh folder, kills its worker at the first finished step, and stops it at the second worker's."""
    study, out = folder / "startup.py", folder / "runs"
    study.write_text(STUDY)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_NO_")}
    environment |= WAYS[way] | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "launch.py"), str(study), "--set", "train.steps=1", "--out", str(out)]
    log = out / "startup" / "logs"
    started = time.monotonic()
    with (folder / "launcher.log").open("w") as said:
        process = subprocess.Popen(
            [*command, "--workers", "1", "--wandb", "disabled"], stdout=said, stderr=said, env=environment, cwd=folder
        )
    try:
        first = _finished(log / "worker-0-a1.log", process)
        wall_s, cpu_s = time.monotonic() - started, _cpu_s([process.pid, *_below(process.pid)])
        os.kill(first, signal.SIGKILL)
        _until(lambda: list((out / "startup" / "workers").glob("startup-worker-0-a2.*.unit.json")), process)
        started = time.monotonic()
        second = _finished(log / "worker-0-a2.log", process)
        further_wall_s, further_cpu_s = time.monotonic() - started, _cpu_s([second])
    except RuntimeError:
        print((folder / "launcher.log").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    return Started(wall_s=wall_s, cpu_s=cpu_s, further_wall_s=further_wall_s, further_cpu_s=further_cpu_s)


def _finished(log: pathlib.Path, launcher: subprocess.Popen[bytes]) -> int:
    """Waits until a worker says that a trial is finished; its pid."""
    _until(lambda: log.exists() and "finished at step 1" in log.read_text(), launcher)
    return int(log.read_text().split(": pid ")[1].split()[0])


def _until(claim: Callable[[], object], launcher: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not claim():
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the launch came to nothing; its last words are above")
        time.sleep(POLL_S)


def _below(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _cpu_s(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def measured(repeats: int) -> dict[str, list[Started]]:
    """Every way in turn, so many times; the caches that a way needs are filled before it is first timed."""
    rows: dict[str, list[Started]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        root = pathlib.Path(name)

        def once(way: str, cache: str) -> Started:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                return launched(pathlib.Path(folder), root / cache, way)

        rows["cold"].append(once("cold", "warm"))
        once("exported", "warm")
        for _ in range(repeats):
            for way in ("cached", "exported", "forked"):
                rows[way].append(once(way, "warm"))
    return rows


def best(rows: list[Started]) -> dict[str, float]:
    """The least of each figure: what else the machine did meanwhile only adds."""
    return {field.name: round(min(getattr(row, field.name) for row in rows), 2) for field in dataclasses.fields(Started)}


def main() -> None:
    """Prints a row for each way, and how many times sooner the last is than the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--repeats", type=int, default=3, help="launches of each way but the cold one (default: 3)")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    rows = {way: best(found) for way, found in measured(options.repeats).items()}
    ratios = {
        f"{figure}_over_{way}": round(rows[way][figure] / rows["forked"][figure], 2)
        for way in ("cold", "cached", "exported")
        for figure in rows["forked"]
    }
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {load}"
    if options.json:
        print(json.dumps({"machine": machine, "repeats": options.repeats, "seconds": rows, "ratios": ratios}, indent=1))
        return
    print(f"{machine}; least of {options.repeats}\n")
    print(f"{'':10}{'first step':>22}{'further worker':>24}")
    print(f"{'':10}{'wall s':>11}{'CPU s':>11}{'wall s':>13}{'CPU s':>11}")
    for way, row in rows.items():
        print(f"{way:10}{row['wall_s']:11.2f}{row['cpu_s']:11.2f}{row['further_wall_s']:13.2f}{row['further_cpu_s']:11.2f}")
    for figure in ("wall_s", "further_wall_s", "cpu_s", "further_cpu_s"):
        print(f"{figure}: " + ", ".join(f"{ratios[f'{figure}_over_{way}']:.1f}× less than {way}" for way in ("cold", "cached", "exported")))


if __name__ == "__main__":
    main()
