"""The report's page in a real browser: safe, silent, readable everywhere, and it answers when pointed at."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.report import write
from tests.studyrecords import ABLATION, study_record, with_descriptions, with_runs

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NASTY = "<script>alert(1)</script>"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Generator[Any]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(PROGRAMS)} is on PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The page of a study that has every section, and a name and an arm that would run if they could."""
    arms = [dataclasses.replace(arm, name=NASTY if arm.name == "E³" else arm.name) for arm in ABLATION]
    record = with_runs(with_descriptions(study_record(arms, name=NASTY, replicates=3, tune_trials=3, rungs=2)))
    return write(record, tmp_path_factory.mktemp("report"))


@dataclasses.dataclass(slots=True)
class Heard:
    """What a page did beside being shown."""

    requests: list[str] = dataclasses.field(default_factory=list)
    console: list[str] = dataclasses.field(default_factory=list)
    dialogs: list[str] = dataclasses.field(default_factory=list)


@contextmanager
def opened(chromium: Any, report: pathlib.Path, **options: Any) -> Iterator[tuple[Any, Heard]]:
    """The page in a window of its own, as `new_context` takes it, and what it does."""
    context = chromium.new_context(**{"viewport": WIDE, **options})
    page, heard = context.new_page(), Heard()
    page.on("request", lambda request: heard.requests.append(request.url))
    page.on("console", lambda message: heard.console.append(message.text))
    page.on("pageerror", lambda error: heard.console.append(str(error)))
    page.on("dialog", lambda dialog: (heard.dialogs.append(dialog.message), dialog.dismiss()))
    page.set_default_timeout(15_000)
    page.goto(report.as_uri())
    yield page, heard
    context.close()


def point(page: Any, arm: str = "V-MoE", figure: str = "frontier") -> Any:
    return page.locator(f"#{figure} svg a[aria-label^='{arm}:']").first


@pytest.fixture(scope="module")
def wide(chromium: Any, report: pathlib.Path) -> Iterator[tuple[Any, Heard]]:
    with opened(chromium, report) as both:
        yield both


def test_a_page_asks_for_nothing_and_complains_of_nothing(wide: tuple[Any, Heard], report: pathlib.Path) -> None:
    page, heard = wide
    point(page).hover()
    page.keyboard.press("Escape")
    assert [url for url in heard.requests if not url.startswith("data:")] == [report.as_uri()]
    assert heard.console == []


def test_a_study_and_an_arm_named_script_stay_text(wide: tuple[Any, Heard]) -> None:
    page, heard = wide
    assert page.title() == NASTY
    assert page.locator(".study").text_content() == NASTY
    assert page.evaluate("document.scripts.length") == 1
    named = page.locator("#arms th[scope=row]", has_text=NASTY).first
    named.locator("a").hover()
    assert NASTY in page.locator("#card").inner_text()
    assert page.locator("#card script").count() == 0
    page.keyboard.press("Escape")
    assert heard.dialogs == []


