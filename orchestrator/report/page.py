"""The page and the Markdown, from their templates."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import cast

import jinja2
import markupsafe

from orchestrator.report.content import Content
from orchestrator.report.figures.chart import Figure

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def page(content: Content, figures: Sequence[tuple[Figure, str]]) -> str:
    """One file of HTML that loads nothing. Figures come with their SVG."""
    drawn = [(figure, markupsafe.Markup(svg)) for figure, svg in figures]  # made by the renderer, which escapes names
    environment = _environment(autoescape=True)
    script = environment.get_template("page.js").render()
    # The page allows this one script and no request at all: what else a name may smuggle in, browsers do not run.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    words = {"script": markupsafe.Markup(script), "script_hash": markupsafe.Markup(allowed)}
    return environment.get_template("page.html.j2").render(content=content, figures=drawn, **words)


def markdown(content: Content, figures: Sequence[Figure]) -> str:
    """GitHub's Markdown, with the figures beside it."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(content=content, figures=figures)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, in a table too.

    >>> print(markdown_text("a|b *c* <script>"))
    a\|b \*c\* \<script\>
    """
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cast(dict[str, object], environment.filters)["md"] = markdown_text  # pyright: ignore[reportUnknownMemberType]
    return environment
