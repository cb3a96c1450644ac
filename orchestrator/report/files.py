"""Puts the report on disk: every file whole, and only where its bytes change."""

from __future__ import annotations

import os
import pathlib
import tempfile

from orchestrator.keys import Json, content_key
from orchestrator.records import StudyRecord
from orchestrator.report.content import content_of
from orchestrator.report.figures import Figure, figures
from orchestrator.report.latex import latex
from orchestrator.report.page import markdown, page
from orchestrator.report.sheet import sheet

_FIGURE_NAMES = ("effects", "frontier", "curves", "tuning", "tuning-*", "workers")


def write_report(record: StudyRecord, folder: pathlib.Path) -> pathlib.Path:
    """Writes all files of a report into a folder and returns the path of `index.html`."""
    content, drawn = content_of(record), figures(record)
    svgs = [_draw(figure, folder / "figures") for figure in drawn]
    for path in _stale(folder / "figures", drawn):
        path.unlink(missing_ok=True)
    _put(folder / "report.md", markdown(content, drawn).encode())
    _put(folder / "table.tex", latex(record).encode())
    _put(folder / "table.csv", sheet(record).encode())
    index = folder / "index.html"
    _put(index, page(content, list(zip(drawn, svgs, strict=True))).encode())
    return index


def _draw(figure: Figure, folder: pathlib.Path) -> str:
    """The figure's SVG. It names the specification that it was drawn from, so that what is on disk is not drawn again."""
    svg_path, png_path, pdf_path = (folder / f"{figure.name}.{suffix}" for suffix in ("svg", "png", "pdf"))
    mark = f"<!-- drawn from {_key(figure)} -->\n"
    if png_path.is_file() and pdf_path.is_file() and svg_path.is_file():
        svg = svg_path.read_text(encoding="utf-8")
        if svg.endswith(mark):
            return svg
    from orchestrator.report.render import draw  # starting the renderer takes 0.6 s

    drawing = draw(figure)
    _put(png_path, drawing.png)
    _put(pdf_path, drawing.pdf)
    _put(svg_path, (drawing.svg + mark).encode())  # last: it vouches for the other two
    return drawing.svg + mark


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
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
