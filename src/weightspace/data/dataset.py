"""The dataset artefact: fixed images of each class and the table of tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import (
    IMAGES_FILE,
    TASKS_FILE,
    again,
    check_tensors,
    load_tensors,
    read_parquet,
    save_tensors,
    structured,
    write_parquet,
)
from weightspace.data.sources import SOURCES
from weightspace.data.tasks import SPLITS, draw_tasks
from weightspace.errors import problem
from weightspace.metadata import check_names
from weightspace.params import DatasetSettings, SourcesSettings
from weightspace.registry import resolve
from weightspace.rng import stream

PARTS = ("train", "val", "test")
TASK_COLUMNS = ("task", "classes", "class_set", "split")


@dataclass(frozen=True)
class Dataset:
    """Images by class and the tasks over them.

    Attributes:
        images: part -> float32 ``(K, n, C, H, W)``, standardised with the mean and standard deviation of
            the train images of seen classes.
        class_names: K names.
        tasks: one row per ordered task: task, classes, class_set, split.
        unseen: classes that neither ``train`` nor ``test_sets`` contain.
        mean: mean of the train images of seen classes, which was subtracted.
        std: their standard deviation, which was divided by.

    """

    images: dict[str, Tensor]
    class_names: list[str]
    tasks: pd.DataFrame
    unseen: list[int]
    mean: float
    std: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image."""
        return tuple(self.images["train"].shape[2:])  # type: ignore[return-value]

    @property
    def seen(self) -> list[int]:
        """Classes that training tasks may contain."""
        return [c for c in range(len(self.class_names)) if c not in set(self.unseen)]

    @cached_property
    def classes(self) -> Tensor:
        """Classes of every task, int64 ``(T, classes_per_task)``."""
        return torch.tensor(np.stack(self.tasks["classes"].to_list()))

    @property
    def classes_per_task(self) -> int:
        """Classes of every task."""
        return self.classes.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the images are; indices of tasks and classes are on the CPU."""
        return self.images["train"].device

    def to(self, device: torch.device) -> Dataset:
        """The same dataset with its images on a device."""
        return replace(self, images={part: x.to(device) for part, x in self.images.items()})

    def images_of(self, part: str, classes: Tensor, index: Tensor) -> Tensor:
        """Images ``(..., C, H, W)`` by class and index in their class, without gathering others.

        Args:
            part: "train", "val" or "test".
            classes: class of each ``(...)``.
            index: its index among the images of its class ``(...)``.

        """
        return self.images[part][classes, index]

    def some_images(self, part: str, classes: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Random images ``(N, c n, C, H, W)`` of each class of N tasks, class after class.

        Args:
            part: "train", "val" or "test".
            classes: of the task of each ``(N, c)``.
            count: n, or all images there are.
            rng: chooses them, without repetition.

        """
        order = torch.rand(*classes.shape, self.images[part].shape[1], generator=rng).argsort(2)
        index = order[:, :, :count]
        return self.images_of(part, classes[:, :, None].expand_as(index), index).flatten(1, 2)

    def tasks_of(self, split: str) -> Tensor:
        """Tasks of a split ``(T,)``, with or without members."""
        return torch.tensor(self.tasks.loc[self.tasks["split"] == split, "task"].to_numpy())

    def task_images(self, tasks: Tensor, part: str) -> Tensor:
        """Images of each task, in the order of its classes: ``(N, c, n, C, H, W)``."""
        return self.images[part][self.classes[tasks]]

    def task_batch(self, tasks: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """Images ``(N, B, C, H, W)`` of N tasks, class after class, and the labels ``(B,)`` of all."""
        images = self.task_images(tasks, part)  # (N, c, n, C, H, W)
        labels = class_labels(images.shape[1], images.shape[2]).to(images.device)
        return images.flatten(1, 2), labels

    def save(self, folder: Path) -> None:
        """Write ``images.safetensors`` and ``tasks.parquet``."""
        meta = {
            "class_names": self.class_names,
            "unseen": self.unseen,
            "mean": self.mean,
            "std": self.std,
        }
        save_tensors(folder / IMAGES_FILE.name, "dataset", self.images, meta)
        write_parquet(folder / TASKS_FILE.name, self.tasks)

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what :meth:`save` wrote."""
        path = folder / IMAGES_FILE.name
        images, meta = load_tensors(path, "dataset")
        names, unseen = meta["class_names"], meta["unseen"]
        forms = {part: (torch.float32, (len(names), part, "C", "H", "W")) for part in PARTS}
        check_tensors(path, images, forms)
        tasks = read_tasks(folder / TASKS_FILE.name, len(names))
        return cls(images, names, tasks, unseen, meta["mean"], meta["std"])


def read_tasks(path: Path, classes: int) -> pd.DataFrame:
    """Table of tasks; each is a choice of the classes, as many in each.

    Args:
        path: its file.
        classes: K.

    Raises:
        WeightspaceError: other columns, no tasks, or not such a choice.

    """
    tasks = read_parquet(path, TASK_COLUMNS)
    with structured(path):
        chosen = np.sort(np.stack(tasks["classes"].to_list()), 1)  # (T, classes per task)
        numbers = np.stack([tasks["task"], tasks["class_set"]])
    good = (
        {chosen.dtype.kind, numbers.dtype.kind} == {"i"}
        and chosen[:, 0].min() >= 0
        and chosen[:, -1].max() < classes
        and (np.diff(chosen, axis=1) > 0).all()
        and (numbers[0] == np.arange(len(tasks))).all()
        and tasks["split"].isin(SPLITS).all()
    )
    if not good:
        expected = f"task 0, 1, ... of different classes from 0 to {classes - 1}, a split of each"
        raise problem("not a table of tasks", where=path, expected=expected, do=again(path))
    return tasks


def class_labels(classes: int, images: int) -> Tensor:
    """Labels ``(classes * images,)`` of as many images of each class, class after class.

    >>> class_labels(3, 2)
    tensor([0, 0, 1, 1, 2, 2])
    """
    return torch.arange(classes).repeat_interleave(images)


def make_dataset(settings: DatasetSettings, sources: SourcesSettings, seed: int) -> Dataset:
    """Load the source, fix the samples of each class, draw and split the tasks.

    Args:
        settings: section ``dataset`` of params.yaml.
        sources: section ``sources``.
        seed: root seed.

    """
    need = sum(getattr(settings.samples_per_class, part) for part in PARTS)
    source = resolve(SOURCES, settings.source, "dataset.source")
    path, options = Path(sources.path), sources.of(settings.source)
    images, labels, names = source.load(path, options, need, seed)
    check_names(names, f"params.yaml: sources.{settings.source}")
    tasks, unseen = draw_tasks(settings, len(names), seed)
    parts = _sample(images, labels, names, settings, seed)
    seen = [c for c in range(len(names)) if c not in unseen]
    reference = parts["train"][seen].double()
    mean, std = reference.mean(), reference.std().clamp_min(1e-6)
    standard = {part: ((x - mean) / std).float() for part, x in parts.items()}
    return Dataset(standard, names, tasks, unseen, float(mean), float(std))


def _sample(
    images: np.ndarray, labels: np.ndarray, names: list[str], settings: DatasetSettings, seed: int
) -> dict[str, Tensor]:
    """Draw disjoint train, val and test images of each class: part -> ``(K, n, C, H, W)``."""
    counts = {part: getattr(settings.samples_per_class, part) for part in PARTS}
    need = sum(counts.values())
    rows = []
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        if len(members) < need:
            raise problem(
                f"class '{name}' has too few images",
                where="params.yaml: dataset.samples_per_class",
                got=len(members),
                expected=f"at least {need}",
            )
        rows.append(stream(seed, "dataset", "samples", label).permutation(members)[:need])
    chosen = torch.from_numpy(images)[torch.from_numpy(np.stack(rows))]  # (K, need, C, H, W)
    return dict(zip(PARTS, chosen.split(list(counts.values()), 1), strict=True))
