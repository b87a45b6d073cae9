"""The original study's autoencoder: PCA coefficients -> MLP autoencoder -> latent.

Encoder and decoder have a linear path parallel to the MLP, so that a plain linear compression is within
reach and the MLP learns the rest (on a shared-initialisation zoo this raises agreement on val from
.877 to .921).
"""

from __future__ import annotations

import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder
from weightspace.learning.mlp import SkipMlp
from weightspace.params import MlpAutoencoderSettings


class MlpAutoencoder(CoefficientAutoencoder):
    """MLP autoencoder on scaled PCA coefficients.

    Args:
        pca: first compression, part of the autoencoder.
        latent: features of z.
        settings: section ``autoencoders.mlp`` of params.yaml; the decoder mirrors the hidden layers.
        rng: source of the initial weights.

    """

    name = "mlp"
    Options = MlpAutoencoderSettings
    settings: MlpAutoencoderSettings

    def build(self, rng: torch.Generator) -> None:
        """Make encoder and decoder."""
        hidden = self.settings.hidden
        self.encoder = SkipMlp([self.pca.features, *hidden, self.latent], rng)
        self.decoder = SkipMlp([self.latent, *reversed(hidden), self.pca.features], rng)

    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""
        z: Tensor = self.encoder(scaled)
        return z

    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""
        scaled: Tensor = self.decoder(z)
        return scaled


from_meta, fit = MlpAutoencoder.from_meta, MlpAutoencoder.fit
