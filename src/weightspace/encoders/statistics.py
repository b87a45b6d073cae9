"""Class embedding by statistics: mean and spread of each pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from weightspace.params import SharedSettings


class Statistics(nn.Module):
    """Pixel mean and standard deviation of a class, each standardised over the train classes.

    Args:
        shape: channels, height, width of an image.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.features = 2 * math.prod(shape)
        self.register_buffer("mean", torch.zeros(self.features))
        self.register_buffer("std", torch.ones(self.features))

    def prepare(self, images: Tensor) -> None:
        """Fit the standardisation on the images of the train classes ``(M, n, C, H, W)``."""
        raw = self._statistics(images)
        self.mean.copy_(raw.mean(0))
        std = raw.std(0)
        self.std.copy_(torch.where(std > 1e-3, std, torch.ones_like(std)))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""
        out: Tensor = (self._statistics(images) - self.mean) / self.std
        return out

    @staticmethod
    def _statistics(images: Tensor) -> Tensor:
        return torch.stack([images.mean(1), images.std(1)], 1).flatten(1)


def build(
    shape: tuple[int, int, int], settings: SharedSettings, generator: torch.Generator
) -> Statistics:
    """Encoder for images of ``shape``; nothing in it is learned."""
    return Statistics(shape)
