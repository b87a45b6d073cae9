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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder
from weightspace.learning.behavioural import behaviour
from weightspace.learning.result_matching import result_error
from weightspace.nets.base import Net
from weightspace.params import GuidanceSettings
from weightspace.weights.spec import Weights, block_size, block_slices
from weightspace.zoo.result import Result

BETAS = (0.8, 0.95)  # of Adam: short memories for few steps
BLOCK = 200  # latents decoded at once, fewer where networks are large
EPSILON = 1e-8

# Latents (N, L) and number of the step -> scalar, a sum of one term per latent
LatentLoss = Callable[[Tensor, int], Tensor]


class Piece(NamedTuple):
    """Networks that run at once, on the same images.

    Attributes:
        rows: which of all latents.
        chosen: images in each step ``(steps, n)``.

    """

    rows: slice
    chosen: Tensor


# Networks of a piece and number of the step -> scalar, a sum of one term per network
NetworkLoss = Callable[[Piece, Weights, int], Tensor]


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
        """Latents that see the same images at most: a gradient may hold so many between the layers."""
        where = self.autoencoder.device.type
        return block_size(self.net.spec, BLOCK, self._between(images), where)

    def guide(
        self,
        z: Tensor,
        class_images: Tensor,
        classes: Tensor,
        target: Tensor,
        result: Result,
        rng: torch.Generator,
    ) -> Tensor:
        """Bring the results of drawn latents ``(N, L)`` to their targets, those of several tasks at once.

        Args:
            z: latents, those of a task side by side ``(N, L)``.
            class_images: train images of each class ``(K, n, C, H, W)``.
            classes: of the task of each latent ``(N, c)``.
            target: requested result of each latent ``(N,)``.
            result: what R is.
            rng: chooses the images of each step, for one task after the other.

        """
        steps, available = self.settings.sampling_steps, class_images.shape[1]
        count = min(self.settings.images_per_class, available)
        pieces, start = list[Piece](), 0
        for size in torch.unique_consecutive(classes, return_counts=True, dim=0)[1].tolist():
            of_task = block_slices(size, self.at_once(count * classes.shape[1]))
            for rows in of_task:
                chosen = _choose(available, count, steps, rng)
                pieces += self._pieces(
                    start + rows.start, start + rows.stop, chosen, classes.shape[1]
                )
            start += size

        def loss(piece: Piece, weights: Weights, step: int) -> Tensor:
            index = classes[piece.rows.start, :, None], piece.chosen[step]
            images = class_images[index].flatten(0, 1)
            outputs = self.autoencoder.outputs_of(self.net, weights, images)
            return result_error(outputs, target[piece.rows], result)[0].sum()

        return self._move(z, pieces, loss, steps)

    def refine(self, z: Tensor, images: Tensor, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """Bring the outputs of decoded latents ``(N, L)`` to those of the originals.

        Args:
            z: latents of the originals ``(N, L)``.
            images: train images of each network's task ``(N, B, C, H, W)``.
            outputs: outputs of the originals on them ``(N, B, c)``.
            rng: chooses the images of each step.

        """
        std, steps = outputs.std(1, keepdim=True) + 1e-3, self.settings.encoding_steps
        count = min(self.settings.images_per_class * outputs.shape[2], images.shape[1])
        chosen = _choose(images.shape[1], count, steps, rng)

        def loss(piece: Piece, weights: Weights, step: int) -> Tensor:
            rows, index = piece.rows, piece.chosen[step]
            rebuilt = self.autoencoder.outputs_of(self.net, weights, images[rows, index])
            parts = behaviour(rebuilt, outputs[rows, index], std[rows], count)
            return len(rebuilt) * (parts["error"] + parts["kl"] + parts["cosine"])

        return self._move(z, self._pieces(0, len(z), chosen), loss, steps)

    def _pieces(self, start: int, stop: int, chosen: Tensor, classes: int = 1) -> list[Piece]:
        """Cut latents that see the same images.

        Networks that run at once on a CPU have few numbers between their layers.

        Args:
            start: first latent.
            stop: the one after the last.
            chosen: images in each step ``(steps, n)``.
            classes: n is of each of so many.

        """
        images = chosen.shape[1] * classes + self.autoencoder.images_besides
        size = self.net.at_once(images, self.autoencoder.device.type) or stop - start
        return [
            Piece(slice(start + rows.start, start + rows.stop), chosen)
            for rows in block_slices(stop - start, size)
        ]

    def _between(self, images: int) -> int:
        """Numbers between the layers of one network."""
        return (images + self.autoencoder.images_besides) * self.net.activations

    def _move(self, z: Tensor, pieces: list[Piece], loss: NetworkLoss, steps: int) -> Tensor:
        """Move latents ``(N, L)`` block by block: a block is decoded at once, and run piece by piece.

        Args:
            z: where to start.
            pieces: of all latents, in order.
            loss: of the networks of a piece.
            steps: gradient steps.

        """
        out = torch.empty_like(z)
        for block in _packed(pieces, block_size(self.net.spec, BLOCK, self.net.spec.numel)):
            rows = slice(block[0].rows.start, block[-1].rows.stop)
            of_block = partial(self._through, block, loss)
            out[rows] = self.descend(z[rows], of_block, steps)
        return out

    def _through(self, block: list[Piece], loss: NetworkLoss, latents: Tensor, step: int) -> Tensor:
        """Scalar whose gradient by the latents of a block ``(N, L)`` is that of the loss.

        Args:
            block: pieces of these latents.
            loss: of the networks of a piece.
            latents: are decoded.
            step: number of the step.

        """
        weights = self.autoencoder.unmeasured(latents)
        slopes = {name: torch.zeros_like(w) for name, w in weights.items()}

        def run(piece: Piece) -> None:
            start = block[0].rows.start
            rows = slice(piece.rows.start - start, piece.rows.stop - start)
            part = {name: w[rows].detach().requires_grad_() for name, w in weights.items()}
            by_part = torch.autograd.grad(
                loss(piece, part, step), tuple(part.values()), materialize_grads=True
            )
            for slope, by in zip(slopes.values(), by_part, strict=True):
                slope[rows] = by

        self.net.each(run, block, latents.device.type)
        return torch.stack([(w * slopes[name]).sum() for name, w in weights.items()]).sum()

    def descend(self, z: Tensor, loss: LatentLoss, steps: int) -> Tensor:
        """Adam on latents ``(N, L)``, the rate falling linearly to zero; the decoder stays as it is.

        Args:
            z: where to start.
            loss: of valid latents in a step; a sum of one term per latent, so that each moves alone.
            steps: gradient steps; 0 returns ``z``.

        """
        if not steps:
            return z
        rate, nearest_valid = self.settings.rate, self.autoencoder.nearest_valid
        z = z.detach().clone().requires_grad_()
        adam = Adam(z)
        with torch.enable_grad():
            for step in range(steps):
                (gradient,) = torch.autograd.grad(loss(nearest_valid(z), step), z)
                adam.step(gradient, rate * (1 - step / steps))
        return nearest_valid(z.detach())


def _choose(available: int, count: int, steps: int, rng: torch.Generator) -> Tensor:
    """Images of each step ``(steps, count)``, in a step without repetition.

    Args:
        available: number of images.
        count: of a step.
        steps: number of steps.
        rng: chooses.

    """
    orders = [torch.randperm(available, generator=rng)[:count] for _ in range(steps)]
    return torch.stack(orders) if orders else torch.empty(0, count, dtype=torch.long)


def _packed(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """Pieces side by side of at most ``size`` latents together, at least one.

    >>> pieces = [Piece(rows, torch.empty(0)) for rows in block_slices(7, 2)]
    >>> [[piece.rows.stop for piece in block] for block in _packed(pieces, 4)]
    [[2, 4], [6, 7]]
    """
    block: list[Piece] = []
    for piece in pieces:
        if block and piece.rows.stop - block[0].rows.start > size:
            yield block
            block = []
        block.append(piece)
    if block:
        yield block
