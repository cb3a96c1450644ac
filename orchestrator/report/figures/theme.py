"""What all figures share: sizes, fonts, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Okabe and Ito, Color Universal Design (2008), without its yellow and black: yellow cannot be seen on white, black is the baseline's.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
INK = "#1f2328"
MUTED = "#57606a"
GRID = "#d8dee4"
PAPER = "#ffffff"
GREY = "#8c959f"

# The first is what the renderer brings along; the others have the same widths where a browser lacks it.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
FONT_SIZE = 12
WIDTH = 360  # pixels of the plot itself: with its labels it is a column of a paper, and legible on a phone
HEIGHT = 260


def colors(arms: Sequence[str], baseline: str, leading: Sequence[str]) -> Mapping[str, str]:
    """A colour for each arm: ink for the baseline, the palette for the arms that lead, grey for the rest.

    Args:
        arms: Names in the order of the study file. A colour follows that order, not the ranking.
        baseline: Name of the baseline; may be empty.
        leading: Names by merit; as many as the palette has keep a colour.
    """
    others = [arm for arm in arms if arm != baseline]
    kept = frozenset([arm for arm in leading if arm != baseline][: len(PALETTE)])
    if len(others) <= len(PALETTE):
        kept = frozenset(others)
    palette = iter(PALETTE)
    return {arm: INK if arm == baseline else next(palette) if arm in kept else GREY for arm in arms}


def shapes(colors_of: Mapping[str, str]) -> Mapping[str, str]:
    """A shape for each arm, so that no figure speaks by colour alone."""
    named = dict(zip(PALETTE, _SHAPES, strict=True)) | {INK: "circle", GREY: "circle"}
    return {arm: named[color] for arm, color in colors_of.items()}


def config() -> dict[str, object]:
    """The Vega-Lite config of every figure."""
    return {
        "background": PAPER,
        "font": FONT,
        "padding": 6,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": FONT_SIZE,
            "titleFontSize": FONT_SIZE,
            "titleFontWeight": "normal",
            "titleColor": INK,
            "labelColor": INK,
            "gridColor": GRID,
            "domainColor": GREY,
            "tickColor": GREY,
            "titlePadding": 8,
            "labelFlush": False,
            "labelOverlap": True,
            "labelSeparation": 6,
        },
        "title": {"fontSize": FONT_SIZE, "fontWeight": "normal", "color": INK, "offset": 6},
        "legend": {"labelFontSize": FONT_SIZE, "labelColor": INK, "title": None, "orient": "bottom"},
        "text": {"font": FONT, "fontSize": FONT_SIZE, "fill": INK},
    }
