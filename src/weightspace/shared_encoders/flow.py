"""Conditional flow of latents: n draws for one (D, R) are n different networks.

A latent is noise that a velocity ``v(z_t, t, h)`` has carried from t = 0 to t = 1, with ``h`` the embedded
condition. Two losses are fitted at once, neither through the decoder:

* flow matching: v is regressed on ``z - noise`` at ``z_t = (1 - t) noise + t z``, so that draws are
  distributed as the latents of members are;
* NT-Xent between condition and latent, through two heads; the second class order of each member is
  a hard negative.

A critic, fitted afterwards, moves draws to where it expects the target (:mod:`._critic`).

Sources: flow matching, Lipman et al. (2023), arXiv 2210.02747; times from a logit-normal, Esser et
al. (2024), arXiv 2403.03206, section 3.1.
"""

from __future__ import annotations

import math

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder
from weightspace.learning.contrastive import nt_xent
from weightspace.learning.loop import fit as run_fit
from weightspace.learning.mlp import ResidualMlp, mlp
from weightspace.learning.result_matching import soft_result
from weightspace.nets.base import Net
from weightspace.params import FlowSettings, SharedEncoderSettings
from weightspace.rng import normal, torch_stream
from weightspace.runtime import precision as autocast
from weightspace.shared_encoders._critic import Critic
from weightspace.shared_encoders.base import (
    STREAM,
    Pairs,
    SharedEncoder,
    SharedEncoderData,
    Sizes,
    draw_masks,
    started,
)
from weightspace.weights.spec import block_size, fill_blocks, output_orders

TIMES = 16  # frequencies of the time embedding
HEAD = 128  # features of the contrastive space
CRITIC_BATCH, VAL_PART = 256, 4  # draws of a step; train draws for each val draw
JITTER = 0.05  # noise on the critic's latents, in units of their entries
BLOCK = 200  # draws measured at once, fewer where networks are large


