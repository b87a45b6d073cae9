"""What every shared encoder is: a distribution of latents for a dataset and a result.

The embedding of a task is the embeddings of its classes, in their order. Either condition may be
absent: a learned vector replaces it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.artifacts import fill_module, load_tensors, rebuilding, save_tensors
from weightspace.autoencoders.base import Autoencoder, encode_orders
from weightspace.dataset_encoders import DATASET_ENCODERS
from weightspace.dataset_encoders.base import DatasetEncoder
from weightspace.errors import problem
from weightspace.params import Settings, SharedEncoderSettings, options_of
from weightspace.registry import origins, resolve
from weightspace.rng import torch_stream
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.weights.spec import Population, output_orders
from weightspace.zoo.outputs import Originals
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner

STREAM = "shared"  # of the random numbers: the name of version 0.1, so that fits keep their bits
TRAINED_RANGE = (0.01, 0.99)  # quantiles of R over train members; beyond them lie outliers


@dataclass(frozen=True)
class Sizes:
    """Shapes that a shared encoder is built for.

    Attributes:
        dataset_shape: channels, height, width of an image.
        classes: classes of a task.
        latent: features of z.
        dataset_encoder: options of the dataset encoder.
        widths: of the networks; where there are several, the width is part of the condition.

    """

    dataset_shape: tuple[int, int, int]
    classes: int
    latent: int
    dataset_encoder: Settings
    widths: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, data: SharedEncoderData) -> Sizes:
        """Sizes that fit the data."""
        classes, latent = data.runner.classes, data.train.z.shape[2]
        shape, encoder = data.runner.dataset.shape, data.dataset_encoder
        return cls(shape, classes, latent, encoder, tuple(data.at_widths))

    @property
    def marks(self) -> int:
        """Features that say the width: one for each, or none where there is one width."""
        return len(self.widths) if len(self.widths) > 1 else 0


class SharedEncoder(nn.Module, ABC):
    """P(z | D, R).

    Args:
        sizes: shapes of images, tasks and latents.
        settings: section ``shared_encoder`` of params.yaml.
        options: section ``shared_encoders.NAME``.
        rng: source of the initial weights.

    """

    trained_range: Tensor

    def __init__(
        self,
        sizes: Sizes,
        settings: SharedEncoderSettings,
        options: Settings,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.sizes, self.settings, self.options = sizes, settings, options
        family = resolve(
            DATASET_ENCODERS, settings.dataset_encoder, "shared_encoder.dataset_encoder"
        )
        self.dataset_encoder: DatasetEncoder = family.build(
            sizes.dataset_shape, sizes.dataset_encoder, rng
        )
        self.features = sizes.classes * self.dataset_encoder.features + sizes.marks
        self.width = 0  # index of the width that is asked for, see :meth:`at`
        self.no_dataset = nn.Parameter(torch.zeros(self.features))
        self.no_result = nn.Parameter(torch.zeros(1 + 2 * settings.fourier))
        self.register_buffer("trained_range", torch.tensor([0.0, 1.0]))  # trained range of R

    @property
    def condition_features(self) -> int:
        """Features of the embedded condition."""
        return int(self.features) + len(self.no_result)

    @property
    def result(self) -> Result:
        """What R is."""
        return Result(self.settings.result)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest R of the trained range."""
        low, high = self.trained_range.tolist()
        return low, high

    def at(self, width: float) -> Self:
        """The same model, asked for networks of one width.

        Raises:
            WeightspaceError: it was not fitted to networks of this width.

        """
        if width not in self.sizes.widths:
            raise problem(
                f"shared encoder of no networks of width {width:g}",
                expected=list(self.sizes.widths),
                do="run `dvc repro`",
            )
        other = copy(self)  # the same tensors
        other.width = self.sizes.widths.index(width)
        return other

    def embed(self, class_images: Tensor, classes: Tensor, width: Tensor | None = None) -> Tensor:
        """Dataset embeddings ``(N, E)`` of N tasks, with the width that is asked for.

        Args:
            class_images: train images of every class ``(K, n, C, H, W)``.
            classes: classes of each task, in the order of its outputs ``(N, c)``.
            width: index of each request's width ``(N,)``; None for that of :meth:`at`.

        """
        return self.marked(self.embed_classes(self.dataset_encoder(class_images), classes), width)

    def marked(self, e: Tensor, width: Tensor | None) -> Tensor:
        """Dataset embeddings ``(N, E)``, each followed by a mark of its width where there are several."""
        if not self.sizes.marks:
            return e
        index = torch.full((len(e),), self.width) if width is None else width
        return torch.cat([e, F.one_hot(index.to(e.device), self.sizes.marks).to(e)], 1)

    @staticmethod
    def embed_classes(of_class: Tensor, classes: Tensor) -> Tensor:
        """Task embeddings ``(N, E)`` of class embeddings ``(K, F)`` and classes ``(N, c)``."""
        return of_class[classes].flatten(1)

    def condition(
        self,
        e: Tensor,
        target: Tensor,
        use_dataset: Tensor | None = None,
        use_result: Tensor | None = None,
    ) -> Tensor:
        """Embedded condition ``(N, condition_features)``.

        Args:
            e: dataset embeddings ``(N, E)``.
            target: requested, or achieved, result ``(N,)``.
            use_dataset: bool ``(N,)``, False where D is withheld; default all True.
            use_result: bool ``(N,)``, False where R is withheld; default all True.

        """
        r = result_features(target.to(e.device), self.trained_range, self.settings.fourier)
        if use_dataset is not None:
            e = torch.where(use_dataset.to(e.device)[:, None], e, self.no_dataset)
        if use_result is not None:
            r = torch.where(use_result.to(e.device)[:, None], r, self.no_result)
        return torch.cat([e, r], 1)

    @abstractmethod
    def sample(self, condition: Tensor, draws: int, rng: torch.Generator) -> Tensor:
        """Latents ``(N, draws, L)`` drawn for embedded conditions ``(N, F)``.

        Args:
            condition: embedded conditions ``(N, F)``.
            draws: latents of each.
            rng: random stream.

        """

    def towards(self, z: Tensor, e: Tensor, target: Tensor) -> Tensor:
        """Drawn latents ``(N, L)``, moved to where the model expects the target; by default as they are.

        Args:
            z: drawn latents ``(N, L)``.
            e: dataset embeddings ``(N, E)``.
            target: requested results ``(N,)``.

        """
        return z

    @abstractmethod
    def project(self, condition: Tensor) -> Tensor:
        """Unit vectors ``(N, P)`` of conditions in the space of the contrastive loss."""

    @abstractmethod
    def project_latent(self, z: Tensor) -> Tensor:
        """Unit vectors ``(N, P)`` of latents in the space of the contrastive loss."""

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        names = ("dataset_shape", "classes", "latent", *(["widths"] if self.sizes.marks else []))
        sizes = {k: getattr(self.sizes, k) for k in names}
        sections = {
            "settings": self.settings,
            "options": self.options,
            "dataset_encoder": self.sizes.dataset_encoder,
        }
        meta = {"sizes": sizes} | {k: v.model_dump(mode="json") for k, v in sections.items()}
        meta |= origins(
            ("shared_encoders", self.settings.model),
            ("dataset_encoders", self.settings.dataset_encoder),
        )
        save_tensors(path, "shared_encoder", self.state_dict(), meta)


