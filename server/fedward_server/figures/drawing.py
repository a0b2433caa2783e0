"""How every figure is drawn: colours, line styles, the canvas, and the file that a page takes.

Colours come from the palette of Okabe and Ito (2008), which colour-blind readers can tell apart; line styles and
markers differ as well, so a greyscale print reads the same.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties, fontManager

from fedward_server.figures.blocks import ModelName

PANELS = 3  # in a row
MOST = 6  # panels; more labels stand in the table only
DOTS = 200  # of a PNG, an inch
INK, MUTED, RULE = "#1f2933", "#5b6770", "#d5dae0"


class Look(NamedTuple):
    """How a model is drawn everywhere."""

    colour: str
    line: str
    marker: str
    face: str
    width: float


LOOKS: dict[ModelName, Look] = {
    "local": Look("#c05a00", "--", "o", "white", 1.4),
    "federated": Look("#005b94", "-", "o", "#005b94", 2.0),
    "personal": Look("#7a3b8f", "-.", "s", "white", 1.4),
    "pooled": Look("#4d5761", ":", "D", "white", 1.6),
}
FONT = "DejaVu Sans"  # comes with matplotlib
HAN_FONTS = (  # Debian's places
    Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"),
    Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc"),
    Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc"),
)
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.family": FONT,
    "font.size": 9.5,
    "grid.color": "#e8ebee",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedward",
    "text.color": INK,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
    "ytick.major.size": 3,
    "ytick.major.width": 0.7,
}
SERIES = (  # of a figure whose lines are no models
    *LOOKS.values(),
    Look("#8f6a00", "-", "^", "#8f6a00", 1.4),
    Look("#00735c", "--", "v", "white", 1.4),
)


def line_style(look: Look, *, marked: bool = False) -> dict[str, Any]:
    """What matplotlib needs to draw a line, with its marker where it is `marked`."""
    stroke: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": look.width}
    if marked:
        stroke |= {"marker": look.marker, "markersize": 5.5, "markerfacecolor": look.face}
    return stroke


def add_legend(axes: Axes, *, loc: Literal["best", "lower left", "lower right", "upper left"]) -> None:
    """A legend that lets lines shine through, where there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=loc, facecolor="white", framealpha=0.85, frameon=True, edgecolor="none")


@cache
def _families() -> list[str]:
    """Our font, and one of this machine for Chinese, where it has one. matplotlib's list of fonts may be older."""
    for path in HAN_FONTS:
        if path.exists():
            fontManager.addfont(path)
            return [FONT, FontProperties(fname=path).get_name()]
    return [FONT]


_ONE_AT_A_TIME = threading.RLock()  # matplotlib's settings and fonts are the process's


@contextmanager
def new_canvas(inches: tuple[float, float], *, pixels: bool = False) -> Iterator[Canvas]:
    """A figure in our style, whatever the caller's matplotlib is set to. One thread draws at a time.

    `pixels` is for a file that holds no letters but their pictures: fonts of this machine draw those that ours has not.
    """
    with _ONE_AT_A_TIME, mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # names its own keys
        if pixels:
            mpl.rcParams["font.family"] = _families()
        # a hospital's name may be in any script: the reader's fonts draw it, ours only measure it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=inches, layout="constrained")
        FigureCanvasSVG(canvas)
        yield canvas


def panel_inches(many: int, height: float) -> tuple[float, float]:
    """Of a figure with so many panels: one is as wide as half a page, more fill it."""
    return (3.7 if many == 1 else 7.2, height * -(-many // PANELS))


def panels(canvas: Canvas, many: int) -> list[Axes]:
    """So many axes, row by row."""
    columns = min(many, PANELS)
    return [canvas.add_subplot(-(-many // columns), columns, index + 1) for index in range(many)]


def panel_title(axes: Axes, label: str, labels: Sequence[str]) -> None:
    """Name a panel where there are several."""
    if len(labels) > 1:
        axes.set_title(label, fontsize=9.5)


def svg_text(canvas: Canvas, name: str, alt: str, *, transparent: bool = True) -> str:
    """The figure as an <svg> element for a page: ids are unique to it, no prolog, no metadata, no address anywhere."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    if view is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    body = re.sub(r'(?<=\sid=")(?=[^"]*")', f"{name}-", body)
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    return f'<svg {view[0]} role="img" aria-label="{escape(alt)}">{body}'


def svg_file(canvas: Canvas, name: str, alt: str) -> str:
    """The figure as a file of its own, on a white ground for readers on a dark one."""
    text = svg_text(canvas, name, alt, transparent=False)
    return text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def png_file(canvas: Canvas) -> bytes:
    """The figure as pixels, on a white ground."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    return buffer.getvalue()
