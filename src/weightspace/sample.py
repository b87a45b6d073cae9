"""Sampling: networks drawn from P(W | D, R)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.codecs.base import Codec, decode_latents
from weightspace.data.dataset import Dataset
from weightspace.shared.base import SharedModel
from weightspace.spec import Weights


@dataclass(frozen=True)
class Sampler:
    """Draws networks for a task and a requested result: a latent from P(z | D, R), then decoded."""

    codec: Codec
    shared: SharedModel
    dataset: Dataset

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
    ) -> Tensor:
        """Draw latents ``(N, draws, L)`` for N conditions.

        Args:
            tasks: task of each condition ``(N,)``.
            results: requested result ``(N,)``.
            draws: latents per condition.
            generator: random stream.
            use_dataset: False withholds D (a control).
            use_result: False withholds R (a control).

        """
        shared, on = self.shared, torch.ones(len(tasks), dtype=torch.bool)
        e = shared.embed(self.dataset, tasks)
        wanted = shared.calibrated(results)
        condition = shared.condition(e, wanted, on & use_dataset, on & use_result)
        return shared.sample(condition, draws, generator)

    def draw(
        self, tasks: Tensor, results: Tensor, draws: int, generator: torch.Generator
    ) -> Weights:
        """Draw networks: weights ``(N * draws, *shape)``, the draws of a condition side by side."""
        return decode_latents(
            self.codec, self.latents(tasks, results, draws, generator).flatten(0, 1)
        )
