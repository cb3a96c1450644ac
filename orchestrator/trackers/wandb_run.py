"""One W&B run that is open: rows go into it as they are known, each once, and then its end."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.trackers.payload import Payload
from orchestrator.trackers.wandb_library import config, tags, upload_problem


class OpenRun:
    """A run of the library, and how far it is filled."""

    def __init__(self, run: Any, payload: Payload, *, first: int) -> None:
        """Takes a run that was just started with a payload; rows before step `first` are there already, or are not wanted."""
        self._run, self._started_as = run, payload
        self._next = first

    @property
    def path(self) -> pathlib.Path:
        """The file that the library keeps of it."""
        return pathlib.Path(self._run.settings.sync_file)

    @property
    def next_step(self) -> int:
        """Rows from this step on are missing."""
        return self._next

    def is_named_as(self, payload: Payload) -> bool:
        """Name, study and arm are those it was started with; they cannot be changed in an open run."""
        then = self._started_as
        return (then.name, then.group, then.job_type) == (payload.name, payload.group, payload.job_type)

    def fill(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Logs the rows that it lacks. Steps are explicit, and a row is closed at once: what is logged is what a kill leaves."""
        for step, row in rows:
            if step >= self._next:
                self._run.log(dict(row), step=step, commit=True)
                self._next = step + 1

    def finish(self, payload: Payload) -> str:
        """Fills it and ends it; why the server did not take all of it, or empty."""
        try:
            self.fill(payload.rows)
            if payload != self._started_as:
                self._run.config.update(config(payload), allow_val_change=True)
                self._run.tags = tuple(tags(payload))
            self._run.summary.update(dict(payload.summary))
        finally:
            self._run.finish(exit_code=payload.exit_code)
        return upload_problem(pathlib.Path(self._run.settings.log_internal))

    def let_go(self) -> None:
        """Ends it as interrupted: its trial goes on later, in the same run."""
        self._run.mark_preempting()
        self._run.finish(exit_code=1)
