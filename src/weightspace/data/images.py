"""Images that a person gives: read, converted by stated rules, made a task for a finished pipeline.

Nothing is guessed silently. Every rule that was applied is a line of ``notes``, shown on screen and
in the report; what no rule covers is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weightspace.artifacts import sha256_of
from weightspace.data.dataset import Dataset
from weightspace.data.sources import SOURCES
from weightspace.data.sources.base import as_images, check_pixels, read_npz, source_of
from weightspace.errors import nearest, problem
from weightspace.metadata import check_names
from weightspace.params import FolderSettings, IdxSettings
from weightspace.registry import resolve
from weightspace.rng import stream

HOLD_OUT_FROM = 24  # images per class from which a third is held out
MOST_IMAGES = 1000  # per class in each of two parts; more change no metric and cost time
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
SAME = 1e-9  # difference of standardised pixels, and of their squares, that rounding leaves
SIDE = 32  # pixels of images from files of many sizes, where nothing says how many are needed


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as they were given.

    Attributes:
        images: float32 ``(n, C, H, W)`` in [0, 1].
        labels: class of each ``(n,)``, an index of ``names``.
        names: name of each class.
        source: where they come from.
        notes: what was done to them.

    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that cannot be printed."""
        check_names(self.names, self.source)

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray, source: str = "images") -> ImageSet:
        """Verify arrays and bring them to one layout and scale.

        Args:
            images: ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)``, C 1 or 3; uint8, bool, or
                float in [0, 1].
            labels: integers or text ``(n,)``.
            source: where they come from, for messages.

        Raises:
            WeightspaceError: any other shape, type or range; NaN; no images.

        """
        images = check_pixels(np.asarray(images), source)
        names, classes = _names(np.asarray(labels), len(images), source)
        return cls(as_images(images, "original"), classes, names, source)


def read_images(
    path: Path | str,
    shape: tuple[int, int, int] = (3, SIDE, SIDE),
    classes: Sequence[str] = (),
    seed: int = 0,
) -> ImageSet:
    """Read labelled images.

    Of class folders only what a task of ``classes`` uses is read, however large they are: as many
    images of each as the smallest of these classes has, 2,000 at most, drawn at random.

    Args:
        path: an ``.npz`` with arrays ``images`` and ``labels``, a folder of idx files, or a folder
            with one folder of images per class.
        shape: channels, height, width that are needed; images of class folders, of
            any sizes, are brought to them as they are read.
        classes: the classes that are needed; none: all.
        seed: root seed of the choice of images.

    Raises:
        WeightspaceError: nothing there that a source reads, or it is damaged.

    """
    path = Path(path)
    kind = source_of(path)
    if kind == "npz":
        arrays = read_npz(path, ("images", "labels"))
        return ImageSet.of(arrays["images"], arrays["labels"], path.name)
    source = resolve(SOURCES, kind, "--data")
    if kind == "idx":
        images, labels, names = source.load(
            path, IdxSettings(size="original", labels="auto"), 2 * MOST_IMAGES, seed
        )
        return ImageSet(images, labels, names, path.name)
    colours: Literal["grey", "rgb"] = "grey" if shape[0] == 1 else "rgb"
    folder = FolderSettings(size=max(shape[1:]), colours=colours, classes="all")
    counts: dict[str, int] = source.sizes(path)
    chosen = list(classes) or list(counts)
    check_classes(chosen, list(counts), path.name)
    need = min(2 * MOST_IMAGES, min(counts[name] for name in chosen))
    images, labels = source.load_classes(path, folder, chosen, need, seed)
    note = f"central square of each image, as {folder.size}x{folder.size} {folder.colours} pixels"
    return ImageSet(images, labels, chosen, path.name, (note,))


def class_sizes(path: Path) -> dict[str, int]:
    """Images of each class in a folder of class folders, counted and not read."""
    counts: dict[str, int] = resolve(SOURCES, "folder", "path").sizes(path)
    return counts


def check_choice(classes: Sequence[str], like: Dataset) -> None:
    """Refuse more or fewer classes than the pipeline's tasks have, or one class twice."""
    count = like.classes.shape[1]
    if len(set(classes)) != len(classes) or len(classes) != count:
        raise problem(
            "wrong choice of classes",
            where="--classes",
            got=",".join(classes) or "none",
            expected=f"{count} different classes, as in the tasks the pipeline was trained on",
        )


