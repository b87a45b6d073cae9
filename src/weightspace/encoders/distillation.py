"""Class embedding by dataset distillation: the pixels of a few images learned for each class.

The learned images S of a class make small random networks learn what its real images T make them
learn: ``sum over layers of 1 - cos(grad L(T), grad L(S))`` falls by gradient descent on S.
Source: Zhao, Mopuri, Bilen (2021), Dataset Condensation with Gradient Matching, arXiv 2006.05929,
equations 7 to 9.

Other than there, every class is distilled without the others, so that a class has one embedding
whatever task it is in: its label is the first of two outputs, the networks are untrained, and each
step has a new one. All classes go through the same networks from the same start, the class mean plus
fixed noise of the class's spread, so that pixels of two classes can be compared. All images of a class
enter each step: the embedding does not depend on their order. Ten classes of 90 images of 8x8 pixels
take 7 seconds on one busy core (60 steps); the cost grows with classes, images and pixels. On the
digits the mismatch on new networks stays at that of the start (1.15; images of another class 1.77).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from weightspace.encoders.base import Standardised
from weightspace.params import DistillationSettings, EncodersSettings

OUTPUTS = 2  # of the random networks; the class of the images is the first
BLOCK = 64  # classes distilled at once
Layers = tuple[Tensor, ...]


class Distillation(Standardised):
    """Learned images of a class, their pixels standardised over the train classes.

    Args:
        shape: channels, height, width of an image.
        settings: section ``encoders.distillation`` of params.yaml.
        generator: source of the seed of the random networks.

    """

    whole = True
    seed: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: DistillationSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__(settings.images * math.prod(shape))
        self.settings = settings
        self.register_buffer("seed", torch.randint(1 << 62, (), generator=generator))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Pixels ``(M, images * C * H * W)`` of what is learned for images ``(M, n, C, H, W)``."""
        return torch.cat([self.distil(block).flatten(1) for block in images.split(BLOCK)])

    def distil(self, images: Tensor) -> Tensor:
        """Learned images ``(M, images, C, H, W)`` of classes' images ``(M, n, C, H, W)``."""
        s, rng = self.settings, torch.Generator().manual_seed(int(self.seed))
        real = images.double()  # rounding must not depend on the order of the images
        shape = (s.images, *real.shape[2:])
        noise = torch.randn(shape, generator=rng, dtype=real.dtype)
        learned = real.mean(1, keepdim=True) + real.std(1, keepdim=True) * noise
        velocity = torch.zeros_like(learned)
        for step in range(s.steps):
            layers = random_network(real.shape[2], s.width, rng)
            wanted = vmap(grad(class_loss), (None, 0))(layers, real)
            slope = vmap(grad(_mismatch), (0, None, 0))(learned, layers, wanted)
            # A step of the size of the rate, as a share of a pixel's spread, whatever the slope.
            slope = slope / slope.square().mean((1, 2, 3, 4), keepdim=True).sqrt().clamp_min(1e-12)
            velocity = 0.5 * velocity + slope
            learned = learned - s.lr * (1 - step / s.steps) * velocity
        return learned.to(images.dtype)


def random_network(channels: int, width: int, rng: torch.Generator) -> Layers:
    """A new network: two 3x3 convolutions and a linear layer, without biases."""
    sizes = ((width, channels, 3, 3), (width, width, 3, 3), (OUTPUTS, width))
    scale = [math.sqrt(2 / math.prod(size[1:])) for size in sizes]
    draws = [torch.randn(size, generator=rng, dtype=torch.float64) for size in sizes]
    return tuple(s * d for s, d in zip(scale, draws, strict=True))


def class_loss(layers: Layers, images: Tensor) -> Tensor:
    """Cross entropy of one class: images ``(n, C, H, W)``, all with label 0."""
    first, second, head = layers
    x = _halve(_normalise(F.conv2d(images, first, padding=1)).relu())
    x = _normalise(F.conv2d(x, second, padding=1)).relu()
    outputs = x.mean((2, 3)) @ head.T
    return -outputs.log_softmax(1)[:, 0].mean()


def distance(a: Layers, b: Layers) -> Tensor:
    """Sum over layers of 1 - cosine of two gradients, mean over the units of a layer."""
    parts = [
        1 - F.cosine_similarity(x.flatten(1), y.flatten(1), 1, 1e-12)
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack([p.mean() for p in parts]).sum()


def _mismatch(learned: Tensor, layers: Layers, wanted: Layers) -> Tensor:
    """How far the gradient on learned images ``(m, C, H, W)`` is from the wanted one."""
    return distance(grad(class_loss)(layers, learned), wanted)


def _normalise(x: Tensor) -> Tensor:
    """Instance normalisation without parameters: each channel of each image by itself."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-3).sqrt()


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2) if min(x.shape[2:]) > 1 else x


def build(
    shape: tuple[int, int, int], settings: EncodersSettings, generator: torch.Generator
) -> Distillation:
    """Encoder for images of ``shape``; its images are learned anew for each set of images."""
    return Distillation(shape, settings.distillation, generator)
