"""The deck's autoencoder: PCA coefficients -> MLP autoencoder -> latent.

DatasetEncoder and decoder have a linear path beside the MLP, so that a plain linear compression is within
reach and the MLP learns the rest (on a shared-initialisation zoo this raises agreement on val from
.877 to .921).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder, fit_coefficients
from weightspace.autoencoders.base import AutoencoderData
from weightspace.learning.mlp import SkipMlp
from weightspace.params import AutoencoderSettings, MlpAutoencoderSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import TensorPca


class MlpAutoencoder(CoefficientAutoencoder):
    """MLP autoencoder on scaled PCA coefficients.

    Args:
        pca: first compression, kept inside the autoencoder.
        latent: features of z.
        settings: section ``autoencoders.mlp`` of params.yaml; the decoder mirrors the hidden layers.
        generator: source of the initial weights.

    """

    name = "mlp"
    settings: MlpAutoencoderSettings

    def __init__(
        self,
        pca: TensorPca,
        latent: int,
        settings: MlpAutoencoderSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__(pca, latent, settings)
        hidden = settings.hidden
        self.encoder = SkipMlp([pca.features, *hidden, latent], generator)
        self.decoder = SkipMlp([latent, *reversed(hidden), pca.features], generator)

    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""
        z: Tensor = self.encoder(scaled)
        return z

    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""
        scaled: Tensor = self.decoder(z)
        return scaled


def from_meta(meta: Mapping[str, Any]) -> MlpAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = MlpAutoencoderSettings.model_validate(meta["settings"])
    return MlpAutoencoder(
        TensorPca.from_meta(meta["pca"]), meta["latent"], options, torch.Generator()
    )


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: MlpAutoencoderSettings,
    seed: int,
) -> tuple[MlpAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members."""
    generator = torch_stream(seed, "autoencoder", "init")
    autoencoder = MlpAutoencoder(data.pca, settings.latent, options, generator)
    return autoencoder, fit_coefficients(
        autoencoder, data, settings, options.behaviour_weight, seed
    )
