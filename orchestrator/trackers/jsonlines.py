"""A study as text: one JSON object on a line for each finished trial, for `jq`, pandas and whatever comes later."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import cast

from orchestrator.durable import DamagedError, append_line, sealed, unsealed, write_whole
from orchestrator.keys import Json
from orchestrator.records import TrialRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.payload import Payload, finite, payload_of


class JsonLinesTracker:
    """Keeps `trials.jsonl`, a line for each trial, and `study.json`, the header, in a folder.

    A line holds `key`, `name`, `study`, `arm`, `tags`, `config`, `history` (an object for each rung), `summary`,
    `exit_code`, and `sha256` of all that. NaN and infinities are null. A damaged line costs itself: it is left out when the
    file is opened again, with a warning.
    """

    def __init__(self, folder: pathlib.Path, *, warn: Callable[[str], None]) -> None:
        """A tracker that writes to `folder` and passes on what goes wrong, in one line, to `warn`."""
        self._folder = folder
        self._warn = warn
        self._said: set[str] = set()
        self._lines: dict[str, bytes] = {}
        self._study: StudyHeader | None = None

    @property
    def name(self) -> str:
        return "jsonlines"

    @property
    def path(self) -> pathlib.Path:
        """The file of trials."""
        return self._folder / "trials.jsonl"

    def open(self, study: StudyHeader) -> None:
        self._study = study
        try:
            header = json.dumps(finite(dataclasses.asdict(study)), indent=1, ensure_ascii=False) + "\n"
            write_whole(self._folder / "study.json", header.encode())
            self._lines, damaged = _read(self.path)
            if damaged:
                self._say(f"{damaged} damaged lines are left out of {self.path}")
                write_whole(self.path, _whole(self._lines))
        except OSError as error:
            self._say(f"cannot write {self._folder}: {error}")

    def publish(self, trial: TrialRecord) -> bool:
        if self._study is None:
            raise ValueError("publish() comes after open()")
        line = _line(payload_of(self._study, trial))
        if self._lines.get(trial.key) == line:
            return True
        try:
            if trial.key in self._lines:  # it was published, changed since, and keeps its place
                write_whole(self.path, _whole({**self._lines, trial.key: line}))
            else:
                append_line(self.path, line)
        except OSError as error:
            self._say(f"cannot write {self.path}: {error}")
            return False
        self._lines[trial.key] = line
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)


def _line(payload: Payload) -> bytes:
    row = {
        "key": payload.key,
        "name": payload.name,
        "study": payload.group,
        "arm": payload.job_type,
        "tags": payload.tags,
        "config": payload.config,
        "history": [metrics for _, metrics in payload.rows],
        "summary": payload.summary,
        "exit_code": payload.exit_code,
    }
    return sealed(cast(Mapping[str, Json], finite(row)))


def _read(path: pathlib.Path) -> tuple[dict[str, bytes], int]:
    """Sound lines by key, and how many are damaged: cut by a killed process or a full disk, or changed on the disk."""
    lines: dict[str, bytes] = {}
    found = path.read_bytes().split(b"\n") if path.exists() else []
    for line in found:
        with contextlib.suppress(DamagedError, KeyError):
            lines[unsealed(line)["key"]] = line
    return lines, sum(1 for line in found if line) - len(lines)


def _whole(lines: Mapping[str, bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines.values())
