"""PCA with a learned stage that predicts what PCA lost.

The latent holds the PCA coefficients that explain most, as they are, and beside them a learned part.
The decoder takes the former back exactly and predicts all other coefficients from the whole latent;
it starts near zero, that is at PCA.

    z = [c_kept / spread, MLP(c)]        c' = c_kept and, for the rest, MLP(z)

Coefficients are ranked by their share of their own tensor's variance: for a given number of kept
ones that leaves the least of the loss. Within a tensor they are its first components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder, fit_coefficients
from weightspace.autoencoders.base import AutoencoderData
from weightspace.errors import problem
from weightspace.learning.mlp import SkipMlp, mlp
from weightspace.params import AutoencoderSettings, ResidualSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import TensorPca


class ResidualAutoencoder(CoefficientAutoencoder):
    """Kept PCA coefficients, a learned part, and a prediction of the rest.

    Args:
        pca: first compression, kept inside the autoencoder.
        latent: features of z, kept and learned ones.
        settings: section ``autoencoders.residual`` of params.yaml.
        generator: source of the initial weights.

    """

    name = "residual"
    settings: ResidualSettings
    kept: Tensor
    lost: Tensor
    spread: Tensor

    def __init__(
        self,
        pca: TensorPca,
        latent: int,
        settings: ResidualSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__(pca, latent, settings)
        if latent >= pca.features:
            raise problem(
                "the latent holds every PCA coefficient: nothing is lost that could be predicted",
                where="params.yaml: autoencoder.latent",
                got=latent,
                expected=f"less than the {pca.features} coefficients of all tensors",
            )
        self.learned = round(settings.learned * latent)
        kept, lost = latent - self.learned, pca.features - latent + self.learned
        self.register_buffer("kept", torch.zeros(kept, dtype=torch.long))
        self.register_buffer("lost", torch.zeros(lost, dtype=torch.long))
        self.register_buffer("spread", torch.ones(()))
        if self.learned:
            self.encoder = SkipMlp([pca.features, *settings.hidden, self.learned], generator)
        self.decoder = mlp([latent, *reversed(settings.hidden), lost], generator)
        with torch.no_grad():
            for value in list(self.decoder.parameters())[-2:]:
                value.mul_(0.01)

    def choose(self) -> None:
        """Keep the coefficients that explain most of their tensor, in order."""
        share = self.pca.scale().new_zeros(self.pca.features)
        variance, place = self.pca.variances() / self.scale.square(), 0
        for size in self.pca.sizes:
            share[place : place + size] = variance[place : place + size] / max(size, 1)
            place += size
        best = share.argsort(descending=True, stable=True)
        self.kept.copy_(best[: len(self.kept)].sort().values)
        self.lost.copy_(best[len(self.kept) :].sort().values)
        self.spread.copy_(variance[self.kept].mean().sqrt().clamp_min(1e-12))

    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""
        linear = scaled[:, self.kept] / self.spread
        return torch.cat([linear, self.encoder(scaled)], 1) if self.learned else linear

    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""
        linear = z[:, : len(self.kept)] * self.spread
        order = torch.cat([self.kept, self.lost]).argsort()
        return torch.cat([linear, self.decoder(z)], 1)[:, order]


def from_meta(meta: Mapping[str, Any]) -> ResidualAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = ResidualSettings.model_validate(meta["settings"])
    return ResidualAutoencoder(
        TensorPca.from_meta(meta["pca"]), meta["latent"], options, torch.Generator()
    )


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: ResidualSettings,
    seed: int,
) -> tuple[ResidualAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members."""
    generator = torch_stream(seed, "autoencoder", "init")
    autoencoder = ResidualAutoencoder(data.pca, settings.latent, options, generator)
    autoencoder.choose()
    return autoencoder, fit_coefficients(
        autoencoder, data, settings, options.behaviour_weight, seed
    )
