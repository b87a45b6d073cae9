"""What every dataset encoder is: a module from the images of a class to an embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

REMEMBERED = 4  # sets of images whose description is not computed again


class DatasetEncoder(nn.Module, ABC):
    """Images of classes -> embeddings, invariant to the order of the images of a class.

    Attributes:
        features: entries of the embedding of a class.
        whole: describing images is expensive; a fit describes all of them once, not a part in each step.

    """

    features: int
    whole = False

    @abstractmethod
    def prepare(self, images: Tensor) -> None:
        """Fit what is not learned on the images of the train classes ``(M, n, C, H, W)``."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""


class Standardised(DatasetEncoder):
    """A fixed description of each class, every entry standardised over the train classes.

    Args:
        features: entries of the description.

    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self._known: list[tuple[Tensor, Tensor]] = []  # images, description

    @abstractmethod
    def describe(self, images: Tensor) -> Tensor:
        """Descriptions ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""

    def prepare(self, images: Tensor) -> None:
        """Fit the standardisation on the images of the train classes ``(M, n, C, H, W)``."""
        raw = self.describe(images)
        self.mean.copy_(raw.mean(0))
        std = raw.std(0)
        self.std.copy_(torch.where(std > 1e-3, std, torch.ones_like(std)))

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(M, features)`` of classes' images ``(M, n, C, H, W)``."""
        return (self._described(images) - self.mean) / self.std

    def _described(self, images: Tensor) -> Tensor:
        """Describe images; those of an expensive encoder only once, as long as they are the same tensor."""
        if not self.whole:
            return self.describe(images)
        for known, description in self._known:
            if known is images:
                return description
        description = self.describe(images)
        self._known = [*self._known[1 - REMEMBERED :], (images, description)]
        return description
