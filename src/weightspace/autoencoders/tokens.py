"""Token autoencoder: a network as a sequence with one token per output channel, after SANE.

A token holds the channel's row of the weight tensor, its bias and its buffers (rows longer than
``token`` give several), padded with zeros under a mask. DatasetEncoder and decoder are transformers with a
learned position: the layer, and the place of the channel and of the piece in theirs, interpolated
between learned rows, so that one autoencoder reads networks of any width. Sequences longer than ``window``
are cut into windows that are read one after the other.

Tokens are centred by their mean over the train members and scaled by their spread; the loss is the
mean over tokens of each one's squared error in these units, so that no token drowns another
("per-token normalisation"). A second view with permuted hidden units gives an NT-Xent term.

Later stages need a vector: z is the exact PCA of a network's encoded tokens, side by side. It belongs
to one width; :meth:`TokensAutoencoder.at` gives the same transformers for another, with new normalisation
and PCA fitted to some networks of it, without a gradient step.

Source: Schürholt, Mahoney, Borth (2024), Towards Scalable and Versatile Weight Space Learning,
arXiv 2406.09997, sections 3.1 to 3.3; loss normalisation, Schürholt et al. (2022), arXiv 2209.14733,
section 3. The linear path beside the transformers and the PCA are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.autoencoders._feature_pca import FeaturePcaAutoencoder, fit_feature_pca
from weightspace.autoencoders._loss import FitLoss
from weightspace.autoencoders.base import AutoencoderData
from weightspace.errors import problem
from weightspace.learning.contrastive import nt_xent
from weightspace.learning.mlp import mlp
from weightspace.params import AutoencoderSettings, TokensSettings
from weightspace.rng import torch_stream
from weightspace.weights.pca import FeaturePca
from weightspace.weights.spec import Spec, TensorSpec, Weights, take


def layers(spec: Spec) -> list[list[TensorSpec]]:
    """Tensors that share their output channels: each matrix with the vectors that belong to it.

    A vector belongs to the matrix of the same module, or else to the last one before it whose
    output channels are of the same permutation group; without one it is a layer of its own.
    """
    out: list[list[TensorSpec]] = []
    for t in spec.tensors:
        owner = None if len(t.shape) > 1 else _owner(t, out)
        if owner is None:
            out.append([t])
        else:
            owner.append(t)
    return out


def _owner(t: TensorSpec, found: list[list[TensorSpec]]) -> list[TensorSpec] | None:
    """Layer that a vector belongs to."""
    fitting = [layer for layer in reversed(found) if layer[0].shape[0] == t.shape[0]]
    module = t.name.rpartition(".")[0]
    for layer in fitting:
        if layer[0].name.rpartition(".")[0] == module:
            return layer
    grouped = (x for x in fitting if t.axes[0] is not None and x[0].axes[0] == t.axes[0])
    return next(grouped, None)


class Layout:
    """Where every entry of a network stands in its tokens.

    Args:
        spec: the architecture.
        size: numbers in a token.

    Attributes:
        index: entry of the flat network behind each number ``(T, size)``; ``numel`` where padded.
        entry: place among the tokens' numbers of each entry ``(numel,)``.
        layer: layer of each token ``(T,)``.
        place: relative place of the channel in its layer ``(T,)``, 0 to 1.
        piece: relative place of the piece in its channel ``(T,)``, 0 to 1.
        channels: most channels of a layer.
        pieces: most pieces of a channel.

    """

    def __init__(self, spec: Spec, size: int) -> None:
        starts, start = {}, 0
        for t in spec.tensors:
            starts[t.name] = start
            start += t.numel
        index, layer, place, piece = [], [], [], []
        self.layers, self.channels, self.pieces = layers(spec), 1, 1
        for number, tensors in enumerate(self.layers):
            count = tensors[0].shape[0]
            rows = torch.cat(
                [starts[t.name] + torch.arange(t.numel).reshape(count, -1) for t in tensors], 1
            )
            pieces = math.ceil(rows.shape[1] / size)
            rows = F.pad(rows, (0, pieces * size - rows.shape[1]), value=spec.numel)
            index.append(rows.reshape(-1, size))
            layer.append(torch.full((count * pieces,), number))
            place.append(_relative(count).repeat_interleave(pieces))
            piece.append(_relative(pieces).repeat(count))
            self.channels, self.pieces = max(self.channels, count), max(self.pieces, pieces)
        self.index, self.layer = torch.cat(index), torch.cat(layer)
        self.place, self.piece = torch.cat(place), torch.cat(piece)
        real = (self.index < spec.numel).flatten().nonzero()[:, 0]
        self.entry = real[self.index.flatten()[real].argsort()]


def _relative(count: int) -> Tensor:
    """``count`` places from 0 to 1."""
    return torch.linspace(0, 1, count)


def interpolate(table: Tensor, place: Tensor) -> Tensor:
    """Rows ``(T, width)`` at relative places ``(T,)`` between those of a table ``(n, width)``."""
    x = place * (len(table) - 1)
    low = x.floor().long()
    high = (low + 1).clamp_max(len(table) - 1)
    share = (x - low)[:, None]
    return (1 - share) * table[low] + share * table[high]


class Block(nn.Module):
    """Transformer block, normalised before attention and MLP; starts as the identity."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = mlp([width, 3 * width], generator), mlp([width, width], generator)
        self.mlp = mlp([width, 4 * width, width], generator)
        with torch.no_grad():
            for part in (self.out, self.mlp):
                for value in list(part.parameters())[-2:]:
                    value.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, T, width)`` to the same shape."""
        q, k, v = (
            self.qkv(self.norms[0](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        out: Tensor = x + self.mlp(self.norms[1](x))
        return out


class Stage(nn.Module):
    """Transformer from tokens to tokens that knows their positions.

    Args:
        inputs: numbers of a token that goes in.
        outputs: numbers of one that comes out.
        sizes: layers, channels and pieces with learned positions.
        settings: section ``autoencoders.tokens`` of params.yaml.
        generator: source of the initial weights.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sizes: tuple[int, int, int],
        settings: TokensSettings,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = settings.width
        self.tables = nn.ParameterList(
            nn.Parameter(0.5 * torch.randn(size, width, generator=generator)) for size in sizes
        )
        self.first, self.last = mlp([inputs, width], generator), mlp([width, outputs], generator)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, settings.heads, generator) for _ in range(settings.depth)
        )
        self.linear = None
        if settings.linear:
            start = torch.empty(max(inputs, outputs), min(inputs, outputs))
            nn.init.orthogonal_(start, generator=generator)
            self.linear = nn.Parameter(start if inputs >= outputs else start.T.contiguous())
            with torch.no_grad():
                for value in self.last.parameters():
                    value.mul_(0.1)

    def forward(self, x: Tensor, layer: Tensor, place: Tensor, piece: Tensor) -> Tensor:
        """Map ``(N, T, inputs)`` at positions ``(T,)`` to ``(N, T, outputs)``."""
        by_layer, by_place, by_piece = self.tables
        where = by_layer[layer] + interpolate(by_place, place) + interpolate(by_piece, piece)
        h = self.first(x) + where
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.last(self.norm(h))
        return out if self.linear is None else out + x @ self.linear


