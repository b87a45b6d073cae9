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

from weightspace.artifacts import (
    AUTOENCODER_FILE,
    PCA_FILE,
    ZOO_FOLDER,
    at_width,
    fill_module,
    load_tensors,
    save_tensors,
)
from weightspace.autoencoders import AUTOENCODERS
from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.nets.base import Net
from weightspace.params import BehaviouralSettings, Params
from weightspace.registry import origins, resolve
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
from weightspace.zoo.outputs import FITTED, Originals, load_originals, read_originals
from weightspace.zoo.runner import TaskRunner, load_runner
from weightspace.zoo.store import Zoo

BLOCK = 500  # networks encoded or decoded at once


@dataclass(frozen=True)
class AutoencoderData:
    """What an autoencoder may be fitted on: members of the train and val splits, nothing of a test split.

    Attributes:
        runner: the architecture and the tasks.
        pca: the fitted first compression.
        weights: split -> networks ``(N, *shape)``, in memory or to be taken block by block.
        members: split -> table of the same members.
        originals: split -> what the same members gave for known images.

    """

    runner: TaskRunner
    pca: TensorPca
    weights: Mapping[str, Population]
    members: Mapping[str, pd.DataFrame]
    originals: Mapping[str, Originals]

    @classmethod
    def load(cls, data: Path, params: Params) -> AutoencoderData:
        """What the stages before left in ``data``; weights are read where they are taken.

        Raises:
            WeightspaceError: a stage has not run, or its output is damaged.

        """
        zoo = Zoo.open(data / ZOO_FOLDER, params.width)
        members = {split: zoo.select(split) for split in FITTED}
        return cls(
            load_runner(data, params),
            TensorPca.load(at_width(data / PCA_FILE, params.width)),
            {split: zoo.networks(table) for split, table in members.items()},
            members,
            load_originals(data, zoo),
        )

    @classmethod
    def measure(
        cls,
        runner: TaskRunner,
        pca: TensorPca,
        weights: Mapping[str, Population],
        members: Mapping[str, pd.DataFrame],
        probes: Tensor,
    ) -> AutoencoderData:
        """Members whose outputs are not stored: they are run.

        Args:
            runner: the architecture and the tasks.
            pca: the fitted first compression.
            weights: split -> networks ``(N, *shape)``.
            members: split -> table of the same members.
            probes: images of any class ``(K, C, H, W)``.

        """
        originals = {
            split: read_originals(runner, members[split], networks, probes)
            for split, networks in weights.items()
        }
        return cls(runner, pca, weights, members, originals)

    @property
    def net(self) -> Net:
        """The architecture."""
        return self.runner.net

    @property
    def dataset(self) -> Dataset:
        """Images and tasks."""
        return self.runner.dataset

    @property
    def probes(self) -> Tensor:
        """Images of any class ``(K, C, H, W)`` that all members were run on."""
        return self.originals["train"].probes

    @property
    def counts(self) -> dict[str, int]:
        """Members of each split."""
        return {split: len(table) for split, table in self.members.items()}


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

    @property
    def images_read(self) -> Tensor | None:
        """Images ``(K, C, H, W)`` whose outputs are all that the encoder reads; None: it reads weights."""
        return None

    def encode_outputs(self, outputs: Tensor, orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` for each order ``(O, c)`` of outputs on :attr:`images_read`.

        Args:
            outputs: of N networks ``(N, K, c)``.
            orders: orders of the outputs ``(O, c)``.

        """
        raise NotImplementedError(f"'{self.name}' reads weights")

    @abstractmethod
    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``."""

    def outputs(self, net: Net, z: Tensor, images: Tensor) -> Tensor:
        """Outputs ``(N, B, classes)`` of decoded latents, with a gradient by all that they depend on.

        Args:
            net: the architecture.
            z: latents ``(N, latent)``.
            images: as those of :meth:`Net.outputs`.

        """
        return self.outputs_of(net, self.unmeasured(z), images)

    def unmeasured(self, z: Tensor) -> Weights:
        """As :meth:`decode`, but statistics that :meth:`outputs_of` measures may be any."""
        return self.decode(z)

    def outputs_of(self, net: Net, weights: Weights, images: Tensor) -> Tensor:
        """Outputs ``(N, B, classes)`` of :meth:`unmeasured` networks, with a gradient by statistics, too.

        Args:
            net: the architecture.
            weights: tensors ``(N, *shape)``.
            images: as those of :meth:`Net.outputs`.

        """
        return net.outputs(weights, images)

    @property
    def images_besides(self) -> int:
        """Images that :meth:`outputs_of` runs each network on in addition to those given."""
        return 0

    @property
    def origin(self) -> tuple[Tensor, TensorPca] | None:
        """Network that decoded ones are movements of, and the components they move along; by default none.

        All its entries, free of constraints ``(numel,)``.
        """
        return None

    def nearest_valid(self, z: Tensor) -> Tensor:
        """Nearest latents ``(N, latent)`` that the encoder could give; by default any."""
        return z

    def meta(self) -> dict[str, Any]:
        """What ``from_meta`` of the same module needs to rebuild the autoencoder, JSON-ready."""
        return {"latent": self.latent, "settings": self.settings.model_dump(mode="json")}

    def save(self, path: Path) -> None:
        """Write one safetensors file: all that is needed to encode and decode, but the PCA.

        Of that the file has the hash; :func:`load_autoencoder` reads it from its own file.
        """
        meta = {"autoencoder": self.name, **self.meta(), **origins(("autoencoders", self.name))}
        save_tensors(path, "autoencoder", self.state_dict(), meta)


def load_autoencoder(path: Path) -> Autoencoder:
    """Read any autoencoder that :meth:`Autoencoder.save` wrote.

    Raises:
        WeightspaceError: no such file, not an autoencoder, one of another version, or without its
            PCA in the folder ``pca`` beside its own.

    """
    tensors, meta = load_tensors(path, "autoencoder")
    family = resolve(AUTOENCODERS, meta["autoencoder"], "autoencoder.model")
    autoencoder: Autoencoder = fill_module(path, tensors, lambda: family.from_meta(meta))
    _, mark, width = path.stem.partition("@")  # see at_width
    pca = path.absolute().parent.parent / PCA_FILE.with_stem(f"{PCA_FILE.stem}{mark}{width}")
    for module in autoencoder.modules():
        if isinstance(module, TensorPca):
            module.find(pca, path)
    return autoencoder.eval()


def load_trained(data: Path, params: Params) -> tuple[TaskRunner, Autoencoder]:
    """Architecture, tasks and autoencoder that the stages left in ``data``, on ``runtime.device``.

    Raises:
        WeightspaceError: a stage has not run, or its output is damaged.

    """
    runner = load_runner(data, params)
    file = at_width(data / AUTOENCODER_FILE, params.width)
    return runner, load_autoencoder(file).to(runner.device)


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
    shape = (autoencoder.latent,)
    return by_block(autoencoder, weights, shape, autoencoder.encode)


@torch.no_grad()
def encode_orders(
    autoencoder: Autoencoder,
    weights: Population,
    orders: Tensor,
    originals: Originals | None = None,
) -> Tensor:
    """Latents ``(N, O, L)`` of N networks for each order of their outputs, in fixed blocks.

    Args:
        autoencoder: weights -> latent.
        weights: tensors ``(N, *shape)``; not read where the outputs suffice.
        orders: orders of the outputs ``(O, c)``.
        originals: what the networks gave for known images.

    """
    shape = len(orders), autoencoder.latent
    images, device = autoencoder.images_read, autoencoder.device
    if originals is None or images is None or not torch.equal(images.cpu(), originals.probes):
        return by_block(
            autoencoder, weights, shape, lambda block: autoencoder.encode_orders(block, orders)
        )
    on_probes, size = originals.on_probes, block_size(autoencoder.spec, BLOCK)
    room = torch.empty(len(on_probes), *shape, device=device)
    return fill_blocks(
        room, size, lambda rows: autoencoder.encode_outputs(on_probes[rows].to(device), orders)
    )


def by_block(
    autoencoder: Autoencoder,
    weights: Population,
    shape: tuple[int, ...],
    compute: Callable[[Weights], Tensor],
) -> Tensor:
    """Results ``(N, *shape)`` of ``compute`` for N networks that are taken block by block.

    Args:
        autoencoder: says how weights look, and where results are.
        weights: tensors ``(N, *shape)``.
        shape: of the result of one network.
        compute: a block of weights -> its results.

    """
    room = torch.empty(count(weights), *shape, device=autoencoder.device)
    size = block_size(autoencoder.spec, BLOCK)
    return fill_blocks(room, size, lambda rows: compute(take(weights, rows)))


def decode_latents(autoencoder: Autoencoder, z: Tensor) -> Weights:
    """Weights ``(N, *shape)`` of N latents ``(N, L)``, in fixed blocks, where the autoencoder is."""
    spec, networks = autoencoder.spec, Decoded(autoencoder, z.to(autoencoder.device))
    out = {t.name: networks.z.new_empty(len(z), *t.shape) for t in spec.tensors}
    for rows in block_slices(len(z), block_size(spec, BLOCK)):
        for name, w in networks.take(rows).items():
            out[name][rows] = w
    return out
