"""PCA with a learned stage that predicts what PCA lost.

The latent holds the PCA coefficients that explain most, as they are, and a learned part.
The decoder takes the former back exactly and predicts all other coefficients from the whole latent;
it starts near zero, that is at PCA.

    z = [c_linear / rms, MLP(c)]        c' = c_linear and, for the rest, MLP(z)

Coefficients are ranked by the fraction of their tensor's variance that they explain: for a given
count of linear features that leaves the least of the loss. Within a tensor they are its first
components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder
from weightspace.errors import problem
from weightspace.learning.mlp import SkipMlp, mlp
from weightspace.params import AutoencoderSettings, ResidualSettings


class ResidualAutoencoder(CoefficientAutoencoder):
    """Some PCA coefficients, a learned part, and a prediction of the rest.

    Args:
        pca: first compression, part of the autoencoder.
        latent: features of z, linear and learned ones.
        settings: section ``autoencoders.residual`` of params.yaml.
        rng: source of the initial weights.

    """

    name = "residual"
    Options = ResidualSettings
    settings: ResidualSettings
    linear: Tensor  # indices of the coefficients that the latent holds as they are
    predicted: Tensor  # indices of all others
    rms: Tensor

    def build(self, rng: torch.Generator) -> None:
        """Make the layers.

        Raises:
            WeightspaceError: the latent leaves nothing to predict.

        """
        features, latent, settings = self.pca.features, self.latent, self.settings
        if latent >= features:
            raise problem(
                "the latent holds every PCA coefficient: nothing is lost that could be predicted",
                where="params.yaml: autoencoder.latent",
                got=latent,
                expected=f"less than the {features} coefficients of all tensors",
            )
        self.learned = round(settings.learned * latent)
        linear = latent - self.learned
        predicted = features - linear
        self.register_buffer("linear", torch.zeros(linear, dtype=torch.long))
        self.register_buffer("predicted", torch.zeros(predicted, dtype=torch.long))
        self.register_buffer("rms", torch.ones(()))
        if self.learned:
            self.encoder = SkipMlp([features, *settings.hidden, self.learned], rng)
        self.decoder = mlp([latent, *reversed(settings.hidden), predicted], rng)
        with torch.no_grad():
            for value in list(self.decoder.parameters())[-2:]:
                value.mul_(0.01)

    def prepare(self, members: int, settings: AutoencoderSettings) -> None:
        """Choose the coefficients that explain most of their tensor, in order."""
        variance = self.pca.variances() / self.scale.square()
        sizes = [size for size in self.pca.sizes if size]
        explained = torch.cat([part / len(part) for part in variance.split(sizes)])
        ranked = explained.argsort(descending=True, stable=True)
        count = len(self.linear)
        self.linear.copy_(ranked[:count].sort().values)
        self.predicted.copy_(ranked[count:].sort().values)
        self.rms.copy_(variance[self.linear].mean().sqrt().clamp_min(1e-12))

    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""
        linear = scaled[:, self.linear] / self.rms
        return torch.cat([linear, self.encoder(scaled)], 1) if self.learned else linear

    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""
        linear = z[:, : len(self.linear)] * self.rms
        order = torch.cat([self.linear, self.predicted]).argsort()
        return torch.cat([linear, self.decoder(z)], 1)[:, order]


from_meta, fit = ResidualAutoencoder.from_meta, ResidualAutoencoder.fit
