"""Noticing that a study file was edited."""

from __future__ import annotations

import os
import pathlib

import pytest

from orchestrator import edits
from orchestrator.edits import EDITED, content_of, edits_told
from tests.waiting import eventually

EVERY_S = 0.01


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "study.py"
    path.write_text("one")
    return path


def test_an_edit_is_told_once(file: pathlib.Path) -> None:
    said: list[str] = []
    with edits_told(file, content_of(file), said.append, every_s=EVERY_S):
        for text in ("two", "three", "four"):
            file.write_text(text)
            eventually(lambda: said)
    assert said == [EDITED]


def test_an_edit_between_reading_the_file_and_starting_to_look_is_told(file: pathlib.Path) -> None:
    content, said = content_of(file), list[str]()
    file.write_text("two")
    with edits_told(file, content, said.append, every_s=EVERY_S):
        eventually(lambda: said)


def test_a_file_that_is_replaced_is_noticed_whatever_its_times(file: pathlib.Path) -> None:
    """Many editors write a new file and rename it; some tools set its time back."""
    content, said, times = content_of(file), list[str](), file.stat()
    with edits_told(file, content, said.append, every_s=EVERY_S):
        new = file.with_name("new")
        new.write_text("two")
        os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
        new.replace(file)
        eventually(lambda: said)


def test_a_file_that_is_touched_or_away_or_written_as_it_was_is_not_edited(file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, read = list[str](), list[str]()
    monkeypatch.setattr(edits, "content_of", lambda path: read.append(content_of(path)) or read[-1])
    with edits_told(file, content_of(file), said.append, every_s=EVERY_S):
        for change in (lambda: os.utime(file), lambda: (file.unlink(), file.write_text("one"))):
            before = len(read)
            change()
            eventually(lambda before=before: len(read) > before)
    assert not said
