"""Class embedding by statistics: mean and standard deviation of each pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weightspace.dataset_encoders.base import Standardised
from weightspace.params import StatisticsSettings


class Statistics(Standardised):
    """Pixel mean and standard deviation of a class, each standardised over the train classes.

    Args:
        shape: channels, height, width of an image.

    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(2 * math.prod(shape))

    def describe(self, images: Tensor) -> Tensor:
        """Mean and standard deviation ``(M, 2 C H W)`` of images ``(M, n, C, H, W)``."""
        return torch.stack([images.mean(1), images.std(1)], 1).flatten(1)


def build(
    shape: tuple[int, int, int], options: StatisticsSettings, rng: torch.Generator
) -> Statistics:
    """Encoder for images of ``shape``; nothing in it is learned.

    Args:
        shape: channels, height, width of an image.
        options: section ``dataset_encoders.statistics`` of params.yaml.
        rng: source of initial values.

    """
    return Statistics(shape)
