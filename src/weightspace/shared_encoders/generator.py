"""Conditional generator of latents: n draws for one (D, R) are n different networks.

``z = LayerNorm(mu(h) + g(h, noise))`` with ``h`` the embedded condition, trained by

* the energy score of two draws against the member's latent, and against the member's outputs: a
  proper score, lowest for the true distribution, so that draws neither collapse nor scatter;
* NT-Xent between condition and latent, through two heads; the second class order of each member is
  a hard negative;
* result matching through the frozen decoder: accuracy (or loss) of the decoded draws on train
  images against the request, with the hard value forward and a soft gradient.

Sources: energy score, Gneiting and Raftery (2007), Strictly Proper Scoring Rules, section 4.3;
as a training loss of one-step generators, Shen and Meinshausen (2024), Engression, arXiv
2307.00835.
"""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.learning.behavioural import reorder
from weightspace.learning.contrastive import nt_xent
from weightspace.learning.loop import fit as run_fit
from weightspace.learning.mlp import ResidualMlp, mlp
from weightspace.learning.result_matching import result_error
from weightspace.params import GeneratorSettings, SharedEncoderSettings
from weightspace.rng import normal, torch_stream
from weightspace.runtime import precision
from weightspace.shared_encoders.base import (
    STREAM,
    Pairs,
    SharedEncoder,
    SharedEncoderData,
    Sizes,
    draw_masks,
    prepare,
)
from weightspace.weights.spec import output_orders

NOISE = 32  # features of the generator's noise
HEAD = 128  # features of the contrastive space
BALANCE = 0.1  # weight of the variance of soft correctness, which keeps accuracy steady over images


