"""A NumPy archive: one array of images, one of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weightspace.data.sources.base import (
    as_classes,
    as_images,
    check_pixels,
    read_npz,
)
from weightspace.errors import problem
from weightspace.params import NpzSettings


def load(
    path: Path, options: NpzSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All images of an archive: float32 ``(n, C, H, W)`` in [0, 1].

    The archive holds images ``(n, H, W)``, ``(n, C, H, W)`` or ``(n, H, W, C)``, bytes or floats in
    [0, 1], with C of 1 or 3, and integer labels ``(n,)`` or ``(n, 1)``.

    Args:
        path: the archive.
        options: section ``sources.npz`` of params.yaml.
        need: not used: all images are read.
        seed: not used.

    Raises:
        WeightspaceError: no such file, not an archive, an array missing, of objects, or of another
            shape or type, counts that differ, values out of range or not finite.

    """
    names = (options.images_key, options.labels_key)
    arrays = read_npz(path, names, do="set sources.npz.images_key and labels_key")
    pixels, labels = (arrays[name] for name in names)
    pixels, labels = check_pixels(pixels, path), _labels(labels, path)
    if len(pixels) != len(labels):
        raise problem(
            "counts of images and labels differ",
            where=path,
            got=f"{len(pixels)} images, {len(labels)} labels",
        )
    labels, classes = as_classes(labels, options.labels, path)
    return as_images(pixels, options.size), labels, classes


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels ``(n,)``, verified."""
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
        raise problem(
            "not labels",
            where=path,
            got=f"{labels.dtype} of shape {labels.shape}",
            expected="integers of shape (n,)",
        )
    return labels.reshape(-1)
