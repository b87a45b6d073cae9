"""Variational autoencoder on PCA coefficients.

``loss = unexplained fraction + beta KL(N(mu, sigma^2) || N(0, 1))``, the KL in nats per network; beta
rises linearly from 0 over the first steps, so that the latent is not given up before the decoder can
use it. Encoding is the mean mu of the posterior; latents may be drawn from the prior.

Sources: Kingma and Welling (2014), arXiv 1312.6114, equation 10; warm-up, Sønderby et al. (2016),
Ladder variational autoencoders, arXiv 1602.02282, section 2.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder
from weightspace.learning.mlp import SkipMlp
from weightspace.params import AutoencoderSettings, VariationalSettings
from weightspace.rng import normal

LOG_VARIANCE = (-12.0, 6.0)  # of the posterior: bounds keep its exponential finite
START = -4.0  # initial log variance: the first steps see little noise


class VariationalAutoencoder(CoefficientAutoencoder):
    """Posterior and decoder are MLPs with a linear path.

    Args:
        pca: first compression, part of the autoencoder.
        latent: features of z.
        settings: section ``autoencoders.variational`` of params.yaml.
        rng: source of the initial weights.

    """

    name = "variational"
    Options = VariationalSettings
    settings: VariationalSettings

    def build(self, rng: torch.Generator) -> None:
        """Make the encoder, to mean and log variance, and the decoder."""
        hidden = self.settings.hidden
        self.encoder = SkipMlp([self.pca.features, *hidden, 2 * self.latent], rng)
        self.decoder = SkipMlp([self.latent, *reversed(hidden), self.pca.features], rng)
        self.steps = self.warm_steps = 0  # training passes so far, and those with a rising weight

    def prepare(self, members: int, settings: AutoencoderSettings) -> None:
        """Over how many steps the weight of the KL rises."""
        steps = settings.epochs * math.ceil(members / settings.batch_size)
        self.warm_steps = round(self.settings.warm_up * steps)

    def posterior(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(N, latent)`` given scaled coefficients ``(N, features)``."""
        mean, raw = self.encoder(scaled).chunk(2, 1)
        return mean, (raw + START).clamp(*LOG_VARIANCE)

    def compress(self, scaled: Tensor) -> Tensor:
        """Mean of the posterior ``(N, latent)``."""
        return self.posterior(scaled)[0]

    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""
        scaled: Tensor = self.decoder(z)
        return scaled

    def rebuild(
        self, scaled: Tensor, split: str, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rebuild from one draw of the posterior, at the price of its KL from the prior.

        Args:
            scaled: scaled coefficients ``(N, features)``.
            split: "train" or "val".
            rng: source of noise.

        """
        mean, log_variance = self.posterior(scaled)
        noise = normal(mean.shape, rng, mean.device)
        kl = kl_from_prior(mean, log_variance).mean()
        weight = self.settings.prior_weight * (self._warm() if split == "train" else 1.0)
        return self.expand(mean + (log_variance / 2).exp() * noise), {"prior": weight * kl}

    def _warm(self) -> float:
        """Fraction of the weight of the KL in this training step."""
        self.steps += 1
        return min(1.0, self.steps / self.warm_steps) if self.warm_steps else 1.0

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """Latents ``(count, latent)`` from the prior, standard normal."""
        return normal((count, self.latent), rng, self.device)


def kl_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mu, sigma^2) || N(0, 1))`` in nats, summed over features: ``(N, L)`` -> ``(N,)``.

    >>> kl_from_prior(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))  # 2 squared / 2
    tensor([2.])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


from_meta, fit = VariationalAutoencoder.from_meta, VariationalAutoencoder.fit
