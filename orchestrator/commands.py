"""What each command of `launch.py` does."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestrator.context import Context, plan_view, planned, read_study
from orchestrator.crew import Crew, CrewOptions
from orchestrator.derived import damaged, measured, standing
from orchestrator.described import described, explained
from orchestrator.driver import Driver, Ending, prepare_data, unfinished
from orchestrator.edits import edits_told
from orchestrator.errors import OrchestratorError
from orchestrator.exits import DONE, INCOMPLETE, INTERRUPTED
from orchestrator.files import FOLDER, keep
from orchestrator.inputs import lost_parameters, stranded
from orchestrator.ledger import Ledger, LedgerUnavailableError, NoLedgerError, Patience
from orchestrator.logbook import Logbook
from orchestrator.measure import measure
from orchestrator.neighbours import present, strangers, welcome
from orchestrator.plan_table import PlanView, plan_json, plan_table, summary_lines
from orchestrator.progress import View, bar, duration
from orchestrator.provenance import launcher_provenance
from orchestrator.publisher import Publisher
from orchestrator.publishing import links_of
from orchestrator.records import StudyRecord
from orchestrator.spec import spec_of, study_record
from orchestrator.storage import hand_down, place_of
from orchestrator.trackers import ResolvedMode, WandbMode, resolve_mode


def run(options: argparse.Namespace) -> int:
    """Plans, trains what is missing, reports."""
    context = read_study(options)
    hand_down(context.storage)
    view = _view_before(context, options)
    mode = resolve_mode(options.wandb, os.environ)
    if view.work:
        prepare_data(context.trainer, view.plan)
    console = Console(stderr=True)
    if not _agreed(view, options, console):
        return DONE
    _check_folder(context.folder)
    _keep_files(context)
    drivers: list[Driver] = []
    hasty: Callable[[], bool] = lambda: any(driver.is_asked_to_stop for driver in drivers)  # noqa: E731
    ledger = Ledger.open(context.storage, patience=Patience(for_s=options.patience, say=_sayer(console), hasty=hasty))
    if view.work:
        options.executor.preload(context.trainer.name, log=context.folder / "logs" / "nursery.log")
    console.print("\n".join(summary_lines(view)), highlight=False, markup=False, soft_wrap=True)
    try:
        ending, complete = _drive(context, ledger, view, options, mode, console, drivers)
    except LedgerUnavailableError:
        if not hasty():
            _sayer(console)(f"nothing that the ledger has is lost. To go on, once it serves: {options.again}")
            raise
        ending, complete = Ending.INTERRUPTED, False
    if ending is Ending.INTERRUPTED:
        _sayer(console)(f"stopped; nothing is lost. To go on: {options.again}")
        return INTERRUPTED
    if ending is Ending.SUPERSEDED:
        _sayer(console)("ended; nothing is lost. The launcher of the edited study goes on with it")
        return INTERRUPTED
    record = _reported(context, ledger)
    page = _write_report(context, record)
    _show_result(record, page, options)
    if ending is Ending.STUCK:
        console.print(f"workers end before they get anything done: see {context.folder / 'logs'}", style="red", highlight=False)
    return DONE if complete else INCOMPLETE


def plan(options: argparse.Namespace) -> int:
    """Shows what a run would do."""
    context = read_study(options)
    view = _view_before(context, options)
    if options.probe:
        view = measure(context, view, Console(stderr=True))
    if options.json:
        print(json.dumps(plan_json(view), indent=1, ensure_ascii=False))
    else:
        _stdout().print(plan_table(view))
    for problem in view.data_problems:
        print(f"\n{problem}", file=sys.stderr)
    return DONE


def status(options: argparse.Namespace) -> int:
    """Shows where the study stands."""
    from orchestrator.status import status_json, status_table

    context = read_study(options)
    ledger, logs = _existing(context), context.folder / "logs"
    record = standing(stranded(_record(context, ledger, with_rungs=False), ledger, context.out))
    alive, troubles = ledger.live_workers(context.study.name), ledger.troubles(context.study.name)
    links = links_of(ledger, context.study.name)
    if options.json:
        document = {**status_json(record, alive, troubles, logs), "wandb": {"sweep": links.sweep_url, "report": links.report_url}}
        print(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _stdout().print(status_table(record, alive, troubles, logs), *map(Text, links.lines), sep="\n", soft_wrap=True)
    return DONE


def report(options: argparse.Namespace) -> int:
    """Writes the report again, or the one of this study beside another."""
    context = read_study(options)
    if options.compare:
        return _compare(context, options)
    record = _reported(context, _existing(context))
    _show_result(record, _write_report(context, record), options)
    return DONE


def _compare(context: Context, options: argparse.Namespace) -> int:
    """Sets the study beside another one of the same ledger."""
    from orchestrator.report import write_comparison

    other = read_study(argparse.Namespace(**{**vars(options), "study": options.compare, "set": []}))
    if other.study.name == context.study.name:
        raise OrchestratorError(
            "a study cannot be compared with itself", found=f"{context.study.name} twice", fix="give --compare the file of another study"
        )
    folder = context.folder / f"report-with-{other.study.name}"
    ours, theirs = (_reported(one, _existing(one)) for one in (context, other))
    done = write_comparison(ours, theirs, folder)
    if options.json:
        print(json.dumps(done, indent=1, ensure_ascii=False))
    else:
        _stdout().print(Text(str(done["answer"])), Text(f"report: {done['report']}"), sep="\n", soft_wrap=True)
    return DONE


def sync(options: argparse.Namespace) -> int:
    """Copies the study to W&B's server, after it was run without one or where that failed."""
    from orchestrator.sync import synchronise

    context = read_study(options)
    mode = resolve_mode("online", os.environ)
    if mode.mode is not WandbMode.ONLINE:
        raise OrchestratorError(
            "the study cannot be copied to W&B", found=mode.reason, fix="run `wandb login`, or set WANDB_API_KEY; then the same command"
        )
    ledger, console = _existing(context), Console(stderr=True)
    record = _record(context, ledger)
    _check_folder(context.folder)
    with bar("copying to W&B", console) as told:
        done = synchronise(ledger, record, context.folder, say=_sayer(console), told=told)
    if options.json:
        print(json.dumps(done.as_json(), indent=1, ensure_ascii=False))
    else:
        _stdout().print(*map(Text, done.lines()), sep="\n", soft_wrap=True)
    return DONE if done.is_complete else INCOMPLETE


