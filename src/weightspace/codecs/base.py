"""What every codec is: a module that encodes weights, decodes latents and travels as one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.alignment import shuffled
from weightspace.artifacts import load_tensors, rebuilding, save_tensors
from weightspace.behaviour import BehaviouralLoss, Originals, choose_images, read_originals
from weightspace.codecs import CODECS
from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.networks import Net, net_for
from weightspace.params import AutoencoderSettings, CodecSettings, Params
from weightspace.pca import FeaturePca, TensorPca
from weightspace.registry import resolve
from weightspace.spec import Spec, Weights, blocks, reorder_outputs, take
from weightspace.training import fit as run_fit

BLOCK = 500  # networks encoded or decoded at once
OTHER_IMAGES = 256  # images of any class for the behavioural loss of codecs without probes


@dataclass(frozen=True)
class CodecData:
    """What a codec may be fitted on: members of the train and val splits, nothing of a test split.

    Attributes:
        net: the architecture.
        pca: the fitted first compression.
        weights: split -> weights ``(N, *shape)``.
        members: split -> table of the same members.
        dataset: images and tasks.

    """

    net: Net
    pca: TensorPca
    weights: dict[str, Weights]
    members: dict[str, pd.DataFrame]
    dataset: Dataset

    @property
    def counts(self) -> dict[str, int]:
        """Members of each split."""
        return {split: len(table) for split, table in self.members.items()}

    def originals(self, images: Tensor) -> dict[str, Originals]:
        """Outputs of all members, on images of their tasks and on some of any class."""
        return {
            split: read_originals(
                self.net, self.dataset, images, self.members[split]["task"].to_numpy(), weights
            )
            for split, weights in self.weights.items()
        }


class Codec(nn.Module, ABC):
    """Weights <-> latent."""

    name: str
    spec: Spec
    latent: int
    settings: CodecSettings
    normalised = False  # True where every latent has mean 0 and length sqrt(latent)

    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights ``(N, *shape)``.

        Raises:
            WeightspaceError: a tensor is missing, unknown, misshapen or not finite; named.

        """
        self.check(weights)
        return self._encode(weights)

    def encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` of N networks for each order ``(O, c)`` of their outputs."""
        self.check(weights)
        return self._encode_orders(weights, orders)

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse networks of another architecture or size, and NaN or infinity, by tensor."""
        self.spec.check(weights, f"codec '{self.name}'")
        for name in self.spec.names:
            if not weights[name].isfinite().all():
                raise problem(
                    f"tensor '{name}' has NaN or infinity",
                    where=f"codec '{self.name}'",
                    do="leave the network out",
                )

    @abstractmethod
    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights that were checked."""

    def _encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` of weights that were checked."""
        every = [self._encode(reorder_outputs(self.spec, weights, order)) for order in orders]
        return torch.stack(every, 1)

    @abstractmethod
    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""

    def valid(self, z: Tensor) -> Tensor:
        """Nearest latents ``(N, latent)`` that the encoder could give; by default any."""
        return z

    def meta(self) -> dict[str, Any]:
        """What ``from_meta`` of the same module needs to rebuild the codec, JSON-ready."""
        return {"latent": self.latent, "settings": self.settings.model_dump(mode="json")}

    def save(self, path: Path) -> None:
        """Write one safetensors file that holds all that is needed to encode and decode."""
        save_tensors(path, "codec", self.state_dict(), {"codec": self.name, **self.meta()})


class CoefficientCodec(Codec):
    """Codec of PCA coefficients, each in units of its tensor's spread.

    Latents of train members have a root mean square of 1, so that steps and noise mean the same
    for every codec.

    Args:
        pca: first compression, kept inside the codec.
        latent: features of z.
        settings: the codec's own section of params.yaml.

    """

    scale: Tensor
    unit: Tensor

    def __init__(self, pca: TensorPca, latent: int, settings: CodecSettings) -> None:
        super().__init__()
        self.pca, self.spec, self.latent, self.settings = pca, pca.spec, latent, settings
        self.register_buffer("scale", pca.scale())
        self.register_buffer("unit", torch.ones(()))

    @abstractmethod
    def compress(self, scaled: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of scaled coefficients ``(N, features)``."""

    @abstractmethod
    def expand(self, z: Tensor) -> Tensor:
        """Scaled coefficients ``(N, features)`` of latents ``(N, latent)``."""

    def rebuild(
        self, scaled: Tensor, split: str, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rebuilt coefficients for the loss, and named penalties that are added to it."""
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
        """Sizes of the codec and of its PCA."""
        return {"pca": self.pca.meta(), **super().meta()}


def unexplained(error: Tensor, sizes: list[int]) -> Tensor:
    """Share of each tensor's variance that is not rebuilt, averaged over the tensors.

    So a large tensor does not drown a small one.

    Args:
        error: in units of each tensor's spread ``(N, features)``.
        sizes: features of each tensor; those without any do not count.

    """
    parts = error.square().split([s for s in sizes if s], 1)
    return torch.stack([part.mean() for part in parts]).mean()


class FitLoss:
    """A codec's loss on weights, and with a weight above 0 the behavioural loss beside it.

    Args:
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        weight: of the behavioural loss.
        seed: root seed.

    """

    def __init__(
        self, data: CodecData, settings: AutoencoderSettings, weight: float, seed: int
    ) -> None:
        self.weight = weight
        if weight:
            images = choose_images(data.dataset, OTHER_IMAGES, seed)
            self.behaviour = BehaviouralLoss(
                data.net, data.dataset, images, data.originals(images), settings
            )

    def __call__(
        self,
        structural: Tensor,
        penalties: dict[str, Tensor],
        rebuilt: Callable[[], Weights],
        rows: Tensor,
        split: str,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Named losses; ``loss`` is their sum.

        Args:
            structural: loss on the weights.
            penalties: further terms, weighted.
            rebuilt: gives the decoded networks, where they are needed.
            rows: numbers of the originals in the split.
            split: "train" or "val".
            rng: draws images.

        """
        total = sum(penalties.values(), structural)
        if not self.weight:
            return {"loss": total, **({"structural": structural, **penalties} if penalties else {})}
        behavioural, parts = self.behaviour(rebuilt(), rows, split, rng)
        total = total + self.weight * behavioural
        return {"loss": total, "structural": structural, **penalties, **parts}


def fit_coefficients(
    codec: CoefficientCodec,
    data: CodecData,
    settings: AutoencoderSettings,
    weight: float,
    seed: int,
) -> pd.DataFrame:
    """Fit a codec of coefficients on train members; stop by the loss on val members."""
    scaled = {split: codec.scaled(weights) for split, weights in data.weights.items()}
    combine = FitLoss(data, settings, weight, seed)

    def loss(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        if settings.augment_permutations and split == "train":
            x = codec.scaled(shuffled(codec.spec, take(data.weights[split], rows), rng))
        else:
            x = scaled[split][rows]
        rebuilt, penalties = codec.rebuild(x, split, rng)
        structural = unexplained(rebuilt - x, codec.pca.sizes)
        return combine(structural, penalties, lambda: codec.weights(rebuilt), rows, split, rng)

    history = run_fit("autoencoder", codec, loss, data.counts, settings, seed)
    with torch.no_grad():
        codec.unit.copy_(codec.compress(scaled["train"]).square().mean().sqrt().clamp_min(1e-12))
    return history


class PooledCodec(Codec):
    """Non-linear stage that gives features of a network, and exact PCA of them behind it.

    The PCA is fitted to the features of the train members once the stage is; then the encoder stays
    as it is, so the PCA remains exact, and the decoder is fitted on behind it.

    Args:
        spec: the architecture.
        latent: features of z.
        settings: the codec's own section of params.yaml.

    """

    encoder: nn.Module
    pool: FeaturePca

    def __init__(self, spec: Spec, latent: int, settings: CodecSettings) -> None:
        super().__init__()
        self.spec, self.latent, self.settings = spec, latent, settings

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
        """Sizes of the codec and its architecture."""
        return {"spec": self.spec.to_json(), **super().meta()}

    @torch.no_grad()
    def fit_pool(self, weights: Weights) -> None:
        """Fit the PCA to the features of N networks."""
        self.pool.fit(torch.cat([self.features(block) for block in blocks(weights, BLOCK)]))


# loss(rows, split, generator, latents of the rows once the PCA is fitted) -> named losses
PooledLoss = Callable[[Tensor, str, torch.Generator, Tensor | None], dict[str, Tensor]]


def fit_pooled(
    codec: PooledCodec,
    loss: PooledLoss,
    data: CodecData,
    settings: AutoencoderSettings,
    refit: float,
    seed: int,
) -> pd.DataFrame:
    """Fit the non-linear stage, then the PCA, then the decoder behind it.

    Args:
        codec: fitted in place.
        loss: of some rows of a split, through the whole codec.
        data: members.
        settings: section ``autoencoder`` of params.yaml.
        refit: share of the epochs, the last, for the decoder.
        seed: root seed.

    """
    last = round(refit * settings.epochs)
    first = settings.model_copy(update={"epochs": max(1, settings.epochs - last)})

    def without(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        return loss(rows, split, rng, None)

    history = run_fit("autoencoder", codec, without, data.counts, first, seed)
    codec.fit_pool(data.weights["train"])
    if not last:
        return history
    z = {split: encode_members(codec, weights) for split, weights in data.weights.items()}
    codec.encoder.requires_grad_(requires_grad=False)
    second = settings.model_copy(update={"epochs": last})

    def behind(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        return loss(rows, split, rng, z[split][rows])

    more = run_fit("autoencoder", codec, behind, data.counts, second, seed)
    codec.encoder.requires_grad_(requires_grad=True)
    more["epoch"] += history["epoch"].iloc[-1]
    return pd.concat([history, more], ignore_index=True)


def load_codec(path: Path) -> Codec:
    """Read any codec that :meth:`Codec.save` wrote.

    Raises:
        WeightspaceError: no such file, not a codec, or one of another version.

    """
    tensors, meta = load_tensors(path, "codec")
    with rebuilding(path):
        codec: Codec = resolve(CODECS, meta["codec"], "autoencoder.codec").from_meta(meta)
        codec.load_state_dict(tensors)
    return codec.eval()


def load_trained(data: Path, params: Params) -> tuple[Dataset, Net, Codec]:
    """Dataset, architecture and codec that the stages left in ``data``.

    Raises:
        WeightspaceError: a stage has not run, or its output is damaged.

    """
    dataset = Dataset.load(data / "dataset")
    net = net_for(dataset, params.zoo.architecture, params.nets)
    return dataset, net, load_codec(data / "autoencoder" / "codec.safetensors")


@torch.no_grad()
def encode_members(codec: Codec, weights: Weights) -> Tensor:
    """Latents ``(N, L)`` of N networks, in fixed blocks."""
    return _in_blocks(codec, weights, (codec.latent,), codec.encode)


@torch.no_grad()
def encode_orders(codec: Codec, weights: Weights, orders: Tensor) -> Tensor:
    """Latents ``(N, O, L)`` of N networks for each order of their outputs, in fixed blocks."""
    shape = len(orders), codec.latent
    return _in_blocks(codec, weights, shape, lambda block: codec.encode_orders(block, orders))


def _in_blocks(
    codec: Codec, weights: Weights, shape: tuple[int, ...], encode: Callable[[Weights], Tensor]
) -> Tensor:
    """Results ``(N, *shape)`` block by block, allocated first: see outputs.outputs_by_task."""
    count = codec.spec.check(weights)
    out = weights[codec.spec.names[0]].new_empty(count, *shape)
    for start in range(0, count, BLOCK):
        here = slice(start, start + BLOCK)
        out[here] = encode(take(weights, here))
    return out


@torch.no_grad()
def decode_latents(codec: Codec, z: Tensor) -> Weights:
    """Weights ``(N, *shape)`` of N latents, in fixed blocks."""
    out = {t.name: z.new_empty(len(z), *t.shape) for t in codec.spec.tensors}
    for start in range(0, len(z), BLOCK):
        here = slice(start, start + BLOCK)
        for name, w in codec.decode(z[here]).items():
            out[name][here] = w
    return out
