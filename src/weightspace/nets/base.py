"""Run and initialise many networks of one architecture at once, with torch.func."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from weightspace.nets import NETS
from weightspace.nets._batch_norm import MOMENTUM, BatchNorm
from weightspace.nets._chain import Chain
from weightspace.nets._layers import has_kernels
from weightspace.params import Params, Settings, options_of
from weightspace.registry import origins, resolve
from weightspace.runtime import Part, side_by_side
from weightspace.weights.spec import Spec, Weights, block_slices, take, to_device

WHOLE = 16  # images: kernels of a GPU load so many numbers at once
# Images x pixels of the networks that run at once; a GPU needs more of them to be busy
BLOCK_PIXELS = {"cpu": 1_600_000, "cuda": 12_800_000}
# Numbers between the layers of networks that run at once on a CPU: of 6 to 200 networks of the digits 40
# are fastest; fewer are many calls, more leave the caches. ResNets of width 4 are fastest by 8.
CACHED, FEWEST = 2_500_000, 8


@runtime_checkable
class Batched(Protocol):
    """A module that runs many networks faster than vmap of its ``forward`` does."""

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """Layers with the weights of N networks, in the mode of the module; to ``(N, classes, B)``.

        Args:
            weights: tensors ``(N, *shape)``.
            images: ``(N, B, C, H, W)``, or ``(B, C, H, W)`` for all networks.

        """


@dataclass(frozen=True)
class Net:
    """An architecture at one size.

    Attributes:
        module: a template, whose values stay as built.
        spec: names, shapes and permutation groups of its tensors.
        meta: what is needed to rebuild it, JSON-ready: see :func:`net_from_meta`.

    >>> from weightspace.params import MlpSettings
    >>> from weightspace.weights.spec import stack
    >>> net = build_net("mlp", (1, 2, 2), 3, MlpSettings(hidden=(5,)))
    >>> rng = torch.Generator().manual_seed(0)
    >>> weights = stack([net.init(rng) for _ in range(4)])  # four networks
    >>> images = torch.randn(7, 1, 2, 2, generator=rng)
    >>> net.outputs(weights, images).shape
    torch.Size([4, 7, 3])
    >>> torch.allclose(net.forward(take(weights, 1), images), net.outputs(weights, images)[1])
    True
    >>> gradient = net.gradient(weights, images, torch.ones_like)  # of the sum of the outputs
    >>> moved = {name: w - 0.01 * gradient[name] for name, w in weights.items()}
    >>> before, after = (net.outputs(w, images).sum((1, 2)) for w in (weights, moved))
    >>> after < before
    tensor([True, True, True, True])

    """

    module: nn.Module
    spec: Spec
    meta: dict[str, Any]

    @cached_property
    def activations(self) -> int:
        """Numbers that one image is on its way through one network: input and layers' outputs.

        >>> from weightspace.params import MlpSettings
        >>> build_net("mlp", (1, 2, 2), 3, MlpSettings(hidden=(5,))).activations  # 4 + 5 + 3
        12
        """
        shape = torch.Size(self.meta["shape"])
        sizes = [shape.numel()]
        layers = [m for m in self.module.modules() if not list(m.children())]
        hooks = [
            m.register_forward_hook(lambda _, __, out: sizes.append(out[0].numel())) for m in layers
        ]
        self._mode(training=False)
        self.module(torch.zeros(1, *shape))
        for hook in hooks:
            hook.remove()
        return sum(sizes)

    def forward(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Outputs ``(B, classes)`` of one network ``(*shape)`` on images ``(B, C, H, W)``."""
        self._mode(training=False)
        return self._call(weights, images)

    def outputs(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Outputs of N networks, each on images of its task or all on the same ones.

        Args:
            weights: tensors ``(N, *shape)``.
            images: ``(N, B, C, H, W)``, or ``(B, C, H, W)`` for all networks.

        Returns:
            Pre-softmax outputs ``(N, B, classes)``.

        """
        self._mode(training=False)
        count = images.shape[-4]
        more = -count % WHOLE if has_kernels(images) else 0
        images = F.pad(images, (*[0] * 7, more)) if more else images
        return self._call_many(weights, images)[:, :count]

    @torch.no_grad()
    def run(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """As :meth:`outputs` of any number of networks, without gradients, in bounded memory.

        The networks run where the images are, in blocks whose size depends on the images alone.
        """
        size = self._block(images)
        shared, count = images.ndim == 4, len(weights[self.spec.names[0]])
        # One result, made first: small ones kept between large temporary ones fragment the heap.
        out = images.new_empty(count, images.shape[-4], self.meta["classes"])
        for start in range(0, count, size):
            rows = slice(start, start + size)
            block = to_device(take(weights, rows), images.device)
            out[rows] = self.outputs(block, images if shared else images[rows])
        return out

    def outputs_by_references(
        self, weights: Mapping[str, Tensor], images: Tensor, references: Tensor
    ) -> Tensor:
        """As :meth:`outputs`, normalised by the statistics that reference images have in the network.

        The statistics have a gradient; those among ``weights`` are not read.

        Args:
            weights: tensors ``(N, *shape)``.
            images: as those of :meth:`outputs`.
            references: images for all networks ``(R, C, H, W)``.

        """
        weights = dict(weights) | self._new_statistics(weights)
        more = references if images.ndim == 4 else references.expand(len(images), -1, -1, -1, -1)
        self._mode(training=True, references=len(references))
        return self._call_many(weights, torch.cat([images, more], -4))[:, : images.shape[-4]]

    @torch.no_grad()
    def with_statistics(self, weights: Mapping[str, Tensor], references: Tensor) -> Weights:
        """Weights ``(N, *shape)`` with the statistics that :meth:`outputs_by_references` normalises by.

        Args:
            weights: tensors ``(N, *shape)``; statistics among them are replaced.
            references: images for all networks ``(R, C, H, W)``.

        """
        out = dict(weights) | self._new_statistics(weights)
        for rows in block_slices(len(out[self.spec.names[0]]), self._block(references)):
            self._mode(training=True, references=len(references))
            self._call_many(take(out, rows), references)
        return out

    def _new_statistics(self, weights: Mapping[str, Tensor]) -> Weights:
        """Room for the statistics of N networks."""
        names = [t.name for t in self.spec.tensors if t.role != "parameter"]
        return {name: torch.zeros_like(weights[name]) for name in names}

    @staticmethod
    def _block(images: Tensor) -> int:
        """Networks that run at once."""
        return max(1, BLOCK_PIXELS[images.device.type] // images.shape[-4:].numel())

    def training_outputs(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Outputs of N networks in training mode: batch normalisation by each network's batch.

        The running statistics among ``weights`` are updated **in place**. Arguments and result as
        those of :meth:`outputs`.
        """
        self._mode(training=True)
        return self._call_many(weights, images)

    def gradient(
        self,
        weights: Mapping[str, Tensor],
        images: Tensor,
        grad_of_loss: Callable[[Tensor], Tensor],
    ) -> Weights:
        """Gradient of each network's loss by its parameters, in training mode.

        Args:
            weights: tensors ``(N, *shape)``; running statistics are updated **in place**.
            images: as those of :meth:`outputs`.
            grad_of_loss: outputs ``(N, classes, B)`` -> gradient of each network's loss by them.

        Returns:
            Gradient ``(N, *shape)`` by each parameter.

        """
        self._mode(training=True)
        if self._batched:
            return self._batched(weights, images).gradient(grad_of_loss)
        learned = {n: weights[n].detach().requires_grad_() for n in self.spec.parameters.names}
        outputs = self._call_many(dict(weights) | learned, images).mT
        by_output = grad_of_loss(outputs.detach())
        gradients = torch.autograd.grad(outputs, tuple(learned.values()), by_output)
        return dict(zip(learned, gradients, strict=True))

    @torch.no_grad()
    def reestimate(self, weights: Mapping[str, Tensor], images: Tensor) -> Weights:
        """Replace running statistics by those of the given images, taken as one batch.

        Args:
            weights: tensors ``(N, *shape)``.
            images: train images, ``(N, B, C, H, W)`` or ``(B, C, H, W)`` for all networks.

        Returns:
            Weights of the same parameters and with new buffers.

        """
        measured = self._new_statistics(weights)
        self.training_outputs(dict(weights) | measured, images)  # 0 <- MOMENTUM x statistic
        return dict(weights) | {name: value / MOMENTUM for name, value in measured.items()}

    def _mode(self, *, training: bool, references: int = 0) -> None:
        if self.module.training != training:  # setting it walks through all modules
            self.module.train(training)
        if self._norms and self._norms[0].references != references:
            for norm in self._norms:
                norm.references = references

    @cached_property
    def _norms(self) -> list[BatchNorm]:
        return [m for m in self.module.modules() if isinstance(m, BatchNorm)]

    @property
    def in_threads(self) -> bool:
        """Whether several threads may run it: vmap puts weights into the module while it runs."""
        return self._batched is not None

    def at_once(self, images: int, where: str) -> int | None:
        """Networks that a gradient is fastest through together, each on so many images; None: any number.

        On a CPU what lies between their layers should stay in its caches.

        Args:
            images: of each network.
            where: type of the device.

        """
        return max(FEWEST, CACHED // (images * self.activations)) if where == "cpu" else None

    def each(self, work: Callable[[Part], None], parts: Sequence[Part], where: str) -> None:
        """Do independent parts of some work that runs networks, in threads where that is possible.

        Args:
            work: does one part.
            parts: all of them.
            where: type of the device.

        """
        if self.in_threads and where == "cpu":
            side_by_side(work, parts)
        else:
            for part in parts:
                work(part)

    @cached_property
    def _batched(self) -> Callable[[Mapping[str, Tensor], Tensor], Chain] | None:
        """Layers of many networks, where the module has them: asked once, not in each call."""
        return self.module.batched if isinstance(self.module, Batched) else None

    def _call(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        out: Tensor = functional_call(self.module, dict(weights), (images,), strict=True)
        return out

    def _call_many(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        if self._batched:
            return self._batched(weights, images).outputs().mT
        images = images.to(next(iter(weights.values())).dtype)
        images_axis = 0 if images.ndim == 5 else None
        return vmap(self._call, in_dims=(0, images_axis))(dict(weights), images)

    def init(self, rng: torch.Generator) -> Weights:
        """Draw one network as PyTorch initialises linear, convolutional and batch norm layers.

        Every entry of the first two is uniform in ``±1/sqrt(fan_in)``; source:
        torch.nn.Linear.reset_parameters. Batch normalisation starts as the identity.
        """
        weights: Weights = {}
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for part, value in layer.named_parameters(recurse=False):
                    uniform = torch.rand(value.shape, generator=rng)
                    weights[f"{name}.{part}"] = (2 * uniform - 1) * bound
            elif isinstance(layer, BatchNorm):
                for part, value in layer.state_dict().items():
                    weights[f"{name}.{part}"] = value.clone()
        return {name: weights[name] for name in self.spec.names}


def build_net(
    architecture: str, shape: tuple[int, int, int], classes: int, settings: Settings
) -> Net:
    """Build an architecture by name.

    Args:
        architecture: a key of :data:`weightspace.nets.NETS`.
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: the section of this architecture under ``nets`` in params.yaml.

    >>> from weightspace.params import CnnSettings
    >>> net = build_net("cnn", (1, 8, 8), 3, CnnSettings(channels=(8, 16), batch_norm=False))
    >>> net.spec.numel, net.spec.groups
    (1443, {'convs.0': 8, 'convs.1': 16})

    """
    family = resolve(NETS, architecture, "zoo.architecture")
    module = family.build(shape, classes, settings).requires_grad_(requires_grad=False)
    meta = {
        "architecture": architecture,
        "shape": list(shape),
        "classes": classes,
        "settings": settings.model_dump(mode="json"),
        **origins(("nets", architecture)),
    }
    return Net(module, family.spec(module), meta)


def net_for(
    params: Params, shape: tuple[int, int, int], classes: int, architecture: str | None = None
) -> Net:
    """Build the architecture that params.yaml selects, or another one at the sizes that it has there.

    Args:
        params: all settings.
        shape: channels, height, width of an image.
        classes: number of outputs.
        architecture: instead of ``zoo.architecture``.

    """
    name = params.zoo.architecture if architecture is None else architecture
    resolve(NETS, name, "zoo.architecture")  # an unknown name has no settings either
    return build_net(name, shape, classes, params.nets.of(name))


def net_from_meta(meta: Mapping[str, Any]) -> Net:
    """Rebuild a net from its ``meta``, as autoencoders and checkpoints carry it.

    >>> from weightspace.params import MlpSettings
    >>> net = build_net("mlp", (1, 2, 2), 3, MlpSettings(hidden=(5,)))
    >>> net_from_meta(net.meta).spec == net.spec
    True
    """
    settings = options_of("nets", meta["architecture"], meta["settings"])
    return build_net(meta["architecture"], tuple(meta["shape"]), meta["classes"], settings)
