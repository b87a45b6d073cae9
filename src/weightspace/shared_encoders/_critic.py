"""Critic: the result that a latent's network will have on a dataset, without decoding or running it.

It is fitted on draws for train tasks, decoded and measured on their train images; from the second
round on they have been moved by the critic itself, so that it knows where its steps lead. It learns
their results, and the slopes of the results by the latents, through decoder and network: as many
numbers as a latent has, where the result is one. To a draw it costs no image and no label of the task
beyond D.

It reads one class of D at a time, as a network does: how often each output is the largest on images of a
class depends on no other class.

Sources: steps by the gradient of a learned predictor, Dhariwal and Nichol (2021), arXiv 2105.05233,
section 4; a predictor measured again where it led, Ross et al. (2011), DAgger, arXiv 1011.0686;
fitting slopes, Czarnecki et al. (2017), Sobolev Training, arXiv 1706.04859.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.zoo.result import Result

FLAT, TINY = 0.04, 1e-12  # of the mean squared slope, added where a slope is small; against 0 / 0
SMALLEST_ERROR = 1e-3  # also where all draws come out alike, and the critic is never wrong


class Critic(nn.Module):
    """Expected results per class of latents on datasets.

    Args:
        net: latents in standard units, marks of the width and the embedding of a class
            ``(N, c, L + marks + F)`` -> how often each output is the largest there, as logits ``(N, c, c)``;
            without ``by_class`` latents and embeddings of datasets ``(N, L + E)`` -> ``(N, c)``.
        result: what R is.
        by_class: c and F, classes of a task and features of each; None: all are read at once.

    """

    error: Tensor

    def __init__(
        self, net: nn.Module, result: Result, by_class: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.net, self.result, self.by_class = net, result, by_class
        self.register_buffer("error", torch.ones(()))  # root mean square on val tasks

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Expected results of each class ``(N, c)``: accuracy, or loss in nats.

        Args:
            x: latents in standard units ``(N, L)``.
            e: dataset embeddings ``(N, E)``.

        """
        return self._results(self._outputs(x, e))

    def losses(
        self, x: Tensor, e: Tensor, measured: Tensor, slopes: Tensor, weight: float
    ) -> dict[str, Tensor]:
        """Named losses, scalars; ``loss`` is what is minimised, ``error`` the squared one of the means.

        The loss of the results is the cross entropy of accuracies, or the squared error of losses; that
        of the slopes their distance as a fraction of the measured slope's length. Without a gradient
        (on val) it is the results' alone.

        Args:
            x: latents in standard units ``(N, L)``.
            e: dataset embeddings ``(N, E)``.
            measured: results per class ``(N, c)``.
            slopes: of the means of the results, by x ``(N, L)``.
            weight: of the slopes' loss.

        """
        follow = weight > 0 and torch.is_grad_enabled()
        x = x.detach().requires_grad_(follow)
        out = self._outputs(x, e)
        expected = self._results(out)
        if self.result.higher_is_better:
            loss = F.binary_cross_entropy_with_logits(out, measured)
        else:
            loss = (expected - measured).square().mean()
        error = (expected.mean(1) - measured.mean(1)).square().mean().detach()
        if not follow:
            return {"loss": loss, "error": error}
        (slope,) = torch.autograd.grad(expected.mean(1).sum(), x, create_graph=True)
        length = slopes.square().sum(1)
        distance = (slope - slopes).square().sum(1) / (length + FLAT * length.mean() + TINY)
        of_slopes = distance.clamp_min(TINY).sqrt().mean()
        return {"loss": loss + weight * of_slopes, "error": error, "slopes": of_slopes.detach()}

    def step(self, x: Tensor, e: Tensor, target: Tensor, reach: float) -> Tensor:
        """Movement ``(N, L)`` after which the critic expects the target.

        The step of Gauss and Newton for ``((expected - target) / error)^2 + (|movement| / length)^2``,
        no longer than ``length``, which is that of a movement of all entries by ``reach``.

        Args:
            x: latents in standard units ``(N, L)``.
            e: dataset embeddings ``(N, E)``.
            target: requested results ``(N,)``.
            reach: in units of a latent's entries.

        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            expected = self(x, e).mean(1)
            (slope,) = torch.autograd.grad(expected.sum(), x)
        length = reach * x.shape[1] ** 0.5
        error = self.error.clamp_min(SMALLEST_ERROR)
        damped = slope.square().sum(1) + (error / length).square()
        movement = ((target - expected.detach()) / damped)[:, None] * slope
        out: Tensor = movement / (movement.norm(dim=1, keepdim=True) / length).clamp_min(1)
        return out

    def _results(self, out: Tensor) -> Tensor:
        results: Tensor = out.sigmoid() if self.result.higher_is_better else F.softplus(out)
        return results

    def _outputs(self, x: Tensor, e: Tensor) -> Tensor:
        """Logits of accuracies, or what softplus makes losses of ``(N, c)``."""
        if self.by_class is None:
            whole: Tensor = self.net(torch.cat([x, e], 1))
            return whole.float()
        classes, features = self.by_class
        d, marks = e.tensor_split([classes * features], 1)
        same = torch.cat([x, marks], 1)[:, None].expand(-1, classes, -1)
        out: Tensor = self.net(torch.cat([same, d.unflatten(1, self.by_class)], 2))
        out = out.float()
        own = torch.eye(classes, dtype=torch.bool, device=out.device)
        logit = out.diagonal(dim1=1, dim2=2) - out.masked_fill(own, -torch.inf).logsumexp(2)
        return logit if self.result.higher_is_better else -logit  # softplus: -log of the fraction
