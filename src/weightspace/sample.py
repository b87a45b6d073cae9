"""Sampling: networks drawn from P(W | D, R)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.codecs.base import Codec, decode_latents
from weightspace.data.dataset import Dataset
from weightspace.shared import SharedEncoder, predict
from weightspace.spec import Weights


@dataclass(frozen=True)
class Sampler:
    """Draws networks for a task and a requested result.

    P(z | D, R) is a normal distribution around the shared encoder's prediction, with the spread of
    the train members around theirs; the codec decodes it to weights.
    """

    codec: Codec
    shared: SharedEncoder
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
        e = self.shared.embed(self.dataset, tasks)
        centre = predict(self.shared, e, results, use_dataset=use_dataset, use_result=use_result)
        noise = torch.randn(len(tasks), draws, centre.shape[1], generator=generator)
        return centre[:, None] + self.shared.residual * noise

    def draw(
        self, tasks: Tensor, results: Tensor, draws: int, generator: torch.Generator
    ) -> Weights:
        """Draw networks: weights ``(N * draws, *shape)``, the draws of a condition side by side."""
        return decode_latents(
            self.codec, self.latents(tasks, results, draws, generator).flatten(0, 1)
        )
