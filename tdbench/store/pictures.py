"""A figure as PNG, SVG and PDF: the same figure gives the same bytes, and names are written in their own script."""

import io
import re
import warnings
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patheffects import Normal
from matplotlib.text import Text

from tdbench.errors import Note

# The names of fonts for what DejaVu Sans lacks, as systems and packages bring them; the first that are there serve.
FURTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("Droid Sans Fallback", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji"),
)
_here = set(get_font_names())
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in _here)],
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tdbench",
}


def render(figure: Figure, dpi: int) -> tuple[bytes, bytes]:
    """Return a figure as PNG and as SVG, its text as text.

    Args:
        figure: Made in a style that includes `STYLE`.
        dpi: Pixels per inch of the PNG.
    """
    pixels, vectors = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        FigureCanvasAgg(figure).print_figure(pixels, format="png", dpi=dpi)
        FigureCanvasSVG(figure).print_figure(vectors, format="svg", metadata={"Date": None})
    lacking = ""
    for one in told:
        if not (found := re.match(r"Glyph (\d+) ", str(one.message))):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        elif chr(int(found[1])) not in lacking:
            lacking += chr(int(found[1]))
    if lacking:
        warnings.warn(
            f"none of the fonts that are looked for here has {lacking}: the PNG shows boxes there, the SVG has "
            "them as text; install Noto Sans CJK, or another font for them",
            Note,
            stacklevel=2,
        )
    return pixels.getvalue(), vectors.getvalue()


def as_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF, in which text is drawn: publishers refuse the fonts that would be embedded otherwise.

    Args:
        figure: One that `render` has drawn; its text has other path effects afterwards.
    """
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # it imports fontTools, which takes half a second

    for text in figure.findobj(Text):
        text.set_path_effects([Normal()])
    pages = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has, `render` has told
        FigureCanvasPdf(figure).print_figure(
            pages, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        )
    return pages.getvalue()
