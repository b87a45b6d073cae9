"""Class embedding by dataset distillation: the pixels of a few images learned for each class.

The learned images S of a class make small random networks learn what its real images T make them
learn: ``sum over layers of 1 - cos(grad L(T), grad L(S))`` falls by gradient descent on S.
Source: Zhao, Mopuri, Bilen (2021), Dataset Condensation with Gradient Matching, arXiv 2006.05929,
equations 7 to 9.

Other than there:

* Every class is distilled without the others, so that a class has one embedding whatever task it is
  in: its label is the first of two outputs, and the networks are untrained. All classes go through
  the same networks from the same start, the class mean plus fixed noise of the class's standard deviation, so
  that pixels of two classes can be compared.
* The networks are smooth (GELU). The gradient of a ReLU network jumps where a unit switches, and its
  derivative by the pixels does not see the jumps: on small images the mismatch does not fall at all,
  not even on the networks it is lowered on.
* The gradients of the real images are taken once, on a fixed pool of networks; each step of Adam, its
  rate falling to 0, reads a few of them.

Measured on the digits, 2 learned for 90 train images of each of 10 classes, 5 seeds, mean and standard
deviation (``benchmarks/distillation.py``; 0 is a perfect match). The ReLU networks and the accuracy of
networks trained on the few images, on val images, had no part in the learning:

===================  ===========  ===========  ===========
images of a class    new GELU     new ReLU     accuracy
===================  ===========  ===========  ===========
learned              .309 (.014)  .624 (.018)  .904 (.013)
class mean           .521 (.013)  .878 (.014)  .881 (.011)
random real ones     .808 (.023)  1.01 (.035)  .800 (.017)
the start            .990 (.119)  1.19 (.085)  .870 (.015)
of another class     1.74 (.026)  1.77 (.032)
===================  ===========  ===========  ===========

It takes 6 seconds of one core; the cost grows with classes, images, pixels and networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.dataset_encoders.base import Standardised
from weightspace.params import DistillationSettings
from weightspace.rng import normal

OUTPUTS = 2  # of the random networks; the class of the images is the first
Layers = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]


class Distillation(Standardised):
    """Learned images of a class, their pixels standardised over the train classes.

    Args:
        shape: channels, height, width of an image.
        settings: section ``dataset_encoders.distillation`` of params.yaml.
        rng: source of the seed of the random networks.

    """

    whole = True
    seed: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: DistillationSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__(settings.images * math.prod(shape))
        self.settings = settings
        self.register_buffer("seed", torch.randint(1 << 62, (), generator=rng))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Pixels ``(M, images * C * H * W)`` of what is learned for images ``(M, n, C, H, W)``."""
        return torch.stack([self.distil(of_class).flatten() for of_class in images])

    def distil(self, images: Tensor) -> Tensor:
        """Learned images ``(m, C, H, W)`` of a class's images ``(n, C, H, W)``."""
        s, rng = self.settings, torch.Generator().manual_seed(int(self.seed))
        real = in_order(images)
        noise = normal((s.images, *real.shape[1:]), rng, real.device)
        learned = (real.mean(0) + real.std(0) * noise).requires_grad_()
        drawn = random_networks(s.networks, real.shape[1], s.width, rng)
        pool = [layer.to(real.device) for layer in drawn]
        target = gradients_one_by_one(pool, real)
        optimizer = torch.optim.Adam([learned], lr=s.lr, betas=(0.9, 0.99))
        for step in range(s.steps):
            optimizer.param_groups[0]["lr"] = s.lr * (1 - step / s.steps)
            batch = torch.arange(step * s.batch, (step + 1) * s.batch) % s.networks
            with torch.enable_grad():
                slopes = gradients([w[batch] for w in pool], learned, differentiable=True)
                mismatch = distance(slopes, [g[batch] for g in target]).mean()
            (learned.grad,) = torch.autograd.grad(mismatch, learned)
            optimizer.step()
        return learned.detach()


def in_order(images: Tensor) -> Tensor:
    """Images ``(n, C, H, W)`` sorted by their pixels: no sum over them depends on their order.

    >>> in_order(torch.tensor([3.0, 1.0, 2.0])[:, None, None, None]).flatten()
    tensor([1., 2., 3.])
    """
    rows = np.lexsort(images.flatten(1).T.cpu().numpy())
    return images[torch.from_numpy(rows)]


