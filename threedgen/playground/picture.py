"""The picture: a panel for each case, contours of the classes under the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from threedgen.playground.prior import Mixture

VIEW = 4.5  # half the side of the square that a panel shows
PANEL, GAP, TITLE, HEADING, LEGEND, MARGIN, COLUMNS = 200, 14, 40, 44, 22, 24, 6  # pixels, and panels a row
FINER = 3  # samples a pixel and axis
RADIUS, RING = 2.3, 11.0  # of a point, and of the circle around points that lie on one spot; pixels
SPOT = 0.2  # largest standard deviation of a spot
MASSES = (0.95, 0.75, 0.4)  # share of the class inside each band
PAPER, INK, FAINT = (255, 255, 255), (33, 37, 41), (120, 126, 133)
GROUND, BANDS = (247, 248, 250), ((218, 232, 246), (172, 205, 234), (118, 169, 214))
OTHER, DOT = (214, 217, 222), (214, 64, 32)

Pixels = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One panel: heading it stands under, title, a line of numbers, points [N,2]."""

    group: str
    title: str
    numbers: str
    points: Tensor


def draw(panels: Sequence[Panel], target: Mixture, others: Mixture, legend: str) -> Image.Image:
    """A legend, and the panels in rows under the headings of their groups; `target` is filled, `others` outlined."""
    groups = list(dict.fromkeys(panel.group for panel in panels))
    rows = [-(-sum(p.group == g for p in panels) // COLUMNS) for g in groups]
    columns = min(COLUMNS, max(sum(p.group == g for p in panels) for g in groups))
    width = 2 * MARGIN + max(columns, 3) * (PANEL + GAP) - GAP
    height = 2 * MARGIN + LEGEND + len(groups) * HEADING + sum(rows) * (PANEL + TITLE + GAP) - GAP
    sheet, ground = Image.new("RGB", (width, height), PAPER), background(target, others)
    pen, top = ImageDraw.Draw(sheet), MARGIN + LEGEND
    pen.text((MARGIN, MARGIN - 6), legend, FAINT, ImageFont.load_default(13))
    for group, count in zip(groups, rows, strict=True):
        pen.text((MARGIN, top + 6), group, INK, ImageFont.load_default(17))
        pen.line((MARGIN, top + 33, width - MARGIN, top + 33), OTHER)
        members = [panel for panel in panels if panel.group == group]
        for place, panel in enumerate(members):
            x = MARGIN + place % COLUMNS * (PANEL + GAP)
            y = top + HEADING + place // COLUMNS * (PANEL + TITLE + GAP)
            pen.text((x, y - 1), panel.title, INK, ImageFont.load_default(13))
            pen.text((x, y + 17), panel.numbers, FAINT, ImageFont.load_default(11))
            sheet.paste(shrunk(dotted(ground, panel.points)), (x, y + TITLE - 4))
        top += HEADING + count * (PANEL + TITLE + GAP)
    return sheet.quantize(128, dither=Image.Dither.NONE)


def background(target: Mixture, others: Mixture) -> Pixels:
    """[S,S,3] bands of highest density of the target that hold `MASSES` of it, and an outline of the others."""
    side = PANEL * FINER
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * VIEW - VIEW
    grid = torch.stack(torch.meshgrid(-axis, axis, indexing="ij"), -1).flip(-1).flatten(0, 1)
    pixels = np.full((side, side, 3), GROUND, dtype=np.float64)
    pixels[outline(mass_inside(others, grid).reshape(side, side) < MASSES[0])] = OTHER
    inside = mass_inside(target, grid).reshape(side, side)
    for mass, colour in zip(MASSES, BANDS, strict=True):
        pixels[inside < mass] = colour
    pixels[outline(np.ones((side, side), bool))] = OTHER
    return pixels


def mass_inside(mixture: Mixture, grid: Tensor) -> NDArray[np.float64]:
    """[M] share of a mixture that lies where it is denser than at each of the points of a regular grid [M,2]."""
    density = mixture.density(grid)
    order = density.argsort(descending=True)
    inside = torch.empty_like(density)
    inside[order] = density[order].cumsum(0) / density.sum()
    return inside.numpy()


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The border of a mask [S,S], about a pixel of the picture wide."""
    padded = np.pad(mask, FINER)
    inner = mask.copy()
    for shift in (-FINER, FINER):
        for axis in (0, 1):
            inner &= np.roll(padded, shift, axis)[FINER:-FINER, FINER:-FINER]
    return mask & ~inner


def dotted(ground: Pixels, points: Tensor) -> Pixels:
    """The background [S,S,3] under points [N,2], each a see-through disk; points outside of the view lie on its border."""
    side, radius = len(ground), RADIUS * FINER
    reach = int(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    through = np.ones((side + 2 * reach, side + 2 * reach))
    places = (points.numpy().clip(-VIEW, VIEW) * (1, -1) + VIEW) / (2 * VIEW) * (side - 1)
    for x, y in places:
        column, row = round(x), round(y)
        disk = (offsets[None] - (x - column)) ** 2 + (offsets[:, None] - (y - row)) ** 2 < radius**2
        through[row : row + 2 * reach + 1, column : column + 2 * reach + 1] *= 1 - 0.5 * disk
    kept = through[reach:-reach, reach:-reach, None]
    pixels = ground * kept + np.array(DOT) * (1 - kept)
    if points.std(0).max() < SPOT:
        rows, columns = np.ogrid[:side, :side]
        column, row = places.mean(0)
        pixels[abs(np.hypot(columns - column, rows - row) - RING * FINER) < 0.5 * FINER] = INK
    return pixels


def shrunk(pixels: Pixels) -> Image.Image:
    """Means over the samples of each pixel."""
    side = len(pixels) // FINER
    mean = pixels.reshape(side, FINER, side, FINER, 3).mean((1, 3))
    return Image.fromarray(mean.round().astype(np.uint8))
