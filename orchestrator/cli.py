"""The command line. stdout is the result, stderr the progress; 0 done, 1 trials failed or missing, 2 user's error, 130 interrupted."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import shlex
import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, NoReturn

from orchestrator.errors import OrchestratorError
from orchestrator.exits import DONE, INTERRUPTED, USER_ERROR
from orchestrator.storage import VARIABLE, redacted

if TYPE_CHECKING:
    from orchestrator.executors.nursery import NurseryExecutor

DESCRIPTION = """Run a study: python launch.py studies/ablation.py

A study asks one question. `run` does what is missing, and nothing twice: kill it at any moment and run the same command again.

commands
  run        plan, train what is missing, report (the default)
  plan       show all that a run would do, and do nothing
  status     show where the study stands, from the ledger
  report     write the report again, from the ledger alone
  sync       copy the study to W&B: what is missing there, and nothing twice
  dashboard  look at trials and report in the browser, while the study runs or later
  stop       ask the launcher of this study, wherever it runs, to checkpoint and stop
  retry      put failed trials back in the queue, and finished ones whose predictions were damaged
"""

EPILOG = """examples
  python launch.py studies/ablation.py                       train, then print the table and the path of the report
  python launch.py studies/ablation.py plan                  what would it cost?
  python launch.py studies/ablation.py plan --probe          and how long would it take? Measures each program for some seconds
  python launch.py studies/ablation.py --set protocol.replicates=3 --set train.steps=200 --out /tmp/quick
  python launch.py studies/ablation.py --profile paper plan  the published setting: ImageNet, B/32
  python launch.py studies/ablation.py --storage postgresql://ann@db/sweeps   on every machine: they share the work

exit code: 0 done, 1 some trials failed or are missing, 2 a mistake in the study or the command, 130 interrupted"""

VERBS = ("run", "plan", "status", "report", "sync", "dashboard", "stop", "retry")
PATIENCE_S = 600.0


class Grammar(argparse.ArgumentParser):
    """Complains without repeating a password that somebody typed."""

    def error(self, message: str) -> NoReturn:
        """Exits with code 2."""
        super().error(redacted(message))


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    root = Grammar(
        prog="python launch.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("study", metavar="STUDY", help="the study file")
    root.add_argument("command", nargs="?", default="run", choices=VERBS, help="default: run")
    root.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs"), metavar="DIR", help="ledger, checkpoints, reports (default: runs)"
    )
    root.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="where the ledger is: a file, or postgresql://… for workers on several machines "
        f"(default: ${VARIABLE}, else ledger.db under DIR). Give a password by the variable or in ~/.pgpass: others see command lines",
    )
    root.add_argument("--profile", default="", help="which of the study's profiles, such as laptop or paper (default: the first)")
    root.add_argument("--workers", type=_count, default=0, metavar="N", help="worker processes at once (default: one per core, at most 4)")
    root.add_argument(
        "--wandb",
        choices=("auto", "online", "offline", "disabled"),
        default="auto",
        help="auto: online where a key is set, else offline files under DIR (default)",
    )
    root.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the base config, or protocol.trials / protocol.replicates; repeatable",
    )
    root.add_argument(
        "--probe", action="store_true", help="with plan: measure first how fast each program is here, and estimate the time from that"
    )
    root.add_argument(
        "--compare",
        type=pathlib.Path,
        default=None,
        metavar="STUDY",
        help="with report: the file of another study of the same ledger, to set this one beside",
    )
    root.add_argument(
        "--patience",
        type=_seconds,
        default=PATIENCE_S,
        metavar="S",
        help=f"seconds that a run waits for a ledger that is locked, full or out of reach (default: {PATIENCE_S:g})",
    )
    root.add_argument("--port", type=_port, default=8080, metavar="N", help="with dashboard: where it listens, on this machine only (8080)")
    root.add_argument("--json", action="store_true", help="print the result as one JSON document")
    root.add_argument("--yes", action="store_true", help="do not ask before an edited study leaves trials out")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    grammar = parser()
    options = grammar.parse_intermixed_args(arguments)  # `STUDY --out DIR plan` too
    if options.probe and options.command != "plan":
        grammar.error("--probe goes with plan: a run measures as it trains")
    if options.compare and options.command != "report":
        grammar.error("--compare goes with report")
    options.again = shlex.join(["python", "launch.py", *map(redacted, sys.argv[1:] if arguments is None else arguments)])
    options.workers = options.workers or max(1, min(4, os.cpu_count() or 1))
    try:
        with _executor(options) as options.executor:
            from orchestrator import commands

            return int(commands.COMMANDS[options.command](options))
    except OrchestratorError as error:
        if options.json:
            print(json.dumps({"errors": [redacted(str(problem)) for problem in error.problems]}, indent=1))
        print(redacted(str(error)), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted before anything was started", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout left early, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


@contextlib.contextmanager
def _executor(options: argparse.Namespace) -> Generator[NurseryExecutor | None]:
    """Where a run's workers are started: a process that begins to import what they need while this one still plans."""
    if options.command != "run":
        yield None
        return
    from orchestrator.executors.nursery import NurseryExecutor

    with NurseryExecutor() as executor:
        executor.open(str(options.out))
        yield executor


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return value


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers from 1")
    return value
