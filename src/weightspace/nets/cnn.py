"""Small convolutional network: conv, batch normalisation on demand, ReLU, 2x2 pooling; linear."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.errors import problem
from weightspace.nets._batch_norm import BatchNorm, batch_norm_tensors
from weightspace.nets._chain import Chain, Layer
from weightspace.nets._layers import Linear, PatchConv, ReluPool, convolution, normalised
from weightspace.nets._patches import images_last
from weightspace.params import CnnSettings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class Cnn(nn.Module):
    """3x3 convolutions with ReLU and 2x2 average pooling, then one linear layer.

    With batch normalisation the convolutions have no bias: normalisation would remove it.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        channels: channels of each convolution.
        batch_norm: normalise after each convolution.

    >>> import torch
    >>> module = Cnn((1, 8, 8), 3, (8, 16))
    >>> module(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    >>> list(module.state_dict())[:3]
    ['convs.0.weight', 'convs.0.bias', 'convs.1.weight']

    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        channels: tuple[int, ...],
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = (shape[0], *channels)
        self.pixels = (shape[1] >> len(channels)) * (shape[2] >> len(channels))
        if self.pixels == 0:
            raise problem(
                "image too small for the number of poolings",
                where="params.yaml: nets.cnn.channels",
                got=f"{len(channels)} poolings of {shape[1]}x{shape[2]} images",
                expected="at least one pixel left",
            )
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=not batch_norm) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(c) for c in channels if batch_norm)
        self.head = nn.Linear(widths[-1] * self.pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        for i, conv in enumerate(self.convs):
            x = conv(x)  # (B, c, H, W)
            if self.norms:
                x = self.norms[i](x)
            x = F.avg_pool2d(F.relu(x), 2)  # (B, c, H/2, W/2)
        out: Tensor = self.head(x.flatten(1))
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        h, w = images.shape[-2:]
        folded = dict(weights)
        layers: list[Layer] = []
        for i in range(len(self.convs)):
            # the first has few inputs
            conv = (
                convolution(weights["head.bias"], h, w)
                if i
                else partial(PatchConv, h=h, w=w, size=3)
            )
            name, norm = f"convs.{i}", f"norms.{i}"
            if self.norms:
                layers += normalised(conv, name, norm, folded, self.norms[i], images.shape[-4])
            else:
                layers.append(conv(f"{name}.weight", f"{name}.bias"))
            layers.append(ReluPool(h, w))
            h, w = h // 2, w // 2
        layers.append(Linear("head.weight", "head.bias"))
        return Chain(images_last(images), layers, folded)


def build(shape: tuple[int, int, int], classes: int, settings: CnnSettings) -> Cnn:
    """Build the network.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: section of this architecture under ``nets`` in params.yaml.

    """
    return Cnn(shape, classes, settings.channels, batch_norm=settings.batch_norm)


def spec(module: Cnn) -> Spec:
    """Tensors and permutation groups: the channels of each convolution may be reordered."""
    convs: list[TensorSpec] = []
    norms: list[TensorSpec] = []
    before: Axis | None = None
    for i, conv in enumerate(module.convs):
        after = Axis(f"convs.{i}")
        shape = tuple(conv.weight.shape)  # type: ignore[union-attr, arg-type]
        axes = (after, before, None, None)
        convs.append(TensorSpec(f"convs.{i}.weight", shape, "parameter", axes))
        if module.norms:
            norms += batch_norm_tensors(f"norms.{i}", shape[0], after)
        else:
            convs.append(TensorSpec(f"convs.{i}.bias", shape[:1], "parameter", (after,)))
        before = after
    assert before is not None
    head = tuple(module.head.weight.shape)
    last = [
        TensorSpec("head.weight", head, "parameter", (None, Axis(before.group, module.pixels))),
        TensorSpec("head.bias", head[:1], "parameter", (None,)),
    ]
    return Spec("cnn", (*convs, *norms, *last), ("head.weight", "head.bias"))
