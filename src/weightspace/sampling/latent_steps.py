"""Gradient steps on latents through the frozen decoder: guided sampling and refined encoding.

A draw from P(z | D, R) is near what was asked; a few steps bring its result on the train images of
D to R. An encoded latent is near its network; a few steps bring the outputs of the decoded network
to the outputs of the original. Test images are never used.

Sources: guidance by the gradient of the condition, Dhariwal and Nichol (2021), arXiv 2105.05233,
section 4; latents fitted through a decoder, Park et al. (2019), DeepSDF, arXiv 1901.05103,
section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder
from weightspace.learning.behavioural import behaviour
from weightspace.learning.result_matching import result_error
from weightspace.nets.base import Net
from weightspace.params import GuidanceSettings

BETAS = (0.8, 0.95)  # of Adam: short memories for few steps
BLOCK = 200  # latents moved at once


def descend(
    autoencoder: Autoencoder, z: Tensor, loss: Callable[[Tensor], Tensor], steps: int, rate: float
) -> Tensor:
    """Adam on latents ``(N, L)``, the rate falling linearly to zero; the decoder stays as it is.

    Args:
        autoencoder: knows which latents are valid.
        z: where to start.
        loss: valid latents ``(N, L)`` -> scalar, a sum or mean of one term per latent.
        steps: gradient steps; 0 returns ``z``.
        rate: size of the first step in units of a latent's entries.

    """
    if not steps:
        return z
    z = z.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=rate, betas=BETAS)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            (z.grad,) = torch.autograd.grad(loss(autoencoder.nearest_valid(z)), z)
            optimizer.step()
    return autoencoder.nearest_valid(z.detach())


def guide(
    autoencoder: Autoencoder,
    net: Net,
    z: Tensor,
    images: Tensor,
    wanted: Tensor,
    result: str,
    settings: GuidanceSettings,
    generator: torch.Generator,
) -> Tensor:
    """Bring the results of drawn latents to the requests.

    Args:
        autoencoder: decodes latents.
        net: the architecture.
        z: latents ``(N, L)`` drawn for one task.
        images: train images of the task ``(c, n, C, H, W)``.
        wanted: requested results ``(N,)``.
        result: "accuracy" or "loss".
        settings: section ``guidance`` of params.yaml.
        generator: chooses the images of each step.

    Returns:
        Latents ``(N, L)``.

    """
    count = min(settings.images_per_class, images.shape[1])

    def loss_of(part: Tensor) -> Callable[[Tensor], Tensor]:
        def loss(latents: Tensor) -> Tensor:
            chosen = torch.randperm(images.shape[1], generator=generator)[:count]
            outputs = net.outputs(autoencoder.decode(latents), images[:, chosen].flatten(0, 1))
            return result_error(outputs, part, result)[0].sum()

        return loss

    parts = zip(z.split(BLOCK), wanted.split(BLOCK), strict=True)
    steps, rate = settings.sampling_steps, settings.rate
    return torch.cat(
        [descend(autoencoder, block, loss_of(part), steps, rate) for block, part in parts]
    )


def refine_latents(
    autoencoder: Autoencoder,
    net: Net,
    z: Tensor,
    images: Tensor,
    outputs: Tensor,
    settings: GuidanceSettings,
    generator: torch.Generator,
) -> Tensor:
    """Bring the outputs of decoded latents to those of the original networks.

    Args:
        autoencoder: decodes latents.
        net: the architecture.
        z: latents ``(N, L)`` of the originals.
        images: train images of each network's task ``(N, B, C, H, W)``.
        outputs: outputs of the originals on them ``(N, B, c)``.
        settings: section ``guidance`` of params.yaml.
        generator: chooses the images of each step.

    Returns:
        Latents ``(N, L)``.

    """
    spread = outputs.std(1, keepdim=True) + 1e-3
    count = min(settings.images_per_class * outputs.shape[2], images.shape[1])

    def loss(latents: Tensor) -> Tensor:
        chosen = torch.randperm(images.shape[1], generator=generator)[:count]
        rebuilt = net.outputs(autoencoder.decode(latents), images[:, chosen])
        parts = behaviour(rebuilt, outputs[:, chosen], spread, count)
        return len(latents) * (parts["error"] + parts["kl"] + parts["cosine"])

    return descend(autoencoder, z, loss, settings.encoding_steps, settings.rate)
