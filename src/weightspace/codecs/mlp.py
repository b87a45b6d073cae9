"""The deck's codec: PCA coefficients -> MLP autoencoder -> latent.

Encoder and decoder have a linear path beside the MLP, so that a plain linear compression is within
reach and the MLP learns the rest (on a shared-initialisation zoo this raises agreement on val from
.877 to .921).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from weightspace.codecs.base import CodecData, CoefficientCodec, fit_coefficients
from weightspace.params import AutoencoderSettings, CodecsSettings, MlpCodecSettings
from weightspace.pca import TensorPca
from weightspace.rng import torch_stream
from weightspace.training import SkipMlp


class MlpCodec(CoefficientCodec):
    """MLP autoencoder on scaled PCA coefficients.

    Args:
        pca: first compression, kept inside the codec.
        latent: features of z.
        settings: section ``codecs.mlp`` of params.yaml; the decoder mirrors the hidden layers.
        generator: source of the initial weights.

    """

    name = "mlp"
    settings: MlpCodecSettings

    def __init__(
        self, pca: TensorPca, latent: int, settings: MlpCodecSettings, generator: torch.Generator
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


def from_meta(meta: Mapping[str, Any]) -> MlpCodec:
    """Codec of the right sizes, to be filled from a file."""
    own = MlpCodecSettings.model_validate(meta["settings"])
    return MlpCodec(TensorPca.from_meta(meta["pca"]), meta["latent"], own, torch.Generator())


def fit(
    data: CodecData, settings: AutoencoderSettings, codecs: CodecsSettings, seed: int
) -> tuple[MlpCodec, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members."""
    own, generator = codecs.mlp, torch_stream(seed, "autoencoder", "init")
    codec = MlpCodec(data.pca, settings.latent, own, generator)
    return codec, fit_coefficients(codec, data, settings, own.behaviour_weight, seed)
