"""MNIST-family files: a folder of idx image and label files, plain or gzip.

Each ``*images*idx3-ubyte`` file needs the label file of the same name with ``labels`` and ``idx1``.
All pairs are read as one set of images. Format: LeCun, Cortes and Burges, The MNIST database:
two zero bytes, a type (8: bytes), the count of axes, their lengths (big-endian), the data.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from weightspace.artifacts import READ_BYTES
from weightspace.data.sources.base import IDX_IMAGES, as_classes, as_images, check_size, entries
from weightspace.errors import problem
from weightspace.params import IdxSettings

BYTES = 8  # type of idx data


def load(
    path: Path, options: IdxSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All images of a folder: float32 ``(n, 1, H, W)`` in [0, 1].

    Args:
        path: folder of idx files.
        options: section ``sources.idx`` of params.yaml.
        need: not used: all images are read.
        seed: not used.

    Raises:
        WeightspaceError: no pair of files, wrong magic number, truncated or longer than announced,
            counts that differ, or labels out of range.

    """
    pairs = [_read_pair(*files) for files in _pairs(path)]
    shapes = {images.shape[1:] for images, _ in pairs}
    if len(shapes) > 1:
        raise problem("image sizes differ between files", where=path, got=sorted(shapes))
    pixels = np.concatenate([images for images, _ in pairs])[:, None]  # (n, 1, H, W)
    if pixels.size == 0:
        raise problem("no images", where=path, got=f"shape {pixels.shape}")
    raw = np.concatenate([labels for _, labels in pairs])
    labels, names = as_classes(raw, options.labels, path)
    return as_images(pixels, options.size), labels, names


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Image and label files that belong together."""
    files: dict[str, Path] = {}
    for path in entries(folder, "a folder of idx files"):
        name = path.name.removesuffix(".gz")
        if name in files:
            raise problem("the same file plain and gzip", where=path, do="keep one of them")
        files[name] = path
    images = [name for name in files if Path(name).match(IDX_IMAGES)]
    if not images:
        raise problem("no idx image files", where=folder, expected=f"files named {IDX_IMAGES}")
    pairs = []
    for name in images:
        label = name.replace("images", "labels").replace("idx3", "idx1")
        if label not in files:
            raise problem("label file is missing", where=folder, expected=f"{label} or {label}.gz")
        pairs.append((files[name], files[label]))
    return pairs


def _read_pair(image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, H, W)`` and their labels ``(n,)``, bytes."""
    images, labels = _read(image_file, 3), _read(label_file, 1)
    if len(images) != len(labels):
        raise problem(
            "counts of images and labels differ",
            where=image_file,
            got=f"{len(images)} images, {len(labels)} labels",
        )
    return images, labels


def _read(path: Path, axes: int) -> np.ndarray:
    """Bytes of one idx file with so many axes: its header first, then as many as that says."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(file.read(4 + 4 * axes), axes, path)
            data = _up_to(file, math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise problem(f"cannot read ({error})", where=path, do="fetch the file again") from error
    if len(data) != math.prod(shape):
        start = 4 + 4 * axes
        raise problem(
            "truncated, or longer than its header says",
            where=path,
            got=f"{start + len(data)} bytes" + " or more" * (len(data) > math.prod(shape)),
            expected=f"{start + math.prod(shape)}, header and {math.prod(shape)} values",
            do="fetch the file again",
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, axes: int, path: Path) -> tuple[int, ...]:
    """Lengths of the axes that a header announces."""
    magic = bytes([0, 0, BYTES, axes])
    if header[:4] != magic:
        raise problem(
            "wrong magic number",
            where=path,
            got=header[:4].hex() or "an empty file",
            expected=f"{magic.hex()} (bytes, axes: {axes})",
        )
    if len(header) < 4 + 4 * axes:
        raise problem(
            "truncated in its header",
            where=path,
            got=f"{len(header)} bytes",
            expected=4 + 4 * axes,
            do="fetch the file again",
        )
    shape = struct.unpack(f">{axes}I", header[4:])
    check_size(math.prod(shape), path)
    return shape


def _up_to(file: BinaryIO | gzip.GzipFile, most: int) -> bytearray:
    """The rest of a file, of which so many bytes at most are read, part by part."""
    data = bytearray()
    while part := file.read(min(READ_BYTES, most - len(data))):
        data += part
    return data
