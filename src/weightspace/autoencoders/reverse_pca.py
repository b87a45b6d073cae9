"""Reverse PCA: a non-linear stage on the weights first, linear compression after it.

    h = F(w)    z = PCA(h)    w' = G(PCA^-1(z))

F and G are first fitted as an autoencoder without the PCA; the PCA is the exact one of the features of
the train members, fitted after it; then F stays as it is and G is fitted on behind the PCA. The stage
reads all weights, each entry centred and the entries of a tensor scaled by their standard deviation, so its parameters grow with the
network: it is meant for small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import unexplained
from weightspace.autoencoders._feature_pca import FeaturePcaAutoencoder, fit_feature_pca
from weightspace.autoencoders._loss import FitLoss
from weightspace.autoencoders.base import AutoencoderData
from weightspace.learning.mlp import SkipMlp
from weightspace.params import AutoencoderSettings, ReversePcaSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import FeaturePca
from weightspace.weights.spec import Spec, Weights, take


class ReversePcaAutoencoder(FeaturePcaAutoencoder):
    """Autoencoder of standardised weights with an exact PCA in its middle.

    Args:
        spec: the architecture.
        latent: features of z.
        settings: section ``autoencoders.reverse_pca`` of params.yaml.
        rng: source of the initial weights.

    """

    name = "reverse_pca"
    settings: ReversePcaSettings

    def __init__(
        self, spec: Spec, latent: int, settings: ReversePcaSettings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, latent, settings)
        hidden, features = settings.hidden, settings.features
        self.encoder = SkipMlp([spec.numel, *hidden, features], rng)
        self.decoder = SkipMlp([features, *reversed(hidden), spec.numel], rng)
        self.pool = FeaturePca(features, latent)

    def groups(self) -> Tensor:
        """Tensor of each entry ``(numel,)``."""
        sizes = torch.tensor([t.numel for t in self.spec.tensors])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Features ``(N, d)`` of weights ``(N, *shape)``."""
        h: Tensor = self.encoder(self.standardise(weights))
        return h

    def rebuild(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of features ``(N, d)``."""
        return self.weights(self.decoder(features))


def from_meta(meta: Mapping[str, Any]) -> ReversePcaAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = ReversePcaSettings.model_validate(meta["settings"])
    return ReversePcaAutoencoder(
        Spec.from_json(meta["spec"]), meta["latent"], options, torch.Generator()
    )


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: ReversePcaSettings,
    seed: int,
) -> tuple[ReversePcaAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members.

    Args:
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.reverse_pca``.
        seed: root seed.

    """
    rng = torch_stream(seed, "autoencoder", "init")
    autoencoder = ReversePcaAutoencoder(data.net.spec, settings.latent, options, rng)
    autoencoder.to(data.runner.device).fit_scale(data.weights["train"])
    varies = autoencoder.scale > 0
    sizes = [int(part.sum()) for part in varies.split([t.numel for t in data.net.spec.tensors])]
    combine = FitLoss(data, settings, options.behaviour_weight)

    def loss(rows: Tensor, split: str, rng: torch.Generator, z: Tensor | None) -> dict[str, Tensor]:
        x = autoencoder.standardise(take(data.weights[split], rows))
        h = autoencoder.encoder(x) if z is None else autoencoder.pool.inverse(z)
        rebuilt = autoencoder.decoder(h)
        structural = unexplained((rebuilt - x)[:, varies], sizes)
        return combine(structural, {}, lambda: autoencoder.weights(rebuilt), rows, split, rng)

    return autoencoder, fit_feature_pca(
        [autoencoder], [loss], [data], settings, options.refit, seed
    )
