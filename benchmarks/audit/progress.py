"""How far the audit is: a bar on a terminal; a line for each round everywhere, on stderr."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """A bar at a time. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def begin(self, title: str, total: int) -> None:
        """Puts a new bar in the place of the former one."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.add_task(title, total=total)

    def advance(self) -> None:
        """One kill more."""
        for task in self._bars.task_ids:
            self._bars.advance(task)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
