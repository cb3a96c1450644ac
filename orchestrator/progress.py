"""What a person sees while a study runs: a live table in a terminal, a line now and then elsewhere. All on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ArmProgress:
    """Where one arm stands, or what arms start from.

    Attributes:
        arm: Its name.
        phase: `upstream`, `tuning`, `replicates`, or `done`.
        done: Trials finished, whatever came of them.
        running: Trials that a worker holds.
        failed: Trials that failed for good, and replicates that diverged.
        total: Trials that the protocol gives the arm.
        steps_done: Optimizer steps done, of all its trials.
        steps_total: Optimizer steps that all its trials take.
    """

    arm: str
    phase: str
    done: int
    running: int
    failed: int
    total: int
    steps_done: float
    steps_total: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a study stands: its arms, and its workers by what they do."""

    arms: tuple[ArmProgress, ...]
    workers: int
    note: str = ""

    @property
    def done(self) -> int:
        """Trials finished."""
        return sum(arm.done for arm in self.arms)

    @property
    def total(self) -> int:
        """Trials that the study will have."""
        return sum(arm.total for arm in self.arms)

    @property
    def share(self) -> float:
        """Part of all steps that is done, 0 to 1."""
        total = sum(arm.steps_total for arm in self.arms)
        return sum(arm.steps_done for arm in self.arms) / total if total else 1.0


@contextlib.contextmanager
def bar(title: str, console: Console) -> Generator[Callable[[int, int], None]]:
    """A bar in a terminal, which is told how much is done, and of how much; nothing elsewhere."""
    with Bar(console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


class View:
    """Shows progress and the time left: at first what was expected, then ever more what the steps done so far took.

    Args:
        console: Where it is drawn.
        title: Name of the study.
        expected_s: Seconds that the run is expected to take; None where nothing is known.
    """

    def __init__(self, console: Console, title: str, *, expected_s: float | None = None) -> None:
        self._console, self._title, self._expected_s = console, title, expected_s
        self._began, self._first_share, self._last_line = time.monotonic(), -1.0, 0.0
        self._live: Live | None = None
        self._shown: str = ""

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """While inside, updates are drawn."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def update(self, progress: Progress, *, force: bool = False) -> None:
        """Draws the table, or prints a line when the last one is old enough and something has changed."""
        if self._first_share < 0:
            self._first_share, self._began = progress.share, time.monotonic()
        if self._live is not None:
            self._live.update(self._table(progress))
            return
        line = self._line(progress)
        now = time.monotonic()
        if force or (now - self._last_line >= LINE_EVERY_S and line != self._shown):
            self._last_line, self._shown = now, line
            self._console.print(line, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints a message above the table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self, progress: Progress) -> str:
        gained, elapsed = progress.share - self._first_share, time.monotonic() - self._began
        measured = (1.0 - progress.share) * elapsed / gained if gained >= 0.01 and elapsed >= 5.0 else None
        left = left_of(gained / (1.0 - self._first_share), elapsed, self._expected_s, measured) if progress.share < 1.0 else None
        return "" if left is None else f"about {duration(left)} left"

    def _line(self, progress: Progress) -> str:
        running = sum(arm.running for arm in progress.arms)
        failed = sum(arm.failed for arm in progress.arms)
        parts = [f"{progress.done}/{progress.total} trials", f"{running} running on {_count(progress.workers, 'worker')}"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{progress.share:.0%}", self._left(progress), progress.note]
        return f"{self._title}: " + " · ".join(part for part in parts if part)

    def _table(self, progress: Progress) -> RenderableType:
        table = Table(title=self._title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("arm", "", "trials", "running", "failed", ""):
            table.add_column(name, justify="right" if name in ("trials", "running", "failed") else "left")
        for arm in progress.arms:
            bar = ProgressBar(total=max(arm.steps_total, 1.0), completed=arm.steps_done, width=28)
            failed = Text(str(arm.failed), style="red") if arm.failed else Text("")
            table.add_row(Text(arm.arm), bar, f"{arm.done}/{arm.total}", str(arm.running or ""), failed, arm.phase)
        elapsed = duration(time.monotonic() - self._began)
        rate = _rate(progress, self._first_share, time.monotonic() - self._began)
        foot = [
            f"{progress.done}/{progress.total} trials",
            _count(progress.workers, "worker"),
            elapsed,
            rate,
            self._left(progress),
            progress.note,
        ]
        return Group(table, Text(" · ".join(part for part in foot if part), style="dim"))


def left_of(done: float, elapsed_s: float, expected_s: float | None, measured_s: float | None) -> float | None:
    """Seconds left: early on what was expected, since starting and compiling say nothing of the steps; then what was measured.

    Args:
        done: Share of this run's steps that is done, 0 to 1.
        elapsed_s: Since the run began.
        expected_s: Of the whole run; None where nothing is known.
        measured_s: Left by the rate so far; None where too little is done.

    >>> left_of(0.0, 30.0, 100.0, None), left_of(0.5, 50.0, 100.0, 50.0), left_of(0.5, 200.0, 100.0, 200.0), left_of(0.2, 9.0, None, 36.0)
    (70.0, 50.0, 200.0, 36.0)
    """
    if expected_s is None or expected_s <= 0.0 or elapsed_s >= expected_s:
        return measured_s
    if measured_s is None:
        return expected_s - elapsed_s
    trust = max(done, (elapsed_s / expected_s) ** 4)
    return trust * measured_s + (1.0 - trust) * (expected_s - elapsed_s)


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(42.4), duration(75), duration(7260)
    ('42 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 and whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def total_steps(arms: Sequence[ArmProgress]) -> float:
    """Steps that all arms take."""
    return sum(arm.steps_total for arm in arms)


def _rate(progress: Progress, first_share: float, elapsed_s: float) -> str:
    steps = (progress.share - first_share) * total_steps(progress.arms)
    return f"{steps / elapsed_s:,.0f} steps/s" if elapsed_s > 2 and steps > 0 else ""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
