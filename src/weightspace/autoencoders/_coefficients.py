"""Autoencoders that read and write PCA coefficients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders._loss import FitLoss
from weightspace.autoencoders.base import Autoencoder, AutoencoderData, by_block
from weightspace.learning.loop import fit as run_fit
from weightspace.params import AutoencoderSettings, BehaviouralSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import TensorPca
from weightspace.weights.permutations import shuffled
from weightspace.weights.spec import Weights, take


class CoefficientAutoencoder(Autoencoder):
    """Autoencoder of PCA coefficients, those of each tensor in units of their root mean square.

    Latents of train members have a root mean square of 1, so that steps and noise mean the same
    for every autoencoder.

    Args:
        pca: first compression, part of the autoencoder.
        latent: features of z.
        settings: the member's section of params.yaml.
        rng: source of the initial weights.

    """

    Options: ClassVar[type[BehaviouralSettings]]  # of the member's section of params.yaml
    scale: Tensor
    unit: Tensor

    def __init__(
        self, pca: TensorPca, latent: int, settings: BehaviouralSettings, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.pca, self.spec, self.latent, self.settings = pca, pca.spec, latent, settings
        self.register_buffer("scale", pca.scale())
        self.register_buffer("unit", torch.ones(()))
        self.build(rng)

    @abstractmethod
    def build(self, rng: torch.Generator) -> None:
        """Make the layers that are learned."""

    def prepare(self, members: int, settings: AutoencoderSettings) -> None:
        """What has to be known before the fit to so many train members; by default nothing."""

    @abstractmethod
    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""

    @abstractmethod
    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""

    def rebuild(
        self, scaled: Tensor, split: str, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rebuilt coefficients for the loss, and named penalties that are added to it.

        Args:
            scaled: scaled coefficients ``(N, features)``.
            split: "train" or "val".
            rng: source of noise.

        """
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

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Autoencoder of the right sizes, to be filled from a file."""
        pca, options = (
            TensorPca.from_meta(meta["pca"]),
            cls.Options.model_validate(meta["settings"]),
        )
        return cls(pca, meta["latent"], options, torch.Generator())

    @classmethod
    def fit(
        cls,
        data: AutoencoderData,
        settings: AutoencoderSettings,
        options: BehaviouralSettings,
        seed: int,
    ) -> tuple[Self, pd.DataFrame]:
        """Fit on train members; stop by the loss on val members.

        Args:
            data: members and images.
            settings: section ``autoencoder`` of params.yaml.
            options: the member's section of params.yaml.
            seed: root seed.

        Returns:
            The autoencoder and its history, a row per epoch.

        """
        rng = torch_stream(seed, "autoencoder", "init")
        autoencoder = cls(data.pca, settings.latent, options, rng)
        autoencoder.prepare(data.counts["train"], settings)
        autoencoder.to(data.runner.device)
        return autoencoder, fit_coefficients(autoencoder, data, settings, seed)


def unexplained(error: Tensor, sizes: list[int]) -> Tensor:
    """Fraction of each tensor's variance that is not rebuilt, averaged over the tensors.

    So a large tensor does not drown a small one.

    Args:
        error: in units of each tensor's root mean square ``(N, features)``.
        sizes: features of each tensor; those without any do not count.

    >>> unexplained(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), [3, 1])  # all of one, none of the other
    tensor(0.5000)

    """
    parts = error.square().split([s for s in sizes if s], 1)
    return torch.stack([part.mean() for part in parts]).mean()


def fit_coefficients(
    autoencoder: CoefficientAutoencoder,
    data: AutoencoderData,
    settings: AutoencoderSettings,
    seed: int,
) -> pd.DataFrame:
    """Fit an autoencoder of coefficients on train members; stop by the loss on val members.

    Args:
        autoencoder: fitted in place.
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        seed: root seed.

    """
    features = (autoencoder.pca.features,)
    scaled = {
        split: by_block(autoencoder, weights, features, autoencoder.scaled)
        for split, weights in data.weights.items()
    }
    combine = FitLoss(data, settings, autoencoder.settings.behaviour_weight)

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