def result_features(target: Tensor, bounds: Tensor, frequencies: int) -> Tensor:
    """Fourier features ``(N, 1 + 2 frequencies)`` of results.

    Args:
        target: results ``(N,)``.
        bounds: lowest and highest of the trained range ``(2,)``.
        frequencies: number of them.

    Source: Tancik et al. (2020), arXiv 2006.10739.

    """
    low, high = bounds
    x = ((target - low) / (high - low).clamp_min(1e-6))[:, None]
    angle = math.pi * x * torch.arange(1, frequencies + 1, device=target.device)
    return torch.cat([2 * x - 1, angle.sin(), angle.cos()], 1)


def load_shared_encoder(path: Path) -> SharedEncoder:
    """Read what :meth:`SharedEncoder.save` wrote."""
    tensors, meta = load_tensors(path, "shared_encoder")
    with rebuilding(path):
        settings = SharedEncoderSettings.model_validate(meta["settings"])
        options = options_of("shared_encoders", settings.model, meta["options"])
        encoder = options_of("dataset_encoders", settings.dataset_encoder, meta["dataset_encoder"])
        tuples = {k: tuple(v) for k, v in meta["sizes"].items() if k in ("dataset_shape", "widths")}
        sizes = Sizes(**meta["sizes"] | tuples, dataset_encoder=encoder)
        family = resolve(SHARED_ENCODERS, settings.model, "shared_encoder.model")
    model: SharedEncoder = fill_module(
        path, tensors, lambda: family.build(sizes, settings, options, torch.Generator())
    )
    return model.eval()