class TokensAutoencoder(FeaturePcaAutoencoder):
    """Token autoencoder with an exact PCA of the encoded tokens of one spec.

    Args:
        spec: the architecture at one width.
        latent: features of z.
        settings: section ``autoencoders.tokens`` of params.yaml.
        sizes: layers, channels and pieces with learned positions.
        generator: source of the initial weights.

    """

    name = "tokens"
    settings: TokensSettings
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        spec: Spec,
        latent: int,
        settings: TokensSettings,
        sizes: tuple[int, int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__(spec, latent, settings)
        if settings.width % settings.heads:
            raise problem(
                "width is no multiple of heads",
                where="params.yaml: autoencoders.tokens.width",
                got=f"{settings.width} and {settings.heads} heads",
            )
        self.sizes, self.layout = sizes, Layout(spec, settings.token)
        count, size = self.layout.index.shape
        self.register_buffer("centre", torch.zeros(count, size))
        self.register_buffer("scale", torch.ones(count))
        self.encoder = Stage(size, settings.features, sizes, settings, generator)
        self.decoder = Stage(settings.features, size, sizes, settings, generator)
        if self.encoder.linear is not None and self.decoder.linear is not None:
            with torch.no_grad():  # both linear paths together start as a projection
                self.decoder.linear.copy_(self.encoder.linear.T)
        self.head = mlp([settings.features, settings.width, settings.width], generator)
        self.pool = FeaturePca(count * settings.features, latent)

    def windows(self) -> list[slice]:
        """Ranges of tokens that are read together, of equal length up to one."""
        count = len(self.scale)
        edges = torch.linspace(0, count, math.ceil(count / self.settings.window) + 1).round().long()
        return [slice(a, b) for a, b in pairwise(edges.tolist())]

    def standardise(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Normalised tokens ``(N, T, size)``, zero where padded or where nothing varies."""
        flat = F.pad(self.spec.flatten(self.spec.unconstrain(weights)), (0, 1))
        factor = self.scale.reciprocal().nan_to_num(posinf=0.0)[:, None]
        return (flat[:, self.layout.index] - self.centre) * factor

    def weights(self, tokens: Tensor) -> Weights:
        """Inverse of :meth:`standardise`; padding is ignored."""
        raw = tokens * self.scale[:, None] + self.centre
        return self.spec.constrain(self.spec.unflatten(raw.flatten(1)[:, self.layout.entry]))

    def mask(self) -> Tensor:
        """Which numbers of the tokens are entries that vary: bool ``(T, size)``."""
        return (self.layout.index < self.spec.numel) & (self.scale > 0)[:, None]

    def encode_tokens(self, tokens: Tensor, part: slice = slice(None)) -> Tensor:
        """Encoded tokens ``(N, T, features)`` of one window."""
        y = self.layout
        h: Tensor = self.encoder(tokens, y.layer[part], y.place[part], y.piece[part])
        return h

    def decode_tokens(self, encoded: Tensor, part: slice = slice(None)) -> Tensor:
        """Normalised tokens ``(N, T, size)`` of one window."""
        y = self.layout
        x: Tensor = self.decoder(encoded, y.layer[part], y.place[part], y.piece[part])
        return x

    def features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Encoded tokens side by side ``(N, T * features)``."""
        tokens = self.standardise(weights)
        every = [self.encode_tokens(tokens[:, part], part) for part in self.windows()]
        return torch.cat(every, 1).flatten(1)

    def rebuild(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of encoded tokens side by side ``(N, T * features)``."""
        encoded = features.unflatten(1, (len(self.scale), -1))
        every = [self.decode_tokens(encoded[:, part], part) for part in self.windows()]
        return self.weights(torch.cat(every, 1))

    @torch.no_grad()
    def fit_scale(self, weights: Weights) -> None:
        """Measure what tokens are centred and scaled by, from N networks."""
        free = self.spec.unconstrain(weights)
        each = [free[name].flatten(1) for name in self.spec.names]
        mean = torch.cat([w.double().mean(0) for w in each])
        spread = torch.cat([w.double().var(0, correction=0) for w in each])
        real = self.layout.index < self.spec.numel
        centre, variance = (F.pad(x, (0, 1))[self.layout.index] for x in (mean, spread))
        count = real.sum(1)
        if self.settings.normalise == "layer":
            groups = self.layout.layer, len(self.layout.layers)
            total = _sum_by(count, *groups)
            middle = (_sum_by(centre.sum(1), *groups) / total)[self.layout.layer]
            variance = variance + (centre - middle[:, None]).square() * real
            variance = (_sum_by(variance.sum(1), *groups) / total)[self.layout.layer]
            self.centre.copy_(middle[:, None] * real)
            self.scale.copy_(variance.sqrt())
        elif self.settings.normalise == "token":
            self.centre.copy_(centre)
            self.scale.copy_((variance.sum(1) / count).sqrt())

    def at(self, spec: Spec, weights: Weights) -> TokensAutoencoder:
        """Give the autoencoder of another width of the same architecture: the transformers are shared.

        Args:
            spec: the architecture at the other width.
            weights: networks ``(N, *shape)`` that normalisation and PCA are fitted to.

        Raises:
            WeightspaceError: other layers.

        """
        found = [[t.name for t in layer] for layer in layers(spec)]
        own = [[t.name for t in layer] for layer in self.layout.layers]
        if found != own:
            raise problem("other layers", where="autoencoder 'tokens'", got=found, expected=own)
        other = TokensAutoencoder(spec, self.latent, self.settings, self.sizes, torch.Generator())
        other.encoder, other.decoder, other.head = self.encoder, self.decoder, self.head
        other.fit_scale(weights)
        other.fit_pool(weights)
        return other.train(self.training)

    def meta(self) -> dict[str, Any]:
        """What the autoencoder is rebuilt from."""
        return {"sizes": list(self.sizes), **super().meta()}


def _sum_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum of values ``(T,)`` in each of some groups."""
    return torch.zeros(groups, dtype=torch.float64).index_add_(0, group, values.double())


def from_meta(meta: Mapping[str, Any]) -> TokensAutoencoder:
    """Autoencoder of the right sizes, to be filled from a file."""
    options = TokensSettings.model_validate(meta["settings"])
    spec, sizes = Spec.from_json(meta["spec"]), tuple(meta["sizes"])
    return TokensAutoencoder(spec, meta["latent"], options, sizes, torch.Generator())


class TokensLoss:
    """Loss of a batch of members: error per token, and NT-Xent of permuted views.

    Where there are several windows and no behavioural loss, a random one in each step.

    Args:
        autoencoder: the autoencoder that is fitted.
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        seed: root seed.

    """

    def __init__(
        self,
        autoencoder: TokensAutoencoder,
        data: AutoencoderData,
        settings: AutoencoderSettings,
        seed: int,
    ) -> None:
        self.autoencoder, self.data, self.mask = autoencoder, data, autoencoder.mask()
        self.whole = bool(autoencoder.settings.behaviour_weight)
        self.combine = FitLoss(data, settings, autoencoder.settings.behaviour_weight, seed)

    def __call__(
        self, rows: Tensor, split: str, rng: torch.Generator, z: Tensor | None
    ) -> dict[str, Tensor]:
        """Named losses of some members; from their latents once the PCA is fitted."""
        autoencoder, weights = self.autoencoder, take(self.data.weights[split], rows)
        tokens, rebuilt, penalties = autoencoder.standardise(weights), [], {}
        parts = self._parts(rng)
        size = autoencoder.settings.features
        for part in parts:
            if z is None:
                encoded = autoencoder.encode_tokens(tokens[:, part], part)
            else:
                numbers = slice(part.start * size, part.stop * size)
                encoded = autoencoder.pool.inverse(z, numbers).unflatten(1, (-1, size))
            rebuilt.append(autoencoder.decode_tokens(encoded, part))
        if z is None and autoencoder.settings.contrast_weight:
            penalties["nt_xent"] = autoencoder.settings.contrast_weight * self._contrast(
                weights, tokens, parts[0], rng
            )
        here = slice(parts[0].start, parts[-1].stop)
        every = torch.cat(rebuilt, 1)
        structural = per_token(every - tokens[:, here], self.mask[here])
        return self.combine(
            structural, penalties, lambda: autoencoder.weights(every), rows, split, rng
        )

    def _parts(self, rng: torch.Generator) -> list[slice]:
        """Windows of this step: all of them, or a random one."""
        parts = self.autoencoder.windows()
        if self.whole or len(parts) == 1:
            return parts
        return [parts[int(torch.randint(len(parts), (), generator=rng))]]

    def _contrast(
        self, weights: Weights, tokens: Tensor, part: slice, rng: torch.Generator
    ) -> Tensor:
        """NT-Xent between networks and the same with permuted hidden units."""
        autoencoder, spec = self.autoencoder, self.autoencoder.spec
        orders = {g: torch.randperm(n, generator=rng) for g, n in spec.groups.items()}
        views = tokens[:, part], autoencoder.standardise(spec.permute(weights, orders))[:, part]
        a, b = (autoencoder.head(autoencoder.encode_tokens(v, part).mean(1)) for v in views)
        return nt_xent(a, b, autoencoder.settings.temperature)


def per_token(error: Tensor, mask: Tensor) -> Tensor:
    """Mean square of each token's entries ``(N, T, size)``, averaged over tokens with any."""
    count = mask.sum(1)
    each = (error.square() * mask).sum(2) / count.clamp_min(1)
    return each[:, count > 0].mean() if bool((count > 0).any()) else each.sum()


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: TokensSettings,
    seed: int,
) -> tuple[TokensAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members."""
    generator = torch_stream(seed, "autoencoder", "init")
    layout = Layout(data.net.spec, options.token)
    sizes = (len(layout.layers), layout.channels, layout.pieces)
    autoencoder = TokensAutoencoder(data.net.spec, settings.latent, options, sizes, generator)
    autoencoder.fit_scale(data.weights["train"])
    loss = TokensLoss(autoencoder, data, settings, seed)
    return autoencoder, fit_feature_pca(autoencoder, loss, data, settings, options.refit, seed)
