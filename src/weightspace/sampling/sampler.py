"""Sampling: networks drawn from P(W | D, R)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder, decode_latents, load_trained
from weightspace.data.dataset import Dataset
from weightspace.nets.base import Net
from weightspace.params import GuidanceSettings, Params
from weightspace.sampling.latent_steps import guide
from weightspace.shared_encoders.base import SharedEncoder, load_shared_encoder
from weightspace.weights.spec import Weights


@dataclass(frozen=True)
class Sampler:
    """Draws networks for a task and a requested result.

    A latent is drawn from P(z | D, R), moved by a few gradient steps until its result on the train
    images of D is R, and decoded.

    Attributes:
        autoencoder: decodes latents.
        shared: distribution of latents.
        net: the architecture.
        dataset: images and tasks.
        guidance: steps after the draw; None for none.

    """

    autoencoder: Autoencoder
    shared_encoder: SharedEncoder
    net: Net
    dataset: Dataset
    guidance: GuidanceSettings | None = None

    @classmethod
    def load(cls, data: Path, params: Params) -> Sampler:
        """The sampler that the stages left in ``data``, guided as ``params`` say.

        Raises:
            WeightspaceError: a stage has not run, or its output is damaged.

        """
        dataset, net, autoencoder = load_trained(data, params)
        shared_encoder = load_shared_encoder(data / "shared_encoder" / "shared_encoder.safetensors")
        return cls(autoencoder, shared_encoder, net, dataset, params.guidance)

    @torch.no_grad()
    def latents(
        self,
        tasks: Tensor,
        results: Tensor,
        draws: int,
        generator: torch.Generator,
        *,
        use_dataset: bool = True,
        use_result: bool = True,
        calibrated: bool = True,
    ) -> Tensor:
        """Draw latents ``(N, draws, L)`` for N conditions, without guidance.

        Args:
            tasks: task of each condition ``(N,)``.
            results: requested result ``(N,)``.
            draws: latents per condition.
            generator: random stream.
            use_dataset: False withholds D (a control).
            use_result: False withholds R (a control).
            calibrated: False asks for the result itself, not for the one that reaches it on val.

        """
        shared_encoder, on = self.shared_encoder, torch.ones(len(tasks), dtype=torch.bool)
        e = shared_encoder.embed(self.dataset, tasks)
        wanted = shared_encoder.calibrated(results) if calibrated else results
        condition = shared_encoder.condition(e, wanted, on & use_dataset, on & use_result)
        return shared_encoder.sample(condition, draws, generator)

    def guided(
        self, z: Tensor, tasks: Tensor, results: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Bring the results of drawn latents ``(N, draws, L)`` on train images to the requests.

        Args:
            z: from :meth:`latents`.
            tasks: task of each condition ``(N,)``; equal ones side by side are moved together.
            results: requested result ``(N,)``.
            generator: random stream.

        """
        if self.guidance is None or not self.guidance.sampling_steps:
            return z
        images, wanted = self.dataset.images["train"], results.to(z.dtype)
        counts = torch.unique_consecutive(tasks, return_counts=True)[1].tolist()
        out = []
        for task, part, asked in zip(
            torch.unique_consecutive(tasks), z.split(counts), wanted.split(counts), strict=True
        ):
            moved = guide(
                self.autoencoder,
                self.net,
                part.flatten(0, 1),
                images[self.dataset.classes[task]],
                asked.repeat_interleave(z.shape[1]),
                self.shared_encoder.settings.result,
                self.guidance,
                generator,
            )
            out.append(moved.reshape(part.shape))
        return torch.cat(out)

    def draw(
        self, tasks: Tensor, results: Tensor, draws: int, generator: torch.Generator
    ) -> Weights:
        """Draw networks: weights ``(N * draws, *shape)``, the draws of a condition side by side."""
        z = self.latents(tasks, results, draws, generator)
        return self.decode(self.guided(z, tasks, results, generator))

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N * draws, *shape)`` of latents ``(N, draws, L)``."""
        return decode_latents(self.autoencoder, z.flatten(0, 1))