def dashboard(options: argparse.Namespace) -> int:
    """Shows the study in the browser, until Ctrl-C."""
    from orchestrator.dashboard.serve import serving
    from orchestrator.report import write

    context = read_study(options)
    ledger, name = _existing(context), context.study.name
    _record(context, ledger, with_rungs=False)  # says so, where it was never run

    def stamp() -> object:
        return ledger.counts(name), ledger.reached(name)

    def page(folder: pathlib.Path) -> pathlib.Path:
        return write(_reported(context, ledger), folder)

    served = serving(options.port, stamp=stamp, read=lambda: _record(context, ledger), write=page)
    with contextlib.suppress(KeyboardInterrupt), served as address:
        print(f"dashboard: {address}dashboard\nreport:    {address}report/", flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        threading.Event().wait()
    return DONE


def stop(options: argparse.Namespace) -> int:
    """Asks the launcher and the workers of the study to stop."""
    context = read_study(options)
    _existing(context).request_stop(context.study.name, True)
    print(f"{context.study.name} was asked to stop; its workers write their checkpoints", file=sys.stderr)
    return DONE


def retry(options: argparse.Namespace) -> int:
    """Puts failed trials back in the queue, and finished ones whose predictions or parameters a disk has damaged since."""
    context = read_study(options)
    ledger = _existing(context)
    record = _record(context, ledger, with_rungs=False)
    torn = damaged(record, context.trainer, ledger, context.out) | lost_parameters(record, ledger, context.out)
    for reason in torn.values():
        print(reason, file=sys.stderr)
    count, redone = ledger.retry(context.study.name), ledger.redo(torn)
    also = f", and {redone} finished ones whose predictions or parameters cannot be read" if redone else ""
    print(f"{count} failed trials{also} are planned again; run the study to train them", file=sys.stderr)
    return DONE


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "plan": plan,
    "status": status,
    "report": report,
    "sync": sync,
    "dashboard": dashboard,
    "stop": stop,
    "retry": retry,
}


def _drive(
    context: Context,
    ledger: Ledger,
    before: PlanView,
    options: argparse.Namespace,
    mode: ResolvedMode,
    console: Console,
    drivers: list[Driver],
) -> tuple[Ending, bool]:
    """Runs the study; how that ended, and whether every trial has a result. Adds its driver to the drivers."""
    provenance = {**launcher_provenance(), **context.trainer.provenance()}
    view = View(console, context.study.name, expected_s=None if before.estimate is None else before.estimate.seconds)
    options.executor.say = view.say
    logbook = Logbook(ledger, before)
    crew_options = CrewOptions(
        study=context.study.name,
        trainer=context.trainer.name,
        ledger=ledger.where,
        out=context.out,
        workers=options.workers,
        provenance=provenance,
    )
    publisher = Publisher(context.study.name, ledger, folder=context.folder, mode=mode, say=view.say)
    planner = context.planner
    driver = Driver(
        planner,
        ledger,
        view,
        lambda plan: spec_of(planner.study, planner.trainer, planner.base, context.profile, plan, provenance),
        digest=context.digest,
    )
    drivers.append(driver)

    with publisher, contextlib.ExitStack() as stack:

        def start() -> None:
            alone = stack.enter_context(present(context.folder))
            if words := welcome(strangers(ledger, context.study.name, context.folder / "workers"), alone=alone):
                view.say(words)
            logbook.begin()
            publisher.start()
            stack.enter_context(edits_told(context.file, context.content, view.say))

        ending = driver.run(lambda: Crew(crew_options, ledger, options.executor, view.say), on_start=start)
        wall_s = logbook.end(ending.value)
        if ending is Ending.DONE:
            publisher.drain()
    if wall_s is not None and ending is Ending.DONE:
        expected = "" if before.estimate is None else f"; the plan said about {duration(before.estimate.seconds)}"
        console.print(f"took {duration(wall_s)}{expected}", highlight=False, soft_wrap=True)
    plan_now, outcomes = planned(planner, ledger)
    return ending, not unfinished(plan_now, outcomes) and not any(arm.pending for arm in plan_now.arms)


