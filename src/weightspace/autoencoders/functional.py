"""Functional autoencoder: read a network through its outputs on probe inputs, move one network to it.

Encoder: outputs of the network on K probe inputs (on demand its PCA coefficients, too or instead)
-> residual MLP -> LayerNorm without affine -> z. With outputs alone it is invariant to permutations
of hidden units by construction and reads buffers for free; z has a fixed length. Decoder: residual
MLP -> movement along the components of the ``pca`` stage, from a reference: an entire network in
weight space, which is learned. It starts untrained, as the one that can still become any other. PCA of
networks that are not aligned keeps their variance but not their function, so that a reference of
coefficients would be a broken network. Batch normalisation: the statistics of decoded networks are
measured on probes, in the fit with their gradient, since statistics that are decoded beside the
weights do not fit them, and the error grows from layer to layer.
Behavioural loss, on train images of the member's task and on probes of other classes: robust
squared error in units of the original's standard deviation, KL of the softmax, cosine per sample.

Sources: probing encoders, Kahana et al. (2025), arXiv 2410.10811; behavioural loss, Meynent et al.
(2025), Structure Is Not Enough, arXiv 2503.17138; a shared network plus a movement for each latent,
Ha et al. (2016), HyperNetworks, arXiv 1609.09106. The permutation of classes as augmentation, the
robust error and the measured statistics are of this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.autoencoders.base import Autoencoder, AutoencoderData, by_block
from weightspace.learning.behavioural import BehaviouralLoss, reorder
from weightspace.learning.loop import fit as run_fit
from weightspace.learning.mlp import ResidualMlp
from weightspace.nets.base import Net, net_from_meta
from weightspace.params import AutoencoderSettings, FunctionalSettings
from weightspace.rng import normal, torch_stream
from weightspace.runtime import precision
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import Weights, output_orders, reorder_outputs, take, to_device
from weightspace.zoo.outputs import joined


class FunctionalAutoencoder(Autoencoder):
    """Probing encoder, and decoder that moves a learned network along PCA components.

    Args:
        net: the architecture; its spec is the autoencoder's.
        pca: its components are the directions of movement.
        probes: probe inputs ``(K, C, H, W)``.
        latent: features of z.
        settings: section ``autoencoders.functional`` of params.yaml.
        rng: source of the initial weights.

    """

    name = "functional"
    settings: FunctionalSettings
    normalised = True
    probes: Tensor
    scale: Tensor

    def __init__(
        self,
        net: Net,
        pca: TensorPca,
        probes: Tensor,
        latent: int,
        settings: FunctionalSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.net, self.pca, self.settings = net, pca, settings
        self.spec, self.latent = net.spec, latent
        if settings.learn_probes:
            self.probes = nn.Parameter(probes)
        else:
            self.register_buffer("probes", probes)
        self.register_buffer("scale", pca.scale())
        features = 2 * (len(probes) + 1) * net.meta["classes"] if self.reads("outputs") else 0
        features += pca.features if self.reads("coefficients") else 0
        width, depth = settings.width, settings.depth
        self.encoder = ResidualMlp(features, width, depth, latent, rng)
        self.decoder = ResidualMlp(latent, width, depth, pca.features, rng)
        self.reference = nn.Parameter(torch.zeros(net.spec.numel))

    def reads(self, what: str) -> bool:
        """Whether the encoder reads ``outputs`` or ``coefficients``."""
        return self.settings.reads in (what, "both")

    def read(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(N, K, c)`` of N networks on the probes; with a gradient where those learn."""
        weights = to_device(weights, self.probes.device)
        if self.settings.learn_probes and torch.is_grad_enabled():
            return self.net.outputs(weights, self.probes)
        return self.net.run(weights, self.probes)

    def encode_read(self, y: Tensor, coefficients: Tensor) -> Tensor:
        """Latents ``(N, latent)``, of a fixed length.

        Args:
            y: outputs on the probes ``(N, K, c)``.
            coefficients: PCA coefficients ``(N, features)``; ignored unless they are read.

        """
        parts: list[Tensor] = []
        if self.reads("outputs"):
            mean, std = y.mean(1, keepdim=True), y.std(1, keepdim=True) + 1e-4
            shape = ((y - mean) / std).clamp(-6, 6)
            parts = [shape, mean.asinh(), std.log(), y.asinh()]
        if self.reads("coefficients"):
            parts.append(coefficients / self.scale)
        x = torch.cat([p.flatten(1) for p in parts], 1)
        with self._precision():
            z = self.encoder(x)
        return self.nearest_valid(z.float())

    def nearest_valid(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent)`` of mean 0 and length ``sqrt(latent)``."""
        return F.layer_norm(z, (self.latent,))

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Latents ``(N, latent)`` of weights ``(N, *shape)``."""
        y = self.read(weights)
        return self.encode_read(y, self.pca(weights) if self.reads("coefficients") else y)

    def _encode_orders(self, weights: Mapping[str, Tensor], orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)``; every network is read once."""
        y = self.read(weights)
        if not self.reads("coefficients"):
            return self.encode_outputs(y, orders)
        c = ordered_coefficients(self, weights, orders)
        latents = [self.encode_read(y[..., order], c[:, i]) for i, order in enumerate(orders)]
        return torch.stack(latents, 1)

    @property
    def images_read(self) -> Tensor | None:
        """The probes, unless coefficients are read."""
        return None if self.reads("coefficients") else self.probes

    def encode_outputs(self, outputs: Tensor, orders: Tensor) -> Tensor:
        """Latents ``(N, O, latent)`` for each order ``(O, c)`` of outputs on the probes.

        Args:
            outputs: of N networks ``(N, K, c)``.
            orders: orders of the outputs ``(O, c)``.

        """
        return torch.stack([self.encode_read(y, y) for y in (outputs[..., o] for o in orders)], 1)

    def share(self, other: FunctionalAutoencoder) -> None:
        """Take the encoder, the probes and the decoder's trunk of that of another width."""
        self.encoder, self.probes = other.encoder, other.probes
        for name in ("first", "blocks", "norms"):
            setattr(self.decoder, name, getattr(other.decoder, name))

    def start_at(self, weights: Mapping[str, Tensor]) -> None:
        """Make a network ``(*shape)`` the reference."""
        free = self.spec.unconstrain({name: w[None] for name, w in weights.items()})
        with torch.no_grad():
            self.reference.copy_(self.spec.flatten(free)[0])

    @property
    def origin(self) -> tuple[Tensor, TensorPca]:
        """The reference, and the components."""
        return self.reference.detach(), self.pca

    def movement(self, z: Tensor) -> Tensor:
        """How far ``(N, features)`` latents ``(N, latent)`` move the reference along the components."""
        with self._precision():
            step = self.decoder(z)
        out: Tensor = self.settings.gain * self.scale * step.float()
        return out

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``; statistics are measured on probes."""
        weights = self.unmeasured(z)
        if not self.measures:
            return weights
        return self.net.with_statistics(weights, self.images_of_statistics)

    def unmeasured(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of latents ``(N, latent)``; statistics are those of the reference."""
        return self.pca.moved(self.reference, self.movement(z))

    def outputs_of(self, net: Net, weights: Weights, images: Tensor) -> Tensor:
        """Outputs ``(N, B, classes)`` of networks whose statistics are measured on probes.

        Args:
            net: the architecture.
            weights: tensors ``(N, *shape)``.
            images: as those of :meth:`Net.outputs`.

        """
        if not self.measures:
            return net.outputs(weights, images)
        return net.outputs_by_references(weights, images, self.images_of_statistics)

    @property
    def images_besides(self) -> int:
        """Those that statistics are measured on."""
        return len(self.images_of_statistics) if self.measures else 0

    @property
    def measures(self) -> bool:
        """Whether statistics of batch normalisation are measured, not decoded."""
        return bool(self.settings.statistics) and self.spec.parameters != self.spec

    @property
    def images_of_statistics(self) -> Tensor:
        """The probes ``(R, C, H, W)`` on which they are measured."""
        return self.probes[: self.settings.statistics].detach()

    def _precision(self) -> torch.autocast:
        return precision(self.settings.precision, self.probes.device)

    def meta(self) -> dict[str, Any]:
        """Sizes of the autoencoder, its PCA and its architecture."""
        return {
            "net": self.net.meta,
            "pca": self.pca.meta(),
            "probes": list(self.probes.shape),
            **super().meta(),
        }


