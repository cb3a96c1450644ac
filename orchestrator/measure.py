"""What `plan --probe` does: measures the programs of a plan, keeps the measurements, and plans again with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.context import Context, plan_view
from orchestrator.driver import prepare_data
from orchestrator.errors import OrchestratorError
from orchestrator.ledger import Ledger
from orchestrator.plan_table import PlanView
from orchestrator.planned import PlannedCell
from orchestrator.probing import Measured, Measuring, measured

AGAIN_S = 2.0  # what took longer to compile than this is measured once more


def measure(context: Context, view: PlanView, console: Console) -> PlanView:
    """The plan with its programs measured on this machine; those that were are left alone.

    What took long to compile is measured once more: a trainer keeps what it compiled, and workers will find it there.

    Raises:
        OrchestratorError: Some could not be measured. The measurements of the others are kept.
    """
    cells = [row.cell for row in view.unmeasured]
    if not cells:
        return view
    prepare_data(context.trainer, view.plan)
    ledger = Ledger.open(context.storage)
    found = list(_measured(context, ledger, cells, view.workers, console))
    slow = {row.signature for row in found if max((probe.compile_s for probe in row.probes), default=0.0) > AGAIN_S}
    again = [cell for cell in cells if cell.signature in slow]
    found += _measured(context, ledger, again, view.workers, console, words=", now compiled")
    problems = [problem for row in found for problem in row.problems]
    if problems:
        raise OrchestratorError.of(dict.fromkeys(problems))
    devices = [probe.device for row in found for probe in row.probes]
    return plan_view(context, ledger, view.workers, device=devices[-1] if devices else "")


def _measured(
    context: Context, ledger: Ledger, cells: Sequence[PlannedCell], processes: int, console: Console, *, words: str = ""
) -> Iterator[Measured]:
    """Measures programs, keeps what comes as it comes, and shows how far that is."""
    from orchestrator.executors.local import LocalExecutor

    if not cells:
        return
    log = context.folder / "logs" / "probing.log"
    work = Measuring(study=context.study.name, trainer=context.trainer.name, cells=cells, processes=processes, log=log)
    with _bar(console, f"measuring {len(cells)} program{'' if len(cells) == 1 else 's'}{words}", len(cells)) as advance:
        for program in measured(work, LocalExecutor()):
            for probe in program.probes:
                ledger.probe_put(probe)
            advance()
            yield program


@contextlib.contextmanager
def _bar(console: Console, words: str, total: int) -> Generator[Callable[[], None]]:
    """A bar on a terminal, a line elsewhere; the function inside moves it on by one."""
    if not console.is_terminal:
        console.print(words, highlight=False)
        yield lambda: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(words, total=total)
        yield lambda: bar.advance(task)
