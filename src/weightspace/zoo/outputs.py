"""Outputs of members on known images: what fits read in place of weights, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import (
    OUTPUTS_FILES,
    Form,
    again,
    at_width,
    check_tensors,
    load_tensors,
    save_tensors,
)
from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.progress import progress
from weightspace.rng import torch_stream
from weightspace.weights.spec import BLOCK, Population, block_size, block_slices, take, to_device
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

FITTED = tuple(OUTPUTS_FILES)  # splits whose members a fit may read
FORMS: dict[str, Form] = {
    "members": (torch.int64, ("N",)),
    "tasks": (torch.int64, ("N",)),
    "on_task": (torch.float32, ("N", "images", "classes")),
    "on_probes": (torch.float32, ("N", "K", "classes")),
    "probes": (torch.float32, ("K", "C", "H", "W")),
}


@dataclass(frozen=True)
class Originals:
    """Outputs of the members of a split, in host memory; all that is stored of their behaviour.

    Attributes:
        members: number of each member in the zoo ``(N,)``.
        tasks: task of each ``(N,)``.
        on_task: outputs on the train images of its task, class after class ``(N, c * n, c)``.
        on_probes: outputs on the probes ``(N, K, c)``.
        probes: images of any class ``(K, C, H, W)``.

    """

    members: Tensor
    tasks: Tensor
    on_task: Tensor
    on_probes: Tensor
    probes: Tensor

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        save_tensors(path, "outputs", tensors, {})

    @classmethod
    def load(cls, path: Path, members: pd.DataFrame) -> Originals:
        """Read what :meth:`save` wrote; values are read where they are used.

        Args:
            path: file of a split.
            members: table of the same split.

        Raises:
            WeightspaceError: no such file, or outputs of other members.

        """
        tensors, _ = load_tensors(path, "outputs")
        check_tensors(path, tensors, FORMS, finite=False)
        originals = cls(**tensors)
        if originals.members.tolist() != members["member"].to_list():
            raise problem(
                "outputs of other members than those of the zoo",
                where=path,
                got=f"{len(originals.members)} members",
                expected=f"{len(members)}",
                do=again(path),
            )
        return originals


def joined(parts: Sequence[Originals]) -> Originals:
    """Members of several widths as those of one, one width after the other; of the same probes."""
    if len(parts) == 1:
        return parts[0]
    names = ("members", "tasks", "on_task", "on_probes")
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Originals(**tensors, probes=parts[0].probes)


def load_originals(data: Path, zoo: Zoo) -> dict[str, Originals]:
    """Outputs of the members of a zoo, by split, that the stage ``outputs`` left in ``data``."""
    files = OUTPUTS_FILES.items()
    return {
        split: Originals.load(at_width(data / path, zoo.width), zoo.select(split))
        for split, path in files
    }


def read_originals(
    runner: TaskRunner, members: pd.DataFrame, weights: Population, probes: Tensor
) -> Originals:
    """Run N members on the train images of their tasks and on the probes, block by block.

    Args:
        runner: the architecture and the tasks.
        members: their table.
        weights: tensors ``(N, *shape)``.
        probes: images of any class ``(K, C, H, W)``.

    """
    images = runner.classes * runner.dataset.images["train"].shape[1]
    on_task = torch.empty(len(members), images, runner.classes)
    on_probes = torch.empty(len(members), len(probes), runner.classes)
    numbers, tasks = (members[name].to_numpy(np.int64) for name in ("member", "task"))
    shown = probes.to(runner.device)
    with progress("outputs", len(members)) as bar:
        for rows in block_slices(len(members), block_size(runner.net.spec, BLOCK)):
            block = to_device(take(weights, rows), runner.device)
            on_task[rows] = runner.outputs(block, tasks[rows], "train")
            on_probes[rows] = runner.on_images(block, shown)
            bar.advance(rows.stop - rows.start, note="members")
    who = torch.tensor(numbers), torch.tensor(tasks)
    return Originals(*who, on_task, on_probes, probes.cpu())


def choose_probes(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Real train images of seen classes, as many of each class: ``(K, C, H, W)``.

    Args:
        dataset: images and tasks.
        count: K; fewer where there are not so many images.
        seed: root seed.

    """
    seen, per_class = torch.tensor(dataset.seen), dataset.images["train"].shape[1]
    order = torch.randperm(per_class, generator=torch_stream(seed, "autoencoder", "probes"))
    index = torch.arange(min(count, len(seen) * per_class))  # class after class, then again
    return dataset.images_of("train", seen[index % len(seen)], order[index // len(seen)])