def _view_before(context: Context, options: argparse.Namespace) -> PlanView:
    try:
        ledger = _existing(context)
    except NoLedgerError:
        ledger = None
    return plan_view(context, ledger, options.workers)


def _agreed(view: PlanView, options: argparse.Namespace, console: Console) -> bool:
    """Whether an edited study may leave trials behind; asked on a terminal only, since nothing is deleted."""
    lines = _left_behind(view)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if lines and not options.yes and sys.stdin.isatty() and console.is_terminal:
        return console.input("Go on? \\[y/N] ").strip().lower() in ("y", "yes")
    if lines:
        console.print(f"going on: {'--yes was given' if options.yes else 'there is no terminal to ask on'}", highlight=False)
    return True


def _left_behind(view: PlanView) -> list[str]:
    """What happens to trials that were of the study before it was edited, a line for each kind."""
    finished = {place.key for place in view.difference.orphaned if place.state.is_terminal}
    others = {place.key for place in view.difference.orphaned} - finished
    kinds = (
        (finished, "finished", "kept, and used again if it asks for them"),
        (others, "running or waiting", "stopped at their next rung and kept, and go on from there if it asks for them"),
    )
    return [_told(len(keys), kind, fate) for keys, kind, fate in kinds if keys]


def _told(count: int, kind: str, fate: str) -> str:
    """A line about trials.

    >>> _told(1, "finished", "kept")
    '1 finished trial is no part of the study any more: kept'
    """
    noun = "trial is" if count == 1 else "trials are"
    return f"{count} {kind} {noun} no part of the study any more: {fate}"


def _existing(context: Context) -> Ledger:
    return Ledger.open(context.storage, create=False)


def _record(context: Context, ledger: Ledger, *, with_rungs: bool = True) -> StudyRecord:
    spec = ledger.study_spec(context.study.name)
    if spec is None:
        raise OrchestratorError(
            f"the ledger does not know the study {context.study.name!r}",
            found=place_of(context.storage),
            expected="a study that was run",
            fix="run the study first",
        )
    return study_record(spec, ledger.trial_records(context.study.name, with_rungs=with_rungs))


def _reported(context: Context, ledger: Ledger) -> StudyRecord:
    """The record, with all that a report tells beside results: derived arms, descriptions, causes, and how the study was run."""
    record = stranded(_record(context, ledger), ledger, context.out)
    record = explained(described(record, ledger, context.out), ledger)
    record = measured(record, context.trainer, ledger, context.out)
    return dataclasses.replace(record, runs=ledger.run_records(context.study.name))


def _write_report(context: Context, record: StudyRecord) -> pathlib.Path:
    from orchestrator.report import write

    folder = context.folder / "report"
    try:
        return write(record, folder)
    except OSError as error:
        raise _unwritable("the report cannot be written", folder, error) from error


def _show_result(record: StudyRecord, page: pathlib.Path, options: argparse.Namespace) -> None:
    from orchestrator.report import summary_json, terminal_table

    if options.json:
        document: dict[str, Any] = {**summary_json(record), "report": str(page)}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    console = _stdout()
    console.print(terminal_table(record))
    console.print(Text(f"report: {page}"), soft_wrap=True)


def _check_folder(folder: pathlib.Path) -> None:
    """Makes the study's folder, and writes to it once.

    Raises:
        OrchestratorError: Nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        raise _unwritable("the output folder cannot be written", folder, error) from error


def _keep_files(context: Context) -> None:
    """Copies the files that trials start from to where workers read them.

    Raises:
        OrchestratorError: There is no room, or a file was changed meanwhile.
    """
    try:
        keep(context.planner.contents, context.out)
    except OSError as error:
        raise _unwritable("the files that trials start from cannot be kept", context.out / FOLDER, error) from error


def _unwritable(what: str, folder: pathlib.Path, error: OSError) -> OrchestratorError:
    return OrchestratorError(
        what,
        found=f"{folder}: {error.strerror or error}",
        expected="a folder that can be written, with room in it",
        fix="make it writable or make room, or choose another folder with --out; then run the same command again",
    )


def _sayer(console: Console) -> Callable[[str], None]:
    """Prints a line, however long, as it is."""
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def _stdout() -> Console:
    """A console that writes whole tables into pipes and files, whatever the width of the terminal that is not there."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
