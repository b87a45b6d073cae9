"""Gradient steps on latents through the frozen decoder: guided sampling and refined encoding.

A draw from P(z | D, R) is near the target; a few steps bring its result on the train images of D to
it. An encoded latent is near its network; a few steps bring the outputs of the decoded network to
the outputs of the original. Both take labelled or unlabelled train images of the task, never test
images, and cost about as much as a short training.

Sources: guidance by the gradient of the condition, Dhariwal and Nichol (2021), arXiv 2105.05233,
section 4; latents fitted through a decoder, Park et al. (2019), DeepSDF, arXiv 1901.05103,
section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder
from weightspace.learning.behavioural import behaviour
from weightspace.learning.result_matching import result_error
from weightspace.nets.base import Net
from weightspace.params import GuidanceSettings
from weightspace.weights.spec import block_size, fill_blocks
from weightspace.zoo.result import Result

BETAS = (0.8, 0.95)  # of Adam: short memories for few steps
BLOCK = (
    200  # latents moved at once, fewer where networks or what lies between their layers is large
)

EPSILON = 1e-8

LatentLoss = Callable[[Tensor], Tensor]  # latents (N, L) -> scalar, a sum of one term per latent


class Adam:
    """Adam on one tensor, with a rate for each step; the same bits as ``torch.optim.Adam``.

    Without the optimisers of torch, whose first use imports its compiler and takes a second.

    Args:
        x: moved in place.

    Source: Kingma and Ba (2015), arXiv 1412.6980.

    >>> x = torch.tensor([1.0, -1.0], requires_grad=True)
    >>> Adam(x).step(torch.tensor([2.0, -3.0]), rate=0.25)
    >>> x
    tensor([ 0.7500, -0.7500], requires_grad=True)

    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.steps = x, 0
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Move against a gradient, by ``rate`` in each entry at first."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        bias_of_mean, bias_of_square = (1 - beta**self.steps for beta in BETAS)
        denominator = (self.square.sqrt() / bias_of_square**0.5).add_(EPSILON)
        self.x.addcdiv_(self.mean, denominator, value=-rate / bias_of_mean)


@dataclass(frozen=True)
class LatentSteps:
    """Moves latents by Adam through a frozen decoder.

    Attributes:
        autoencoder: decodes latents.
        net: the architecture.
        settings: section ``guidance`` of params.yaml.

    """

    autoencoder: Autoencoder
    net: Net
    settings: GuidanceSettings

    def at_once(self, images: int) -> int:
        """Latents that are moved at once: a gradient holds all that so many images are on their way."""
        on_the_way = (images + self.autoencoder.images_besides) * self.net.activations
        return block_size(self.net.spec, BLOCK, on_the_way)

    def guide(
        self,
        z: Tensor,
        images: Tensor,
        target: Tensor,
        result: Result,
        rng: torch.Generator,
    ) -> Tensor:
        """Bring the results of drawn latents ``(N, L)`` to their targets.

        Args:
            z: latents drawn for one task ``(N, L)``.
            images: train images of the task, class after class ``(c, n, C, H, W)``.
            target: requested result of each latent ``(N,)``.
            result: what R is.
            rng: chooses the images of each step.

        """
        count = min(self.settings.images_per_class, images.shape[1])

        def compute(rows: slice) -> Tensor:
            def loss(latents: Tensor) -> Tensor:
                chosen = torch.randperm(images.shape[1], generator=rng)[:count]
                batch = images[:, chosen].flatten(0, 1)
                outputs = self.autoencoder.outputs(self.net, latents, batch)
                return result_error(outputs, target[rows], result)[0].sum()

            return self.descend(z[rows], loss, self.settings.sampling_steps)

        size = self.at_once(count * len(images))
        return fill_blocks(torch.empty_like(z), size, compute)

    def refine(self, z: Tensor, images: Tensor, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """Bring the outputs of decoded latents ``(N, L)`` to those of the originals, all at once.

        Args:
            z: latents of the originals ``(N, L)``.
            images: train images of each network's task ``(N, B, C, H, W)``.
            outputs: outputs of the originals on them ``(N, B, c)``.
            rng: chooses the images of each step.

        """
        std = outputs.std(1, keepdim=True) + 1e-3
        count = min(self.settings.images_per_class * outputs.shape[2], images.shape[1])

        def loss(latents: Tensor) -> Tensor:
            chosen = torch.randperm(images.shape[1], generator=rng)[:count]
            rebuilt = self.autoencoder.outputs(self.net, latents, images[:, chosen])
            parts = behaviour(rebuilt, outputs[:, chosen], std, count)
            return len(latents) * (parts["error"] + parts["kl"] + parts["cosine"])

        return self.descend(z, loss, self.settings.encoding_steps)

    def descend(self, z: Tensor, loss: LatentLoss, steps: int) -> Tensor:
        """Adam on latents ``(N, L)``, the rate falling linearly to zero; the decoder stays as it is.

        Args:
            z: where to start.
            loss: of valid latents; a sum of one term per latent, so that each moves alone.
            steps: gradient steps; 0 returns ``z``.

        """
        if not steps:
            return z
        rate, nearest_valid = self.settings.rate, self.autoencoder.nearest_valid
        z = z.detach().clone().requires_grad_()
        adam = Adam(z)
        with torch.enable_grad():
            for step in range(steps):
                (gradient,) = torch.autograd.grad(loss(nearest_valid(z)), z)
                adam.step(gradient, rate * (1 - step / steps))
        return nearest_valid(z.detach())