def from_meta(meta: Mapping[str, Any]) -> FunctionalAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    return FunctionalAutoencoder(
        net_from_meta(meta["net"]),
        TensorPca.from_meta(meta["pca"]),
        torch.zeros(meta["probes"]),
        meta["latent"],
        FunctionalSettings.model_validate(meta["settings"]),
        torch.Generator(),
    )


def ordered_coefficients(
    autoencoder: FunctionalAutoencoder, weights: Mapping[str, Tensor], orders: Tensor
) -> Tensor:
    """PCA coefficients ``(N, O, features)`` for each order of the outputs.

    Args:
        autoencoder: holds the PCA.
        weights: tensors ``(N, *shape)``.
        orders: orders of the outputs ``(O, c)``.

    """
    coefficients = [
        autoencoder.pca(reorder_outputs(autoencoder.spec, weights, order)) for order in orders
    ]
    return torch.stack(coefficients, 1)


class FunctionalLoss:
    """Loss of a batch of members: how differently the decoded networks behave.

    Args:
        autoencoder: the autoencoder that is fitted.
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.

    """

    def __init__(
        self,
        autoencoder: FunctionalAutoencoder,
        data: AutoencoderData,
        settings: AutoencoderSettings,
    ) -> None:
        self.autoencoder, self.data = autoencoder, data
        self.orders = output_orders(data.dataset.classes.shape[1])
        images = autoencoder.probes.detach()  # the same memory: learned probes change with it
        self.behaviour = BehaviouralLoss(data.runner, images, data.originals, settings)
        self.coefficients = {}  # of each split, where they are needed
        if autoencoder.reads("coefficients") or autoencoder.settings.structural_weight:
            shape = len(self.orders), autoencoder.pca.features
            self.coefficients = {
                split: by_block(autoencoder, weights, shape, self._ordered)
                for split, weights in data.weights.items()
            }

    def __call__(self, rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of some members; ``loss`` is their weighted sum.

        Args:
            rows: indices of the members in the split ``(B,)``.
            split: "train" or "val".
            rng: draws images, orders and noise.

        """
        s = self.autoencoder.settings
        which = self._orders(len(rows), split, rng)
        order = self.orders[which]
        probes = reorder(self._on_probes(rows, split), order)
        original = self.coefficients[split][rows, which] if self.coefficients else probes
        z = self.autoencoder.encode_read(probes, original)
        if split == "train":
            z = z + s.latent_noise * normal(z.shape, rng, z.device)
        total, parts = self.behaviour(
            lambda images: self.autoencoder.outputs(self.data.net, z, images),
            rows,
            split,
            rng,
            order,
            probes,
        )
        total = s.behaviour_weight * total
        if s.structural_weight:
            error = self.autoencoder.pca(self.autoencoder.decode(z)) - original
            parts["structural"] = (error / self.autoencoder.scale).square().mean()
            total = total + s.structural_weight * parts["structural"]
        return {"loss": total, **parts}

    @torch.no_grad()
    def _ordered(self, weights: Weights) -> Tensor:
        """PCA coefficients ``(N, O, features)`` for each order of the outputs."""
        return ordered_coefficients(self.autoencoder, weights, self.orders)

    def _on_probes(self, rows: Tensor, split: str) -> Tensor:
        """Outputs ``(N, K, c)`` of the originals on the probes, run again while probes change."""
        if not self.autoencoder.settings.learn_probes:
            stored = self.behaviour.originals[split].on_probes[rows]
            return stored.to(self.autoencoder.device)
        return self.autoencoder.read(take(self.data.weights[split], rows))

    def _orders(self, count: int, split: str, rng: torch.Generator) -> Tensor:
        """Index of the order of each member's outputs: random in training, the first on val.

        Reordering the outputs of a network gives a network of the reordered task.
        """
        if split != "train":
            return torch.zeros(count, dtype=torch.long)
        return torch.randint(len(self.orders), (count,), generator=rng)


def reference(data: AutoencoderData, options: FunctionalSettings, seed: int) -> Weights:
    """Network ``(*shape)`` that the decoder starts at.

    Args:
        data: train members, of which the finished one with the best val accuracy is the trained one.
        options: section ``autoencoders.functional``.
        seed: root seed.

    """
    if options.reference == "untrained":
        return data.net.init(torch_stream(seed, "autoencoder", "reference"))
    members = data.members["train"]
    finished = members["snapshot"] == members["snapshot"].max()
    best = int(members["val_accuracy"].where(finished, -1.0).to_numpy().argmax())
    return take(take(data.weights["train"], slice(best, best + 1)), 0)


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: FunctionalSettings,
    seed: int,
) -> tuple[FunctionalAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members.

    Images of the behavioural loss are train images only, on both splits.

    Args:
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.functional``.
        seed: root seed.

    """
    rng = torch_stream(seed, "autoencoder", "init")
    probes = data.probes.clone()  # those that are stored stay as they are
    autoencoder = FunctionalAutoencoder(data.net, data.pca, probes, settings.latent, options, rng)
    autoencoder.start_at(reference(data, options, seed))
    loss = FunctionalLoss(autoencoder.to(data.runner.device), data, settings)
    return autoencoder, run_fit("autoencoder", autoencoder, loss, data.counts, settings, seed)


class WidthsLoss:
    """Loss of members of all widths: each is decoded at one of the widths, at random in training.

    Args:
        losses: of each width, all on the members of every width.

    """

    def __init__(self, losses: Sequence[FunctionalLoss]) -> None:
        self.losses = losses

    def __call__(self, rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of some members, means over them.

        Args:
            rows: indices of the members in the split ``(B,)``.
            split: "train" or "val".
            rng: draws widths, and what the losses draw.

        """
        at = torch.randint(len(self.losses), rows.shape, generator=rng)
        at = at if split == "train" else rows % len(self.losses)
        total: dict[str, Tensor] = {}
        for i, loss in enumerate(self.losses):
            some = rows[at == i]
            for name, value in (loss(some, split, rng) if len(some) else {}).items():
                total[name] = total.get(name, 0) + value * (len(some) / len(rows))
        return total


def fit_widths(
    data: Sequence[AutoencoderData],
    settings: AutoencoderSettings,
    options: FunctionalSettings,
    seed: int,
) -> tuple[list[FunctionalAutoencoder], pd.DataFrame]:
    """One encoder and latent space for several widths: any latent can be decoded at each.

    Encoder, probes and the decoder's trunk are the same modules in all of them; reference, directions
    and the last layer are of a width. The members of all widths are decoded at every width, since
    what the decoded network should do is known from outputs alone.

    Args:
        data: of each width; the first is that of width 1.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.functional``; outputs are all that is read, weights are in no loss.
        seed: root seed.

    """
    originals = {
        split: joined([one.originals[split] for one in data]) for split in data[0].originals
    }
    fitted: list[FunctionalAutoencoder] = []
    for i, one in enumerate(data):
        rng = torch_stream(seed, "autoencoder", "init", *([i] if i else []))
        probes = one.probes.clone()
        other = FunctionalAutoencoder(one.net, one.pca, probes, settings.latent, options, rng)
        other.start_at(reference(one, options, seed))
        fitted.append(other.to(one.runner.device))
        other.share(fitted[0])
    losses = [
        FunctionalLoss(autoencoder, replace(one, originals=originals), settings)
        for autoencoder, one in zip(fitted, data, strict=True)
    ]
    counts = {split: len(o.members) for split, o in originals.items()}
    together, loss = nn.ModuleList(fitted), WidthsLoss(losses)
    return fitted, run_fit("autoencoder", together, loss, counts, settings, seed)
