"""Convolutional networks of published zoos: convolutions of any size, max-pooling, linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from weightspace import params
from weightspace.errors import problem
from weightspace.nets._chain import Chain, Layer
from weightspace.nets._layers import Function, GlobalMean, Linear, PatchConv, SquarePool
from weightspace.nets._patches import images_last, patched
from weightspace.params import MOST_LAYERS, MOST_SIZE, Size, Widths
from weightspace.weights.spec import Axis, Spec, TensorSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "selu": F.selu,
    "leakyrelu": F.leaky_relu,
}
Border = Annotated[int, Field(ge=0, le=MOST_SIZE)]


class Settings(params.Settings):
    """Section ``nets.convnet`` of params.yaml: one entry per convolution in the first five lists."""

    channels: Widths = Field(description="channels of each convolution")
    kernels: Widths = Field(description="side of each kernel")
    strides: Widths = Field(description="stride of each convolution")
    padding: tuple[Border, ...] = Field(description="border of zeros of each convolution")
    pools: Widths = Field(description="side of the max-pooling after each convolution; 1: none")
    mean: bool = Field(description="mean over all pixels before the linear layers")
    hidden: tuple[Size, ...] = Field(
        max_length=MOST_LAYERS, description="units of each linear layer before the last"
    )
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu", "selu", "leakyrelu"] = Field(
        description="after each layer but the last"
    )

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name in ("kernels", "strides", "padding", "pools"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(f"{name} must have {len(self.channels)} entries, as channels has")
        return self


class Convnet(nn.Module):
    """Convolution, max-pooling, activation; then linear layers.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: sizes and activation.

    The network of Unterthiner et al. (2020), arXiv 2002.11448, on one channel:

    >>> settings = Settings(
    ...     channels=(16, 16, 16), kernels=(3, 3, 3), strides=(2, 2, 2), padding=(0, 0, 0),
    ...     pools=(1, 1, 1), mean=True, hidden=(), activation="relu")
    >>> spec(Convnet((1, 28, 28), 10, settings)).numel
    4970

    The small network of Schürholt et al. (2022), arXiv 2209.14764:

    >>> settings = Settings(
    ...     channels=(8, 6, 4), kernels=(5, 5, 2), strides=(1, 1, 1), padding=(0, 0, 0),
    ...     pools=(2, 2, 1), mean=False, hidden=(20,), activation="tanh")
    >>> spec(Convnet((1, 28, 28), 10, settings)).numel
    2464

    """

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        sizes = settings.kernels, settings.strides, settings.padding, settings.pools
        h, w = shape[1:]
        for kernel, stride, border, pool in zip(*sizes, strict=True):
            h, w = (patched(n, kernel, stride, border) // pool for n in (h, w))
            if min(h, w) < 1:
                raise problem(
                    "image too small for the convolutions",
                    where="params.yaml: nets.convnet",
                    got=f"{shape[1]}x{shape[2]} images",
                    expected="at least one pixel left after each convolution and pooling",
                )
        self.pixels = 1 if settings.mean else h * w
        widths = pairwise((shape[0], *settings.channels))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride, border)
            for (a, b), kernel, stride, border in zip(widths, *sizes[:3], strict=True)
        )
        units = (settings.channels[-1] * self.pixels, *settings.hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(units))
        self.head = nn.Linear(units[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        activation = ACTIVATIONS[self.settings.activation]
        for conv, pool in zip(self.convs, self.settings.pools, strict=True):
            x = activation(F.max_pool2d(conv(x), pool))
        x = x.mean((-2, -1)) if self.settings.mean else x.flatten(1)
        for layer in self.hidden:
            x = activation(layer(x))
        out: Tensor = self.head(x)
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        settings, layers = self.settings, list[Layer]()
        activation = ACTIVATIONS[settings.activation]
        h, w = images.shape[-2:]
        sizes = settings.kernels, settings.strides, settings.padding, settings.pools
        for i, (kernel, stride, border, pool) in enumerate(zip(*sizes, strict=True)):
            name = f"convs.{i}.weight", f"convs.{i}.bias"
            conv = PatchConv(*name, h=h, w=w, size=kernel, stride=stride, border=border)
            layers.append(conv)
            h, w = (patched(n, kernel, stride, border) for n in (h, w))
            layers += [SquarePool(h, w, pool)] if pool > 1 else []
            layers.append(Function(activation))
            h, w = h // pool, w // pool
        layers += [GlobalMean(h * w)] if settings.mean else []
        for i in range(len(self.hidden)):
            layers.append(Linear(f"hidden.{i}.weight", f"hidden.{i}.bias"))
            layers.append(Function(activation))
        layers.append(Linear("head.weight", "head.bias"))
        return Chain(images_last(images), layers, weights)


def build(shape: tuple[int, int, int], classes: int, settings: Settings) -> Convnet:
    """Build the network.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: section of this architecture under ``nets`` in params.yaml.

    """
    return Convnet(shape, classes, settings)


def spec(module: Convnet) -> Spec:
    """Tensors and permutation groups: channels and hidden units may be reordered."""
    tensors = []
    before: Axis | None = None
    names = [
        f"{part}.{i}" for part in ("convs", "hidden") for i in range(len(getattr(module, part)))
    ]
    for name in [*names, "head"]:
        layer = module.get_submodule(name)
        after = None if name == "head" else Axis(name)
        shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
        fixed = (None,) * (len(shape) - 2)
        tensors.append(TensorSpec(f"{name}.weight", shape, "parameter", (after, before, *fixed)))
        tensors.append(TensorSpec(f"{name}.bias", shape[:1], "parameter", (after,)))
        last_conv = name == f"convs.{len(module.convs) - 1}"
        before = Axis(name, module.pixels) if last_conv else after
    return Spec("convnet", tuple(tensors), ("head.weight", "head.bias"))