def random_networks(count: int, channels: int, width: int, rng: torch.Generator) -> Layers:
    """P new networks: two 3x3 convolutions ``(P, 9 * in, out)`` and a linear layer, no biases.

    Args:
        count: P.
        channels: channels of an image.
        width: channels of the hidden layers.
        rng: source of the weights.

    """
    sizes = ((9 * channels, width), (9 * width, width), (width, OUTPUTS))
    draws = (torch.randn((count, *size), generator=rng) for size in sizes)
    return tuple(math.sqrt(2 / draw.shape[1]) * draw for draw in draws)


def class_loss(layers: Sequence[Tensor], images: Tensor, activation: Activation = F.gelu) -> Tensor:
    """Cross entropy ``(P,)`` of P networks on one class: images ``(n, C, H, W)``, all with label 0.

    Args:
        layers: weights of the layers, ``(P, in, out)``.
        images: of the class ``(n, C, H, W)``.
        activation: of the hidden layers.

    """
    first, second, head = layers
    x = activation(_normalise(_patches(images) @ first[:, None]))  # (P, n, H * W, width)
    x = _halve(x.transpose(2, 3).unflatten(3, images.shape[2:]))
    x = activation(_normalise(_patches(x) @ second[:, None]))
    outputs = x.mean(2) @ head
    return -outputs.log_softmax(2)[..., 0].mean(1)


def gradients(
    layers: Sequence[Tensor],
    images: Tensor,
    activation: Activation = F.gelu,
    *,
    differentiable: bool = False,
) -> Layers:
    """Gradients of :func:`class_loss` by the layers of P networks.

    Args:
        layers: weights of the layers, ``(P, in, out)`` each.
        images: images of a class ``(n, C, H, W)``.
        activation: of the hidden layers.
        differentiable: whether a gradient can be taken of the gradients.

    """
    with torch.enable_grad():
        leaves = [layer.detach().requires_grad_() for layer in layers]
        loss = class_loss(leaves, images, activation).sum()
        return torch.autograd.grad(loss, leaves, create_graph=differentiable)


def gradients_one_by_one(
    layers: Sequence[Tensor], images: Tensor, activation: Activation = F.gelu
) -> Layers:
    """Those of :func:`gradients`, network by network: less memory where there are many images.

    Args:
        layers: weights of the layers, ``(P, in, out)``.
        images: of the class ``(n, C, H, W)``.
        activation: of the hidden layers.

    """
    rows = (slice(i, i + 1) for i in range(len(layers[0])))
    slopes = [gradients([w[row] for w in layers], images, activation) for row in rows]
    return tuple(torch.cat(parts) for parts in zip(*slopes, strict=True))


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Sum over layers of 1 - cosine of two gradients ``(P,)``, mean over the units of a layer."""
    pairs = zip(a, b, strict=True)
    return torch.stack([1 - F.cosine_similarity(x, y, 1, 1e-12).mean(1) for x, y in pairs]).sum(0)


def _patches(x: Tensor) -> Tensor:
    """What a 3x3 convolution reads at each pixel: ``(..., C, H, W)`` to ``(..., H * W, 9 * C)``."""
    patches = F.unfold(x.flatten(0, -4), 3, padding=1).transpose(1, 2)
    rows: Tensor = patches.unflatten(0, x.shape[:-3])
    return rows


def _normalise(x: Tensor) -> Tensor:
    """Instance normalisation without parameters: each channel of each image by itself."""
    centred = x - x.mean(2, keepdim=True)
    return centred / (centred.square().mean(2, keepdim=True) + 1e-3).sqrt()


def _halve(x: Tensor) -> Tensor:
    """Half the height and width of ``(P, n, C, H, W)``, if there is more than one pixel."""
    small = min(x.shape[3:]) == 1
    return x if small else F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def build(
    shape: tuple[int, int, int], options: DistillationSettings, rng: torch.Generator
) -> Distillation:
    """Encoder for images of ``shape``; its images are learned anew for each set of images.

    Args:
        shape: channels, height, width of an image.
        options: section ``dataset_encoders.distillation`` of params.yaml.
        rng: source of initial values.

    """
    return Distillation(shape, options, rng)
