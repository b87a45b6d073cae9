"""Is a sampled network a better start than others, and are n samples a good ensemble?

All training is Adam on the task's train images. Its learning rate is chosen for each kind of start
on val tasks, by accuracy on val images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.data.dataset import task_batch
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import TrainMembers
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Sampler
from weightspace.weights.spec import Weights, stack, take
from weightspace.zoo.plan import Run
from weightspace.zoo.result import accuracies
from weightspace.zoo.runner import outputs_by_task
from weightspace.zoo.store import Zoo
from weightspace.zoo.train import train_runs

EPOCHS = (1, 5)  # measured, besides 0
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # learning rates of Adam to choose from
SCRATCH_EPOCHS = 24  # of the networks in an ensemble trained from scratch


@dataclass(frozen=True)
class Trainer:
    """Trains networks side by side on the train images of their tasks."""

    sampler: Sampler
    batch_size: int
    seed: int

    def __call__(
        self, tasks: np.ndarray, start: Weights, rate: float, epochs: tuple[int, ...]
    ) -> list[Weights]:
        """Networks ``(N, *shape)`` after each number of epochs.

        Args:
            tasks: task of each network ``(N,)``.
            start: weights ``(N, *shape)``.
            rate: learning rate of Adam.
            epochs: rising numbers of epochs after which a copy is kept.

        """
        images, labels = task_batch(self.sampler.dataset, torch.from_numpy(tasks), "train")
        per_epoch = len(labels) // self.batch_size
        steps = tuple(per_epoch * e for e in epochs)
        runs = [Run(i, int(t), "adam", rate, 0.0, epochs[-1], steps) for i, t in enumerate(tasks)]
        rng = stream(self.seed, "finetune", "batches")
        used = per_epoch * self.batch_size
        order = np.stack([rng.permutation(len(labels))[:used] for _ in range(epochs[-1])])
        batches = torch.from_numpy(order.reshape(1, -1, self.batch_size)).expand(len(runs), -1, -1)
        kept = train_runs(self.sampler.net, runs, start, images, labels, batches, 0.0)
        return [take(kept, (slice(None), i)) for i in range(len(epochs))]


def starts(
    sampler: Sampler, donors: TrainMembers, tasks: np.ndarray, draws: int, seed: int
) -> dict[str, Weights]:
    """Networks ``(T * draws, *shape)`` of each kind of start, those of a task side by side.

    All are asked for the highest trained result; ``nearest_task`` has one network for a task.
    """
    highest = sampler.shared_encoder.settings.result == "accuracy"
    top = sampler.shared_encoder.trained_range[1 if highest else 0].expand(len(tasks))
    ids = torch.from_numpy(tasks)
    drawn = sampler.draw(ids, top, draws, torch_stream(seed, "finetune", "draws", len(tasks)))
    with torch.no_grad():
        embedding = sampler.shared_encoder.embed(sampler.dataset, ids)
    generator = torch_stream(seed, "finetune", "init")
    fresh = stack([sampler.net.init(generator) for _ in range(len(tasks) * draws)])
    copies, _ = donors.nearest_task(embedding, top.numpy())
    return {"sampled": drawn, "random": fresh, "nearest_task": copies}


def evaluate_finetuning(
    zoo: Zoo, sampler: Sampler, donors: TrainMembers, params: Params
) -> dict[str, dict[str, float]]:
    """Figures of each test split: mean accuracy on test images, 95 % intervals over tasks."""
    trainer = Trainer(sampler, params.zoo.batch_size, params.seed)
    count, draws = params.evaluate.finetune_tasks, params.evaluate.ensemble
    splits = {s: _some_tasks(zoo, s, count, params.seed) for s in ("test_sets", "test_classes")}
    val = _some_tasks(zoo, "val", count, params.seed)
    out: dict[str, dict[str, float]] = {}
    with progress("fine-tuning", 1 + len(splits)) as bar:
        rates = choose_rates(trainer, val, starts(sampler, donors, val, 1, params.seed))
        bar.advance(note="learning rates chosen")
        for split, tasks in splits.items():
            if len(tasks):
                networks = starts(sampler, donors, tasks, draws, params.seed)
                values = curves(trainer, tasks, networks, rates, draws)
                values |= ensembles(trainer, tasks, networks, rates["random"])
                out[split] = _summary(values, params) | {f"{k}_lr": r for k, r in rates.items()}
                out[split] |= {"tasks": len(tasks), "ensemble": draws}
            bar.advance(note=split)
    return out


def _some_tasks(zoo: Zoo, split: str, count: int, seed: int) -> np.ndarray:
    tasks = np.unique(zoo.select(split)["task"])
    return np.sort(stream(seed, "finetune", split).permutation(tasks)[:count])


def choose_rates(
    trainer: Trainer, tasks: np.ndarray, networks: Mapping[str, Weights]
) -> dict[str, float]:
    """Learning rate of each kind of start with the best mean accuracy on val images."""
    best = {}
    for name, start in networks.items():
        found = {}
        for rate in RATES:
            after = trainer(tasks, start, rate, EPOCHS)
            found[rate] = sum(float(_accuracy(trainer, tasks, w, "val").mean()) for w in after)
        best[name] = max(found, key=lambda rate: found[rate])
    return best


def curves(
    trainer: Trainer,
    tasks: np.ndarray,
    networks: Mapping[str, Weights],
    rates: Mapping[str, float],
    draws: int,
) -> dict[str, np.ndarray]:
    """Test accuracy ``(T,)`` of the first network of each kind after 0, 1 and 5 epochs."""
    out = {}
    for name, start in networks.items():
        one = start if name == "nearest_task" else take(start, slice(None, None, draws))
        trained = [one, *trainer(tasks, one, rates[name], EPOCHS)]
        for epoch, weights in zip((0, *EPOCHS), trained, strict=True):
            out[f"{name}_epoch_{epoch}"] = _accuracy(trainer, tasks, weights, "test")[:, 0]
    return out


def ensembles(
    trainer: Trainer, tasks: np.ndarray, networks: Mapping[str, Weights], rate: float
) -> dict[str, np.ndarray]:
    """Test accuracy ``(T,)`` of ensembles (mean softmax), of single members and of the best one.

    The best member is the one with the highest accuracy on train and val images together.
    """
    sampled, fresh = networks["sampled"], networks["random"]
    each = np.repeat(tasks, len(next(iter(fresh.values()))) // len(tasks))
    (scratch,) = trainer(each, fresh, rate, (SCRATCH_EPOCHS,))
    out, net, dataset = {}, trainer.sampler.net, trainer.sampler.dataset
    for name, weights in {"sampled": sampled, "scratch": scratch}.items():
        outputs = outputs_by_task(net, dataset, tasks, weights, "test")
        shape = (len(tasks), -1, *outputs.shape[1:])
        out[f"{name}_ensemble"] = accuracies(outputs.softmax(-1).reshape(shape).mean(1)).numpy()
        single = accuracies(outputs).numpy().reshape(len(tasks), -1)
        seen = _accuracy(trainer, tasks, weights, "train") + _accuracy(
            trainer, tasks, weights, "val"
        )
        out[f"{name}_single"] = single.mean(1)
        out[f"{name}_best"] = single[np.arange(len(tasks)), seen.argmax(1)]
    return out


def _accuracy(trainer: Trainer, tasks: np.ndarray, weights: Weights, part: str) -> np.ndarray:
    """Accuracy ``(T, n)`` of n networks per task."""
    sampler = trainer.sampler
    outputs: Tensor = outputs_by_task(sampler.net, sampler.dataset, tasks, weights, part)
    return accuracies(outputs).numpy().reshape(len(tasks), -1)


def _summary(values: Mapping[str, np.ndarray], params: Params) -> dict[str, float]:
    """Mean over tasks of each value, with a bootstrap interval."""
    out = {}
    for name, of_task in values.items():
        rng = stream(params.seed, "finetune", "bootstrap", name)

        def mean(index: np.ndarray, of_task: np.ndarray = of_task) -> float:
            return float(of_task[index].mean())

        out[name] = float(of_task.mean())
        low, high = m.bootstrap(mean, len(of_task), params.evaluate.bootstrap, rng)
        out[f"{name}_low"], out[f"{name}_high"] = low, high
    return out
