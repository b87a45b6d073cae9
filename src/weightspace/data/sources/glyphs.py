"""Letters rendered from the twelve DejaVu faces that matplotlib ships: hundreds of classes.

A class is a letter (Unicode category L) that all twelve faces have. Each image takes one face at
random and changes it a little: rotation, shear, scale, shift, noise. Every letter fills the same
box, so that letters which differ in size only are one shape; of letters that look alike the first
in Unicode order is kept.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from weightspace.data.sources.base import draw_classes
from weightspace.errors import problem
from weightspace.params import GlyphsSettings
from weightspace.rng import stream

POINTS = 96  # size at which letters are drawn
INK, CANVAS = 36, 48  # longer side of every letter, and of the square around it
COMPARED = 12  # side of the images by which letters are compared
SAMPLING = 3  # samples per pixel and axis, averaged to one pixel
BATCH = 4096  # images made at once, to bound memory


def load(
    path: Path, options: GlyphsSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Render ``need`` images of each letter.

    Args:
        path: not read.
        options: section ``sources.glyphs`` of params.yaml.
        need: images per class.
        seed: root seed; a letter's images depend on no other letter.

    Returns:
        Images float32 ``(K * need, 1, size, size)`` in [0, 1], labels int64, the letters.

    Raises:
        WeightspaceError: fewer letters than ``classes`` asks for, or fonts missing.

    """
    letters, shapes = _choose(options, seed)
    images = [
        _vary(shape, options, need, stream(seed, "glyphs", letter))
        for letter, shape in zip(letters, shapes, strict=True)
    ]
    labels = np.repeat(np.arange(len(letters)), need)
    return torch.cat(images).numpy(), labels, letters


def _choose(settings: GlyphsSettings, seed: int) -> tuple[list[str], Tensor]:
    """Letters that look different, at most ``classes`` of them, and their shapes by face."""
    paths = _faces()
    common = set.intersection(*(set(FT2Font(str(p)).get_charmap()) for p in paths))
    letters = [chr(c) for c in sorted(common) if unicodedata.category(chr(c))[0] == "L"]
    fonts = [
        ImageFont.truetype(str(p), POINTS, layout_engine=ImageFont.Layout.BASIC) for p in paths
    ]
    shapes = torch.from_numpy(np.stack([[_draw(f, c) for f in fonts] for c in letters]))
    distinct = _different(shapes.float() / 255, settings.alike)
    rng = stream(seed, "glyphs", "classes")
    where = "params.yaml: sources.glyphs.classes"
    chosen = [distinct[i] for i in draw_classes(len(distinct), settings.classes, where, rng)]
    return [letters[i] for i in chosen], shapes[chosen].float() / 255


def _faces() -> list[Path]:
    """Files of the twelve text faces; the two display faces have few letters."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = sorted(p for p in folder.glob("DejaVu*.ttf") if "Display" not in p.name)
    if len(paths) != 12:
        raise problem(
            "DejaVu fonts of matplotlib are missing", where=folder, got=len(paths), expected=12
        )
    return paths


def _draw(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """Letter, white on black, scaled to the common box: uint8 ``(CANVAS, CANVAS)``."""
    page = Image.new("L", (4 * POINTS, 4 * POINTS))
    ImageDraw.Draw(page).text((POINTS, POINTS), letter, fill=255, font=font)
    ink = page.crop(page.getbbox())  # the whole page where the letter has no ink
    scale = INK / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    corner = ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2)
    canvas.paste(ink.resize(size, Image.Resampling.BOX), corner)
    return np.asarray(canvas)


def _different(shapes: Tensor, alike: float) -> list[int]:
    """Indices of letters that correlate by less than ``alike`` with every earlier one kept.

    Args:
        shapes: ``(K, faces, CANVAS, CANVAS)``; letters without ink are left out.
        alike: Pearson correlation of pixels, mean over faces.

    """
    x = F.adaptive_avg_pool2d(shapes, COMPARED).flatten(2).double()  # (K, faces, pixels)
    inked = (x.amax((1, 2)) > 0).tolist()
    x = x - x.mean(2, keepdim=True)
    x = (x / x.norm(dim=2, keepdim=True).clamp_min(1e-12)).flatten(1)
    likeness = x @ x.T / shapes.shape[1]  # (K, K)
    distinct: list[int] = []
    for i, visible in enumerate(inked):
        if visible and not bool((likeness[i, distinct] >= alike).any()):
            distinct.append(i)
    return distinct


def _vary(shape: Tensor, settings: GlyphsSettings, need: int, rng: np.random.Generator) -> Tensor:
    """Images of one letter: ``(faces, CANVAS, CANVAS)`` to ``(need, 1, size, size)`` in [0, 1]."""
    face = torch.from_numpy(rng.integers(len(shape), size=need))
    maps = torch.from_numpy(_maps(settings, need, rng)).float()
    noise = torch.from_numpy(rng.normal(0, settings.noise, (need, 1, settings.size, settings.size)))
    fine = settings.size * SAMPLING
    images = []
    for some in torch.arange(need).split(BATCH):
        grid = F.affine_grid(maps[some], [len(some), 1, fine, fine], align_corners=False)
        drawn = F.grid_sample(shape[face[some], None], grid, align_corners=False)
        images.append(F.avg_pool2d(drawn, SAMPLING))
    return (torch.cat(images) + noise.float()).clamp(0, 1)


def _maps(settings: GlyphsSettings, need: int, rng: np.random.Generator) -> np.ndarray:
    """Random affine maps from positions in an image to positions in the canvas: ``(need, 2, 3)``."""
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, need))
    shear = rng.uniform(-settings.shear, settings.shear, need)
    zoom = rng.uniform(*settings.scale, need) * CANVAS / INK  # scale 1: the letter fills the image
    shift = rng.uniform(-settings.shift, settings.shift, (need, 2)) * 2  # sides are 2 long
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    linear = np.stack([cos, cos * shear - sin, sin, sin * shear + cos], 1).reshape(need, 2, 2)
    return np.concatenate([linear, -linear @ shift[:, :, None]], 2)
