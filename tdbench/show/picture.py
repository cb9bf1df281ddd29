"""The picture of a gallery: a row per image, and side by side the input, a site's maps, and what each method drops.

Dropped units are marked by a colour and a hatch, so that they stand out in grey print too; the colours are Okabe and
Ito's, which are safe for the colour-blind. The figure is 12 inches wide, to be read at 1200 pixels.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from torch import Tensor

from tdbench.show.drops import Drops
from tdbench.show.gallery import Gallery
from tdbench.store import pictures
from tdbench.user_code import short_name

# Inches. Small print holds about 16 characters per inch, a heading 11.
WIDTH, MARGIN, GAP, GROUP_GAP, LARGEST_SIDE, LINE = 12.0, 0.15, 0.05, 0.2, 1.3, 0.165
SMALL, HEADING, TITLE = 8.5, 9.5, 12  # points
DPI = 200

DROPPED: dict[str, Any] = {"facecolor": "#D55E00", "edgecolor": "white", "hatch": "//////", "linewidth": 0}
DAMPED: dict[str, Any] = {"facecolor": "#56B4E9", "edgecolor": "white", "hatch": "......", "linewidth": 0}
GREYS = LinearSegmentedColormap.from_list("greys", ["#ffffff", "#969696"])  # lighter than the marks
STYLE = {
    "font.size": SMALL,
    "axes.linewidth": 0.5,
    "hatch.linewidth": 0.7,
}


@dataclass(frozen=True, eq=False)
class Panel:
    """An image or a map, (H, W) or (H, W, 3), with its marks and the label above it."""

    name: str
    label: str
    pixels: Tensor
    cmap: Any
    norm: Normalize
    drops: Drops | None = None
    marked: tuple[Any, ...] = ()  # sample and channel in the tensors of `drops`


@dataclass(frozen=True, eq=False)
class Group:
    """Columns under one heading; `panels` has a list for each row."""

    heading: str
    about: str
    panels: list[list[Panel]]


class Sheet:
    """A figure that is filled from its upper left corner, in inches."""

    def __init__(self, height: float) -> None:
        self.figure, self.height = Figure(figsize=(WIDTH, height)), height

    def axes(self, left: float, top: float, width: float, height: float, name: str) -> Axes:
        """Return axes in this place, in inches from the upper left corner, labelled `name`."""
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(box, label=name)

    def write(self, x: float, top: float, lines: Sequence[str], **look: Any) -> None:
        """Write lines of text, each on its own baseline."""
        for number, line in enumerate(lines):
            self.figure.text(x / WIDTH, 1 - (top + (number + 0.75) * LINE) / self.height, line, **look)


in_own_style = style.context(["default", pictures.STYLE, STYLE])  # independent of the user's matplotlibrc


@in_own_style
def render(gallery: Gallery) -> dict[str, bytes]:
    """Return the content of `show.png` and `show.svg`."""
    png, svg = pictures.render(draw_gallery(gallery), DPI)
    return {"show.png": png, "show.svg": svg}


@in_own_style
def draw_gallery(gallery: Gallery) -> Figure:
    """Return the figure; each panel's axes have the panel's name as their label."""
    groups = groups_of(gallery)
    num_columns = [len(group.panels[0]) for group in groups]
    room = WIDTH - 2 * MARGIN - GROUP_GAP * (len(groups) - 1) - GAP * (sum(num_columns) - len(groups))
    side = min(LARGEST_SIDE, room / sum(num_columns))
    widths = [number * (side + GAP) - GAP for number in num_columns]
    headings = [broken(group.heading, width + GROUP_GAP) for group, width in zip(groups, widths, strict=True)]
    abouts = [wrapped(group.about, width) for group, width in zip(groups, widths, strict=True)]
    caption = wrapped(caption_of(gallery), WIDTH - 2 * MARGIN)

    header_top, row_height = 0.45, 2 * LINE + side + 0.1
    rows_top = header_top + LINE * max(map(len, (up + down for up, down in zip(headings, abouts, strict=True)))) + 0.08
    footer_top = rows_top + row_height * len(gallery.images) + 0.05
    caption_top = footer_top + 0.6
    sheet = Sheet(caption_top + LINE * len(caption) + MARGIN)
    sheet.write(MARGIN, 0.12, [title_of(gallery)], fontsize=TITLE, weight="bold")
    left = MARGIN
    for group, width, heading, about in zip(groups, widths, headings, abouts, strict=True):
        fitting = 72 * (width + GROUP_GAP) / max(map(len, heading)) / 0.7
        size = min(HEADING, max(7.0, fitting))
        sheet.write(left + width / 2, header_top, heading, fontsize=size, weight="bold", ha="center")
        sheet.write(left + width / 2, header_top + LINE * len(heading), about, ha="center")
        for row, panels in enumerate(group.panels):
            top = rows_top + row * row_height + 2 * LINE
            for column, panel in enumerate(panels):
                axes = sheet.axes(left + column * (side + GAP), top, side, side, panel.name)
                draw_panel(axes, panel)
        left += width + GROUP_GAP
    draw_keys(sheet, gallery, groups, footer_top)
    sheet.write(MARGIN, caption_top, caption)
    return sheet.figure


def draw_panel(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.pixels.numpy(), cmap=panel.cmap, norm=panel.norm, interpolation="none")
    if panel.drops is not None:
        for mask, look in ((panel.drops.dropped, DROPPED), (panel.drops.damped, DAMPED)):
            if mask[panel.marked].any():
                axes.add_patch(PathPatch(outline(mask[panel.marked]), **look))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(panel.label, fontsize=SMALL, pad=2.5)


def outline(mask: Tensor) -> Path:
    """Return the outline of the units of a mask (H, W), in the coordinates of imshow: a box per horizontal run."""
    steps = np.diff(np.pad(mask.numpy().astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (rows, first), (_, last) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    across = np.stack([first, last, last, first, first], axis=1)
    down = np.stack([rows, rows, rows + 1, rows + 1, rows], axis=1)
    box = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.stack([across, down], axis=2).reshape(-1, 2) - 0.5, np.tile(box, len(rows)))


def draw_keys(sheet: Sheet, gallery: Gallery, groups: list[Group], top: float) -> None:
    """Draw the legend of the marks in use at the left, and a colour bar per scale at the right."""
    marks = [Patch(label="dropped: set to zero", **DROPPED)]
    panels = [panel for group in groups for row in group.panels for panel in row]
    if any(panel.drops is not None and panel.drops.damped[panel.marked].any() for panel in panels):
        marks.append(Patch(label="damped: scaled down", **DAMPED))
    corner = (0.05 / WIDTH, 1 - (top + 0.03) / sheet.height)
    legend: dict[str, Any] = {
        "loc": "upper left",
        "frameon": False,
        "handlelength": 2.5,
        "handleheight": 1.3,
        "ncols": 2,
    }
    sheet.figure.legend(handles=marks, bbox_to_anchor=corner, **legend)
    bars: list[tuple[str, Any, Normalize]] = [
        (f"activation at {site}", GREYS, scale_of(gallery, site)) for site in gallery.by_site()
    ]
    if gallery.activation is not None:
        bars.insert(0, ("Grad-CAM / its maximum", "cividis", Normalize(0, 1)))
    for number, (label, cmap, norm) in enumerate(reversed(bars), 1):
        axes = sheet.axes(WIDTH - MARGIN - number * 2.6 + 0.3, top + LINE + 0.05, 2.2, 0.12, label)
        beyond = "neither" if cmap != GREYS else "both" if norm.vmin else "max"
        sheet.figure.colorbar(ScalarMappable(norm, cmap), cax=axes, orientation="horizontal", extend=beyond)
        axes.tick_params(labelsize=8, length=2, pad=1.5)
        axes.set_title(label, fontsize=SMALL, pad=2.5)


def groups_of(gallery: Gallery) -> list[Group]:
    """Return the groups from left to right: input, class activations, holes in the images, then each site's maps."""
    samples = range(len(gallery.images))
    inputs = [[image_panel(gallery, sample, shortened(gallery.classes[sample]))] for sample in samples]
    groups = [Group("input", "its class", inputs)]
    if gallery.activation is not None and gallery.predicted is not None:
        heat = F.interpolate(gallery.activation[:, None], size=gallery.images.shape[2:], mode="bilinear")
        looks = [
            [Panel(f"Grad-CAM, image {sample}", shortened(name), heat[sample, 0], "cividis", Normalize(0, 1))]
            for sample, name in enumerate(gallery.predicted)
        ]
        groups.append(Group("Grad-CAM", "predicted class", looks))
    for drops in gallery.on_image():
        holes = [[image_panel(gallery, sample, "", drops)] for sample in samples]
        groups.append(Group(PurePath(drops.method).name, share(drops), holes))
    for site, here in gallery.by_site().items():
        shape, ranking = "×".join(map(str, here[0].maps.shape[1:])), gallery.ranking(site)
        maps = [map_panels(gallery, here[0], sample, marked=False) for sample in samples]
        groups.append(Group(f"{site}, {shape}", f"ranked by {ranking.ranked_by}", maps))
        for drops in here:
            maps = [map_panels(gallery, drops, sample, marked=True) for sample in samples]
            groups.append(Group(PurePath(drops.method).name, share(drops), maps))
    return groups


