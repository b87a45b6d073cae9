"""ResNet-18 with torchvision's tensor names and shapes; the width and the stem are settings.

Source: He et al. (2016), arXiv 1512.03385, table 1. Batch normalisation has no counter
(``weightspace.nets._batch_norm``); everything else of torchvision's state is here, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.nets._batch_norm import BatchNorm, batch_norm_tensors
from weightspace.nets._chain import Chain, Layer, Residual
from weightspace.nets._layers import (
    GlobalMean,
    Linear,
    MaxPool,
    PatchConv,
    Relu,
    convolution,
    normalised,
)
from weightspace.nets._patches import images_last, strided
from weightspace.params import Resnet18Settings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where size or channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(outputs)
        if stride > 1:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, BatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``, rounded up."""
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)

    def residual(
        self, name: str, weights: dict[str, Tensor], images: int, h: int, w: int
    ) -> Residual:
        """The layers of N networks, up to the sum.

        Args:
            name: of the block.
            weights: those of N networks, where convolutions get what normalises their results.
            images: images of a batch.
            h: height of an image, in pixels.
            w: width of an image, in pixels.

        """

        def conv(part: str, norm: str, h: int, w: int, **kind: int) -> list[Layer]:
            make = convolution(weights["fc.bias"], h, w, recompute=True, **kind)
            names = f"{name}.{part}", f"{name}.{norm}"
            module, first = self.get_submodule(norm), part == "conv1"
            return normalised(make, *names, weights, module, images, rectified=first)

        body = conv("conv1", "bn1", h, w, stride=self.stride)
        body += conv("conv2", "bn2", strided(h, self.stride), strided(w, self.stride))
        if self.stride == 1:
            return Residual(body)
        return Residual(
            body, conv("downsample.0", "downsample.1", h, w, size=1, stride=self.stride)
        )


class Resnet18(nn.Module):
    """Stem, four stages of two blocks, global average, linear layer.

    The stem is torchvision's, a 7x7 convolution of stride 2 and a max-pooling of stride 2, or for
    images of some 64 pixels and below ``small``: a 3x3 convolution of stride 1 without pooling
    (He et al. 2016, section 4.2).

    Args:
        channels: channels of an image.
        classes: number of outputs.
        settings: width of the first stage, doubled in each further one, and stem.

    >>> import torch
    >>> module = Resnet18(3, 10, Resnet18Settings(width=2, stem="small")).eval()
    >>> module(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 10])

    """

    def __init__(self, channels: int, classes: int, settings: Resnet18Settings) -> None:
        super().__init__()
        widths = [settings.width * 2**i for i in range(4)]
        self.small = settings.stem == "small"
        size, stride = (3, 1) if self.small else (7, 2)
        self.conv1 = nn.Conv2d(channels, widths[0], size, stride, padding=size // 2, bias=False)
        self.bn1 = BatchNorm(widths[0])
        before = widths[0]
        for i, width in enumerate(widths, start=1):
            blocks = (Block(before, width, 1 if i == 1 else 2), Block(width, width, 1))
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            before = width
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        folded = dict(weights)
        h, w = images.shape[-2:]
        size, stride = self.conv1.kernel_size[0], self.conv1.stride[0]
        stem = partial(PatchConv, h=h, w=w, size=size, stride=stride, recompute=True)
        count = images.shape[-4]
        layers = normalised(stem, "conv1", "bn1", folded, self.bn1, count, rectified=True)
        h, w = strided(h, stride), strided(w, stride)
        if not self.small:
            layers.append(MaxPool(h, w))
            h, w = strided(h, 2), strided(w, 2)
        for name, block in self.named_modules():
            if isinstance(block, Block):
                layers += [block.residual(name, folded, count, h, w), Relu()]
                h, w = strided(h, block.stride), strided(w, block.stride)
        layers += [GlobalMean(h * w), Linear("fc.weight", "fc.bias")]
        return Chain(images_last(images), layers, folded)


def build(shape: tuple[int, int, int], classes: int, settings: Resnet18Settings) -> Resnet18:
    """Build the network.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: section of this architecture under ``nets`` in params.yaml.

    """
    return Resnet18(shape[0], classes, settings)


def spec(module: Resnet18) -> Spec:
    """Tensors and permutation groups.

    All that is added to the shortcut of a stage shares one group, ``stage1`` to ``stage4``; the
    channels between the two convolutions of a block are another group.
    """
    tensors: list[TensorSpec] = []

    def add(conv: str, norm: str, inputs: Axis | None, outputs: Axis) -> None:
        """A convolution from one group of channels to another, and its normalisation."""
        shape = tuple(module.get_submodule(conv).weight.shape)  # type: ignore[union-attr, arg-type]
        axes = (outputs, inputs, None, None)
        tensors.append(TensorSpec(f"{conv}.weight", shape, "parameter", axes))
        tensors.extend(batch_norm_tensors(norm, shape[0], outputs))

    stream = Axis("stage1")
    add("conv1", "bn1", None, stream)
    for i in range(1, 5):
        stage = Axis(f"stage{i}")
        for j in range(2):
            block = f"layer{i}.{j}"
            inside = Axis(block)
            add(f"{block}.conv1", f"{block}.bn1", stream, inside)
            add(f"{block}.conv2", f"{block}.bn2", inside, stage)
            if stream != stage:
                add(f"{block}.downsample.0", f"{block}.downsample.1", stream, stage)
            stream = stage
    head = tuple(module.fc.weight.shape)
    tensors.append(TensorSpec("fc.weight", head, "parameter", (None, stream)))
    tensors.append(TensorSpec("fc.bias", head[:1], "parameter", (None,)))
    return Spec("resnet18", tuple(tensors), ("fc.weight", "fc.bias"))
