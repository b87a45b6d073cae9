"""A NumPy archive: one array of images, one of labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from weightspace.data.sources.base import as_classes, as_images
from weightspace.errors import problem
from weightspace.params import SourcesSettings

# What zipfile and numpy raise for damaged, encrypted, oversized and pickled arrays.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)


def load(
    settings: SourcesSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All images of the file ``sources.path``: float32 ``(n, C, H, W)`` in [0, 1].

    The archive holds images ``(n, H, W)``, ``(n, C, H, W)`` or ``(n, H, W, C)``, bytes or floats in
    [0, 1], with C of 1 or 3, and whole-number labels ``(n,)`` or ``(n, 1)``.

    Raises:
        WeightspaceError: no such file, not an archive, an array missing, of objects, or of another
            shape or type, counts that differ, values out of range or not finite.

    """
    path, keys = Path(settings.path), settings.npz
    pixels, labels = _arrays(path, (keys.images_key, keys.labels_key))
    pixels, labels = _images(pixels, path), _labels(labels, path)
    if len(pixels) != len(labels):
        raise problem(
            "counts of images and labels differ",
            where=path,
            found=f"{len(pixels)} images, {len(labels)} labels",
        )
    labels, names = as_classes(labels, keys.labels, path)
    return as_images(pixels, keys.size), labels, names


def _arrays(path: Path, keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of an archive; pickled objects are never loaded."""
    if not path.is_file():
        raise problem("no such file", where=path, expected="an .npz file", do="correct the path")
    if not zipfile.is_zipfile(path):
        raise problem("not an npz archive", where=path, expected="a file of numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in keys:
                if key not in archive:
                    raise problem(
                        f"no array '{key}'",
                        where=path,
                        found=", ".join(archive.files),
                        do="set sources.npz.images_key and labels_key",
                    )
            return archive[keys[0]], archive[keys[1]]
    except UNREADABLE as error:
        raise problem(f"cannot read ({error})", where=path, expected="plain arrays") from error


def _images(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Images ``(n, C, H, W)``, verified."""
    found = f"{pixels.dtype} of shape {pixels.shape}"
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        expected = "(n, H, W), (n, C, H, W) or (n, H, W, C) with 1 or 3 channels"
        raise problem("not images", where=path, found=found, expected=expected)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise problem("not images", where=path, found=found, expected="uint8 or floats in [0, 1]")
    if not np.isfinite(pixels).all():
        raise problem("images hold NaN or infinity", where=path, found=found)
    if pixels.min() < 0 or pixels.max() > 1:
        raise problem(
            "pixels out of range",
            where=path,
            found=f"{pixels.min():g} to {pixels.max():g}",
            expected="0 to 1, or bytes",
        )
    return pixels


def _labels(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels ``(n,)``, verified."""
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.size != len(labels):
        raise problem(
            "not labels",
            where=path,
            found=f"{labels.dtype} of shape {labels.shape}",
            expected="whole numbers of shape (n,)",
        )
    return labels.reshape(-1)
