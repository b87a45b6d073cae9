"""The shared encoder: dataset embedding and result -> latent of weights.

Direction by NT-Xent against the codec's latents, length by regression of its logarithm: a
contrastive loss fixes only the direction, and a decoder needs the length too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.artifacts import load_tensors, save_tensors
from weightspace.contrastive import nt_xent
from weightspace.data.dataset import Dataset
from weightspace.encoders import ENCODERS
from weightspace.params import SharedSettings
from weightspace.registry import resolve
from weightspace.rng import torch_stream
from weightspace.training import fit, mlp


class SharedEncoder(nn.Module):
    """Maps (D, R) to a direction and a length in the latent space, around the latents' centre.

    Either condition may be absent: a learned vector stands in its place.

    Args:
        shape: channels, height, width of an image.
        classes: classes of a task.
        latent: features of z.
        settings: section ``shared`` of params.yaml.
        generator: source of the initial weights.

    """

    range: Tensor
    centre: Tensor
    residual: Tensor
    log_length: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        latent: int,
        settings: SharedSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sizes = {"shape": list(shape), "classes": classes, "latent": latent}
        self.settings = settings
        family = resolve(ENCODERS, settings.encoder, "shared.encoder")
        self.encoder = family.build(shape, classes, settings, generator)
        features = 1 + 2 * settings.fourier
        self.no_dataset = nn.Parameter(torch.zeros(self.encoder.features))
        self.no_result = nn.Parameter(torch.zeros(features))
        self.trunk = mlp(
            [self.encoder.features + features, *settings.hidden, latent + 1], generator
        )
        self.register_buffer("range", torch.tensor([0.0, 1.0]))  # of R over train members
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("residual", torch.zeros(latent))  # std of z around the prediction
        self.register_buffer("log_length", torch.zeros(()))  # mean log length of z - centre

    def embed_result(self, result: Tensor) -> Tensor:
        """Fourier features ``(N, 1 + 2 F)`` of results ``(N,)``, over the trained range.

        Source: Tancik et al. (2020), arXiv 2006.10739.
        """
        low, high = self.range
        x = ((result - low) / (high - low).clamp_min(1e-6))[:, None]
        angle = math.pi * x * torch.arange(1, self.settings.fourier + 1)
        return torch.cat([2 * x - 1, angle.sin(), angle.cos()], 1)

    def embed(self, dataset: Dataset, tasks: Tensor) -> Tensor:
        """Dataset embeddings ``(N, E)`` of tasks ``(N,)``, each task encoded once from its train images."""
        unique, place = tasks.unique(return_inverse=True)
        parts = [self.encoder(dataset.task_images(t, "train")) for t in unique.split(128)]
        return torch.cat(parts)[place]

    def forward(
        self,
        e: Tensor,
        result: Tensor,
        use_dataset: Tensor | None = None,
        use_result: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Unit direction ``(N, L)`` and log length ``(N,)``.

        Args:
            e: dataset embeddings ``(N, E)``.
            result: asked or achieved result ``(N,)``.
            use_dataset: bool ``(N,)``, False where D is withheld; default all True.
            use_result: bool ``(N,)``, False where R is withheld; default all True.

        """
        r = self.embed_result(result)
        if use_dataset is not None:
            e = torch.where(use_dataset[:, None], e, self.no_dataset)
        if use_result is not None:
            r = torch.where(use_result[:, None], r, self.no_result)
        out = self.trunk(torch.cat([e, r], 1))
        return F.normalize(out[:, :-1], dim=1), self.log_length + out[:, -1]

    def latent(self, direction: Tensor, log_length: Tensor) -> Tensor:
        """Latent ``(N, L)`` at a direction and log length."""
        z: Tensor = self.centre + log_length.exp()[:, None] * direction
        return z

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        meta = {"sizes": self.sizes, "settings": self.settings.model_dump(mode="json")}
        save_tensors(path, "shared", self.state_dict(), meta)

    @classmethod
    def load(cls, path: Path) -> SharedEncoder:
        """Read what :meth:`save` wrote."""
        tensors, meta = load_tensors(path, "shared")
        sizes: Mapping[str, Any] = meta["sizes"]
        settings = SharedSettings.model_validate(meta["settings"])
        out = cls(
            tuple(sizes["shape"]), sizes["classes"], sizes["latent"], settings, torch.Generator()
        )
        out.load_state_dict(tensors)
        return out.eval()


@dataclass(frozen=True)
class Pairs:
    """Members as pairs of condition and latent.

    Attributes:
        tasks: task of each member ``(N,)``.
        runs: run of each member ``(N,)``.
        result: R ``(N,)``.
        z: latent ``(N, L)``.

    """

    tasks: Tensor
    runs: Tensor
    result: Tensor
    z: Tensor

    @classmethod
    def of(cls, members: pd.DataFrame, z: Tensor, result: str) -> Pairs:
        """Pairs of a members' table and its latents."""
        column = members[f"val_{result}"].to_numpy()
        return cls(
            torch.tensor(members["task"].to_numpy()),
            torch.tensor(members["run"].to_numpy()),
            torch.tensor(column, dtype=torch.float32),
            z,
        )


def fit_shared(
    dataset: Dataset, train: Pairs, val: Pairs, settings: SharedSettings, seed: int
) -> tuple[SharedEncoder, pd.DataFrame]:
    """Fit the shared encoder on train members; stop by the loss on val members."""
    generator = torch_stream(seed, "shared", "init")
    classes, latent = dataset.classes.shape[1], train.z.shape[1]
    model = SharedEncoder(dataset.shape, classes, latent, settings, generator)
    model.encoder.prepare(dataset.task_images(train.tasks.unique(), "train"))
    model.range.copy_(torch.stack([train.result.min(), train.result.max()]))
    model.centre.copy_(train.z.mean(0))
    model.log_length.copy_((train.z - model.centre).norm(dim=1).log().mean())
    pairs = {"train": train, "val": val}

    def loss(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        p = pairs[split]
        use = [None, None]
        if split == "train":
            use = [torch.rand(len(rows), generator=rng) >= settings.dropout for _ in use]  # type: ignore[misc]
        direction, log_length = model(model.embed(dataset, p.tasks[rows]), p.result[rows], *use)
        z = p.z[rows] - model.centre
        contrast = nt_xent(direction, z, settings.temperature, p.runs[rows])
        length = (log_length - z.norm(dim=1).log()).square().mean()
        return {
            "loss": contrast + settings.length_weight * length,
            "nt_xent": contrast,
            "length": length,
        }

    counts = {split: len(p.tasks) for split, p in pairs.items()}
    history = fit("shared", model, loss, counts, settings, seed)
    with torch.no_grad():
        embedding = model.embed(dataset, train.tasks)
    model.residual.copy_((train.z - predict(model, embedding, train.result)).std(0))
    return model, history


@torch.no_grad()
def predict(
    model: SharedEncoder,
    e: Tensor,
    result: Tensor,
    *,
    use_dataset: bool = True,
    use_result: bool = True,
) -> Tensor:
    """Point prediction of the latent ``(N, L)`` for dataset embeddings ``(N, E)`` and results ``(N,)``."""
    on = torch.ones(len(e), dtype=torch.bool)
    return model.latent(*model(e, result, on & use_dataset, on & use_result))