class GeneratorModel(SharedEncoder):
    """One-step conditional generator with contrastive heads.

    Draws have the length that the autoencoder gives its latents, or where that is free centre and root
    mean square of the train latents.
    """

    options: GeneratorSettings
    free: Tensor
    centre: Tensor
    rms: Tensor

    def __init__(
        self,
        sizes: Sizes,
        settings: SharedEncoderSettings,
        options: GeneratorSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__(sizes, settings, options, rng)
        width, depth = settings.width, settings.depth
        self.trunk = ResidualMlp(self.condition_features, width, depth, width, rng)
        self.mean = mlp([width, sizes.latent], rng)
        self.noise = ResidualMlp(width + NOISE, width, depth, sizes.latent, rng)
        self.condition_head = mlp([width, HEAD], rng)
        self.latent_head = ResidualMlp(sizes.latent, width, 1, HEAD, rng)
        self.register_buffer("free", torch.tensor(False))
        self.register_buffer("centre", torch.zeros(sizes.latent))
        self.register_buffer("rms", torch.ones(()))

    def trunk_of(self, condition: Tensor) -> Tensor:
        """Hidden features ``(N, width)`` of embedded conditions."""
        with self._precision():
            h: Tensor = F.gelu(self.trunk(condition))
        return h.float()

    def draw(self, h: Tensor, noise: Tensor) -> Tensor:
        """Latents ``(N, L)`` of hidden features and noise ``(N, 32)``."""
        with self._precision():
            z = self.mean(h) + self.noise(torch.cat([h, noise], 1))
        z = z.float()
        return self.centre + self.rms * z if self.free else F.layer_norm(z, z.shape[1:])

    def standard(self, z: Tensor) -> Tensor:
        """Latents ``(N, L)`` around 0 with a root mean square of 1, whatever the autoencoder."""
        return (z - self.centre) / self.rms

    def sample(self, condition: Tensor, draws: int, rng: torch.Generator) -> Tensor:
        """Latents ``(N, draws, L)``.

        Args:
            condition: embedded conditions ``(N, F)``.
            draws: latents of each.
            rng: random stream.

        """
        h = self.trunk_of(condition).repeat_interleave(draws, 0)
        noise = normal((len(h), NOISE), rng, h.device)
        return self.draw(h, noise).reshape(len(condition), draws, -1)

    def project(self, condition: Tensor) -> Tensor:
        """Unit vectors ``(N, 128)`` of conditions."""
        return F.normalize(self.condition_head(self.trunk_of(condition)), dim=1)

    def project_latent(self, z: Tensor) -> Tensor:
        """Unit vectors ``(N, 128)`` of latents."""
        with self._precision():
            out = self.latent_head(self.standard(z))
        return F.normalize(out.float(), dim=1)

    def _precision(self) -> torch.autocast:
        return precision(self.options.precision, self.trained_range.device)


build = GeneratorModel


class GeneratorLoss:
    """Loss of a batch of members; see the module's docstring for its parts."""

    def __init__(self, model: GeneratorModel, data: SharedEncoderData) -> None:
        self.model, self.data = model, data
        self.pairs: dict[str, Pairs] = {"train": data.train, "val": data.val}
        self.orders = output_orders(data.runner.dataset.classes.shape[1])

    def __call__(self, rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of some members; ``loss`` is their weighted sum.

        Args:
            rows: indices of the members in the split ``(B,)``.
            split: "train" or "val".
            rng: draws orders, masks, noise and images.

        """
        s, options = self.model.settings, self.model.options
        p, model = self.pairs[split], self.model
        two = torch.rand(len(rows), len(self.orders), generator=rng).argsort(1)[:, :2]
        which = two.T.flatten()  # (2B,): order of the outputs, two different ones per member
        twice = rows.repeat(2)
        classes = self.data.runner.dataset.classes[p.tasks[twice]].gather(1, self.orders[which])
        e = model.embed_classes(self._class_embeddings(split, rng), classes)
        z = p.z[twice, which]
        result = p.result[twice].to(z.device)
        h = model.trunk_of(model.condition(e, result))
        masks = draw_masks(len(twice), s.dropout if split == "train" else 0.0, rng)
        masked = model.trunk_of(model.condition(e, result, *masks))
        shape = len(z), NOISE
        draws = [model.draw(masked, normal(shape, rng, z.device)) for _ in range(2)]
        energy = energy_score(*map(model.standard, (z, *draws))) * z.shape[1] ** -0.5
        groups = p.runs[twice] * len(self.orders) + which
        condition = F.normalize(model.condition_head(h), dim=1)
        contrast = nt_xent(condition, model.project_latent(z), s.temperature, groups)
        few = slice(0, options.decoded)
        decoded = self._decoded(
            h[few], twice[few], which[few], classes[few], result[few], split, rng
        )
        parts = {"energy": energy, "nt_xent": contrast, **decoded}
        total = (
            energy
            + options.contrast_weight * contrast
            + options.result_weight * parts["result"]
            + options.behaviour_weight * parts["behaviour"]
            + BALANCE * parts["balance"]
        )
        return {"loss": total, **parts}

    def _class_embeddings(self, split: str, rng: torch.Generator) -> Tensor:
        """Embeddings of all classes; in training, unless expensive, from a random part of their images."""
        images = self.data.runner.dataset.images["train"]
        if split == "train" and not self.model.dataset_encoder.whole:
            count = min(self.model.options.images_per_class, images.shape[1])
            images = images[:, torch.randperm(images.shape[1], generator=rng)[:count]]
        out: Tensor = self.model.dataset_encoder(images)
        return out

    def _decoded(
        self,
        h: Tensor,
        rows: Tensor,
        which: Tensor,
        classes: Tensor,
        target: Tensor,
        split: str,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Decode two draws of each condition and compare results and outputs with the member's.

        Args:
            h: hidden features of D conditions ``(D, width)``.
            rows: members that they belong to ``(D,)``.
            which: order of the outputs of each, an index of ``orders`` ``(D,)``.
            classes: classes of each task in that order ``(D, c)``.
            target: R of each ``(D,)``.
            split: "train" or "val".
            rng: draws images and noise.

        """
        net, images = self.data.runner.net, self.data.runner.dataset.images["train"].shape[1]
        index = torch.rand(*classes.shape, images, generator=rng).argsort(2)
        index = index[:, :, : self.model.options.queries_per_class]  # (D, c, n)
        queries, original = self._queries(rows, which, classes, split, index)
        noise = normal((2 * len(h), NOISE), rng, h.device)
        z = self.model.draw(h.repeat(2, 1), noise)
        both = queries.repeat(2, *[1] * (queries.ndim - 1))
        outputs = self.data.autoencoder.outputs(net, z, both)
        error, soft = result_error(outputs, target.repeat(2), self.model.result)
        std = original.std((1, 2), keepdim=True) + 0.05
        scaled = [
            ((y - y.mean(2, keepdim=True)) / std).asinh() for y in (original, *outputs.chunk(2))
        ]
        behaviour = energy_score(*(y.flatten(1) for y in scaled)) * original[0].numel() ** -0.5
        balance = (
            (soft * (1 - soft)).mean() if self.model.result.higher_is_better else soft.new_zeros(())
        )
        return {"result": error.mean(), "behaviour": behaviour, "balance": balance}

    def _queries(
        self, rows: Tensor, which: Tensor, classes: Tensor, split: str, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images ``(D, c * n, C, H, W)`` of D reordered tasks, and the members' outputs on them.

        Args:
            rows: members ``(D,)``.
            which: order of the outputs of each, an index of ``orders`` ``(D,)``.
            classes: classes of each task in that order ``(D, c)``.
            split: "train" or "val".
            index: images of each class ``(D, c, n)``.

        Returns:
            The images, and outputs ``(D, c * n, c)`` in the same order.

        """
        dataset, order = self.data.runner.dataset, self.orders[which]
        of_class = classes[:, :, None].expand_as(index)
        queries = dataset.images_of("train", of_class, index).flatten(1, 2)
        # Class i of the reordered task is class order[i] of the member's, whose outputs are stored.
        stored = (dataset.images["train"].shape[1] * order[:, :, None] + index).flatten(1)
        on_task = self.pairs[split].on_task[rows[:, None], stored].to(queries.device)
        return queries, reorder(on_task, order)


def energy_score(truth: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Energy score ``E|X - y| - E|X - X'| / 2`` from two draws, mean over N conditions.

    Args:
        truth: y ``(N, F)``.
        a: one draw of X ``(N, F)``.
        b: another ``(N, F)``.

    >>> truth, draw = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    >>> round(float(energy_score(truth, draw, draw)), 2)  # both draws 5 away
    5.0

    """

    def norm(x: Tensor) -> Tensor:
        return (x.square().sum(1) + 1e-6).sqrt()

    return (0.5 * norm(truth - a) + 0.5 * norm(truth - b) - 0.5 * norm(a - b)).mean()


def fit(
    data: SharedEncoderData,
    settings: SharedEncoderSettings,
    options: GeneratorSettings,
    seed: int,
) -> tuple[GeneratorModel, pd.DataFrame]:
    """Fit on train members through the frozen autoencoder; stop by the loss on val members.

    Args:
        data: members as pairs, autoencoder, images.
        settings: section ``shared_encoder`` of params.yaml.
        options: section ``shared_encoders.generator``.
        seed: root seed.

    """
    rng = torch_stream(seed, STREAM, "init")
    model = build(Sizes.of(data), settings, options, rng).to(data.runner.device)
    prepare(model, data)
    if not data.autoencoder.normalised:
        z = data.train.z[:, 0]
        model.free.copy_(torch.tensor(True))
        model.centre.copy_(z.mean(0))
        model.rms.copy_((z - z.mean(0)).square().mean().sqrt())
    data.autoencoder.requires_grad_(requires_grad=False)
    counts = {"train": len(data.train.tasks), "val": len(data.val.tasks)}
    history = run_fit(
        "shared_encoder", model, GeneratorLoss(model, data), counts, settings, seed, stream=STREAM
    )
    return model, history
