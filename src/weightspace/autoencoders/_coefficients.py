"""Autoencoders that read and write PCA coefficients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._loss import FitLoss
from weightspace.autoencoders.base import Autoencoder, AutoencoderData
from weightspace.learning.loop import fit as run_fit
from weightspace.params import AutoencoderSettings, BehaviouralSettings
from weightspace.weights.pca import TensorPca
from weightspace.weights.permutations import shuffled
from weightspace.weights.spec import Weights, take


class CoefficientAutoencoder(Autoencoder):
    """Autoencoder of PCA coefficients, each in units of its tensor's spread.

    Latents of train members have a root mean square of 1, so that steps and noise mean the same
    for every autoencoder.

    Args:
        pca: first compression, kept inside the autoencoder.
        latent: features of z.
        settings: the autoencoder's own section of params.yaml.

    """

    scale: Tensor
    unit: Tensor

    def __init__(self, pca: TensorPca, latent: int, settings: BehaviouralSettings) -> None:
        super().__init__()
        self.pca, self.spec, self.latent, self.settings = pca, pca.spec, latent, settings
        self.register_buffer("scale", pca.scale())
        self.register_buffer("unit", torch.ones(()))

    @abstractmethod
    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""

    @abstractmethod
    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""

    def rebuild(
        self, scaled: Tensor, split: str, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rebuilt coefficients for the loss, and named penalties that are added to it."""
        return self.expand(self.compress(scaled)), {}

    def scaled(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Scaled coefficients ``(N, features)`` of weights ``(N, *shape)``."""
        out: Tensor = self.pca(weights) / self.scale
        return out

    def weights(self, scaled: Tensor) -> Weights:
        """Inverse of :meth:`scaled`."""
        return self.pca.inverse(scaled * self.scale)

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.compress(self.scaled(weights)) / self.unit

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""
        return self.weights(self.expand(z * self.unit))

    def meta(self) -> dict[str, Any]:
        """Sizes of the autoencoder and of its PCA."""
        return {"pca": self.pca.meta(), **super().meta()}


def unexplained(error: Tensor, sizes: list[int]) -> Tensor:
    """Share of each tensor's variance that is not rebuilt, averaged over the tensors.

    So a large tensor does not drown a small one.

    Args:
        error: in units of each tensor's spread ``(N, features)``.
        sizes: features of each tensor; those without any do not count.

    """
    parts = error.square().split([s for s in sizes if s], 1)
    return torch.stack([part.mean() for part in parts]).mean()


def fit_coefficients(
    autoencoder: CoefficientAutoencoder,
    data: AutoencoderData,
    settings: AutoencoderSettings,
    weight: float,
    seed: int,
) -> pd.DataFrame:
    """Fit an autoencoder of coefficients on train members; stop by the loss on val members."""
    scaled = {split: autoencoder.scaled(weights) for split, weights in data.weights.items()}
    combine = FitLoss(data, settings, weight, seed)

    def loss(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        if settings.augment_permutations and split == "train":
            x = autoencoder.scaled(shuffled(autoencoder.spec, take(data.weights[split], rows), rng))
        else:
            x = scaled[split][rows]
        rebuilt, penalties = autoencoder.rebuild(x, split, rng)
        structural = unexplained(rebuilt - x, autoencoder.pca.sizes)
        return combine(
            structural, penalties, lambda: autoencoder.weights(rebuilt), rows, split, rng
        )

    history = run_fit("autoencoder", autoencoder, loss, data.counts, settings, seed)
    with torch.no_grad():
        autoencoder.unit.copy_(
            autoencoder.compress(scaled["train"]).square().mean().sqrt().clamp_min(1e-12)
        )
    return history
