"""Autoencoders that end in an exact PCA: a non-linear stage gives features, PCA compresses them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.autoencoders.base import BLOCK, Autoencoder, AutoencoderData, encode_members
from weightspace.learning.loop import fit as run_fit
from weightspace.params import AutoencoderSettings, BehaviouralSettings
from weightspace.weights.pca import FeaturePca
from weightspace.weights.spec import Spec, Weights, blocks


class FeaturePcaAutoencoder(Autoencoder):
    """Non-linear stage that gives features of a network, and exact PCA of them behind it.

    The PCA is fitted to the features of the train members once the stage is; then the encoder stays
    as it is, so the PCA remains exact, and the decoder is fitted on behind it.

    Args:
        spec: the architecture.
        latent: features of z.
        settings: the autoencoder's own section of params.yaml.

    """

    encoder: nn.Module
    pool: FeaturePca

    def __init__(self, spec: Spec, latent: int, settings: BehaviouralSettings) -> None:
        super().__init__()
        self.spec, self.latent, self.settings = spec, latent, settings

    @abstractmethod
    def features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Features ``(N, d)`` of weights ``(N, *shape)``."""

    @abstractmethod
    def rebuild(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of features ``(N, d)``."""

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.pool(self.features(weights))
        return z

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""
        return self.rebuild(self.pool.inverse(z))

    def meta(self) -> dict[str, Any]:
        """Sizes of the autoencoder and its architecture."""
        return {"spec": self.spec.to_json(), **super().meta()}

    @torch.no_grad()
    def fit_pool(self, weights: Weights) -> None:
        """Fit the PCA to the features of N networks."""
        self.pool.fit(torch.cat([self.features(block) for block in blocks(weights, BLOCK)]))


# loss(rows, split, generator, latents of the rows once the PCA is fitted) -> named losses
FeaturePcaLoss = Callable[[Tensor, str, torch.Generator, Tensor | None], dict[str, Tensor]]


def fit_feature_pca(
    autoencoder: FeaturePcaAutoencoder,
    loss: FeaturePcaLoss,
    data: AutoencoderData,
    settings: AutoencoderSettings,
    refit: float,
    seed: int,
) -> pd.DataFrame:
    """Fit the non-linear stage, then the PCA, then the decoder behind it.

    Args:
        autoencoder: fitted in place.
        loss: of some rows of a split, through the whole autoencoder.
        data: members.
        settings: section ``autoencoder`` of params.yaml.
        refit: share of the epochs, the last, for the decoder.
        seed: root seed.

    """
    last = round(refit * settings.epochs)
    first = settings.model_copy(update={"epochs": max(1, settings.epochs - last)})

    def without(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        return loss(rows, split, rng, None)

    history = run_fit("autoencoder", autoencoder, without, data.counts, first, seed)
    autoencoder.fit_pool(data.weights["train"])
    if not last:
        return history
    z = {split: encode_members(autoencoder, weights) for split, weights in data.weights.items()}
    autoencoder.encoder.requires_grad_(requires_grad=False)
    second = settings.model_copy(update={"epochs": last})

    def behind(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        return loss(rows, split, rng, z[split][rows])

    more = run_fit("autoencoder", autoencoder, behind, data.counts, second, seed)
    autoencoder.encoder.requires_grad_(requires_grad=True)
    more["epoch"] += history["epoch"].iloc[-1]
    return pd.concat([history, more], ignore_index=True)
