"""What image sources have in common: which source reads a path, archives, labels, one scale, one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from weightspace.artifacts import SOURCE_BYTES, check_archive
from weightspace.errors import problem
from weightspace.metadata import check_names

IDX_IMAGES = "*images*idx3-ubyte*"  # names of MNIST-family image files
BLOCK = 4096  # images resized at once, to bound memory


def source_of(path: Path) -> str:
    """Name of the source that reads a person's path: npz, idx or folder.

    Raises:
        WeightspaceError: nothing there, or nothing that a source reads.

    """
    kinds = "an .npz file, a folder of idx files, or a folder with one folder per class"
    if not path.exists():
        raise problem("no such file or folder", where=path, expected=kinds)
    if path.is_dir():
        if any(path.glob(IDX_IMAGES)):
            return "idx"
        if any(p.is_dir() for p in entries(path, kinds)):
            return "folder"
    elif path.suffix == ".npz":
        return "npz"
    raise problem("no images that a source reads", where=path, expected=kinds)


def entries(folder: Path, expected: str) -> list[Path]:
    """Visible entries of a folder, sorted by name."""
    if not folder.is_dir():
        raise problem("no such folder", where=folder, expected=expected, do="correct the path")
    try:
        visible = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise problem(f"cannot read ({error.strerror})", where=folder, expected=expected) from error
    check_names((path.name for path in visible), folder)
    return visible


def check_size(count: int, where: object) -> None:
    """Refuse more bytes of images than a source may have, before they are read.

    >>> check_size(3 * 1000 * 32**2, "example")
    """
    if count > SOURCE_BYTES:
        raise problem(
            "images are too large together",
            where=where,
            got=f"{count} values",
            expected=f"at most {SOURCE_BYTES}",
        )


def read_npz(
    path: Path, names: Sequence[str], do: str = "rename the arrays"
) -> dict[str, np.ndarray]:
    """Named arrays of an archive; nothing is unpickled and nothing is written to disk.

    Args:
        path: the archive.
        names: arrays that are needed.
        do: what to do where one of them is not there.

    Raises:
        WeightspaceError: no such file, not an archive, too large, an array missing or of objects.

    """
    if not path.is_file():
        raise problem("no such file", where=path, expected="an .npz file", do="correct the path")
    stored = sorted(name.removesuffix(".npy") for name in check_archive(path, SOURCE_BYTES))
    missing = [n for n in names if n not in stored]
    if missing:
        raise problem(f"no array '{missing[0]}'", where=path, got=", ".join(stored), do=do)
    out = {}
    for name in names:
        try:
            with np.load(path, allow_pickle=False) as archive:
                out[name] = np.asarray(archive[name])
        except Exception as error:  # any failure of the parser means a file that cannot be used
            raise problem(
                f"array '{name}' cannot be read ({error})",
                where=path,
                expected="plain numbers or text, no Python objects",
            ) from error
    return out


def check_pixels(pixels: np.ndarray, where: object) -> np.ndarray:
    """Verify images and bring them to ``(n, C, H, W)``, bytes or floats in [0, 1].

    Args:
        pixels: ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)``, C 1 or 3; uint8, bool or float.
        where: file, for error messages.

    Raises:
        WeightspaceError: any other shape, type or range; NaN; no images.

    """
    got = f"{pixels.dtype} of shape {pixels.shape}"
    sides = [i for i in (1, 3) if pixels.ndim == 4 and pixels.shape[i] in (1, 3)]
    if pixels.size == 0 or not (pixels.ndim == 3 or len(sides) == 1):
        expected = "(n, H, W), (n, H, W, 1 or 3) or (n, 1 or 3, H, W), n 1 or more"
        raise problem("not images", where=where, got=got, expected=expected)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif sides == [3]:
        pixels = np.moveaxis(pixels, 3, 1)
    if pixels.dtype in (np.uint8, np.bool_):
        return pixels
    if pixels.dtype.kind != "f":
        raise problem("not images", where=where, got=got, expected="uint8 or floats in [0, 1]")
    if not np.isfinite(pixels).all():
        raise problem("images hold NaN or infinity", where=where, got=got)
    if pixels.min() < 0 or pixels.max() > 1:
        raise problem(
            "pixels out of range",
            where=where,
            got=f"{pixels.dtype} from {pixels.min():g} to {pixels.max():g}",
            expected="0 to 1, or bytes",
        )
    return pixels


def as_classes(
    labels: np.ndarray, bounds: str | tuple[int, int], where: object
) -> tuple[np.ndarray, list[str]]:
    """Labels as classes 0..K-1, int64, and the labels as names.

    Args:
        labels: integers ``(n,)``, n > 0.
        bounds: first and last label, or ``auto``: the smallest and largest there are.
        where: file or folder, for error messages.

    Raises:
        WeightspaceError: a label outside the bounds or below 0, or one between without images.

    >>> as_classes(np.array([4, 3, 4]), "auto", "example")
    (array([1, 0, 1]), ['3', '4'])

    """
    lowest, highest = int(labels.min()), int(labels.max())
    first, last = (lowest, highest) if isinstance(bounds, str) else bounds
    if lowest < max(first, 0) or highest > last:
        raise problem(
            "label out of range",
            where=where,
            got=f"labels {lowest} to {highest}",
            expected=f"labels {max(first, 0)} to {last}",
        )
    values = np.unique(labels)
    if len(values) < last - first + 1:
        there = set(values.tolist())
        empty = next(v for v in range(first, last + 1) if v not in there)
        raise problem(
            f"label {empty} has no images",
            where=where,
            got=f"{len(values)} different labels",
            expected=f"every label from {first} to {last}",
        )
    return labels.astype(np.int64) - first, [str(v) for v in range(first, last + 1)]


def as_images(pixels: np.ndarray, size: int | str) -> np.ndarray:
    """Pixels ``(n, C, H, W)``, bytes or floats in [0, 1], as float32 in [0, 1].

    Args:
        pixels: the images.
        size: side of the square that they become by averaging over areas, or ``original``.

    """
    scale = 255 if pixels.dtype == np.uint8 else 1
    shape = pixels.shape[2:] if size == "original" else (int(size), int(size))
    out = np.empty((*pixels.shape[:2], *shape), np.float32)
    for start in range(0, len(pixels), BLOCK):
        block = torch.from_numpy(pixels[start : start + BLOCK].astype(np.float32) / scale)
        out[start : start + BLOCK] = F.interpolate(block, shape, mode="area").numpy()
    return out


def draw_classes(count: int, asked: int | str, where: str, rng: np.random.Generator) -> list[int]:
    """Draw some of the classes, or take ``all``; in order.

    Args:
        count: classes there are.
        asked: classes to draw, or ``all``.
        where: setting, for error messages.
        rng: random stream.

    >>> draw_classes(3, "all", "example", np.random.default_rng(0))
    [0, 1, 2]

    """
    if asked == "all":
        return list(range(count))
    if int(asked) > count:
        raise problem("too few classes", where=where, got=count, expected=f"at least {asked}")
    drawn: list[int] = sorted(rng.permutation(count)[: int(asked)].tolist())
    return drawn