def test_no_script_but_the_page_s_own_runs(chromium: Any, report: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Had a name slipped through unescaped, the policy would stop it."""
    torn = tmp_path / "index.html"
    torn.write_text(
        report.read_text("utf-8").replace("</main>", "<script>document.title = 'run'</script><img src=x onerror=alert(2)></main>")
    )
    with opened(chromium, torn) as (page, heard):
        assert page.title() == NASTY
        assert heard.dialogs == []
        assert sum("Content Security Policy" in line for line in heard.console) >= 2


@pytest.mark.parametrize("figure", ["effects", "frontier", "curves", "calibration", "members"])
def test_a_mark_that_is_pointed_at_shows_its_cell(figure: str, wide: tuple[Any, Heard]) -> None:
    page, _ = wide
    arm = "Tiling"
    mark = point(page, arm, figure)
    mark.scroll_into_view_if_needed()
    mark.locator("path").first.dispatch_event("pointermove", {"pointerType": "mouse", "bubbles": True})
    card = page.locator("#card")
    assert card.is_visible()
    assert card.locator("h4").inner_text() == arm
    assert "model.tile = True" in card.inner_text()
    assert card.locator("tbody tr").count() == 3
    assert len(card.locator("tbody code").first.inner_text()) == 20
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= WIDE["width"]
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= WIDE["height"]
    page.keyboard.press("Escape")
    assert card.is_hidden()


def test_the_pointer_alone_shows_the_cell_and_dims_the_other_arms(wide: tuple[Any, Heard]) -> None:
    page, _ = wide
    point(page).hover()
    assert page.locator("#card h4").inner_text() == "V-MoE baseline"
    dimmed = page.locator("#curves svg.dimmed a:not(.on)")
    assert dimmed.count() == len(ABLATION) - 1
    assert float(dimmed.first.evaluate("a => getComputedStyle(a).opacity")) < 0.5
    page.locator("h1").hover()
    assert page.locator("#card").is_hidden()
    assert page.locator("svg.dimmed").count() == 0


def test_the_keyboard_reaches_every_mark(wide: tuple[Any, Heard]) -> None:
    page, _ = wide
    mark = point(page)
    mark.focus()
    assert page.locator("#card h4").inner_text() == "V-MoE baseline"
    assert mark.get_attribute("aria-describedby") == "card"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#frontier') !== null")
    assert page.locator("#card h4").inner_text() != "V-MoE baseline"
    page.keyboard.press("Escape")


def test_without_scripts_marks_are_links_with_tooltips(chromium: Any, report: pathlib.Path) -> None:
    with opened(chromium, report, java_script_enabled=False) as (page, _):
        mark = point(page)
        assert "test NLL" in (mark.locator("title").text_content() or "")
        mark.locator("path").click()
        assert page.url.endswith("#cell-1")
        assert page.locator("#cell-1").is_visible()
        assert page.locator("svg").count() >= 6


def test_a_touch_shows_the_cell_and_a_second_one_goes_there(chromium: Any, report: pathlib.Path) -> None:
    with opened(chromium, report, viewport=PHONE, has_touch=True, is_mobile=True) as (page, _):
        name = page.locator("#arms tbody th a").nth(1)
        name.tap()
        assert page.locator("#card").is_visible()
        assert not page.url.endswith("#cell-1")
        name.tap()
        assert page.url.endswith("#cell-1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_is_wider_than_the_window_and_text_stands_out(
    scheme: str, size: dict[str, int], chromium: Any, report: pathlib.Path
) -> None:
    with opened(chromium, report, viewport=size, color_scheme=scheme) as (page, _):
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        for selector in ("p", ".note", "td .se", "figcaption", ".study", "#frontier svg text"):
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """Of the first text that the selector finds, against the page. Source: WCAG 2.2, relative luminance and contrast ratio."""
    ink = page.locator(selector).first.evaluate("e => e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color")
    paper = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_prints_black_on_white_with_nothing_folded(chromium: Any, report: pathlib.Path) -> None:
    with opened(chromium, report, color_scheme="dark") as (page, _):
        page.emulate_media(media="print")
        assert page.locator("nav").is_hidden()
        assert contrast(page, "h1") > 15
        pdf = page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
        assert page.locator("details:not([open])").count() == 0


def test_tables_and_figures_say_what_they_are(wide: tuple[Any, Heard]) -> None:
    page, _ = wide
    tables = page.evaluate(
        "Array.from(document.querySelectorAll('table'), t => [t.caption?.textContent ?? '', "
        "Array.from(t.querySelectorAll('th')).every(h => h.scope), t.querySelectorAll('tbody th').length > 0])"
    )
    assert tables
    assert [row for row in tables if not (row[0] and row[1] and row[2])] == []
    assert (
        page.evaluate("Array.from(document.querySelectorAll('.drawing'), d => d.getAttribute('aria-label').length > 20)").count(False) == 0
    )
    assert page.evaluate("Array.from(document.querySelectorAll('.scroll'), d => d.tabIndex === 0 && !!d.ariaLabel)").count(False) == 0
    targets = page.evaluate("Array.from(document.querySelectorAll('a'), a => document.querySelector(a.getAttribute('href')) !== null)")
    assert targets.count(False) == 0
