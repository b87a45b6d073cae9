"""What image sources share: which source reads a path, labels as classes, one scale, one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from weightspace.errors import problem

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
        if any(p.is_dir() for p in path.iterdir()):
            return "folder"
    elif path.suffix == ".npz":
        return "npz"
    raise problem("no images that a source reads", where=path, expected=kinds)


def entries(folder: Path, expected: str) -> list[Path]:
    """Visible entries of a folder, sorted by name."""
    if not folder.is_dir():
        raise problem("no such folder", where=folder, expected=expected, do="correct the path")
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise problem(f"cannot read ({error.strerror})", where=folder, expected=expected) from error


def as_classes(
    labels: np.ndarray, bounds: str | tuple[int, int], where: object
) -> tuple[np.ndarray, list[str]]:
    """Labels as classes 0..K-1, int64, and the labels as names.

    Args:
        labels: whole numbers ``(n,)``, n > 0.
        bounds: first and last label, or ``auto``: the smallest and largest there are.
        where: file or folder, for error messages.

    Raises:
        WeightspaceError: a label outside the bounds or below 0, or one between without images.

    """
    found = int(labels.min()), int(labels.max())
    first, last = found if isinstance(bounds, str) else bounds
    if found[0] < max(first, 0) or found[1] > last:
        raise problem(
            "label out of range",
            where=where,
            found=f"labels {found[0]} to {found[1]}",
            expected=f"labels {max(first, 0)} to {last}",
        )
    values = np.unique(labels)
    if len(values) < last - first + 1:
        there = set(values.tolist())
        empty = next(v for v in range(first, last + 1) if v not in there)
        raise problem(
            f"label {empty} has no images",
            where=where,
            found=f"{len(values)} different labels",
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


def draw_classes(count: int, wanted: int | str, where: str, rng: np.random.Generator) -> list[int]:
    """Draw ``wanted`` of ``count`` classes, or take ``all``; in order."""
    if wanted == "all":
        return list(range(count))
    if int(wanted) > count:
        raise problem("too few classes", where=where, found=count, expected=f"at least {wanted}")
    drawn: list[int] = sorted(rng.permutation(count)[: int(wanted)].tolist())
    return drawn
