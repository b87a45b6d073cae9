"""Variational autoencoder on PCA coefficients.

``loss = unexplained share + beta KL(N(mu, sigma^2) || N(0, 1))``, the KL in nats per network; beta
rises linearly from 0 over the first steps, so that the latent is not given up before the decoder can
use it. Encoding is the mean mu of the posterior; latents may be drawn from the prior.

Sources: Kingma and Welling (2014), arXiv 1312.6114, equation 10; warm-up, Sønderby et al. (2016),
Suite variational autoencoders, arXiv 1602.02282, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._coefficients import CoefficientAutoencoder, fit_coefficients
from weightspace.autoencoders.base import AutoencoderData
from weightspace.learning.mlp import SkipMlp
from weightspace.params import AutoencoderSettings, VariationalSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import TensorPca

LOG_VARIANCE = (-12.0, 6.0)  # of the posterior: bounds keep its exponential finite
START = -4.0  # initial log variance: the first steps see little noise


class VariationalAutoencoder(CoefficientAutoencoder):
    """Posterior and decoder are MLPs with a linear path.

    Args:
        pca: first compression, kept inside the autoencoder.
        latent: features of z.
        settings: section ``autoencoders.variational`` of params.yaml.
        generator: source of the initial weights.

    """

    name = "variational"
    settings: VariationalSettings

    def __init__(
        self,
        pca: TensorPca,
        latent: int,
        settings: VariationalSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__(pca, latent, settings)
        hidden = settings.hidden
        self.encoder = SkipMlp([pca.features, *hidden, 2 * latent], generator)
        self.decoder = SkipMlp([latent, *reversed(hidden), pca.features], generator)
        self.steps = self.warm_steps = 0  # training passes so far, and those with a rising weight

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
        """Rebuild from one draw of the posterior, at the price of its KL from the prior."""
        mean, log_variance = self.posterior(scaled)
        noise = torch.randn(mean.shape, generator=rng)
        kl = kl_from_prior(mean, log_variance).mean()
        weight = self.settings.prior_weight * (self._warm() if split == "train" else 1.0)
        return self.expand(mean + (log_variance / 2).exp() * noise), {"prior": weight * kl}

    def _warm(self) -> float:
        """Share of the weight of the KL in this training step."""
        self.steps += 1
        return min(1.0, self.steps / self.warm_steps) if self.warm_steps else 1.0

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents ``(count, latent)`` from the prior, standard normal."""
        return torch.randn(count, self.latent, generator=generator)


def kl_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mu, sigma^2) || N(0, 1))`` in nats, summed over features: ``(N, L)`` -> ``(N,)``."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def from_meta(meta: Mapping[str, Any]) -> VariationalAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = VariationalSettings.model_validate(meta["settings"])
    return VariationalAutoencoder(
        TensorPca.from_meta(meta["pca"]), meta["latent"], options, torch.Generator()
    )


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: VariationalSettings,
    seed: int,
) -> tuple[VariationalAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss with the full KL on val members."""
    generator = torch_stream(seed, "autoencoder", "init")
    autoencoder = VariationalAutoencoder(data.pca, settings.latent, options, generator)
    steps = settings.epochs * math.ceil(data.counts["train"] / settings.batch_size)
    autoencoder.warm_steps = round(options.warm_up * steps)
    return autoencoder, fit_coefficients(
        autoencoder, data, settings, options.behaviour_weight, seed
    )
