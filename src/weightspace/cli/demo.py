"""The demo on a terminal: images in block characters, requests and results, confusion matrices."""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from weightspace.cli.output import console, plain
from weightspace.report.demo import NEXT, Demo, results_table
from weightspace.report.gallery import Sampled

SHADES = " ░▒▓█"  # from the darkest to the brightest pixel, where there are no colours
MOST_PIXELS, MOST_IMAGES = 16, 8  # of an image's side; images of each class
MARGIN = 14  # columns for the name of a class


def show(demo: Demo) -> None:
    """Show what was drawn, and how."""
    out = console()
    out.print(plain(demo.what()))
    out.print()
    _show_images(out, demo)
    out.print(results_table(demo))
    matrices = Table.grid(padding=(0, 4))
    matrices.add_row(*(_matrix(answer.first, demo.classes) for answer in demo.answers))
    out.print("What the first network of each request takes for what (rows: true), in percent:")
    out.print(matrices)
    out.print(plain(demo.how()))


def show_next() -> None:
    """Say what to do next."""
    for what, command in NEXT:
        print(f"{what}: {command}")


def _show_images(out: Console, demo: Demo) -> None:
    """A row of images for each class."""
    side = max(demo.pixels.shape[-2:])
    pixels = demo.pixels.flatten(0, 1)
    if side > MOST_PIXELS:
        height, width = (max(1, n * MOST_PIXELS // side) for n in demo.pixels.shape[-2:])
        pixels = torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))
    images = pixels.unflatten(0, demo.pixels.shape[:2])
    blocks = half_blocks if out.color_system else shades
    columns = blocks(images[0, 0])[0].cell_len + 2
    count = max(1, min(MOST_IMAGES, (out.width - MARGIN) // columns))
    table = Table.grid(padding=(0, 2, 1, 0))
    for name, of_class in zip(demo.classes, images[:, :count], strict=True):
        table.add_row(plain(name), *(Text("\n").join(blocks(image)) for image in of_class))
    out.print(table)


def half_blocks(image: Tensor) -> list[Text]:
    """Lines of an image ``(C, H, W)`` in [0, 1]: a character is two pixels, one above the other."""
    colours = (image.expand(3, -1, -1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    if len(colours) % 2:
        colours = torch.cat([colours, colours[-1:]])
    return [
        Text.assemble(
            *(("▀", Style(color=_rgb(a), bgcolor=_rgb(b))) for a, b in zip(*two, strict=True))
        )
        for two in colours.unflatten(0, (-1, 2)).tolist()
    ]


def _rgb(colour: list[int]) -> str:
    return f"rgb({','.join(map(str, colour))})"


def shades(image: Tensor) -> list[Text]:
    """The same without colours: a pixel is two equal characters.

    >>> [str(line) for line in shades(torch.tensor([[[0.0, 1.0], [0.5, 0.0]]]))]
    ['  ██', '▒▒  ']
    """
    levels = (image.mean(0) * (len(SHADES) - 1)).round().long()
    return [Text("".join(2 * SHADES[i] for i in row)) for row in levels.tolist()]


def _matrix(network: Sampled, names: list[str]) -> Table:
    """Confusion matrix of a network, in percent."""
    title = f"{network.target:.2f} requested: accuracy {network.accuracy:.2f}"
    out = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for name in ("", *names):
        out.add_column(plain(name), justify="right")
    for name, row in zip(names, np.round(100 * network.confusion).astype(int), strict=True):
        out.add_row(plain(name), *(_cell(int(value)) for value in row))
    return out


def _cell(percent: int) -> Text:
    """A percentage, the brighter the higher."""
    return Text(str(percent), Style(bold=percent >= 50, dim=percent < 5))