def image_panel(gallery: Gallery, sample: int, label: str, drops: Drops | None = None) -> Panel:
    """Return an image of the data set, with the hole that a method cut into it, if any."""
    image = gallery.images[sample]
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    name = f"{'input' if drops is None else drops.method}, image {sample}"
    return Panel(name, label, pixels, "gray", Normalize(0, 1), drops, (sample, 0))


def map_panels(gallery: Gallery, drops: Drops, sample: int, marked: bool) -> list[Panel]:
    """Return the most attended maps of an image, plain or with a method's drops marked."""
    ranking, norm, panels = gallery.ranking(drops.site), scale_of(gallery, drops.site), []
    for rank, channel in enumerate(ranking.channels[sample].tolist()[: gallery.num_maps()], 1):
        name = f"{drops.method if marked else drops.site}, image {sample}, rank {rank}"
        share_pct = 100 * float(drops.dropped[sample, channel].double().mean())
        score = float(ranking.scores[sample, rank - 1])
        label = f"#{rank}: {share_pct:.0f} %" if marked else f"#{rank}  ch {channel}\nscore {score:.2g}"
        pixels = drops.maps[sample, channel]
        panels.append(Panel(name, label, pixels, GREYS, norm, drops if marked else None, (sample, channel)))
    return panels


