"""Figures: valid specifications, names that cover nothing, and axes that are right about their pixels."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

import altair
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.report.figures import figures, theme
from orchestrator.report.figures.chart import Figure, Scale, log_marks
from orchestrator.report.figures.labels import Box, place, short_names, spread, text_width
from orchestrator.report.render import draw
from tests.studyrecords import ABLATION, study_record, with_descriptions, with_runs

AREA = Box(left=0, top=0, right=400, bottom=300)
spots = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=10)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(with_runs(with_descriptions(study_record())))}


def test_a_study_has_these_figures(drawn: dict[str, Figure]) -> None:
    assert list(drawn) == ["effects", "frontier", "curves", "reliability", "load", "importance", "tuning", "workers"]


@pytest.mark.parametrize("name", ["effects", "frontier", "curves", "reliability", "load", "importance", "tuning", "workers"])
def test_a_specification_is_valid_vega_lite(name: str, drawn: dict[str, Figure]) -> None:
    chart: Any = altair.Chart.from_dict(dict(drawn[name].spec), validate=True)
    assert chart.to_dict(validate=True)


@pytest.mark.parametrize("name", ["effects", "frontier", "curves", "tuning"])
def test_a_figure_says_in_words_what_it_shows(name: str, drawn: dict[str, Figure]) -> None:
    figure = drawn[name]
    assert figure.title
    assert figure.caption.endswith(".")
    assert figure.alt.endswith(".")
    assert "E³" in figure.alt
    svg = draw(figure).svg
    assert svg.index("<title>") < svg.index("<desc>") < svg.index("<g")


def test_no_mark_wants_a_canvas_of_its_own(drawn: dict[str, Figure]) -> None:
    """What is see-through as a whole is laid out apart by the renderer: a thousand lines took it 40 s."""
    many = {figure.name: figure for figure in figures(study_record([dataclasses.replace(ABLATION[0], name=f"{n}") for n in range(12)]))}
    assert "others are grey" in many["curves"].caption
    for figure in (drawn["curves"], many["curves"], drawn["load"]):
        see_through = set(re.findall(r' opacity="([^"]*)"', draw(figure).svg))
        assert see_through <= {"1"}, figure.name


def test_the_bar_of_the_workers_names_every_part_with_its_share(drawn: dict[str, Figure]) -> None:
    figure = drawn["workers"]
    assert figure.title == "What the workers did: 5.7 min of 5 workers"
    svg = draw(figure).svg
    assert svg.index("<title>") < svg.index("<desc>") < svg.index("<g")
    shares = figure.alt.removesuffix(".").partition(": ")[2].split(", ")
    assert len(shares) == 7
    for part in shares:
        assert f">{part}</text>" in svg
    assert sum(float(part.split()[-2]) for part in shares) == pytest.approx(100, abs=4)


def test_drawing_twice_in_one_process_gives_the_same_bytes(drawn: dict[str, Figure]) -> None:
    for name in ("curves", "frontier"):  # the bands of curves are what PDF keeps in a table of its own
        assert len({draw(drawn[name]).pdf for _ in range(4)}) == 1
        assert draw(drawn[name]) == draw(drawn[name])


def test_figures_name_every_arm_where_it_is_drawn(drawn: dict[str, Figure]) -> None:
    for name in ("effects", "frontier", "curves", "tuning"):
        svg = draw(drawn[name]).svg
        for arm in ABLATION:
            assert f">{arm.name}</text>" in svg or (name == "effects" and arm.baseline), (name, arm.name)


@settings(deadline=None)
@given(spots)
def test_names_cover_no_obstacle_and_no_other_name(points: list[tuple[float, float]]) -> None:
    texts = [f"arm {index}" for index in range(len(points))]
    marks = [Box(left=x - 6, top=y - 6, right=x + 6, bottom=y + 6) for x, y in points]
    found = [label for label in place(points, texts, marks, area=AREA) if label is not None]
    boxes = [Box(left=label.x, top=label.y - 6, right=label.x + text_width(label.text), bottom=label.y + 6) for label in found]
    assert all(box.within(AREA) for box in boxes)
    assert not any(box.meets(mark) for box in boxes for mark in marks)
    assert not any(box.meets(other) for index, box in enumerate(boxes) for other in boxes[:index])


@given(st.lists(st.floats(0, 300), max_size=30))
def test_names_of_curves_keep_their_order_and_their_distance(heights: list[float]) -> None:
    moved = spread(heights, low=0, high=300, distance=14)
    order = sorted(range(len(heights)), key=lambda index: (heights[index], index))
    gaps = [moved[after] - moved[before] for before, after in itertools.pairwise(order)]
    assert all(gap >= min(14, 300 / max(1, len(heights) - 1)) - 1e-6 for gap in gaps)
    assert all(-1e-6 <= height <= 300 + 1e-6 for height in moved)


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=8, unique=True))
def test_short_names_stay_apart(names: list[str]) -> None:
    short = short_names(names)
    assert list(short) == names
    assert len(set(short.values())) == len(names)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_an_axis_holds_its_values_with_room_to_spare(values: list[float]) -> None:
    scale = Scale.over(values, (0, 100))
    assert all(0 < scale.pixel(value) < 100 for value in values)
    assert scale.log == (max(values) / min(values) > 4)


@pytest.mark.parametrize("values", [[0.0], [-1.0, -1.0], [0.0, 1e-300], [5.0, 5.0]])
def test_an_axis_of_one_value_has_a_length(values: list[float]) -> None:
    scale = Scale.over(values, (0, 100))
    assert scale.low < scale.high
    assert math.isfinite(scale.pixel(values[0]))


@given(st.floats(1e-9, 1e9), st.floats(4.1, 1e6))
def test_a_logarithmic_axis_has_marks(low: float, ratio: float) -> None:
    marks = log_marks(low, low * ratio, about=4)
    assert 1 <= len(marks) <= 8
    assert all(low <= mark <= low * ratio for mark in marks)


def test_colours_follow_the_study_file_and_the_baseline_is_ink() -> None:
    names = [f"arm {index}" for index in range(12)]
    colors = theme.colors(names, "arm 3", leading=["arm 9", "arm 3", "arm 1", "arm 0", "arm 2", "arm 4", "arm 5", "arm 6"])
    assert colors["arm 3"] == theme.INK
    assert [name for name in names if colors[name] in theme.PALETTE] == ["arm 0", "arm 1", "arm 2", "arm 4", "arm 5", "arm 9"]
    assert colors["arm 11"] == theme.GREY
    assert len({theme.shapes(colors)[name] for name in ("arm 0", "arm 1", "arm 2", "arm 3", "arm 4", "arm 5", "arm 9")}) == 7
