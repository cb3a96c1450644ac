"""Training one config alone, through the same code as in a study: `python -m trainers.vision --set optim.learning_rate=0.01`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from orchestrator.contract import (
    DamagedError,
    FlatConfig,
    Lane,
    OrchestratorError,
    Probe,
    Problem,
    Report,
    Trainer,
    Usage,
    Verdict,
    content_key,
    flatten,
    leaves,
    read_row,
    resolve,
    sealed,
    write_whole,
)

RESULT = "result.json"


class SoloHost:
    """A host with one lane, which prints what the lane reports. See `orchestrator.contract.Host`.

    Attributes:
        final: The final report, once it came.
        diverged: Step of the report that had a NaN or an infinity, if one had.
    """

    def __init__(self, lane: Lane) -> None:
        self.final: Report | None = None
        self.diverged: int | None = None
        self._waiting = [lane]
        self._asked_to_stop = False

    @property
    def stopping(self) -> bool:
        return self._asked_to_stop

    def stop(self) -> None:
        """Asks the trainer to checkpoint and return."""
        self._asked_to_stop = True

    def pull(self, n: int) -> Sequence[Lane]:
        lanes = self._waiting[:n]
        del self._waiting[:n]
        return lanes

    def report(self, reports: Sequence[Report]) -> Mapping[str, Verdict]:
        return {report.key: self._heard(report) for report in reports}

    def probed(self, probe: Probe) -> None:
        print(f"{probe.device}: ready after {probe.compile_s:.1f} s, {1e3 * probe.lane_step_s:.3g} ms a step", file=sys.stderr)

    def failed(self, key: str, error: Exception) -> None:  # noqa: ARG002 - there is one
        raise error

    def parked(self, keys: Sequence[str]) -> None:
        """Nothing pauses a lane that is alone."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def upcoming(self) -> FlatConfig | None:
        return None

    def probes(self) -> Sequence[Probe]:
        return ()

    def used(self, usage: Usage) -> None:
        """A single lane has no neighbours to share its time with."""

    def _heard(self, report: Report) -> Verdict:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
        print(f"step {report.step:>6}  {shown}", file=sys.stderr, flush=True)
        if not all(math.isfinite(value) for value in report.metrics.values()):
            self.diverged = report.step
            return Verdict.STOP
        if report.final:
            self.final = report
            return Verdict.FINISHED
        return Verdict.CONTINUE


def main(trainer: Trainer, arguments: Sequence[str] | None = None) -> NoReturn:
    """The command line of one trainer. Ends the process: 0 done, 1 diverged, 2 the user's error, 130 interrupted."""
    options = _parser(trainer).parse_args(arguments)
    try:
        sys.exit(_run(trainer, options))
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def read_config(
    trainer: Trainer, file: pathlib.Path | None, assignments: Sequence[str], *, base: FlatConfig | None = None
) -> dict[str, Any]:
    """The base, by default the trainer's defaults, then the file's keys, then each `key=value`, checked.

    Raises:
        OrchestratorError: Every problem of the config at once.
    """
    config: dict[str, Any] = dict(flatten(trainer.config_class()) if base is None else base)
    problems: list[Problem] = []
    sources = [(str(file), _read_json(file))] if file else []
    sources += [(f"--set {text}", _assignment(text)) for text in assignments]
    for where, overrides in sources:
        config, found = resolve(trainer.config_class, config, overrides, where=where)
        problems += found
    if not problems:
        problems += trainer.problems(config)
    if problems:
        raise OrchestratorError.of(problems)
    return config


def addressed(trainer: Trainer, config: FlatConfig) -> tuple[dict[str, Any], dict[str, pathlib.Path]]:
    """The config with what each file holds in the place of its path, as a study has it; and the paths, by key.

    Raises:
        OrchestratorError: A file cannot be read.
    """
    keys = [key for key, leaf in leaves(trainer.config_class).items() if leaf.setting.artifact and config[key]]
    paths = {key: pathlib.Path(str(config[key])).expanduser() for key in keys}
    return {**config, **{key: _address(key, path) for key, path in paths.items()}}, paths


