"""Hypernetwork: (D, R, noise) -> weights, trained end to end on hitting R; no population takes part.

D is the embeddings of its ordered classes, by the sampler's family of dataset encoders, fitted anew. A
residual MLP, as deep as the sampler's, moves a learned network, which starts untrained, in all
its weights. Each step draws tasks of the train class sets, targets of the trained range and train images,
and moves the results of the networks towards the targets. The state of the lowest error on val tasks is
taken.

Source: Ha, Dai, Le (2016), HyperNetworks, arXiv 1609.09106.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from weightspace.artifacts import check_tensors, forms_of, load_tensors, rebuilding, save_tensors
from weightspace.dataset_encoders import DATASET_ENCODERS
from weightspace.dataset_encoders.base import DatasetEncoder
from weightspace.learning.loop import fit as run_fit
from weightspace.learning.mlp import ResidualMlp
from weightspace.learning.result_matching import result_error
from weightspace.params import FitSettings, HypernetworkSettings, Params
from weightspace.registry import resolve
from weightspace.rng import normal, torch_stream
from weightspace.runtime import precision
from weightspace.sampling.sampler import Condition
from weightspace.shared_encoders.base import SharedEncoder, result_features
from weightspace.weights.lazy import Made
from weightspace.weights.spec import BLOCK_NUMBERS, Weights
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner

NOISE = 32  # numbers in which one draw differs from another
LEAST = 0.05  # movement of a tensor that starts near 0
SCALE = 20.0  # of the error, so that the loop's limit of the gradient's norm acts
LOOK, VAL = 100, 4  # steps between two looks at the val tasks; batches of each look
REFERENCES = 32  # train images on which batch statistics are measured
WEIGHT_DECAY = 0.01


class Hypernetwork(nn.Module):
    """Moves a learned network in all its weights, by an MLP of the embedded condition and noise.

    Args:
        runner: the architecture, and the tasks.
        params: what a shared encoder of these settings would have, it has: dataset encoder, depth.
        bounds: trained range of R ``(2,)``.
        rng: source of the initial weights.

    """

    bounds: Tensor
    scale: Tensor
    references: Tensor

    def __init__(
        self, runner: TaskRunner, params: Params, bounds: Tensor, rng: torch.Generator
    ) -> None:
        super().__init__()
        settings, net = params.shared_encoder, runner.net
        self.net, self.result, self.fourier = net, Result(settings.result), settings.fourier
        name = settings.dataset_encoder
        family = resolve(DATASET_ENCODERS, name, "shared_encoder.dataset_encoder")
        self.dataset_encoder: DatasetEncoder = family.build(
            runner.dataset.shape, params.dataset_encoders.of(name), rng
        )
        features = runner.classes * self.dataset_encoder.features + 1 + 2 * self.fourier + NOISE
        width = params.baselines.hypernetwork.width
        self.mlp = ResidualMlp(features, width, settings.depth, net.spec.numel, rng)
        start = net.spec.unconstrain({k: w[None] for k, w in net.init(rng).items()})
        self.start = nn.Parameter(net.spec.flatten(start)[0])
        sizes = {k: w.square().mean().sqrt().clamp_min(LEAST) for k, w in start.items()}
        scale = {k: size.expand(start[k].shape) for k, size in sizes.items()}
        self.register_buffer("scale", net.spec.flatten(scale)[0])
        self.register_buffer("bounds", bounds.clone())
        classes = train_classes(runner)
        images = runner.dataset.images["train"][classes].transpose(0, 1).flatten(0, 1)
        self.register_buffer("references", images[:REFERENCES].clone())
        self.dataset_encoder.prepare(runner.dataset.images["train"][classes])

    @property
    def measures(self) -> bool:
        """Whether the architecture has batch statistics, which are measured, not made."""
        return self.net.spec.parameters != self.net.spec

    def features(self, condition: Condition, noise: Tensor) -> Tensor:
        """What the MLP reads of N requests and their noise ``(N, 32)``: ``(N, F)``."""
        of_class = self.dataset_encoder(condition.class_images)
        e = SharedEncoder.embed_classes(of_class, condition.classes)
        target = condition.target.to(e).clamp(*self.bounds)
        return torch.cat([e, result_features(target, self.bounds, self.fourier), noise.to(e)], 1)

    def weights(self, features: Tensor) -> Weights:
        """Weights ``(N, *shape)``; batch statistics among them mean nothing yet."""
        with precision("bf16", features.device):
            movement = self.mlp(features)
        flat = self.start + self.scale * movement.float()
        return self.net.spec.constrain(self.net.spec.unflatten(flat))

    def outputs(self, features: Tensor, images: Tensor) -> Tensor:
        """Outputs ``(N, B, c)`` of N networks, each on images of its task ``(N, B, C, H, W)``."""
        weights = self.weights(features)
        if not self.measures:
            return self.net.outputs(weights, images)
        return self.net.outputs_by_references(weights, images, self.references)

    @torch.no_grad()
    def networks(self, condition: Condition, draws: int, rng: torch.Generator) -> Made:
        """Networks ``(N * draws, *shape)`` of N requests, those of a request side by side.

        Args:
            condition: N requests.
            draws: networks of each.
            rng: random stream.

        """
        device = self.scale.device
        noise = normal((len(condition) * draws, NOISE), rng, device)
        once = self.features(condition, noise[::draws])
        request = torch.arange(len(condition)).repeat_interleave(draws)

        @torch.no_grad()
        def make(rows: Tensor) -> Weights:
            features = torch.cat([once[request[rows], :-NOISE], noise[rows]], 1)
            weights = self.weights(features)
            return self.net.with_statistics(weights, self.references) if self.measures else weights

        return Made(len(noise), make)


def train_classes(runner: TaskRunner) -> Tensor:
    """Classes of the train tasks ``(K,)``, in rising order."""
    classes: Tensor = runner.dataset.classes[runner.dataset.tasks_of("train")].unique()
    return classes


class HypernetworkLoss:
    """Error of the results of a batch of networks on train images of their tasks.

    Args:
        model: makes the networks.
        runner: tasks and images.
        settings: section ``baselines.hypernetwork`` of params.yaml.

    """

    def __init__(
        self, model: Hypernetwork, runner: TaskRunner, settings: HypernetworkSettings
    ) -> None:
        self.model, self.dataset, self.settings = model, runner.dataset, settings
        self.tasks = {split: self.dataset.tasks_of(split) for split in ("train", "val")}

    def __call__(self, rows: Tensor, split: str, rng: torch.Generator) -> dict[str, Tensor]:
        """Loss of as many conditions as there are rows, drawn at random.

        Args:
            rows: only their number counts ``(N,)``.
            split: "train" or "val", of the tasks.
            rng: draws tasks, targets, images and noise.

        """
        model, count = self.model, len(rows)
        tasks = self.tasks[split][torch.randint(len(self.tasks[split]), (count,), generator=rng)]
        low, high = model.bounds.tolist()
        target = low + (high - low) * torch.rand(count, generator=rng)
        condition = Condition.of_tasks(self.dataset, tasks, target)
        images = self.dataset.some_images(
            "train", condition.classes, self.settings.images_per_class, rng
        )
        features = model.features(condition, torch.randn(count, NOISE, generator=rng))
        outputs = model.outputs(features, images)
        error, _ = result_error(outputs, target.to(features), model.result)
        return {"loss": SCALE * error.mean()}


def fits_memory(runner: TaskRunner, params: Params) -> bool:
    """Whether its last layer has a bearable size: the width times all weights of a network."""
    return params.baselines.hypernetwork.width * runner.net.spec.numel <= BLOCK_NUMBERS


def fit(runner: TaskRunner, params: Params, bounds: Tensor) -> Hypernetwork:
    """Fit on train tasks; the state of the lowest error on val tasks.

    Args:
        runner: the architecture, and the tasks.
        params: all settings; section ``baselines.hypernetwork`` is its own.
        bounds: trained range of R ``(2,)``.

    """
    settings, seed = params.baselines.hypernetwork, params.seed
    model = Hypernetwork(runner, params, bounds, torch_stream(seed, "hypernetwork", "init"))
    loss = HypernetworkLoss(model.to(runner.device), runner, settings)
    looks, size = -(-settings.steps // LOOK), settings.conditions
    counts = {"train": min(LOOK, settings.steps) * size, "val": VAL * size}
    options = FitSettings(
        epochs=looks, batch_size=size, lr=settings.lr, weight_decay=WEIGHT_DECAY, patience=looks
    )
    run_fit("hypernetwork", model, loss, counts, options, seed)
    return model


def save(model: Hypernetwork, path: Path) -> None:
    """Write one safetensors file with all that was fitted; settings are those of the project."""
    save_tensors(path, "hypernetwork", model.state_dict(), {})


def load(runner: TaskRunner, params: Params, path: Path) -> Hypernetwork:
    """Read what :func:`save` wrote in a project of the same settings."""
    tensors, _ = load_tensors(path, "hypernetwork")
    with rebuilding(path):
        model = Hypernetwork(runner, params, torch.zeros(2), torch.Generator())
        check_tensors(path, tensors, forms_of(model.state_dict()))
        model.load_state_dict(tensors)
    return model.to(runner.device).eval()
