"""One network as a file of its own, and as a plain ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightspace.artifacts import load_tensors, save_tensors
from weightspace.data.images import ImageSet, convert
from weightspace.errors import problem
from weightspace.nets.base import Net, net_from_meta
from weightspace.weights.checkpoints import fit_state
from weightspace.weights.spec import Weights, take

KIND = "network"


@dataclass(frozen=True)
class Standardisation:
    """Images in [0, 1] become ``(images - mean) / std`` before a network reads them."""

    mean: float
    std: float


def save_networks(
    folder: Path,
    names: Sequence[str],
    net: Net,
    weights: Weights,
    standardisation: Standardisation,
    info: Sequence[Mapping[str, Any]],
) -> None:
    """Write one safetensors file per network: tensors named as in its module, all else as metadata.

    Args:
        folder: where to.
        names: file of each of N networks.
        net: their architecture.
        weights: tensors ``(N, *shape)``.
        standardisation: of the images they read.
        info: what should travel with each: ``classes``, and anything that is JSON-ready.

    """
    for i, (name, more) in enumerate(zip(names, info, strict=True)):
        meta = {"net": net.meta, **asdict(standardisation), **more}
        save_tensors(folder / name, KIND, take(weights, i), meta)


@dataclass(frozen=True)
class Network:
    """One network that weightspace wrote, ready to use.

    Attributes:
        module: the architecture's own ``nn.Module`` with its weights.
        classes: names of the outputs.
        mean: subtracted from images in [0, 1] ...
        std: ... which are then divided by this.
        info: what was asked and measured.

    """

    module: nn.Module
    classes: list[str]
    mean: float
    std: float
    info: dict[str, Any]

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> Tensor:
        """Pre-softmax outputs ``(n, classes)`` of images as :meth:`ImageSet.of` takes them."""
        given = ImageSet.of(images, np.zeros(len(images), np.int64))
        converted, _ = convert(given.images, tuple(self.info["net"]["shape"]))
        out: Tensor = self.module(torch.from_numpy((converted - self.mean) / self.std).float())
        return out

    def predict(self, images: np.ndarray) -> list[str]:
        """Name of the class of each image."""
        return [self.classes[i] for i in self.outputs(images).argmax(1)]


def load_network(path: Path | str) -> Network:
    """Load a network that :func:`save_networks` wrote, as an ``nn.Module`` in evaluation mode."""
    tensors, meta = load_tensors(Path(path), KIND)
    try:
        net = net_from_meta(meta["net"])
        classes, mean, std = list(meta["classes"]), float(meta["mean"]), float(meta["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise problem(f"metadata is damaged ({error!r})", where=path) from error
    net.module.load_state_dict(fit_state(tensors, net.spec, path))
    return Network(net.module.eval(), classes, mean, std, meta)
