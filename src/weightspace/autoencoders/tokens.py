"""Token autoencoder: a network as a sequence with one token per output channel, after SANE.

A token holds the channel's row of the weight tensor, its bias and its buffers (rows longer than
``token`` give several), padded with zeros under a mask. Encoder and decoder are transformers with a
learned position: the layer, and the relative position of channel and piece in theirs, interpolated
between learned rows, so that one autoencoder reads networks of any width. Sequences longer than ``window``
are cut into windows that are read one after the other.

Tokens are centred by their mean over the train members and scaled by their standard deviation; the loss is the
mean over tokens of each one's squared error in these units, so that no token drowns another
("per-token normalisation"). A second view with permuted hidden units gives an NT-Xent term.

Later stages need a vector: z is the exact PCA of a network's encoded tokens, side by side. It belongs
to one width; :meth:`TokensAutoencoder.at` gives the same transformers for another, with new normalisation
and PCA fitted to some networks of it, without a gradient step.

Source: Schürholt, Mahoney, Borth (2024), Towards Scalable and Versatile Weight Space Learning,
arXiv 2406.09997, sections 3.1 to 3.3; loss normalisation, Schürholt et al. (2022), arXiv 2209.14733,
section 3. The linear path parallel to the transformers and the PCA are of this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from weightspace.weights.spec import Population, Spec, TensorSpec, Weights, take, to_device


def layers(spec: Spec) -> list[list[TensorSpec]]:
    """Tensors that share their output channels: each matrix with the vectors that belong to it.

    A vector belongs to the matrix of the same module, or else to the last one before it whose
    output channels are of the same permutation group; without one it is a layer by itself.
    """
    out: list[list[TensorSpec]] = []
    for t in spec.tensors:
        owner = None if len(t.shape) > 1 else _owner(t, out)
        if owner is None:
            out.append([t])
        else:
            owner.append(t)
    return out


def _owner(t: TensorSpec, earlier: list[list[TensorSpec]]) -> list[TensorSpec] | None:
    """Layer that a vector belongs to."""
    fitting = [layer for layer in reversed(earlier) if layer[0].shape[0] == t.shape[0]]
    module = t.name.rpartition(".")[0]
    for layer in fitting:
        if layer[0].name.rpartition(".")[0] == module:
            return layer
    grouped = (x for x in fitting if t.axes[0] is not None and x[0].axes[0] == t.axes[0])
    return next(grouped, None)


class Layout(nn.Module):
    """Where every entry of a network lies in its tokens; nothing of it is saved.

    Args:
        spec: the architecture.
        size: entries of a token.

    Attributes:
        index: index in the flat network of each entry ``(T, size)``; ``numel`` where padded.
        entry: index among the entries of all tokens of each entry of the network ``(numel,)``.
        layer: layer of each token ``(T,)``.
        channel: relative position of the channel in its layer ``(T,)``, 0 to 1.
        piece: relative position of the piece in its channel ``(T,)``, 0 to 1.
        channels: most channels of a layer.
        pieces: most pieces of a channel.

    """

    index: Tensor
    entry: Tensor
    layer: Tensor
    channel: Tensor
    piece: Tensor

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__()
        starts, start = {}, 0
        for t in spec.tensors:
            starts[t.name] = start
            start += t.numel
        index, layer, channel, piece = [], [], [], []
        self.layers, self.channels, self.pieces = layers(spec), 1, 1
        for i, tensors in enumerate(self.layers):
            count = tensors[0].shape[0]
            rows = torch.cat(
                [starts[t.name] + torch.arange(t.numel).reshape(count, -1) for t in tensors], 1
            )
            pieces = math.ceil(rows.shape[1] / size)
            rows = F.pad(rows, (0, pieces * size - rows.shape[1]), value=spec.numel)
            index.append(rows.reshape(-1, size))
            layer.append(torch.full((count * pieces,), i))
            channel.append(torch.linspace(0, 1, count).repeat_interleave(pieces))
            piece.append(torch.linspace(0, 1, pieces).repeat(count))
            self.channels, self.pieces = max(self.channels, count), max(self.pieces, pieces)
        whole = torch.cat(index)
        parts = {
            "index": whole,
            "entry": whole.flatten().argsort()[: spec.numel],
        }  # padding is last
        parts |= {"layer": torch.cat(layer), "channel": torch.cat(channel)}
        parts |= {"piece": torch.cat(piece)}
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)

    def __len__(self) -> int:
        return len(self.index)


def interpolate(table: Tensor, position: Tensor) -> Tensor:
    """Rows ``(T, width)`` at relative positions ``(T,)`` between those of a table ``(n, width)``.

    >>> interpolate(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0.0, 0.75]))
    tensor([[0.],
            [2.]])
    """
    x = position * (len(table) - 1)
    low = x.floor().long()
    high = (low + 1).clamp_max(len(table) - 1)
    fraction = (x - low)[:, None]
    return (1 - fraction) * table[low] + fraction * table[high]


class Block(nn.Module):
    """Transformer block, normalised before attention and MLP; starts as the identity."""

    def __init__(self, width: int, heads: int, rng: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = mlp([width, 3 * width], rng), mlp([width, width], rng)
        self.mlp = mlp([width, 4 * width, width], rng)
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
        inputs: entries of a token that goes in.
        outputs: entries of one that comes out.
        sizes: layers, channels and pieces with learned positions.
        settings: section ``autoencoders.tokens`` of params.yaml.
        rng: source of the initial weights.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sizes: tuple[int, int, int],
        settings: TokensSettings,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        width = settings.width
        self.tables = nn.ParameterList(
            nn.Parameter(0.5 * torch.randn(size, width, generator=rng)) for size in sizes
        )
        self.first, self.last = mlp([inputs, width], rng), mlp([width, outputs], rng)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, settings.heads, rng) for _ in range(settings.depth)
        )
        self.linear = None
        if settings.linear:
            start = torch.empty(max(inputs, outputs), min(inputs, outputs))
            nn.init.orthogonal_(start, generator=rng)
            self.linear = nn.Parameter(start if inputs >= outputs else start.T.contiguous())
            with torch.no_grad():
                for value in self.last.parameters():
                    value.mul_(0.1)

    def forward(self, x: Tensor, layer: Tensor, channel: Tensor, piece: Tensor) -> Tensor:
        """Map tokens to tokens ``(N, T, outputs)``.

        Args:
            x: tokens ``(N, T, inputs)``.
            layer: layer of each ``(T,)``.
            channel: relative position of its channel ``(T,)``, 0 to 1.
            piece: relative position of its piece ``(T,)``, 0 to 1.

        """
        layers, channels, pieces = self.tables
        position = layers[layer] + interpolate(channels, channel) + interpolate(pieces, piece)
        h = self.first(x) + position
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
        rng: source of the initial weights.

    """

    name = "tokens"
    settings: TokensSettings

    def __init__(
        self,
        spec: Spec,
        latent: int,
        settings: TokensSettings,
        sizes: tuple[int, int, int],
        rng: torch.Generator,
    ) -> None:
        super().__init__(spec, latent, settings)
        if settings.width % settings.heads:
            raise problem(
                "width is no multiple of heads",
                where="params.yaml: autoencoders.tokens.width",
                got=f"{settings.width} and {settings.heads} heads",
            )
        self.sizes, self.layout = sizes, Layout(spec, settings.token)
        size = settings.token
        self.encoder = Stage(size, settings.features, sizes, settings, rng)
        self.decoder = Stage(settings.features, size, sizes, settings, rng)
        if self.encoder.linear is not None and self.decoder.linear is not None:
            with torch.no_grad():  # both linear paths together start as a projection
                self.decoder.linear.copy_(self.encoder.linear.T)
        self.head = mlp([settings.features, settings.width, settings.width], rng)
        self.pool = FeaturePca(len(self.layout) * settings.features, latent)

    def windows(self) -> list[slice]:
        """Ranges of tokens that are read together, of equal length up to one."""
        count = len(self.layout)
        edges = torch.linspace(0, count, math.ceil(count / self.settings.window) + 1).round().long()
        return [slice(a, b) for a, b in pairwise(edges.tolist())]

    @property
    def one_centre(self) -> bool:  # type: ignore[override]
        """Whether the entries of a layer share their centre."""
        return self.settings.normalise == "layer"

    def groups(self) -> Tensor:
        """Layer, or token, of each entry ``(numel,)``."""
        token = self.layout.entry // self.settings.token
        return self.layout.layer[token] if self.settings.normalise == "layer" else token

    def fit_scale(self, weights: Population) -> None:
        """Measure what entries are centred and scaled by, unless by nothing."""
        if self.settings.normalise != "none":
            super().fit_scale(weights)

    def tokens(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Normalised tokens ``(N, T, size)``, zero where padded or where nothing varies."""
        return F.pad(self.standardise(weights), (0, 1))[:, self.layout.index]

    def untokenised(self, tokens: Tensor) -> Weights:
        """Inverse of :meth:`tokens`; padding is ignored."""
        return self.weights(tokens.flatten(1)[:, self.layout.entry])

    def mask(self) -> Tensor:
        """Which entries of the tokens are entries of the network that vary: bool ``(T, size)``."""
        return F.pad(self.scale > 0, (0, 1))[self.layout.index]

    def encode_tokens(self, tokens: Tensor, part: slice = slice(None)) -> Tensor:
        """Encoded tokens ``(N, T, features)`` of one window."""
        y = self.layout
        h: Tensor = self.encoder(tokens, y.layer[part], y.channel[part], y.piece[part])
        return h

    def decode_tokens(self, encoded: Tensor, part: slice = slice(None)) -> Tensor:
        """Normalised tokens ``(N, T, size)`` of one window."""
        y = self.layout
        x: Tensor = self.decoder(encoded, y.layer[part], y.channel[part], y.piece[part])
        return x

    def features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Encoded tokens side by side ``(N, T * features)``."""
        tokens = self.tokens(weights)
        encoded = [self.encode_tokens(tokens[:, part], part) for part in self.windows()]
        return torch.cat(encoded, 1).flatten(1)

    def rebuild(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of encoded tokens side by side ``(N, T * features)``."""
        encoded = features.unflatten(1, (len(self.layout), -1))
        decoded = [self.decode_tokens(encoded[:, part], part) for part in self.windows()]
        return self.untokenised(torch.cat(decoded, 1))

    def at(self, spec: Spec, weights: Population) -> TokensAutoencoder:
        """Give the autoencoder of another width of the same architecture: the transformers are shared.

        Args:
            spec: the architecture at the other width.
            weights: networks ``(N, *shape)`` that normalisation and PCA are fitted to.

        Raises:
            WeightspaceError: other layers.

        """
        names, expected = (
            [[t.name for t in layer] for layer in form]
            for form in (layers(spec), self.layout.layers)
        )
        if names != expected:
            raise problem(
                "other layers", where="autoencoder 'tokens'", got=names, expected=expected
            )
        other = self.shared(spec)
        other.fit_scale(weights)
        other.fit_pool(weights)
        return other.train(self.training)

    def shared(self, spec: Spec) -> TokensAutoencoder:
        """The same transformers for another width; what belongs to a width is yet to be fitted."""
        other = TokensAutoencoder(spec, self.latent, self.settings, self.sizes, torch.Generator())
        other.encoder, other.decoder, other.head = self.encoder, self.decoder, self.head
        return other.to(self.device)

    def meta(self) -> dict[str, Any]:
        """What the autoencoder is rebuilt from."""
        return {"sizes": list(self.sizes), **super().meta()}


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

    """

    def __init__(
        self, autoencoder: TokensAutoencoder, data: AutoencoderData, settings: AutoencoderSettings
    ) -> None:
        self.autoencoder, self.data, self.mask = autoencoder, data, autoencoder.mask()
        self.whole = bool(autoencoder.settings.behaviour_weight)
        self.combine = FitLoss(data, settings, autoencoder.settings.behaviour_weight)

    def __call__(
        self, rows: Tensor, split: str, rng: torch.Generator, z: Tensor | None
    ) -> dict[str, Tensor]:
        """Named losses of some members; from their latents once the PCA is fitted.

        Args:
            rows: indices of the members in the split ``(B,)``.
            split: "train" or "val".
            rng: draws windows, images and permutations.
            z: latents ``(B, L)`` once the PCA is fitted.

        """
        autoencoder = self.autoencoder
        weights = to_device(take(self.data.weights[split], rows), autoencoder.device)
        tokens, rebuilt, penalties = autoencoder.tokens(weights), [], {}
        parts = self._parts(rng)
        size = autoencoder.settings.features
        for part in parts:
            if z is None:
                encoded = autoencoder.encode_tokens(tokens[:, part], part)
            else:
                features = slice(part.start * size, part.stop * size)
                encoded = autoencoder.pool.inverse(z, features).unflatten(1, (-1, size))
            rebuilt.append(autoencoder.decode_tokens(encoded, part))
        if z is None and autoencoder.settings.contrast_weight:
            penalties["nt_xent"] = autoencoder.settings.contrast_weight * self._contrast(
                weights, tokens, parts[0], rng
            )
        read = slice(parts[0].start, parts[-1].stop)
        decoded = torch.cat(rebuilt, 1)
        structural = per_token(decoded - tokens[:, read], self.mask[read])
        return self.combine(
            structural, penalties, lambda: autoencoder.untokenised(decoded), rows, split, rng
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
        """NT-Xent between networks and the same with permuted hidden units.

        Args:
            weights: B networks.
            tokens: their tokens ``(B, T, size)``.
            part: window that is read.
            rng: draws the permutations.

        """
        autoencoder, spec = self.autoencoder, self.autoencoder.spec
        orders = {g: torch.randperm(n, generator=rng) for g, n in spec.groups.items()}
        views = tokens[:, part], autoencoder.tokens(spec.permute(weights, orders))[:, part]
        a, b = (autoencoder.head(autoencoder.encode_tokens(v, part).mean(1)) for v in views)
        return nt_xent(a, b, autoencoder.settings.temperature)


def per_token(error: Tensor, mask: Tensor) -> Tensor:
    """Mean square of each token's entries ``(N, T, size)``, averaged over tokens with any.

    >>> error = torch.tensor([[[1.0, 1.0], [3.0, 9.0]]])
    >>> per_token(error, torch.tensor([[True, True], [True, False]]))  # of 1 and 9
    tensor(5.)
    """
    count = mask.sum(1)
    squares = (error.square() * mask).sum(2) / count.clamp_min(1)  # (N, T)
    return squares[:, count > 0].mean() if bool((count > 0).any()) else squares.sum()


def fit(
    data: AutoencoderData,
    settings: AutoencoderSettings,
    options: TokensSettings,
    seed: int,
) -> tuple[TokensAutoencoder, pd.DataFrame]:
    """Fit on train members; stop by the loss on val members.

    Args:
        data: members and images.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.tokens``.
        seed: root seed.

    """
    (autoencoder,), history = fit_widths([data], settings, options, seed)
    return autoencoder, history


def fit_widths(
    data: Sequence[AutoencoderData],
    settings: AutoencoderSettings,
    options: TokensSettings,
    seed: int,
) -> tuple[list[TokensAutoencoder], pd.DataFrame]:
    """One pair of transformers, fitted to members of several widths; normalisation and PCA of each.

    Args:
        data: of each width; the first is that of width 1.
        settings: section ``autoencoder`` of params.yaml.
        options: section ``autoencoders.tokens``.
        seed: root seed.

    """
    rng = torch_stream(seed, "autoencoder", "init")
    spec = data[0].net.spec
    layout = Layout(spec, options.token)
    sizes = (len(layout.layers), layout.channels, layout.pieces)
    first = TokensAutoencoder(spec, settings.latent, options, sizes, rng)
    fitted = [first.to(data[0].runner.device), *(first.shared(one.net.spec) for one in data[1:])]
    for autoencoder, one in zip(fitted, data, strict=True):
        autoencoder.fit_scale(one.weights["train"])
    losses = [TokensLoss(a, one, settings) for a, one in zip(fitted, data, strict=True)]
    return fitted, fit_feature_pca(fitted, losses, data, settings, options.refit, seed)
