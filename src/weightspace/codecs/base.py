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

from weightspace.artifacts import load_tensors, save_tensors
from weightspace.codecs import CODECS
from weightspace.data.dataset import Dataset
from weightspace.networks import Net
from weightspace.pca import TensorPca
from weightspace.registry import resolve
from weightspace.spec import Spec, Weights, reorder_outputs, take

BLOCK = 500  # networks encoded or decoded at once


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


class Codec(nn.Module, ABC):
    """Weights <-> latent."""

    name: str
    spec: Spec
    latent: int

    @abstractmethod
    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights ``(N, *shape)``."""

    def encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` of N networks for each order ``(O, c)`` of their outputs."""
        every = [self.encode(reorder_outputs(self.spec, weights, order)) for order in orders]
        return torch.stack(every, 1)

    @abstractmethod
    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""

    def valid(self, z: Tensor) -> Tensor:
        """Nearest latents ``(N, latent)`` that the encoder could give; by default any."""
        return z

    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """What ``from_meta`` of the same module needs to rebuild the codec, JSON-ready."""

    def save(self, path: Path) -> None:
        """Write one safetensors file that holds all that is needed to encode and decode."""
        save_tensors(path, "codec", self.state_dict(), {"codec": self.name, **self.meta()})


def load_codec(path: Path) -> Codec:
    """Read any codec that :meth:`Codec.save` wrote."""
    tensors, meta = load_tensors(path, "codec")
    codec: Codec = resolve(CODECS, meta["codec"], "autoencoder.codec").from_meta(meta)
    codec.load_state_dict(tensors)
    return codec.eval()


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