class FlowModel(SharedEncoder):
    """Velocity of latents, contrastive heads and critic.

    Draws have the length that the autoencoder gives its latents, or where that is free centre and root
    mean square of the train latents.
    """

    options: FlowSettings
    free: Tensor
    centre: Tensor
    rms: Tensor

    def __init__(
        self,
        sizes: Sizes,
        settings: SharedEncoderSettings,
        options: FlowSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__(sizes, settings, options, rng)
        width, depth, latent = settings.width, settings.depth, sizes.latent
        self.trunk = ResidualMlp(self.condition_features, width, depth, width, rng)
        self.velocity = ResidualMlp(latent + width + 2 * TIMES, width, 2 * depth, latent, rng)
        self.condition_head = mlp([width, HEAD], rng)
        self.latent_head = ResidualMlp(latent, width, 1, HEAD, rng)
        by_class = (sizes.classes, self.dataset_encoder.features)
        read = by_class[1] + sizes.marks if options.critic_by_class else self.features
        reader = ResidualMlp(
            latent + read, options.critic_width, options.critic_depth, sizes.classes, rng
        )
        self.critic = Critic(reader, self.result, by_class if options.critic_by_class else None)
        self.register_buffer("free", torch.tensor(False))
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("rms", torch.ones(()))

    def trunk_of(self, condition: Tensor) -> Tensor:
        """Hidden features ``(N, width)`` of embedded conditions."""
        with self.precision():
            h: Tensor = F.gelu(self.trunk(condition))
        return h.float()

    def velocity_at(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Velocities ``(N, L)`` of points on the way from noise to latents.

        Args:
            x: points, in standard units ``(N, L)``.
            t: time of each, from 0 to 1 ``(N,)``.
            h: hidden features of the conditions ``(N, width)``.

        """
        angle = 0.5 * math.pi * t[:, None] * torch.arange(1, TIMES + 1, device=t.device)
        with self.precision():
            v: Tensor = self.velocity(torch.cat([x, h, angle.sin(), angle.cos()], 1))
        return v.float()

    def standard(self, z: Tensor) -> Tensor:
        """Latents ``(N, L)`` around 0 with a root mean square of 1, whatever the autoencoder."""
        return (z - self.centre) / self.rms

    def latents(self, x: Tensor) -> Tensor:
        """Latents ``(N, L)`` of the length that the autoencoder gives, the nearest to standard ones."""
        return self.centre + self.rms * x if self.free else F.layer_norm(x, x.shape[1:])

    @torch.no_grad()
    def sample(self, condition: Tensor, draws: int, rng: torch.Generator) -> Tensor:
        """Latents ``(N, draws, L)``, from noise by the two-step method of Adams and Bashforth.

        Each step extrapolates from its own velocity and the one before; the first takes the midpoint's.

        Args:
            condition: embedded conditions ``(N, F)``.
            draws: latents of each.
            rng: random stream.

        """
        h = self.trunk_of(condition).repeat_interleave(draws, 0)
        x = normal((len(h), self.sizes.latent), rng, h.device)
        step = 1 / self.options.steps
        t = torch.zeros(len(h), device=h.device)
        v = self.velocity_at(x, t, h)
        x = x + step * self.velocity_at(x + 0.5 * step * v, t + 0.5 * step, h)
        for _ in range(1, self.options.steps):
            t, before = t + step, v
            v = self.velocity_at(x, t, h)
            x = x + step * (1.5 * v - 0.5 * before)
        return self.latents(x).reshape(len(condition), draws, -1)

    def towards(self, z: Tensor, e: Tensor, target: Tensor) -> Tensor:
        """Latents ``(N, L)`` moved to where the critic expects the target.

        Args:
            z: drawn latents ``(N, L)``.
            e: dataset embeddings ``(N, E)``.
            target: requested results ``(N,)``.

        """
        return self.moved(z, e, target, self.options.critic_steps)

    def moved(self, z: Tensor, e: Tensor, target: Tensor, steps: int) -> Tensor:
        """As :meth:`towards`, with any number of steps."""
        x, e, target = self.standard(z).detach(), e.detach(), target.to(z)
        for _ in range(steps):
            with self.precision():
                x = x + self.critic.step(x, e, target, self.options.critic_reach)
            x = self.standard(self.latents(x))
        return self.latents(x) if steps else z

    def project(self, condition: Tensor) -> Tensor:
        """Unit vectors ``(N, 128)`` of conditions."""
        return F.normalize(self.condition_head(self.trunk_of(condition)), dim=1)

    def project_latent(self, z: Tensor) -> Tensor:
        """Unit vectors ``(N, 128)`` of latents."""
        with self.precision():
            out = self.latent_head(self.standard(z))
        return F.normalize(out.float(), dim=1)

    def precision(self) -> torch.autocast:
        """Numbers that the linear layers compute in."""
        return autocast(self.options.precision, self.trained_range.device)


build = FlowModel


class FlowLoss:
    """Loss of a batch of members; see the module's docstring for its parts."""

    def __init__(self, model: FlowModel, data: SharedEncoderData) -> None:
        self.model, self.data = model, data
        self.pairs: dict[str, Pairs] = {"train": data.train, "val": data.val}
        self.orders = output_orders(data.runner.dataset.classes.shape[1])

    def __call__(self, rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of some members; ``loss`` is their weighted sum.

        Args:
            rows: indices of the members in the split ``(B,)``.
            split: "train" or "val".
            rng: draws orders, masks, noise, times and images.

        """
        s, p, model = self.model.settings, self.pairs[split], self.model
        two = torch.rand(len(rows), len(self.orders), generator=rng).argsort(1)[:, :2]
        which = two.T.flatten()  # (2B,): order of the outputs, two different ones per member
        twice = rows.repeat(2)
        classes = self.data.runner.dataset.classes[p.tasks[twice]].gather(1, self.orders[which])
        e = model.embed_classes(self.class_embeddings(split, rng), classes)
        e = model.marked(e, None if p.width is None else p.width[twice])
        z = p.z[twice, which]
        result = p.result[twice].to(z.device)
        groups = p.runs[twice] * len(self.orders) + which
        condition = model.project(model.condition(e, result))
        contrast = nt_xent(condition, model.project_latent(z), s.temperature, groups)
        masks = draw_masks(len(twice), s.dropout if split == "train" else 0.0, rng)
        flow = self._flow_matching(model.standard(z), model.condition(e, result, *masks), rng)
        total = flow + model.options.contrast_weight * contrast
        return {"loss": total, "flow": flow, "nt_xent": contrast}

    def _flow_matching(self, x: Tensor, condition: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared error of velocities, at a random time of each latent.

        Args:
            x: latents in standard units ``(N, L)``.
            condition: embedded conditions ``(N, F)``.
            rng: draws noise and times.

        """
        noise = normal(x.shape, rng, x.device)
        t = normal((len(x),), rng, x.device).sigmoid()
        at = torch.lerp(noise, x, t[:, None])
        v = self.model.velocity_at(at, t, self.model.trunk_of(condition))
        return (v - (x - noise)).square().mean()

    def class_embeddings(self, split: str, rng: torch.Generator) -> Tensor:
        """Embeddings of all classes; in training, unless expensive, from a random part of their images."""
        images = self.data.runner.dataset.images["train"]
        if split == "train" and not self.model.dataset_encoder.whole:
            count = min(self.model.options.images_per_class, images.shape[1])
            images = images[:, torch.randperm(images.shape[1], generator=rng)[:count]]
        out: Tensor = self.model.dataset_encoder(images)
        return out


class Draws:
    """Draws for tasks of one split, decoded and measured on train images: what the critic learns from.

    Args:
        model: draws, and moves.
        data: tasks, images and autoencoder.
        split: "train" or "val".
        count: draws that each round adds.

    """

    def __init__(self, model: FlowModel, data: SharedEncoderData, split: str, count: int) -> None:
        self.model, self.data, self.count = model, data, count
        self.at_widths = list(data.at_widths.values())
        self.with_slopes = split == "train" and model.options.critic_slopes > 0
        self.tasks = data.runner.dataset.tasks_of(split)  # all: none of them needs a member
        device, sizes = data.runner.device, model.sizes
        self.x = torch.empty(0, sizes.latent, device=device)  # latents in standard units
        self.classes = torch.empty(0, sizes.classes, dtype=torch.long)
        self.measured = torch.empty(0, sizes.classes, device=device)  # results of each class
        self.slopes = torch.empty(0, sizes.latent, device=device)  # of their means, by x
        self.width = torch.empty(0, dtype=torch.long)  # index of the width that each is decoded at

    def __len__(self) -> int:
        return len(self.x)

    @torch.no_grad()
    def add(self, most: int, rng: torch.Generator) -> None:
        """Add a round, each draw moved by a random number of the critic's steps.

        Args:
            most: steps at most.
            rng: draws tasks, targets, latents, steps and images.

        """
        model, runner = self.model, self.data.runner
        tasks = self.tasks[torch.randint(len(self.tasks), (self.count,), generator=rng)]
        classes = runner.dataset.classes[tasks]
        width = torch.arange(self.count) % len(self.at_widths)
        e = model.embed(runner.dataset.images["train"], classes, width)
        low, high = model.bounds
        target = low + (high - low) * torch.rand(self.count, generator=rng)
        z = model.sample(model.condition(e, target), 1, rng)[:, 0]
        steps = torch.randint(most + 1, (self.count,), generator=rng)
        for k in range(1, most + 1):
            rows = (steps == k).to(z.device)
            z[rows] = model.moved(z[rows], e[rows], target.to(z)[rows], k)
        x = model.standard(z)
        images = model.options.critic_images * runner.classes
        nets = [r.net for r, _ in self.at_widths]
        where = runner.device.type
        size = min(block_size(n.spec, BLOCK, images * n.activations, where) for n in nets)
        measured = fill_blocks(
            x.new_empty(self.count, classes.shape[1] + x.shape[1]),
            size,
            lambda rows: torch.cat(self._measure(x[rows], classes[rows], width[rows], rng), 1),
        )
        results, slopes = measured.split([classes.shape[1], x.shape[1]], 1)
        self.x = torch.cat([self.x, x])
        self.classes = torch.cat([self.classes, classes])
        self.measured = torch.cat([self.measured, results])
        self.slopes = torch.cat([self.slopes, slopes])
        self.width = torch.cat([self.width, width])

    def _measure(
        self, x: Tensor, classes: Tensor, width: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Results per class ``(N, c)`` on random train images, and the slope ``(N, L)`` of their mean.

        Args:
            x: latents in standard units ``(N, L)``, which are decoded.
            classes: of the task of each ``(N, c)``.
            width: index of the width of each ``(N,)``.
            rng: chooses the images.

        """
        images = self.data.runner.dataset.some_images(
            "train", classes, self.model.options.critic_images, rng
        )
        results, slopes = x.new_empty(classes.shape), torch.zeros_like(x)
        where = x.device.type
        for i, (runner, autoencoder) in enumerate(self.at_widths):
            net, rows = runner.net, (width == i).nonzero()[:, 0].to(x.device)

            def run(piece: Tensor, net: Net = net, autoencoder: Autoencoder = autoencoder) -> None:
                measured = self._measure_some(net, autoencoder, x[piece], images[piece])
                results[piece], slopes[piece] = measured

            size = net.at_once(images.shape[1] + autoencoder.images_besides, where)
            net.each(run, rows.split(size or len(x)) if len(rows) else (), where)
        return results, slopes

    def _measure_some(
        self, net: Net, autoencoder: Autoencoder, x: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`_measure`, of networks of one width. Where no loss reads slopes they are 0.

        Args:
            net: the architecture at this width.
            autoencoder: decodes.
            x: latents in standard units ``(N, L)``.
            images: of each ``(N, B, C, H, W)``.

        """
        with torch.set_grad_enabled(self.with_slopes):
            x = x.detach().requires_grad_(self.with_slopes)
            outputs = autoencoder.outputs(net, self.model.latents(x), images)
            results, soft = soft_result(outputs, self.model.result)
            total = soft.mean(1).sum()
        slope = torch.autograd.grad(total, x)[0] if self.with_slopes else torch.zeros_like(x)
        return results.detach(), slope


def fit_critic(model: FlowModel, loss: FlowLoss, seed: int) -> None:
    """Fit the critic in rounds: draw, move, decode, measure, learn.

    Args:
        model: whose critic is fitted; its flow stays as it is.
        loss: of the flow, for its data and embeddings of classes.
        seed: root seed.

    """
    options, critic = model.options, model.critic
    draws = {
        split: Draws(model, loss.data, split, -(-options.critic_draws // part))
        for split, part in (("train", 1), ("val", VAL_PART))
    }
    epochs = {"epochs": options.critic_epochs, "patience": options.critic_epochs}
    settings = model.settings.model_copy(update=epochs | {"batch_size": CRITIC_BATCH})

    def critic_loss(rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        pool = draws[split]
        with torch.no_grad():
            e = model.embed_classes(loss.class_embeddings(split, rng), pool.classes[rows])
            e = model.marked(e, pool.width[rows])
        x, measured = pool.x[rows], pool.measured[rows]
        if split == "train":
            x = x + JITTER * normal(x.shape, rng, x.device)
        with model.precision():
            return critic.losses(x, e, measured, pool.slopes[rows], options.critic_slopes)

    for number in range(options.critic_rounds):
        for split, pool in draws.items():
            rng = torch_stream(seed, STREAM, "critic", split, number)
            pool.add(options.critic_steps if number else 0, rng)
        counts = {split: len(pool) for split, pool in draws.items()}
        history = run_fit(
            "critic", critic, critic_loss, counts, settings, seed, stream=f"{STREAM} {number}"
        )
        chosen = int(history["val_loss"].to_numpy().argmin())  # the epoch that the fit ends at
        critic.error.fill_(float(history["val_error"].to_numpy()[chosen]) ** 0.5)


def fit(
    data: SharedEncoderData,
    settings: SharedEncoderSettings,
    options: FlowSettings,
    seed: int,
) -> tuple[FlowModel, pd.DataFrame]:
    """Fit on train members, then the critic on draws for train tasks; stop by the loss on val.

    Args:
        data: members as pairs, autoencoder, images.
        settings: section ``shared_encoder`` of params.yaml.
        options: section ``shared_encoders.flow``.
        seed: root seed.

    """
    model = started(build, data, settings, options, seed)
    if not data.autoencoder.normalised:
        z = data.train.z[:, 0]
        model.free.copy_(torch.tensor(True))
        model.centre.copy_(z.mean(0))
        model.rms.copy_((z - z.mean(0)).square().mean().sqrt())
    counts = {"train": len(data.train.tasks), "val": len(data.val.tasks)}
    loss = FlowLoss(model, data)
    history = run_fit("shared_encoder", model, loss, counts, settings, seed, stream=STREAM)
    if options.critic_steps:
        fit_critic(model, loss, seed)
    return model, history
