"""Puts the report on disk: every file whole, and only where its bytes change."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Sequence

from orchestrator.durable import write_whole
from orchestrator.errors import OrchestratorError
from orchestrator.keys import Json, content_key
from orchestrator.records import StudyRecord
from orchestrator.report.content import Content, content_of
from orchestrator.report.figures import Figure, figures
from orchestrator.report.latex import latex
from orchestrator.report.page import markdown, page
from orchestrator.report.sheet import sheet
from orchestrator.report.trials import trials_parquet

_MARK = b"<!-- drawn from "
_FIGURE_NAMES = ("effects", "frontier", "curves", "reliability", "load", "importance", "tuning", "tuning-*", "workers")


def write_report(
    record: StudyRecord, folder: pathlib.Path, *, said: Callable[[StudyRecord, Sequence[Figure]], Content] = content_of
) -> pathlib.Path:
    """Writes all files of a report into a folder and returns the path of `index.html`.

    Args:
        record: Of the study.
        folder: Is made where it is missing.
        said: What the page and the Markdown say around the figures.

    Raises:
        OrchestratorError: The folder cannot be written.
    """
    try:
        return _write(record, folder, said)
    except OSError as error:
        raise OrchestratorError(
            "the report cannot be written",
            found=str(error),
            expected="a folder that can be written, with room in it",
            fix="make room, then ask for the `report` again: it is made from the ledger alone",
        ) from error


def _write(record: StudyRecord, folder: pathlib.Path, said: Callable[[StudyRecord, Sequence[Figure]], Content]) -> pathlib.Path:
    drawn = figures(record)
    content = said(record, drawn)
    svgs = [_draw(figure, folder / "figures") for figure in drawn]
    for path in _stale(folder / "figures", drawn):
        path.unlink(missing_ok=True)
    _put(folder / "report.md", markdown(content, drawn).encode())
    _put(folder / "table.tex", latex(record).encode())
    _put(folder / "table.csv", sheet(record).encode())
    _put(folder / "trials.parquet", trials_parquet(record))
    index = folder / "index.html"
    _put(index, page(content, list(zip(drawn, svgs, strict=True))).encode())
    return index


def _draw(figure: Figure, folder: pathlib.Path) -> str:
    """The figure's SVG. What is on disk is not drawn again, if it is sound and was drawn from the same specification."""
    key, paths = _key(figure), _paths(figure, folder)
    if (found := _sound(key, paths)) is not None:
        return found
    from orchestrator.report.render import draw  # starting the renderer takes 0.6 s

    drawing = draw(figure)
    drawn = drawing.svg.encode()
    svg = drawn + _mark(key, drawn, drawing.png, drawing.pdf)
    for path, content in zip(paths, (svg, drawing.png, drawing.pdf), strict=True):
        _put(path, content)
    return svg.decode()


def _paths(figure: Figure, folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / f"{figure.name}.{suffix}" for suffix in ("svg", "png", "pdf")]


def _sound(key: str, paths: Iterable[pathlib.Path]) -> str | None:
    """The SVG on disk, if it and the other two formats are as they were drawn from that key."""
    with contextlib.suppress(OSError):
        svg, png, pdf = (path.read_bytes() for path in paths)
        drawn, _, _ = svg.rpartition(_MARK)
        if svg == drawn + _mark(key, drawn, png, pdf):
            return svg.decode()
    return None


def _mark(key: str, *files: bytes) -> bytes:
    """The last line of an SVG: what it was drawn from, and a hash of it and of the other two formats."""
    return _MARK + f"{key}, sha256 {hashlib.sha256(b'|'.join(files)).hexdigest()} -->\n".encode()


def _key(figure: Figure) -> str:
    from importlib.metadata import version

    parts: dict[str, Json] = {"spec": figure.spec, "title": figure.title, "alt": figure.alt, "renderer": version("vl-convert-python")}
    return content_key(parts)


def _stale(folder: pathlib.Path, drawn: tuple[Figure, ...]) -> list[pathlib.Path]:
    """Figures of an earlier report that this one does not have."""
    current = {figure.name for figure in drawn}
    found = (path for name in _FIGURE_NAMES for suffix in ("svg", "png", "pdf") for path in sorted(folder.glob(f"{name}.{suffix}")))
    return [path for path in found if path.stem not in current]


def _put(path: pathlib.Path, content: bytes) -> None:
    """Replaces the file in one step, unless it holds these bytes already."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    write_whole(path, content, sync=False)  # after a power cut the next report puts it right