def _address(key: str, path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise OrchestratorError(
            f"the file that {key} names cannot be read",
            found=f"{path}: {error.strerror or error}",
            expected="the path of a file",
            fix="correct the path: it is read from the working directory",
        ) from error


def _run(trainer: Trainer, options: argparse.Namespace) -> int:
    config = read_config(trainer, options.config, options.set)
    if options.print_config:
        print(json.dumps(config, indent=2, ensure_ascii=False))
        return 0
    config, inputs = addressed(trainer, config)
    cell = content_key({"trainer": trainer.name, "version": trainer.version, "config": config})
    key = content_key({"cell": cell, "seed": options.seed})  # the key that the trial has in a study
    lane = Lane(key=key, config=config, seed=options.seed, folder=options.out / key, inputs=inputs)
    result = lane.folder / RESULT
    if not _is_sound(result):
        _make(lane.folder)
        if trainer.data_problem(config):
            trainer.prepare(config)
        host = _trained(trainer, lane)
        if host.diverged is not None:
            print(f"diverged at step {host.diverged}: lower the learning rate, or clip harder", file=sys.stderr)
            return 1
        if host.final is None:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
        _write_result(result, trainer, lane, host.final)
    print(result.read_text("utf-8"), end="")
    return 0


def _trained(trainer: Trainer, lane: Lane) -> SoloHost:
    """Trains the lane. Ctrl-C once lets it checkpoint, twice does not wait."""
    host = SoloHost(lane)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        if host.stopping:
            sys.exit(130)
        host.stop()
        # Not by print: the signal may have come in the middle of one, and Python's streams refuse to be entered twice.
        os.write(2, b"stopping: saving a checkpoint (again to leave at once)\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.train(host)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return host


def _make(folder: pathlib.Path) -> None:
    """Makes the lane's folder, and writes to it once: before anything is trained."""
    try:
        write_whole(folder / "writable", b"")
        (folder / "writable").unlink()
    except OSError as error:
        raise OrchestratorError(
            "the output folder cannot be written",
            found=f"{folder}: {error.strerror or error}",
            expected="a folder that can be written, with room in it",
            fix="make it writable, or choose another folder with --out",
        ) from error


def _is_sound(result: pathlib.Path) -> bool:
    """The result is there, as it was written. A damaged one is computed again."""
    try:
        read_row(result)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, DamagedError) as error:
        print(f"{result} is passed over: {error}", file=sys.stderr)
        return False
    return True


def _write_result(file: pathlib.Path, trainer: Trainer, lane: Lane, final: Report) -> None:
    document = {
        "key": lane.key,
        "trainer": trainer.name,
        "seed": lane.seed,
        "steps": trainer.steps(lane.config),
        "metrics": {**final.metrics, **trainer.cost(lane.config)},
        "artifacts": dict(final.artifacts),
        "config": lane.config,
        "inputs": {key: str(path) for key, path in lane.inputs.items()},
        "provenance": dict(trainer.provenance()),
    }
    try:
        write_whole(file, sealed(document, indent=2) + b"\n")
    except OSError as error:
        raise OrchestratorError(
            f"the result cannot be written to {file}", found=str(error), fix="make room, or choose another folder with --out"
        ) from error


def _parser(trainer: Trainer) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {trainer.name.partition(':')[0]}",
        description="Trains one config. Progress goes to stderr, the result to stdout as JSON. The same command again goes on.",
        epilog="\n".join(["config keys:", *_keys(trainer)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=pathlib.Path, metavar="FILE", help="JSON object of dotted keys and values")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="fixes initialisation, data order and every random draw (default 0)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/solo"), metavar="DIR", help="default runs/solo")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and leave")
    return parser


def _keys(trainer: Trainer) -> list[str]:
    defaults: FlatConfig = flatten(trainer.config_class())
    rows = [(key, json.dumps(defaults[key]), leaf.setting.help) for key, leaf in leaves(trainer.config_class).items()]
    # argparse reads a percent sign in an epilog as a format.
    return [f"  {key} = {default}\n      {text}".replace("%", "%%") for key, default, text in rows]


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise OrchestratorError(f"no such file: {file}", fix="check the path after --config") from error
    except ValueError as error:
        raise OrchestratorError(f"{file} is not JSON", found=str(error), fix="write it as --print-config does") from error
    if not isinstance(document, dict):
        raise OrchestratorError(f"{file} does not hold a config", expected='an object, such as {"train.steps": 100}')
    return document


def _assignment(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise OrchestratorError("--set takes KEY=VALUE", found=text, expected="train.steps=100", fix="put = between key and value")
    try:
        return {key: json.loads(value)}
    except ValueError:
        return {key: value}  # a bare word is a string
