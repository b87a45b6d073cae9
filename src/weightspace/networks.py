"""Run and initialise many networks of one architecture at once, with torch.func."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from weightspace.nets import NETS
from weightspace.params import NetsSettings
from weightspace.registry import resolve
from weightspace.spec import Spec, Weights


@dataclass(frozen=True)
class Net:
    """An architecture at one size: its module (a template, its own values are never used) and spec."""

    module: nn.Module
    spec: Spec
    meta: dict[str, Any]

    def forward(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Outputs of one network: weights ``(*shape)``, images ``(B, C, H, W)`` -> ``(B, c)``."""
        out: Tensor = functional_call(self.module, dict(weights), (images,), strict=True)
        return out

    def outputs(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Outputs of N networks, each on its own images or all on the same ones.

        Args:
            weights: tensors ``(N, *shape)``.
            images: ``(N, B, C, H, W)``, or ``(B, C, H, W)`` for all networks.

        Returns:
            Pre-softmax outputs ``(N, B, classes)``.

        """
        own = 0 if images.ndim == 5 else None
        out: Tensor = vmap(self.forward, in_dims=(0, own))(dict(weights), images)
        return out

    def init(self, generator: torch.Generator) -> Weights:
        """Draw one network as PyTorch initialises linear and convolutional layers.

        Every entry is uniform in ``±1/sqrt(fan_in)``; source: torch.nn.Linear.reset_parameters.
        """
        weights: Weights = {}
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for part, value in layer.named_parameters(recurse=False):
                    uniform = torch.rand(value.shape, generator=generator)
                    weights[f"{name}.{part}"] = (2 * uniform - 1) * bound
        return {name: weights[name] for name in self.spec.names}


def build_net(
    architecture: str, shape: tuple[int, int, int], classes: int, settings: NetsSettings
) -> Net:
    """Build an architecture by name for images of ``shape`` (C, H, W) and ``classes`` outputs."""
    family = resolve(NETS, architecture, "zoo.architecture")
    module = family.build(shape, classes, settings).requires_grad_(requires_grad=False)
    meta = {
        "architecture": architecture,
        "shape": list(shape),
        "classes": classes,
        "settings": settings.model_dump(mode="json"),
    }
    return Net(module, family.spec(module), meta)


def net_from_meta(meta: Mapping[str, Any]) -> Net:
    """Rebuild a net from its ``meta``, as codecs and checkpoints carry it."""
    settings = NetsSettings.model_validate(meta["settings"])
    return build_net(meta["architecture"], tuple(meta["shape"]), meta["classes"], settings)
