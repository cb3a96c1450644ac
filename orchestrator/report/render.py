"""From a Vega-Lite specification to SVG, PNG and PDF, the same bytes every time."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any, cast

import vl_convert as _vl_convert

from orchestrator.report.figures.chart import Figure

vl_convert = cast(Any, _vl_convert)

_PNG_SCALE = 3.0  # 1,400 pixels for a column: sharp in print at 300 dpi
_ID = re.compile(r'(?<=\bid=")[^"]+|(?<=url\(#)[^)]+|(?<=href="#)[^"]+')
_LINK = re.compile(r'<a xlink:href="[^"#]*#([\w-]+)"[^>]*>(<\w+)( aria-label="[^"]*")?')
_SPOKEN = re.compile(r' (?:role="graphics-\w+"|aria-roledescription="[^"]*"|aria-label="[^"]*")')
_RESOURCES = re.compile(rb"(?:^ +/[A-Za-z]+\d+ \d+ 0 R\n){2,}", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure in the three formats. The SVG carries title and description, and can stand inside a page."""

    svg: str
    png: bytes
    pdf: bytes


def draw(figure: Figure) -> Drawing:
    """All formats of a figure; PNG and PDF are made from the SVG, so the three cannot differ."""
    svg = _described(_linked(_numbered(cast(str, vl_convert.vegalite_to_svg(figure.spec)), figure.name)), figure)
    return Drawing(
        svg=svg,
        png=cast(bytes, vl_convert.svg_to_png(svg, scale=_PNG_SCALE)),
        pdf=_in_order(cast(bytes, vl_convert.svg_to_pdf(svg))),
    )


def _numbered(svg: str, name: str) -> str:
    """The renderer counts ids over the life of the process; here they count from 0 in each figure, under its name."""
    seen: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return seen.setdefault(match.group(), f"{name}-{len(seen)}")

    return _ID.sub(rename, svg)


def _linked(svg: str) -> str:
    """Marks that lead somewhere are links with a name and a tooltip; all others, which the renderer reads out too, are silent."""
    parts: list[str] = []
    end = 0
    for match in _LINK.finditer(svg):
        name = match[3] or ""
        title = f"<title>{name[len(' aria-label=') :].strip().strip(chr(34))}</title>" if name else ""
        parts += [_SPOKEN.sub("", svg[end : match.start()]), f'<a href="#{match[1]}"{name}>{title}{match[2]}']
        end = match.end()
    return "".join([*parts, _SPOKEN.sub("", svg[end:])])


def _in_order(pdf: bytes) -> bytes:
    """The renderer lists the resources of a page in the order of a hash table; sorted they take the same room."""
    return _RESOURCES.sub(lambda match: b"".join(sorted(match.group().splitlines(keepends=True))), pdf)


def _described(svg: str, figure: Figure) -> str:
    """With title and description as the first children, which is where readers of SVG look for them."""
    end = svg.index(">") + 1
    title, words = html.escape(figure.title, quote=False), html.escape(figure.alt, quote=False)
    return f"{svg[:end]}<title>{title}</title><desc>{words}</desc>{svg[end:]}\n"
