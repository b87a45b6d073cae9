"""The shared encoder of the original study: one latent per (D, R), aligned by NT-Xent.

Direction by NT-Xent against the autoencoder's latents, length by regression of its logarithm: a
contrastive loss fixes only the direction, and a decoder needs the length too. Draws are normal
around the prediction, with the standard deviation of the train members around theirs.
"""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.learning.contrastive import nt_xent
from weightspace.learning.loop import fit as run_fit
from weightspace.learning.mlp import mlp
from weightspace.params import PointSettings, SharedEncoderSettings
from weightspace.rng import normal
from weightspace.shared_encoders.base import (
    STREAM,
    SharedEncoder,
    SharedEncoderData,
    Sizes,
    draw_masks,
    started,
)


class PointModel(SharedEncoder):
    """Maps (D, R) to a direction and a length in the latent space, around the latents' centre."""

    centre: Tensor
    residual: Tensor
    log_length: Tensor

    def __init__(
        self,
        sizes: Sizes,
        settings: SharedEncoderSettings,
        options: PointSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__(sizes, settings, options, rng)
        widths = [self.condition_features, *[settings.width] * settings.depth, sizes.latent + 1]
        self.trunk = mlp(widths, rng)
        self.register_buffer("centre", torch.zeros(sizes.latent))
        self.register_buffer(
            "residual", torch.zeros(sizes.latent)
        )  # std of z around the prediction
        self.register_buffer("log_length", torch.zeros(()))  # mean log length of z - centre

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Unit direction ``(N, L)`` and log length ``(N,)`` of embedded conditions."""
        out = self.trunk(condition)
        return F.normalize(out[:, :-1], dim=1), self.log_length + out[:, -1]

    def predict(self, condition: Tensor) -> Tensor:
        """Latent ``(N, L)`` at the predicted direction and length."""
        direction, log_length = self(condition)
        z: Tensor = self.centre + log_length.exp()[:, None] * direction
        return z

    def sample(self, condition: Tensor, draws: int, rng: torch.Generator) -> Tensor:
        """Latents ``(N, draws, L)``: normal around the prediction.

        Args:
            condition: embedded conditions ``(N, F)``.
            draws: latents of each.
            rng: random stream.

        """
        mean = self.predict(condition)[:, None]
        noise = normal((len(condition), draws, mean.shape[-1]), rng, mean.device)
        return mean + self.residual * noise

    def project(self, condition: Tensor) -> Tensor:
        """Predicted unit direction ``(N, L)``."""
        direction: Tensor = self(condition)[0]
        return direction

    def project_latent(self, z: Tensor) -> Tensor:
        """Unit direction ``(N, L)`` from the centre of the latents."""
        return F.normalize(z - self.centre, dim=1)


build = PointModel


def fit(
    data: SharedEncoderData,
    settings: SharedEncoderSettings,
    options: PointSettings,
    seed: int,
) -> tuple[PointModel, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members.

    Args:
        data: members as pairs, autoencoder, images.
        settings: section ``shared_encoder`` of params.yaml.
        options: section ``shared_encoders.point``.
        seed: root seed.

    """
    z = data.train.z[:, 0]
    model = started(build, data, settings, options, seed)
    model.centre.copy_(z.mean(0))
    model.log_length.copy_((z - model.centre).norm(dim=1).log().mean())
    pairs = {"train": data.train, "val": data.val}
    images, classes = data.runner.dataset.images["train"], data.runner.dataset.classes

    def loss(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        p = pairs[split]
        masks = draw_masks(len(rows), settings.dropout if split == "train" else 0.0, rng)
        e = model.embed(images, classes[p.tasks[rows]])
        direction, log_length = model(model.condition(e, p.result[rows], *masks))
        z = p.z[rows, 0] - model.centre
        contrast = nt_xent(direction, z, settings.temperature, p.runs[rows])
        length = (log_length - z.norm(dim=1).log()).square().mean()
        return {
            "loss": contrast + options.length_weight * length,
            "nt_xent": contrast,
            "length": length,
        }

    counts = {split: len(p.tasks) for split, p in pairs.items()}
    history = run_fit("shared_encoder", model, loss, counts, settings, seed, stream=STREAM)
    with torch.no_grad():
        e = model.embed(images, classes[data.train.tasks])
        predicted = model.predict(model.condition(e, data.train.result))
    model.residual.copy_((z - predicted).std(0))
    return model, history
