"""What every autoencoder is: a module that encodes weights, decodes latents and travels as one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.artifacts import AUTOENCODER_FILE, load_tensors, rebuilding, save_tensors
from weightspace.autoencoders import AUTOENCODERS
from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.learning.behavioural import (
    Originals,
    read_originals,
)
from weightspace.nets.base import Net
from weightspace.params import BehaviouralSettings, Params
from weightspace.registry import origins, resolve
from weightspace.rng import torch_stream
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import (
    Population,
    Spec,
    Weights,
    block_size,
    block_slices,
    count,
    fill_blocks,
    reorder_outputs,
    take,
    to_device,
)
from weightspace.zoo.runner import TaskRunner, load_runner
from weightspace.zoo.store import Zoo

BLOCK = 500  # networks encoded or decoded at once


@dataclass(frozen=True)
class AutoencoderData:
    """What an autoencoder may be fitted on: members of the train and val splits, nothing of a test split.

    Attributes:
        runner: the architecture and the tasks.
        pca: the fitted first compression.
        weights: split -> weights ``(N, *shape)``.
        members: split -> table of the same members.

    """

    runner: TaskRunner
    pca: TensorPca
    weights: dict[str, Weights]
    members: dict[str, pd.DataFrame]

    @classmethod
    def of(cls, zoo: Zoo, runner: TaskRunner, pca: TensorPca) -> AutoencoderData:
        """Members of a zoo.

        Args:
            zoo: the population.
            runner: the architecture and the tasks.
            pca: the fitted first compression.

        """
        members = {split: zoo.select(split) for split in ("train", "val")}
        weights = {split: zoo.weights(table) for split, table in members.items()}
        return cls(runner, pca, weights, members)

    @property
    def net(self) -> Net:
        """The architecture."""
        return self.runner.net

    @property
    def dataset(self) -> Dataset:
        """Images and tasks."""
        return self.runner.dataset

    @property
    def counts(self) -> dict[str, int]:
        """Members of each split."""
        return {split: len(table) for split, table in self.members.items()}

    def originals(self, images: Tensor) -> dict[str, Originals]:
        """Outputs of all members, on images of their tasks and on some of any class."""
        return {
            split: read_originals(
                self.runner, images, self.members[split]["task"].to_numpy(), weights
            )
            for split, weights in self.weights.items()
        }


def choose_images(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Real train images of seen classes, as many of each class: ``(K, C, H, W)``.

    Args:
        dataset: images and tasks.
        count: K.
        seed: root seed.

    """
    seen = torch.tensor(dataset.seen)
    images = dataset.images["train"][seen]  # (classes, n, C, H, W)
    rng = torch_stream(seed, "autoencoder", "probes")
    order = torch.randperm(images.shape[1], generator=rng)
    alternating = images[:, order].transpose(0, 1).flatten(0, 1)  # class after class, then again
    return alternating[:count].clone()


