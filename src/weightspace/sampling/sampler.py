"""Networks drawn from P(W | D, R)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from weightspace.artifacts import SHARED_ENCODER_FILE
from weightspace.autoencoders.base import Autoencoder, Decoded, decode_latents, load_trained
from weightspace.data.dataset import Dataset
from weightspace.nets.base import Net
from weightspace.params import GuidanceSettings, Params
from weightspace.sampling.latent_steps import LatentSteps
from weightspace.shared_encoders.base import SharedEncoder, load_shared_encoder
from weightspace.weights.spec import Weights, fill_blocks
from weightspace.zoo.runner import TaskRunner

BLOCK = 8192  # latents drawn at once


@dataclass(frozen=True)
class Condition:
    """(D, R): the datasets and the results that N requests ask for.

    Attributes:
        class_images: train images of each class, standardised ``(K, n, C, H, W)``.
        classes: classes of each request's task, in the order of its outputs ``(N, c)``.
        target: requested result of each ``(N,)``.

    """

    class_images: Tensor
    classes: Tensor
    target: Tensor

    @classmethod
    def of_tasks(cls, dataset: Dataset, tasks: Tensor, target: Tensor) -> Condition:
        """Tasks ``(N,)`` of a dataset, with a target ``(N,)`` each.

        Args:
            dataset: images and tasks.
            tasks: indices of N tasks.
            target: requested result of each ``(N,)``.

        """
        return cls(dataset.images["train"], dataset.classes[tasks], target)

    @classmethod
    def of_images(cls, class_images: Tensor, target: Tensor) -> Condition:
        """One task whose outputs are all given classes ``(c, n, C, H, W)``, N targets for it."""
        classes = torch.arange(len(class_images)).expand(len(target), -1)
        return cls(class_images, classes, target)

    def with_target(self, target: Tensor) -> Condition:
        """The same datasets with other targets ``(N,)``."""
        return replace(self, target=target)

    def by_task(self) -> tuple[Tensor, list[int]]:
        """Classes ``(T, c)`` of the tasks, and how many requests each has, equal ones being side by side."""
        tasks, counts = torch.unique_consecutive(self.classes, return_counts=True, dim=0)
        return tasks, counts.tolist()

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Sampler:
    """Draws networks for a dataset and a requested result.

    A latent is drawn from P(z | D, R) and moved to where the shared encoder expects the target; on
    demand gradient steps bring its result on the train images of D to the target; it is decoded.

    Attributes:
        autoencoder: decodes latents.
        shared_encoder: distribution of latents.
        net: the architecture.
        guidance: steps after the draw; None for none.

    """

    autoencoder: Autoencoder
    shared_encoder: SharedEncoder
    net: Net
    guidance: GuidanceSettings | None = None

    @torch.no_grad()
    def embed(self, condition: Condition) -> Tensor:
        """Dataset embeddings ``(N, E)`` of N requests."""
        return self.shared_encoder.embed(condition.class_images, condition.classes)

    @torch.no_grad()
    def latents(
        self,
        condition: Condition,
        draws: int,
        rng: torch.Generator,
        *,
        use_dataset: bool = True,
        use_result: bool = True,
    ) -> Tensor:
        """Draw latents ``(N, draws, L)`` for N requests, without guidance.

        They are moved to where the shared encoder expects the target, unless D or R is withheld.
        A target outside the trained range counts as the nearest end of it.

        Args:
            condition: N requests.
            draws: latents of each.
            rng: random stream.
            use_dataset: False withholds D (a control).
            use_result: False withholds R (a control).

        """
        model, size = self.shared_encoder, max(1, BLOCK // draws)
        target = condition.target.float().clamp(*model.bounds)
        e = self.embed(condition)

        def compute(rows: slice) -> Tensor:
            of, asked = e[rows], target[rows]
            on = torch.ones(len(of), dtype=torch.bool)
            embedded = model.condition(of, asked, on & use_dataset, on & use_result)
            z = model.sample(embedded, draws, rng)
            if not (use_dataset and use_result):
                return z
            of, asked = (x.repeat_interleave(draws, 0) for x in (of, asked))
            return model.towards(z.flatten(0, 1), of, asked).reshape(z.shape)

        return fill_blocks(e.new_empty(len(e), draws, model.sizes.latent), size, compute)

    def image_gradients(self, condition: Condition) -> int:
        """Labelled image-gradients that one guided draw costs: steps x images of a step."""
        if self.guidance is None:
            return 0
        size = condition.class_images.shape[1], condition.classes.shape[1]
        return self.guidance.sampling_steps * self.guidance.images_per_step(*size)

    def guided(self, z: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
        """Bring the results of drawn latents on train images to the targets.

        Args:
            z: from :meth:`latents`, ``(N, draws, L)``.
            condition: the N requests; equal tasks side by side are moved together.
            rng: random stream.

        """
        if self.guidance is None or not self.guidance.sampling_steps:
            return z
        classes, target = (
            x.repeat_interleave(z.shape[1], 0) for x in (condition.classes, condition.target.to(z))
        )
        steps = LatentSteps(self.autoencoder, self.net, self.guidance)
        images, result = condition.class_images, self.shared_encoder.result
        return steps.guide(z.flatten(0, 1), images, classes, target, result, rng).reshape(z.shape)

    def draw(self, condition: Condition, draws: int, rng: torch.Generator) -> Weights:
        """Draw networks ``(N * draws, *shape)``, those of a request side by side.

        Args:
            condition: N requests.
            draws: networks of each.
            rng: random stream.

        """
        z = self.latents(condition, draws, rng)
        return self.decode(self.guided(z, condition, rng))

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N * draws, *shape)`` of latents ``(N, draws, L)``."""
        return decode_latents(self.autoencoder, z.flatten(0, 1))

    def networks(self, z: Tensor) -> Decoded:
        """As :meth:`decode`, for any number of latents: each is decoded where it is used."""
        return Decoded(self.autoencoder, z.flatten(0, 1))


def load_sampler(data: Path, params: Params) -> tuple[Sampler, TaskRunner]:
    """The sampler that the stages left in ``data``, guided as ``params`` say, and what it was made for.

    Raises:
        WeightspaceError: a stage has not run, or its output is damaged.

    """
    runner, autoencoder = load_trained(data, params)
    model = load_shared_encoder(data / SHARED_ENCODER_FILE).to(runner.device)
    model = model.at(params.width)
    return Sampler(autoencoder, model, runner.net, params.guidance), runner
