"""Linear autoencoder on PCA coefficients, solved in closed form: no epochs, no learning rate.

Encoder: the first principal directions V of the scaled coefficients x of all tensors together, which
the PCA of the stage before keeps apart. ``z = (x - m) V``, divided by its root mean square. Decoder: ridge
regression of ``x - m`` on z, ``B = (Z'Z + ridge N I)^-1 Z'X``, which shrinks what a latent predicts badly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from weightspace import params
from weightspace.autoencoders.base import (
    Autoencoder,
    AutoencoderData,
    by_block,
    encode_members,
)
from weightspace.errors import problem
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import Population, Weights


class Settings(params.Settings):
    """Section ``autoencoders.ridge`` of params.yaml."""

    ridge: Annotated[float, Field(ge=0)] = Field(description="penalty per train member")


class RidgeAutoencoder(Autoencoder):
    """Linear encoder and decoder of scaled PCA coefficients.

    Args:
        pca: first compression, kept inside the autoencoder.
        latent: features of z.
        settings: section ``autoencoders.ridge`` of params.yaml.

    """

    name = "ridge"
    centre: Tensor
    scale: Tensor
    encoder: Tensor
    decoder: Tensor

    def __init__(self, pca: TensorPca, latent: int, settings: Settings) -> None:
        super().__init__()
        if not latent < pca.features:
            raise problem(
                "nothing to compress",
                where="params.yaml: autoencoder.latent",
                got=latent,
                expected=f"less than the {pca.features} coefficients of all tensors",
            )
        self.pca, self.spec, self.latent, self.settings = pca, pca.spec, latent, settings
        self.register_buffer("scale", pca.scale())
        self.register_buffer("centre", torch.zeros(pca.features))
        self.register_buffer("encoder", torch.zeros(pca.features, latent))
        self.register_buffer("decoder", torch.zeros(latent, pca.features))

    def coefficients(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Centred and scaled coefficients ``(N, features)`` of weights ``(N, *shape)``."""
        x: Tensor = self.pca(weights) / self.scale - self.centre
        return x

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.coefficients(weights) @ self.encoder

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""
        return self.pca.inverse((z @ self.decoder + self.centre) * self.scale)

    def meta(self) -> dict[str, Any]:
        """Sizes of the autoencoder and of its PCA."""
        return {"pca": self.pca.meta(), **super().meta()}

    @torch.no_grad()
    def solve(self, weights: Population) -> None:
        """Set centre, encoder and decoder from N train members ``(N, *shape)``, in float64."""
        shape = (self.pca.features,)
        self.centre.copy_(by_block(self, weights, shape, self.coefficients).mean(0))
        x = by_block(self, weights, shape, self.coefficients).double()  # (N, features)
        directions = torch.linalg.eigh(x.T @ x).eigenvectors.flip(1)[:, : self.latent]
        z = x @ directions  # (N, latent)
        size = z.square().mean().sqrt().clamp_min(1e-12)
        z = z / size
        penalty = self.settings.ridge * len(z) * torch.eye(self.latent).to(z)
        self.encoder.copy_(directions / size)
        self.decoder.copy_(torch.linalg.solve(z.T @ z + penalty, z.T @ x))


def from_meta(meta: Mapping[str, Any]) -> RidgeAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = Settings.model_validate(meta["settings"])
    return RidgeAutoencoder(TensorPca.from_meta(meta["pca"]), meta["latent"], options)


def fit(
    data: AutoencoderData, settings: params.AutoencoderSettings, options: Settings, seed: int
) -> tuple[RidgeAutoencoder, pd.DataFrame]:
    """Solve on train members; the history is one row, the unexplained fraction on both splits.

    Args:
        data: members of the train and val splits.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.ridge``.
        seed: not used: nothing is drawn.

    """
    autoencoder = RidgeAutoencoder(data.pca, settings.latent, options).to(data.runner.device)
    autoencoder.solve(data.weights["train"])
    row = {"epoch": 1}
    for split, weights in data.weights.items():
        x = by_block(autoencoder, weights, (data.pca.features,), autoencoder.coefficients)
        error = x - encode_members(autoencoder, weights) @ autoencoder.decoder
        row[f"{split}_loss"] = float(error.square().mean() / x.square().mean())
    return autoencoder, pd.DataFrame([row])
