"""Autoencoders that end in an exact PCA: a non-linear stage gives features, PCA compresses them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.autoencoders.base import (
    BLOCK,
    Autoencoder,
    AutoencoderData,
    by_block,
    encode_members,
)
from weightspace.learning.loop import Loss
from weightspace.learning.loop import fit as run_fit
from weightspace.params import AutoencoderSettings, BehaviouralSettings
from weightspace.weights.lazy import Moments
from weightspace.weights.pca import FeaturePca
from weightspace.weights.spec import Population, Spec, Weights, block_size, blocks, to_device


class FeaturePcaAutoencoder(Autoencoder):
    """Non-linear stage that gives features of a network, and exact PCA of them behind it.

    The PCA is fitted to the features of the train members once the stage is; then the encoder stays
    as it is, so the PCA remains exact, and the decoder is fitted on behind it.

    Args:
        spec: the architecture.
        latent: features of z.
        settings: the member's section of params.yaml.

    """

    encoder: nn.Module
    pool: FeaturePca
    centre: Tensor
    scale: Tensor
    one_centre = False  # True where the entries of a group share their centre, too

    def __init__(self, spec: Spec, latent: int, settings: BehaviouralSettings) -> None:
        super().__init__()
        self.spec, self.latent, self.settings = spec, latent, settings
        self.register_buffer("centre", torch.zeros(spec.numel))
        self.register_buffer("scale", torch.ones(spec.numel))  # 0 where nothing varies

    @abstractmethod
    def groups(self) -> Tensor:
        """Group of each entry ``(numel,)``: the entries of a group share their scale."""

    @torch.no_grad()
    def fit_scale(self, weights: Population) -> None:
        """Measure what entries are centred and scaled by, from N networks, in float64."""
        moments = Moments()
        for block in blocks(weights, block_size(self.spec, BLOCK)):
            moments.add(self.spec.flatten(self.spec.unconstrain(block)))
        variance, mean = moments.variance, moments.mean
        groups = self.groups().cpu()
        if self.one_centre:
            common = group_means(mean, groups)[groups]
            mean, variance = common, variance + (mean - common).square()
        self.centre.copy_(mean)
        self.scale.copy_(group_means(variance, groups)[groups].sqrt())

    def standardise(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Entries ``(N, numel)``, centred and scaled; zero where nothing varies."""
        weights = to_device(weights, self.scale.device)
        factor = self.scale.reciprocal().nan_to_num(posinf=0.0)
        return (self.spec.flatten(self.spec.unconstrain(weights)) - self.centre) * factor

    def weights(self, x: Tensor) -> Weights:
        """Inverse of :meth:`standardise`."""
        return self.spec.constrain(self.spec.unflatten(x * self.scale + self.centre))

    @abstractmethod
    def features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Features ``(N, d)`` of weights ``(N, *shape)``."""

    @abstractmethod
    def rebuild(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of features ``(N, d)``."""

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.pool(self.features(weights))
        return z

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""
        return self.rebuild(self.pool.inverse(z))

    def meta(self) -> dict[str, Any]:
        """Sizes of the autoencoder and its architecture."""
        return {"spec": self.spec.to_json(), **super().meta()}

    @torch.no_grad()
    def fit_pool(self, weights: Population) -> None:
        """Fit the PCA to the features of N networks."""
        shape = tuple(self.pool.mean.shape)
        self.pool.fit(by_block(self, weights, shape, self.features))


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Mean in each group of values ``(n,)`` whose groups are ``(n,)``, 0 to the largest.

    >>> group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))
    tensor([2., 5.], dtype=torch.float64)
    """
    count = groups.bincount()
    total = torch.zeros(len(count), dtype=torch.float64).index_add_(0, groups, values.double())
    return total / count


# loss(rows, split, rng, latents of the rows once the PCA is fitted) -> named losses
FeaturePcaLoss = Callable[[Tensor, str, torch.Generator, Tensor | None], dict[str, Tensor]]


def fit_feature_pca(
    autoencoders: Sequence[FeaturePcaAutoencoder],
    losses: Sequence[FeaturePcaLoss],
    data: Sequence[AutoencoderData],
    settings: AutoencoderSettings,
    refit: float,
    seed: int,
) -> pd.DataFrame:
    """Fit the non-linear stage, then the PCA, then the decoder behind it.

    Args:
        autoencoders: fitted in place, one of each width; they share all that is learned.
        losses: of some rows of a split, through the whole autoencoder.
        data: members of each width.
        settings: section ``autoencoder`` of params.yaml.
        refit: fraction of the epochs, the last ones, for the decoder.
        seed: root seed.

    """
    last = round(refit * settings.epochs)
    first = settings.model_copy(update={"epochs": max(1, settings.epochs - last)})
    counts = [one.counts for one in data]
    total = {split: sum(count[split] for count in counts) for split in counts[0]}
    together = nn.ModuleList(autoencoders)
    without = by_width([_at(loss) for loss in losses], counts)
    history = run_fit("autoencoder", together, without, total, first, seed)
    for autoencoder, one in zip(autoencoders, data, strict=True):
        autoencoder.fit_pool(one.weights["train"])
    if not last:
        return history
    parts = [
        _at(loss, {s: encode_members(autoencoder, w) for s, w in one.weights.items()})
        for autoencoder, loss, one in zip(autoencoders, losses, data, strict=True)
    ]
    autoencoders[0].encoder.requires_grad_(requires_grad=False)
    second = settings.model_copy(update={"epochs": last})
    more = run_fit("autoencoder", together, by_width(parts, counts), total, second, seed)
    autoencoders[0].encoder.requires_grad_(requires_grad=True)
    more["epoch"] += history["epoch"].iloc[-1]
    return pd.concat([history, more], ignore_index=True)


def _at(loss: FeaturePcaLoss, z: Mapping[str, Tensor] | None = None) -> Loss:
    """The loss of members, from their latents, split -> ``(N, L)``, once the PCA is fitted."""

    def of_rows(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        return loss(rows, split, rng, None if z is None else z[split][rows])

    return of_rows


def by_width(losses: Sequence[Loss], counts: Sequence[Mapping[str, int]]) -> Loss:
    """Loss of rows of all widths, one width after the other: that of each width, means over the rows.

    Args:
        losses: of the rows of each width.
        counts: rows of each width, by split.

    >>> losses = [lambda rows, *_: {"loss": rows.float().mean()}] * 2
    >>> loss = by_width(losses, [{"train": 3}, {"train": 5}])
    >>> loss(torch.tensor([2, 3, 4, 5]), "train", torch.Generator())  # of rows 2; 0, 1, 2
    {'loss': tensor(1.2500)}

    """
    if len(losses) == 1:
        return losses[0]

    def of_rows(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        out, start = dict[str, Tensor](), 0
        for loss, count in zip(losses, counts, strict=True):
            some = rows[(rows >= start) & (rows < start + count[split])] - start
            for name, value in (loss(some, split, rng) if len(some) else {}).items():
                out[name] = out.get(name, 0) + value * (len(some) / len(rows))
            start += count[split]
        return out

    return of_rows
