"""Learned class embedding: an MLP on each image, mean and standard deviation over the set, an MLP on top.

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
        rng: source of the initial weights.

    """

    def __init__(
        self, shape: tuple[int, int, int], settings: DeepsetsSettings, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.features, width = settings.features, settings.width
        self.of_image = mlp([math.prod(shape), width, width], rng)
        self.of_set = mlp([2 * width, width, self.features], rng)

    def prepare(self, images: Tensor) -> None:
        """Nothing to fit beforehand."""

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""
        h = self.of_image(images.flatten(2))  # (M, n, width)
        out: Tensor = self.of_set(torch.cat([h.mean(1), h.std(1)], 1))
        return out


def build(shape: tuple[int, int, int], options: DeepsetsSettings, rng: torch.Generator) -> DeepSets:
    """Encoder for images of ``shape``.

    Args:
        shape: channels, height, width of an image.
        options: section ``dataset_encoders.deepsets`` of params.yaml.
        rng: source of initial values.

    """
    return DeepSets(shape, options, rng)
