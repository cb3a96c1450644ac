"""What a person sees while a study runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator import progress as module
from orchestrator.progress import ArmProgress, Progress, View, duration


def arm(name: str = "E³", *, done: int = 2, steps: float = 300.0) -> ArmProgress:
    return ArmProgress(arm=name, phase="tuning", done=done, running=1, failed=1, total=8, steps_done=steps, steps_total=800.0)


def shown(*, terminal: bool, expected_s: float | None = None) -> tuple[View, io.StringIO]:
    text = io.StringIO()
    return View(Console(file=text, force_terminal=terminal, width=100, color_system=None), "study", expected_s=expected_s), text


def test_elsewhere_than_in_a_terminal_a_line_tells_all_and_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    view, text = shown(terminal=False)
    with view.shown():
        view.update(Progress(arms=(arm(),), workers=2))
        clock += 1
        view.update(Progress(arms=(arm(steps=400),), workers=2))
        clock += 19
        view.update(Progress(arms=(arm(steps=400),), workers=2))
    lines = text.getvalue().splitlines()
    assert lines[0] == "study: 2/8 trials · 1 running on 2 workers · 1 failed · 38%"
    assert lines[1:] == ["study: 2/8 trials · 1 running on 2 workers · 1 failed · 50% · about 1 min 20 s left"]


def test_the_time_left_begins_with_what_was_expected_and_ends_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    view, text = shown(terminal=False, expected_s=100.0)
    for clock, steps in ((0.0, 0.0), (40.0, 0.0), (60.0, 200.0), (300.0, 400.0)):  # noqa: B007 - the lambda above reads it
        view.update(Progress(arms=(arm(steps=steps),), workers=2), force=True)
    left = [line.rpartition("about ")[2] for line in text.getvalue().splitlines()]
    assert left == ["1 min 40 s left", "1 min left", "1 min 15 s left", "5 min left"]


def test_a_terminal_shows_a_table_with_a_bar_for_each_arm() -> None:
    view, text = shown(terminal=True)
    with view.shown():
        view.update(Progress(arms=(arm(), arm("V-MoE", done=8, steps=800)), workers=1))
    drawn = text.getvalue()
    assert "━" in drawn
    for part in ("E³", "V-MoE", "2/8", "8/8", "10/16 trials", "1 worker"):
        assert part in drawn


def test_a_study_without_trials_is_done() -> None:
    assert Progress(arms=(), workers=0).share == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (599, "9 min 59 s"), (3599, "59 min"), (7260, "2 h 1 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