@dataclass(frozen=True)
class Pairs:
    """Members of one split as pairs of condition and latent.

    Attributes:
        tasks: task of each member ``(N,)``.
        runs: run of each member ``(N,)``.
        result: R ``(N,)``.
        z: latent ``(N, O, L)`` for each order of the outputs; the first order is that of the member.
        width: index of each member's width ``(N,)``; None where there is one.

    """

    tasks: Tensor
    runs: Tensor
    result: Tensor
    z: Tensor
    width: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Members of several widths, one width after the other."""
        if len(parts) == 1:
            return parts[0]
        names = ("tasks", "runs", "result", "z")
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        index = [torch.full((len(part.tasks),), i) for i, part in enumerate(parts)]
        return cls(**tensors, width=torch.cat(index))


@dataclass(frozen=True)
class SharedEncoderData:
    """What a shared encoder may be fitted on.

    Attributes:
        runner: the architecture and the tasks.
        autoencoder: the fitted autoencoder.
        train: members of the train split.
        val: members of the val split.
        dataset_encoder: options of the dataset encoder.
        other_widths: width -> what runs, and what decodes, networks of it, beside those of width 1.

    """

    runner: TaskRunner
    autoencoder: Autoencoder
    train: Pairs
    val: Pairs
    dataset_encoder: Settings
    other_widths: Mapping[float, tuple[TaskRunner, Autoencoder]] = field(default_factory=dict)

    @property
    def at_widths(self) -> dict[float, tuple[TaskRunner, Autoencoder]]:
        """Width -> what runs, and what decodes, networks of it, that of width 1 first."""
        return {1.0: (self.runner, self.autoencoder), **self.other_widths}


def encode_pairs(
    members: pd.DataFrame,
    weights: Population,
    originals: Originals,
    runner: TaskRunner,
    autoencoder: Autoencoder,
    result: Result,
) -> Pairs:
    """Pairs of the members of a split; encodes every order of the outputs of every member.

    Args:
        members: table of N members.
        weights: tensors ``(N, *shape)``; not read where the autoencoder needs outputs only.
        originals: outputs of the same members.
        runner: the tasks.
        autoencoder: weights -> latent.
        result: what R is.

    """
    return Pairs(
        originals.tasks,
        torch.tensor(members["run"].to_numpy()),
        torch.tensor(result.of_members(members), dtype=torch.float32),
        encode_orders(autoencoder, weights, output_orders(runner.classes), originals),
    )


Model = TypeVar("Model", bound=SharedEncoder)
Options = TypeVar("Options", bound=Settings)


def started(
    build: Callable[[Sizes, SharedEncoderSettings, Options, torch.Generator], Model],
    data: SharedEncoderData,
    settings: SharedEncoderSettings,
    options: Options,
    seed: int,
) -> Model:
    """A new model: its dataset encoder standardises classes of train tasks, its range is that of train R.

    Args:
        build: of the family.
        data: members as pairs, images.
        settings: section ``shared_encoder`` of params.yaml.
        options: section ``shared_encoders.NAME``.
        seed: root seed.

    """
    rng = torch_stream(seed, STREAM, "init")
    model = build(Sizes.of(data), settings, options, rng).to(data.runner.device)
    classes = data.runner.dataset.classes[data.train.tasks].unique()
    model.dataset_encoder.prepare(data.runner.dataset.images["train"][classes])
    model.trained_range.copy_(range_of(data.train.result))
    return model


def range_of(result: Tensor) -> Tensor:
    """Trained range ``(2,)`` of the results of train members ``(N,)``: from the 1 to the 99 % quantile."""
    return result.float().quantile(torch.tensor(TRAINED_RANGE))


def draw_masks(count: int, dropout: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows ``(N,)`` where D, and where R, is used.

    Args:
        count: N.
        dropout: probability that D is withheld, and that R is.
        rng: random stream.

    """
    use_dataset, use_result = torch.rand(2, count, generator=rng) >= dropout
    return use_dataset, use_result
