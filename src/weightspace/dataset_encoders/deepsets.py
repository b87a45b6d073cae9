"""Learned class embedding: a network on each image, mean and standard deviation over the set, an MLP on top.

Images of more than 16 pixels go through strided convolutions before the MLP.

Source: Zaheer et al. (2017), Deep Sets, arXiv 1703.06114.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weightspace.dataset_encoders.base import DatasetEncoder
from weightspace.learning.mlp import mlp
from weightspace.params import DeepsetsSettings

SMALL = 16  # pixels of a side up to which an MLP reads an image
CHANNELS = 16  # of the first convolution; each further one doubles them
BLOCK = 4096  # images in memory at once


def convolutions(shape: tuple[int, int, int], rng: torch.Generator) -> tuple[nn.Sequential, int]:
    """Convolutions of stride 2 until a side has at most half of ``SMALL``, and the features they give.

    Args:
        shape: channels, height, width of an image.
        rng: source of the initial weights, uniform in ``±1/sqrt(fan_in)``.

    >>> convolutions((1, 28, 28), torch.Generator())[1]  # 28, 14, 7
    1568

    """
    layers: list[nn.Module] = []
    (channels, height, width), features = shape, CHANNELS
    while max(height, width) > SMALL // 2:
        layer = nn.utils.skip_init(
            nn.Conv2d, channels, features, 3, stride=2, padding=1, device=torch.get_default_device()
        )
        bound = 1 / math.sqrt(9 * channels)
        for value in layer.parameters():
            nn.init.uniform_(value, -bound, bound, generator=rng)
        layers += [layer, nn.GELU()]
        channels, features = features, 2 * features
        height, width = (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten()), channels * height * width


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
        self.front: nn.Module = nn.Flatten()
        inputs = math.prod(shape)
        if max(shape[1:]) > SMALL:
            self.front, inputs = convolutions(shape, rng)
        self.of_image = mlp([inputs, width, width], rng)
        self.of_set = mlp([2 * width, width, self.features], rng)

    def prepare(self, images: Tensor) -> None:
        """Nothing to fit beforehand."""

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""
        blocks = images.flatten(0, 1).split(BLOCK)
        if len(blocks) == 1:
            parts = [self._of_images(blocks[0])]
        else:  # what is inside is computed again for the gradient, one block after the other
            parts = [checkpoint(self._of_images, block, use_reentrant=False) for block in blocks]
        h = torch.cat(parts).unflatten(0, images.shape[:2])  # (M, n, width)
        out: Tensor = self.of_set(torch.cat([h.mean(1), h.std(1)], 1))
        return out

    def _of_images(self, images: Tensor) -> Tensor:
        """Features ``(N, width)`` of images ``(N, C, H, W)``."""
        out: Tensor = self.of_image(self.front(images))
        return out


def build(shape: tuple[int, int, int], options: DeepsetsSettings, rng: torch.Generator) -> DeepSets:
    """Encoder for images of ``shape``.

    Args:
        shape: channels, height, width of an image.
        options: section ``dataset_encoders.deepsets`` of params.yaml.
        rng: source of initial values.

    """
    return DeepSets(shape, options, rng)