def check_classes(classes: Sequence[str], names: Sequence[str], where: str) -> None:
    """Refuse a class that is not among the names.

    Args:
        classes: what is asked for.
        names: what there is.
        where: setting or file, for messages.

    """
    unknown = [c for c in classes if c not in names]
    if unknown:
        raise problem(f"no class '{unknown[0]}'", where=where, do=nearest(unknown[0], names))


def _names(labels: np.ndarray, count: int, where: str) -> tuple[list[str], np.ndarray]:
    """Class names and the class of each image, an index of them."""
    if labels.shape != (count,):
        raise problem(
            "labels do not fit the images", where=where, got=labels.shape, expected=(count,)
        )
    if labels.dtype.kind not in "iuU":
        raise problem(
            "labels of a wrong type",
            where=where,
            got=labels.dtype,
            expected="integers or text",
        )
    values, index = np.unique(labels, return_inverse=True)
    return [str(v) for v in values], index.astype(np.int64)


def convert(images: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """Bring images to other sizes and channels.

    Colour becomes grey as ``0.299 R + 0.587 G + 0.114 B`` (ITU-R BT.601); grey becomes colour by
    repetition. Larger images are reduced by the mean over the area of each new pixel.

    Args:
        images: float32 ``(n, C, H, W)``.
        shape: channels, height, width that are needed.

    Returns:
        Images ``(n, *shape)`` and what was done, a line each.

    Raises:
        WeightspaceError: images are smaller, or of other proportions.

    >>> image = np.array([[[[0.0, 1.0], [0.5, 0.5]]]], np.float32)
    >>> convert(image, (1, 1, 1))
    (array([[[[0.5]]]], dtype=float32), ['2x2 to 1x1 pixels: mean over the area'])

    """
    notes = []
    if images.shape[1] == 3 and shape[0] == 1:
        images = np.einsum("nchw,c->nhw", images, np.array(GREY, np.float32))[:, None]
        notes.append("colour to grey: 0.299 R + 0.587 G + 0.114 B")
    elif images.shape[1] == 1 and shape[0] == 3:
        images = images.repeat(3, 1)
        notes.append("grey to colour: one channel repeated")
    size, new = images.shape[2:], shape[1:]
    if size != new:
        if size[0] * new[1] != size[1] * new[0] or size[0] < new[0]:
            raise problem(
                "images of this size cannot be converted",
                got=f"{size[0]}x{size[1]} pixels",
                expected=f"{new[0]}x{new[1]}, or larger of the same proportions",
                do="crop or pad them first",
            )
        rows, columns = (_area(a, b) for a, b in zip(size, new, strict=True))
        images = np.einsum("ih,nchw,jw->ncij", rows, images, columns, optimize=True)
        notes.append(f"{size[0]}x{size[1]} to {new[0]}x{new[1]} pixels: mean over the area")
    return images.astype(np.float32), notes


def _area(before: int, after: int) -> np.ndarray:
    """Fraction of each old pixel in each new one along one axis: ``(after, before)``, rows sum to 1.

    >>> _area(3, 2)
    array([[0.66666667, 0.33333333, 0.        ],
           [0.        , 0.33333333, 0.66666667]])
    """
    edges = np.arange(after + 1) * before / after
    old = np.arange(before)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return overlap.clip(0) * after / before


@dataclass(frozen=True)
class GivenTask:
    """A task made of images that a person gives, ready for a finished pipeline.

    Attributes:
        images: part -> images ``(c, n, C, H, W)``, standardised as those the pipeline was trained
            on. Part ``train`` is what D and every choice are made of; part ``test``, where there is
            one, is read for reported metrics only.
        classes: names of the classes, in the order of the outputs.
        source: where the images come from.
        notes: what was done to them.
        sha256: of the images that are used: float32 in [0, 1], class after class, in each class
            those of ``train`` first.
        seed: of the choice of images.

    """

    images: dict[str, Tensor]
    classes: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    sha256: str = ""
    seed: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts there are: train, and test where enough images were given."""
        return tuple(self.images)

    @property
    def images_per_class(self) -> dict[str, int]:
        """Images of each class in each part."""
        return {part: x.shape[1] for part, x in self.images.items()}

    @property
    def held_out(self) -> str:
        """The rule that says which images are held out, in words."""
        return (
            f"seed {self.seed} orders the images of each class, which are as many as the smallest "
            f"class has, {2 * MOST_IMAGES:,} at most; the first of them describe D. With "
            f"{HOLD_OUT_FROM} or more the last third is held out, and all above {MOST_IMAGES:,}; with "
            "fewer none is"
        )

    @property
    def image(self) -> str:
        """Size of the images."""
        channels, height, width = self.images["train"].shape[2:]
        return f"{height}x{width} pixels, {'grey' if channels == 1 else f'{channels} channels'}"

    @property
    def equal_classes(self) -> list[tuple[str, ...]]:
        """Groups of classes whose images are equal: pixel by pixel in mean and square."""
        x = torch.cat(list(self.images.values()), 1).double()
        moments = torch.stack([x.mean(1), x.square().mean(1)], 1).flatten(1)  # (c, 2 * pixels)
        near = torch.cdist(moments, moments, p=torch.inf) < SAME
        groups = {
            tuple(c for c, same in zip(self.classes, row, strict=True) if same) for row in near
        }
        return sorted(group for group in groups if len(group) > 1)

    def batch(self, part: str) -> Tensor:
        """Images of a part, class after class ``(B, C, H, W)``."""
        return self.images[part].flatten(0, 1)


def make_task(given: ImageSet, classes: Sequence[str], like: Dataset, seed: int) -> GivenTask:
    """Make a task of some classes of the given images.

    Every class gets as many images as the others, drawn at random, 2,000 at most. With 24 or more of
    each class a third is held out, and all above 1,000 others; with fewer all of them describe D
    and nothing is left to measure on.

    Args:
        given: labelled images.
        classes: names of the classes, in the order of the outputs.
        like: dataset of the pipeline, for size, standardisation and classes of a task.
        seed: root seed of the draw.

    Raises:
        WeightspaceError: an unknown or repeated class, too many or too few of them, too few images.

    """
    check_choice(classes, like)
    check_classes(classes, given.names, given.source)
    rows = [np.flatnonzero(given.labels == given.names.index(c)) for c in classes]
    count = min(len(r) for r in rows)
    if count < 2:
        fewest = classes[int(np.argmin([len(r) for r in rows]))]
        raise problem(
            f"class '{fewest}' has {count} image", where=given.source, expected="2 or more"
        )
    sizes = _parts(count)
    chosen = np.stack(
        [stream(seed, "given", i).permutation(r)[: sum(sizes.values())] for i, r in enumerate(rows)]
    )
    images, notes = convert(given.images[chosen.flatten()], like.shape)
    x = torch.from_numpy((images - like.mean) / like.std).float()
    x = x.reshape(*chosen.shape, *like.shape).to(like.device)  # (c, n, C, H, W)
    parts: dict[str, Tensor] = dict(zip(sizes, x.split(list(sizes.values()), 1), strict=True))
    notes = [*given.notes, *notes, _division(sizes)]
    digest = sha256_of([np.ascontiguousarray(images, "<f4").data])
    return GivenTask(parts, tuple(classes), given.source, tuple(notes), digest, seed)


def _parts(count: int) -> dict[str, int]:
    """Images of each part, of ``count`` that every class has.

    A class that was cut to 2,000 before is divided as the whole one.

    >>> _parts(20), _parts(60)
    ({'train': 20}, {'train': 40, 'test': 20})
    """
    used = min(count, 2 * MOST_IMAGES)
    held = max(used // 3, used - MOST_IMAGES) if count >= HOLD_OUT_FROM else 0
    return {"train": used - held} | ({"test": held} if held else {})


def _division(sizes: dict[str, int]) -> str:
    """Say which images are used for what."""
    if "test" not in sizes:
        return (
            f"{sizes['train']} images of each class describe D; with fewer than {HOLD_OUT_FROM} none "
            "is held out, so results are measured on the same images"
        )
    return f"{sizes['train']} images of each class describe D, {sizes['test']} others are held out to measure on"