class Autoencoder(nn.Module, ABC):
    """Weights <-> latent."""

    name: str
    spec: Spec
    latent: int
    settings: BehaviouralSettings
    normalised = False  # True where every latent has mean 0 and length sqrt(latent)

    @property
    def device(self) -> torch.device:
        """Where it computes; latents are there, too."""
        places = (x.device for x in chain(self.parameters(), self.buffers()))
        return next(places, torch.device("cpu"))

    def encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights ``(N, *shape)``, wherever these are.

        Raises:
            WeightspaceError: a tensor is missing, unknown, misshapen or not finite; named.

        """
        self.check(weights)
        return self._encode(to_device(weights, self.device))

    def encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` of N networks for each order ``(O, c)`` of their outputs."""
        self.check(weights)
        return self._encode_orders(to_device(weights, self.device), orders)

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse networks of another architecture or size, and NaN or infinity, by tensor."""
        self.spec.check(weights, f"autoencoder '{self.name}'")
        for name in self.spec.names:
            if not weights[name].isfinite().all():
                raise problem(
                    f"tensor '{name}' has NaN or infinity",
                    where=f"autoencoder '{self.name}'",
                    do="leave the network out",
                )

    @abstractmethod
    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights that were checked."""

    def _encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` of weights that were checked."""
        latents = [self._encode(reorder_outputs(self.spec, weights, order)) for order in orders]
        return torch.stack(latents, 1)

    @abstractmethod
    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""

    def nearest_valid(self, z: Tensor) -> Tensor:
        """Nearest latents ``(N, latent)`` that the encoder could give; by default any."""
        return z

    def meta(self) -> dict[str, Any]:
        """What ``from_meta`` of the same module needs to rebuild the autoencoder, JSON-ready."""
        return {"latent": self.latent, "settings": self.settings.model_dump(mode="json")}

    def save(self, path: Path) -> None:
        """Write one safetensors file that holds all that is needed to encode and decode."""
        meta = {"autoencoder": self.name, **self.meta(), **origins(("autoencoders", self.name))}
        save_tensors(path, "autoencoder", self.state_dict(), meta)


def load_autoencoder(path: Path) -> Autoencoder:
    """Read any autoencoder that :meth:`Autoencoder.save` wrote.

    Raises:
        WeightspaceError: no such file, not an autoencoder, or one of another version.

    """
    tensors, meta = load_tensors(path, "autoencoder")
    with rebuilding(path):
        autoencoder: Autoencoder = resolve(
            AUTOENCODERS, meta["autoencoder"], "autoencoder.model"
        ).from_meta(meta)
        autoencoder.load_state_dict(tensors)
    return autoencoder.eval()


def load_trained(data: Path, params: Params) -> tuple[TaskRunner, Autoencoder]:
    """Architecture, tasks and autoencoder that the stages left in ``data``, on ``runtime.device``.

    Raises:
        WeightspaceError: a stage has not run, or its output is damaged.

    """
    runner = load_runner(data, params)
    return runner, load_autoencoder(data / AUTOENCODER_FILE).to(runner.device)


@dataclass(frozen=True)
class Decoded:
    """Networks that are decoded where they are used: :class:`weightspace.weights.spec.Networks`.

    Attributes:
        autoencoder: latents -> weights.
        z: latents ``(N, L)``.

    """

    autoencoder: Autoencoder
    z: Tensor

    def __len__(self) -> int:
        return len(self.z)

    @torch.no_grad()
    def take(self, index: slice | Tensor) -> Weights:
        """Weights ``(n, *shape)`` of some latents, by a slice or an index tensor."""
        return self.autoencoder.decode(self.z[index].to(self.autoencoder.device))


@torch.no_grad()
def encode_members(autoencoder: Autoencoder, weights: Population) -> Tensor:
    """Latents ``(N, L)`` of N networks, in fixed blocks."""
    return _encode(autoencoder, weights, (autoencoder.latent,), autoencoder.encode)


@torch.no_grad()
def encode_orders(autoencoder: Autoencoder, weights: Population, orders: Tensor) -> Tensor:
    """Latents ``(N, O, L)`` of N networks for each order of their outputs, in fixed blocks.

    Args:
        autoencoder: weights -> latent.
        weights: tensors ``(N, *shape)``.
        orders: orders of the outputs ``(O, c)``.

    """
    shape = len(orders), autoencoder.latent
    return _encode(
        autoencoder, weights, shape, lambda block: autoencoder.encode_orders(block, orders)
    )


def _encode(
    autoencoder: Autoencoder,
    weights: Population,
    shape: tuple[int, ...],
    encode: Callable[[Weights], Tensor],
) -> Tensor:
    """Results ``(N, *shape)`` of ``encode``, block by block.

    Args:
        autoencoder: says how weights look.
        weights: tensors ``(N, *shape)``.
        shape: of the result of one network.
        encode: a block of weights -> its results.

    """
    size = block_size(autoencoder.spec, BLOCK)
    room = torch.empty(count(weights), *shape, device=autoencoder.device)
    return fill_blocks(room, size, lambda rows: encode(take(weights, rows)))


@torch.no_grad()
def decode_latents(autoencoder: Autoencoder, z: Tensor) -> Weights:
    """Weights ``(N, *shape)`` of N latents ``(N, L)``, in fixed blocks, where the autoencoder is."""
    z = z.to(autoencoder.device)
    out = {t.name: z.new_empty(len(z), *t.shape) for t in autoencoder.spec.tensors}
    for rows in block_slices(len(z), block_size(autoencoder.spec, BLOCK)):
        for name, w in autoencoder.decode(z[rows]).items():
            out[name][rows] = w
    return out
