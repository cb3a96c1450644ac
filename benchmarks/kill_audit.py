"""Kills a study at random moments, again and again, and counts what is missing, twice, left over or different in the end.

    python benchmarks/kill_audit.py --kills 200 --seed 1 [--json] [--save] [--only tessera] [--power-cuts 20]

A study of short trials is run once undisturbed. Then it is run with SIGKILLs at random moments, for the launcher, one worker, all
workers, or every process at once; whenever the launcher died, the same command is given again, until it says that all is done.
A study that is done before the kills are used up is audited, and another one begun. Rivals run the same trials, each by its own
recipe for going on. `docs/benchmarks.md` says what is counted and how.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from benchmarks import machine
from benchmarks.audit import table
from benchmarks.audit.disk import NoDiskError, missing_for_disks
from benchmarks.audit.findings import Results
from benchmarks.audit.processes import Role
from benchmarks.audit.progress import Progress
from benchmarks.audit.rounds import PATIENCE_S, Asked, Killer, Round, nobody, play
from benchmarks.audit.tools import TOOLS, Tessera, Tool, chosen
from benchmarks.audit.work import LEAST, SLEEP_S

FILE = pathlib.Path(__file__).resolve().parent / "results" / "kill-audit-cpu.json"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_PATIENCE_S = 600.0  # for the undisturbed run, whose length nobody knows yet
EVERY = 0.15  # of the undisturbed run's time, from kill to kill, in the mean
MOST_GIVEN_UP = 3  # rounds, after which a tool is not tried any more
SHOWN = 10  # names of trials at fault that are kept for each count


def main() -> int:
    """Audits every tool, prints the table or the JSON; 1 if Tessera lost, doubled, left or changed anything."""
    options = _parser().parse_args()
    for number in ENDINGS:
        signal.signal(number, _ended)
    root = pathlib.Path(tempfile.mkdtemp(prefix="ka-"))  # short: Ray's sockets are named by their path, of which a system takes 107 letters
    keep = False
    try:
        document = _audited(options, root)
        keep = not is_clean(document)
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    if keep:
        print(f"every round with a fault is kept in {root}", file=sys.stderr)
    if options.save:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(document, indent=1, ensure_ascii=False) if options.json else table.text(document))
    return int(keep)


def _ended(number: int, _: object) -> None:
    """Leaves by way of every `finally`, so that what was started is ended and unmounted; nothing interrupts that."""
    for other in ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def _audited(options: argparse.Namespace, root: pathlib.Path) -> dict[str, Any]:
    """Every tool in turn; the document that is printed and saved."""
    started, load_start = time.monotonic(), machine.load()
    document: dict[str, Any] = {}
    for number, tool in enumerate(chosen(options.only, options.wandb)):
        folder = root / str(number)
        folder.mkdir()
        is_ours = isinstance(tool, Tessera)
        asked = Asked(
            trials=options.trials,
            workers=options.workers,
            sleep_s=options.sleep,
            storage=options.storage if is_ours else "",
            folder=folder,
        )
        with Progress() as progress:
            audit = Audit(tool, asked, progress)
            document[tool.name] = audit.row(options.seed, options.kills if is_ours else options.rival_kills)
            if is_ours and options.power_cuts:
                document[f"{tool.name}_power_cuts"] = audit.row(options.seed, options.power_cuts, cuts=True)
    return {
        **document,
        "machine": machine.describe(),
        "load_average": {"start": load_start, "end": machine.load()},
        "took_s": round(time.monotonic() - started, 1),
        "asked": {
            name: getattr(options, name) for name in ("kills", "rival_kills", "power_cuts", "seed", "trials", "workers", "sleep", "wandb")
        },
    }


class Audit:
    """The rounds of one tool."""

    def __init__(self, tool: Tool, asked: Asked, progress: Progress) -> None:
        self._tool, self._asked, self._progress = tool, asked, progress
        self._undisturbed: Round | None = None

    def row(self, seed: int, kills: int, *, cuts: bool = False) -> dict[str, Any]:
        """Plays rounds until so many kills were made; what they came to, or why there is nothing to say.

        Args:
            seed: Of every draw.
            kills: To be made.
            cuts: Kill everything each time, and cut the power of the disk.
        """
        started = time.monotonic()
        if self._tool.needs and importlib.util.find_spec(self._tool.needs) is None:
            return {"error": 'not installed: pip install -e ".[benchmarks]"'}
        if cuts and (why := missing_for_disks()):
            return {"error": f"not possible here: {why}"}
        try:
            undisturbed = self._without_kills()
            if undisturbed.error:
                return {"error": f"it does not get to its end undisturbed: {undisturbed.error}"}
            rounds = self._rounds(seed, kills, undisturbed, cuts=cuts)
        except NoDiskError as error:
            return {"error": f"not possible here: {error}"}
        return _row(rounds, undisturbed, trials=self._asked.trials, took_s=time.monotonic() - started)

    def _without_kills(self) -> Round:
        if self._undisturbed is None:
            self._progress.begin(f"{self._tool.title}, undisturbed", 1)
            self._undisturbed = self._played(nobody(), {}, "undisturbed", FIRST_PATIENCE_S)
        return self._undisturbed

    def _rounds(self, seed: int, kills: int, undisturbed: Round, *, cuts: bool) -> list[Round]:
        what = "power cuts" if cuts else "kills"
        self._progress.begin(f"{self._tool.title}, {what}", kills)
        killer = Killer(
            random=random.Random(f"{seed} {self._tool.name} {what}"),
            left=kills,
            every_s=EVERY * undisturbed.took_s,
            victims=dict(self._tool.victims),
        )
        patience_s = PATIENCE_S + 10 * undisturbed.took_s
        rounds: list[Round] = []
        while killer.left and sum(bool(played.error) for played in rounds) < MOST_GIVEN_UP:
            name = f"{what.split()[0]}-{len(rounds)}"
            rounds.append(self._played(killer, undisturbed.results, name, patience_s, cuts=cuts))
        return rounds

    def _played(self, killer: Killer, undisturbed: Results, name: str, patience_s: float, *, cuts: bool = False) -> Round:
        played = play(
            self._tool, self._asked, killer, undisturbed, name=name, patience_s=patience_s, said=self._progress.advance, cuts=cuts
        )
        self._progress.say(f"{self._tool.title}, {name}: {table.line(played)}")
        if played.findings.is_clean and not played.orphans and not played.error:
            shutil.rmtree(played.folder, ignore_errors=True)
        return played


def _row(rounds: list[Round], undisturbed: Round, *, trials: int, took_s: float) -> dict[str, Any]:
    """The counts over all rounds. A round that was given up counts as such, and not by its trials."""
    done = [played for played in rounds if not played.error]
    names = {
        name: [f"{played.folder.name}: {cell}" for played in done for cell in getattr(played.findings, name)]
        for name in ("missing", "finished_twice", "bit_differences", "ran_to_the_end_twice")
    }
    orphans = [f"{played.folder.name}: {orphan}" for played in rounds for orphan in played.orphans]
    counts = {name: len(cells) for name, cells in names.items()}
    return {
        "missing": counts["missing"],
        "finished_twice": counts["finished_twice"],
        "orphans": len(orphans),
        "bit_differences": counts["bit_differences"],
        "kills": sum(sum(played.kills.values()) for played in rounds),
        "ran_to_the_end_twice": counts["ran_to_the_end_twice"],
        "orphans_that_train": sum(f", {Role.WORKER.value}: " in orphan for orphan in orphans),
        "given_up": [f"{played.folder.name}: {played.error}" for played in rounds if played.error],
        "rounds": len(rounds),
        "trials_a_round": trials,
        "launches": sum(played.launches for played in rounds),
        "launches_that_failed": sum(played.failures for played in rounds),
        "kills_by_victim": dict(sum((played.kills for played in rounds), collections.Counter[str]())),
        "undisturbed": {
            "took_s": round(undisturbed.took_s, 1),
            "missing": len(undisturbed.findings.missing),
            "finished_twice": len(undisturbed.findings.finished_twice),
        },
        "took_s": round(took_s, 1),
        "which": {name: cells[:SHOWN] for name, cells in {**names, "orphans": orphans}.items() if cells},
        "error": "",
    }


def is_clean(document: dict[str, Any]) -> bool:
    """Nothing can be held against Tessera. That power cannot be cut here is not its fault."""
    rows = [row for name, row in document.items() if name.startswith("tessera")]
    faults = ("missing", "finished_twice", "orphans", "bit_differences", "given_up")
    return all(row["error"].startswith("not possible") if row["error"] else not any(row[name] for name in faults) for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="of Tessera (default 200)")
    parser.add_argument("--rival-kills", type=int, default=20, metavar="N", help="of each rival, which take longer (default 20)")
    parser.add_argument("--power-cuts", type=int, default=0, metavar="N", help="of Tessera's disk: root, loop devices, ext4 (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments (default 0)")
    parser.add_argument("--trials", type=_trials, default=60, metavar="N", help=f"of a study, a multiple of {LEAST} (default 60)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="at once (default 2)")
    parser.add_argument("--sleep", type=float, default=SLEEP_S, metavar="S", help=f"that a rung of a trial takes (default {SLEEP_S})")
    parser.add_argument("--storage", default="", metavar="URL", help="of a database server for Tessera's ledger; each round has a database")
    parser.add_argument("--wandb", choices=("disabled", "offline"), default="disabled", help="offline adds W&B's process to the victims")
    parser.add_argument("--only", nargs="+", default=[], choices=[tool.name for tool in TOOLS], metavar="TOOL", help="only these")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help="also write it to benchmarks/results/kill-audit-cpu.json")
    return parser


def _trials(value: str) -> int:
    if int(value) < LEAST or int(value) % LEAST:
        raise argparse.ArgumentTypeError(f"{value} is not a multiple of {LEAST}")
    return int(value)


if __name__ == "__main__":
    raise SystemExit(main())
