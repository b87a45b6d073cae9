"""One network as one file, and as a plain ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightspace.artifacts import load_tensors, read_meta, rebuilding, save_tensors
from weightspace.data.images import ImageSet, convert
from weightspace.nets.base import Net, net_from_meta
from weightspace.weights.checkpoints import SAFE, fit_state
from weightspace.weights.spec import Weights, take

KIND = "network"


@dataclass(frozen=True)
class Standardisation:
    """Images in [0, 1] become ``(images - mean) / std`` before a network reads them.

    >>> Standardisation(0.25, 0.5)
    Standardisation(mean=0.25, std=0.5)
    """

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
        folder: it is made where it does not exist.
        names: file names of the N networks.
        net: their architecture.
        weights: tensors ``(N, *shape)``.
        standardisation: of the images they read.
        info: metadata of each: ``classes``, and anything that is JSON-ready.

    """
    for i, (name, more) in enumerate(zip(names, info, strict=True)):
        meta = {"net": net.meta, **asdict(standardisation), **more}
        save_tensors(folder / name, KIND, take(weights, i), meta)


@dataclass(frozen=True)
class Network:
    """One network that weightspace wrote, ready to use.

    Attributes:
        module: the ``nn.Module`` of the architecture, with the weights.
        classes: names of the outputs, in their order.
        mean: subtracted from images in [0, 1].
        std: what the images are divided by after that.
        info: the request and what was measured, from the file.

    """

    module: nn.Module
    classes: list[str]
    mean: float
    std: float
    info: dict[str, Any]

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> Tensor:
        """Pre-softmax outputs ``(n, classes)`` of images.

        Args:
            images: ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)``, bytes or floats in [0, 1];
                other sizes and counts of channels are converted.

        Raises:
            WeightspaceError: another shape or type, or values out of range.

        """
        given = ImageSet.of(images, np.zeros(len(images), np.int64))
        converted, _ = convert(given.images, tuple(self.info["net"]["shape"]))
        out: Tensor = self.module(torch.from_numpy((converted - self.mean) / self.std).float())
        return out

    def predict(self, images: np.ndarray) -> list[str]:
        """Name of the predicted class of each image; images as in :meth:`outputs`."""
        return [self.classes[i] for i in self.outputs(images).argmax(1)]


def load_network(path: Path | str) -> Network:
    """Load one network that weightspace wrote, in evaluation mode.

    Args:
        path: file of :meth:`Samples.save` or :meth:`Project.save`.

    Returns:
        The network, with the names of its classes.

    Raises:
        WeightspaceError: no such file, another kind of file, or a damaged one.

    """
    tensors, meta = load_tensors(Path(path), KIND)
    with rebuilding(Path(path)):
        with torch.device("meta"):  # sizes first: a file may claim any, and hold few numbers
            spec = net_from_meta(meta["net"]).spec
        weights = fit_state(tensors, spec, path)
        net = net_from_meta(meta["net"])
    net.module.load_state_dict(weights)
    return Network(net.module.eval(), meta["classes"], meta["mean"], meta["std"], meta)


def class_names(path: Path) -> list[str] | None:
    """Names of a network's outputs, as its file states them; None where it is not of weightspace."""
    meta = read_meta(path) if path.suffix in SAFE else None
    if meta is None or meta.get("kind") != KIND or not isinstance(meta.get("classes"), list):
        return None
    return [str(name) for name in meta["classes"]]
