"""A study as text: one JSON object on a line for each finished trial, for `jq`, pandas and whatever comes later."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable

from orchestrator.records import TrialRecord
from orchestrator.trackers.base import StudyHeader
from orchestrator.trackers.payload import Payload, finite, payload_of


class JsonLinesTracker:
    """Keeps `trials.jsonl`, a line for each trial, and `study.json`, the header, in a folder.

    A line holds `key`, `name`, `study`, `arm`, `tags`, `config`, `history` (an object for each rung), `summary` and
    `exit_code`. NaN and infinities are null.
    """

    def __init__(self, folder: pathlib.Path, *, warn: Callable[[str], None]) -> None:
        """A tracker that writes to `folder` and passes on what goes wrong, in one line, to `warn`."""
        self._folder = folder
        self._warn = warn
        self._said: set[str] = set()
        self._lines: dict[str, str] = {}
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
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(self._folder / "study.json", json.dumps(finite(dataclasses.asdict(study)), indent=1, ensure_ascii=False) + "\n")
            self._lines = _read(self.path)
        except OSError as error:
            self._say(f"cannot write {self._folder}: {error}")

    def publish(self, trial: TrialRecord) -> bool:
        if self._study is None:
            raise ValueError("publish() comes after open()")
        line = _line(payload_of(self._study, trial))
        if self._lines.get(trial.key) == line:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if trial.key in self._lines:  # it was published, changed since, and keeps its place
                _write(self.path, "".join(f"{row}\n" for row in {**self._lines, trial.key: line}.values()))
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        except OSError as error:
            self._say(f"cannot write {self.path}: {error}")
            self._lines = _read(self.path)
            return False
        self._lines[trial.key] = line
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)


def _line(payload: Payload) -> str:
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
    return json.dumps(finite(row), allow_nan=False, ensure_ascii=False)


def _read(path: pathlib.Path) -> dict[str, str]:
    """Lines by key. A line that a killed process, or a full disk, left unfinished is cut off, and its trial written again."""
    lines: dict[str, str] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            lines[json.loads(line)["key"]] = line
        except (ValueError, KeyError, TypeError):
            continue
    whole = "".join(f"{line}\n" for line in lines.values())
    if whole != text:
        _write(path, whole)
    return lines


def _write(path: pathlib.Path, text: str) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
