"""A folder with one folder of images per class; any image type that Pillow reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from weightspace.data.sources.base import check_size, draw_classes, entries
from weightspace.errors import problem
from weightspace.params import FolderSettings
from weightspace.rng import stream

MODES = {"grey": "L", "rgb": "RGB"}


def load(
    path: Path, options: FolderSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """At most ``need`` random images of each class: float32 ``(n, C, size, size)`` in [0, 1].

    Each image is cropped to its central square and reduced by averaging over areas. Hidden files
    and files next to the class folders are left out.

    Args:
        path: folder with one folder per class.
        options: section ``sources.folder`` of params.yaml.
        need: images of each class at most.
        seed: root seed of the choice.

    Raises:
        WeightspaceError: no such folder, no class folders, an empty class, or an entry of a class
            that is not a readable image.

    """
    names = list(sizes(path))
    rng = stream(seed, "folder", "classes")
    where = "params.yaml: sources.folder.classes"
    chosen = [names[i] for i in draw_classes(len(names), options.classes, where, rng)]
    return *load_classes(path, options, chosen, need, seed), chosen


def sizes(root: Path) -> dict[str, int]:
    """Images of each class, counted and not read; classes in the order of their names."""
    folders = [p for p in entries(root, "a folder with one folder per class") if not p.is_file()]
    if not folders:
        raise problem("no class folders", where=root, expected="one folder of images per class")
    return {p.name: len(entries(p, "a folder of images")) for p in folders}


def load_classes(
    path: Path, options: FolderSettings, names: Sequence[str], need: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as those of :func:`load`, of some classes; no other class is read.

    Args:
        path: folder with one folder per class.
        options: section ``sources.folder`` of params.yaml.
        names: the classes.
        need: images of each at most.
        seed: root seed of the choice of images.

    """
    check_size(len(names) * need * options.size**2 * len(MODES[options.colours]), path)
    images, labels = [], []
    for label, folder in enumerate(path / name for name in names):
        files = entries(folder, "a folder of images")
        if not files:
            raise problem("class has no images", where=folder)
        order = stream(seed, "folder", folder.name).permutation(len(files))[:need]
        images += [_read(files[i], options.size, MODES[options.colours]) for i in order]
        labels += [label] * len(order)
    pixels = np.stack(images).astype(np.float32) / 255  # (n, size, size, C)
    return pixels.transpose(0, 3, 1, 2), np.array(labels)


def _read(path: Path, size: int, mode: str) -> np.ndarray:
    """Image as bytes ``(size, size, C)``, transparent parts black."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"pixels of type {image.mode} have no fixed range")
            elif image.has_transparency_data:
                black = Image.new("RGBA", image.size, "black")
                image = Image.alpha_composite(black, image.convert("RGBA"))
            square = ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BOX)
    except Exception as error:  # the decoders of Pillow raise many types
        raise problem(
            f"not a readable image ({error})", where=path, do="repair or remove it"
        ) from error
    return np.asarray(square).reshape(size, size, -1)
