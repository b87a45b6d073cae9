"""Guide the draws of many requests: groups of tasks, where networks are small in processes side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.artifacts import AUTOENCODER_FILE, DATASET_FOLDER, PCA_FILE, SHARED_ENCODER_FILE
from weightspace.evaluate.evaluation import Evaluation
from weightspace.jobs.base import execute, files_in
from weightspace.params import Params
from weightspace.rng import torch_stream
from weightspace.sampling.latent_steps import BLOCK, LatentSteps
from weightspace.sampling.sampler import Condition, Sampler, load_sampler

TASKS = 8  # of one job; fixed, so that no executor changes a byte
MOST_ALONE = 4  # jobs that take less time than processes do to start


@dataclass(frozen=True)
class GuideJob:
    """Draws for some tasks, to be guided: a :class:`weightspace.jobs.base.Job`.

    Attributes:
        data: folder of the artefacts.
        params: all settings.
        names: what is drawn, of which split, and the number of the job; of the random stream.
        z: latents as drawn ``(N, draws, L)``.
        classes: classes of each request's task ``(N, c)``.
        target: requested result of each ``(N,)``.
        device: where it runs.

    """

    data: Path
    params: Params
    names: tuple[str | int, ...]
    z: np.ndarray
    classes: np.ndarray
    target: np.ndarray
    device: str = "cpu"

    @property
    def name(self) -> str:
        """What is guided."""
        return f"guidance of {' '.join(map(str, self.names))}"

    def inputs(self) -> dict[str, Path]:
        """All artefacts but the zoo."""
        files = (PCA_FILE, AUTOENCODER_FILE, SHARED_ENCODER_FILE)
        return files_in(self.data / DATASET_FOLDER, *((self.data / f).parent for f in files))

    def packed(self) -> GuideJob:
        """Itself: nothing else is read."""
        return self

    def moved(self, folder: Path) -> GuideJob:
        """The same job on artefacts in another folder."""
        return replace(self, data=folder)

    def outputs(self) -> tuple[Path, ...]:
        """It writes no file."""
        return ()

    def execute(self) -> tuple[tuple[str | int, ...], np.ndarray]:
        """Names and the guided latents ``(N, draws, L)``."""
        sampler, runner = load_sampler(self.data, self.params)
        return self.guide(sampler, runner.dataset.images["train"])

    def guide(
        self, sampler: Sampler, class_images: Tensor
    ) -> tuple[tuple[str | int, ...], np.ndarray]:
        """As :meth:`execute`, with what it reads given.

        Args:
            sampler: moves latents.
            class_images: train images of each class ``(K, n, C, H, W)``.

        """
        condition = Condition(
            class_images, torch.from_numpy(self.classes), torch.from_numpy(self.target)
        )
        rng = torch_stream(self.params.seed, "evaluate", "guidance", *self.names)
        z = torch.from_numpy(self.z).to(sampler.autoencoder.device)
        return self.names, sampler.guided(z, condition, rng).cpu().numpy()


def guide(evaluation: Evaluation, split: str, condition: Condition, z: Tensor) -> Tensor:
    """Guided latents ``(N, draws, L)``.

    Args:
        evaluation: what guides.
        split: of the tasks.
        condition: N requests, task after task.
        z: latents as drawn ``(N, draws, L)``.

    """
    jobs = [
        GuideJob(
            evaluation.data or Path(),
            evaluation.params,
            (split, "draws", number),
            z[rows].cpu().numpy(),
            condition.classes[rows].cpu().numpy(),
            condition.target[rows].cpu().numpy(),
            evaluation.runner.device.type,
        )
        for number, rows in enumerate(_groups(condition))
    ]
    done: dict[tuple[str | int, ...], np.ndarray] = dict(_done(evaluation, jobs))
    return torch.from_numpy(np.concatenate([done[job.names] for job in jobs]))


def _done(evaluation: Evaluation, jobs: list[GuideJob]) -> Iterator[Any]:
    """Results of the jobs: in this process where others would not be faster, or have nothing to read.

    Large networks and a GPU keep all that there is busy, one block after the other.
    """
    sampler, runner = evaluation.sampler, evaluation.runner
    images = runner.dataset.images["train"]
    on_cpu = evaluation.data is not None and runner.device.type == "cpu"
    if on_cpu and len(jobs) > MOST_ALONE and _small(sampler, images.shape[1], runner.classes):
        return execute(jobs, evaluation.params.runtime)
    return (job.guide(sampler, images) for job in jobs)


def _small(sampler: Sampler, images_per_class: int, classes: int) -> bool:
    """True where latents are moved, and memory allows as many at once as ever are.

    Args:
        sampler: moves them.
        images_per_class: train images.
        classes: of a task.

    """
    settings = sampler.guidance
    if settings is None or not settings.sampling_steps:
        return False
    steps = LatentSteps(sampler.autoencoder, sampler.net, settings)
    return steps.at_once(settings.images_per_step(images_per_class, classes)) == BLOCK


def _groups(condition: Condition) -> list[slice]:
    """Rows of the requests of at most so many tasks, in order."""
    ends = [0, *accumulate(condition.by_task()[1])]
    edges = [*ends[:-1:TASKS], ends[-1]]
    return [slice(a, b) for a, b in pairwise(edges)]
