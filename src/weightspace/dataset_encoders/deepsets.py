"""Learned class embedding: an MLP on each image, mean and spread over the set, an MLP on top.

Source: Zaheer et al. (2017), Deep Sets, arXiv 1703.06114.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weightspace.dataset_encoders.base import DatasetEncoder
from weightspace.learning.mlp import mlp
from weightspace.params import DeepsetsSettings


class DeepSets(DatasetEncoder):
    """Order-invariant set encoder.

    Args:
        shape: channels, height, width of an image.
        settings: section ``dataset_encoders.deepsets`` of params.yaml.
        generator: source of the initial weights.

    """

    def __init__(
        self, shape: tuple[int, int, int], settings: DeepsetsSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.features, width = settings.features, settings.width
        self.each = mlp([math.prod(shape), width, width], generator)
        self.pooled = mlp([2 * width, width, self.features], generator)

    def prepare(self, images: Tensor) -> None:
        """Nothing to fit beforehand."""

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""
        h = self.each(images.flatten(2))  # (M, n, width)
        out: Tensor = self.pooled(torch.cat([h.mean(1), h.std(1)], 1))
        return out


def build(
    shape: tuple[int, int, int], options: DeepsetsSettings, generator: torch.Generator
) -> DeepSets:
    """DatasetEncoder for images of ``shape``."""
    return DeepSets(shape, options, generator)