def scale_of(gallery: Gallery, site: str) -> Normalize:
    """Return one colour scale for all shown maps of a site; 1 % of the units may lie beyond either end."""
    channels = gallery.ranking(site).channels[:, : gallery.num_maps(), None, None]
    shown = [drops.maps.take_along_dim(channels, dim=1).flatten() for drops in gallery.by_site()[site]]
    low, high = np.quantile(torch.cat(shown).numpy(), (0.01, 0.99)).tolist()
    return Normalize(min(low, 0.0), high if high > low else low + 1)


def share(drops: Drops) -> str:
    """Return the share of units dropped, in words."""
    return f"{drops.dropped_pct:.3g} % dropped"


def title_of(gallery: Gallery) -> str:
    config, sites = gallery.config, ", ".join(dict.fromkeys(drops.site for drops in gallery.drops))
    data = short_name(config.data.name) if config.data.name != "folder" else f"folder {config.data.root.name}"
    return f"What each method drops at {sites} of {PurePath(config.model.name).name}, on {data}"


def caption_of(gallery: Gallery) -> str:
    """Return the caption: how the picture was made."""
    config = gallery.config
    model = PurePath(config.model.name).name
    network = "untrained network" if gallery.weights is None else f"trained: {gallery.weights}"
    return (
        f"{model}, {network}. One training forward of {gallery.batch_size} test images per method, at full "
        f"strength, seed {config.seed}. Percentages: below a method's name, of all the batch's units at the site; "
        f"above a map, of that map's units. {'; '.join(map(knob_line, gallery.drops))}."
    )


def knob_line(drops: Drops) -> str:
    """Return a method's name and its knobs; a line does not break between a knob and its value."""
    knobs = [
        f"{knob}\N{NO-BREAK SPACE}{value}"
        for knob, value in drops.config.regularizer.knobs().items()
        if value is not None
    ]
    name = PurePath(drops.method).name
    return f"{name}: {', '.join(knobs)}" if knobs else name


def shortened(name: str) -> str:
    """Return a class name cut to fit above a panel."""
    return name if len(name) <= 12 else name[:11] + "…"


def wrapped(text: str, width: float) -> list[str]:
    """Return small print wrapped to `width` inches."""
    return textwrap.wrap(text, max(9, int(width * 16)), break_long_words=False)


def broken(name: str, width: float) -> list[str]:
    """Return a heading wrapped to `width` inches, broken after punctuation within a name too."""
    lines, num_characters = [""], max(9, int(width * 11))
    for part in re.findall(r"[^_., ]+[_., ]*", name):
        if len(lines[-1] + part.rstrip()) > num_characters and lines[-1]:
            lines.append("")
        lines[-1] += part
    return lines
