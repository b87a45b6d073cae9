"""Is a sampled network a better start than others, and are n samples a good ensemble?

All training is Adam on the task's train images. Its learning rate is chosen for each kind of start
on val tasks, by accuracy on val images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from weightspace.data.tasks import TEST_SPLITS
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import TrainMembers
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.weights.spec import Weights, stack, take
from weightspace.zoo.plan import Run
from weightspace.zoo.result import accuracies
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo
from weightspace.zoo.train import train_runs

EPOCHS = (1, 5)  # measured, besides 0
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # learning rates of Adam to choose from
CONTROLS = ("nearest_task_", "random_")  # starts that nobody sampled
SCRATCH_EPOCHS = 24  # of the networks in an ensemble trained from scratch


@dataclass(frozen=True)
class Trainer:
    """Trains networks side by side on the train images of their tasks."""

    runner: TaskRunner
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
        images, labels = self.runner.dataset.task_batch(torch.from_numpy(tasks), "train")
        per_epoch = len(labels) // self.batch_size
        steps = tuple(per_epoch * e for e in epochs)
        runs = [Run(i, int(t), "adam", rate, 0.0, epochs[-1], steps) for i, t in enumerate(tasks)]
        rng = stream(self.seed, "finetune", "batches")
        used = per_epoch * self.batch_size
        order = np.stack([rng.permutation(len(labels))[:used] for _ in range(epochs[-1])])
        batches = torch.from_numpy(order.reshape(1, -1, self.batch_size)).expand(len(runs), -1, -1)
        snapshots = train_runs(self.runner.net, runs, start, images, labels, batches, 0.0)
        return [take(snapshots, (slice(None), i)) for i in range(len(epochs))]


def starts(
    sampler: Sampler,
    runner: TaskRunner,
    donors: TrainMembers,
    tasks: np.ndarray,
    draws: int,
    seed: int,
) -> dict[str, Weights]:
    """Networks ``(T * draws, *shape)`` of each kind of start, those of a task side by side.

    All are asked for the best trained result; ``nearest_task`` has one network for a task.

    Args:
        sampler: what draws.
        runner: the tasks.
        donors: train members.
        tasks: T tasks.
        draws: networks of each.
        seed: root seed.

    """
    model = sampler.shared_encoder
    target = torch.full((len(tasks),), model.result.best(model.bounds))
    condition = Condition.of_tasks(runner.dataset, torch.from_numpy(tasks), target)
    drawn = sampler.draw(condition, draws, torch_stream(seed, "finetune", "draws", len(tasks)))
    generator = torch_stream(seed, "finetune", "init")
    fresh = stack([sampler.net.init(generator) for _ in range(len(tasks) * draws)])
    copies, _ = donors.nearest_task(sampler.embed(condition), target.numpy())
    return {"sampled": drawn, "random": fresh, "nearest_task": copies}


def evaluate_finetuning(
    zoo: Zoo, sampler: Sampler, runner: TaskRunner, donors: TrainMembers, params: Params
) -> dict[str, dict[str, float]]:
    """Figures of each test split: mean accuracy on test images, 95 % intervals over tasks.

    Args:
        zoo: the population.
        sampler: what draws.
        runner: the tasks.
        donors: train members.
        params: all settings.

    """
    trainer = Trainer(runner, params.zoo.batch_size, params.seed)
    count, draws = params.evaluate.finetune_tasks, params.evaluate.ensemble
    splits = {s: _some_tasks(zoo, s, count, params.seed) for s in TEST_SPLITS}
    val = _some_tasks(zoo, "val", count, params.seed)
    out: dict[str, dict[str, float]] = {}
    with progress("fine-tuning", 1 + len(splits)) as bar:
        rates = choose_rates(trainer, val, starts(sampler, runner, donors, val, 1, params.seed))
        bar.advance(note="learning rates chosen")
        for split, tasks in splits.items():
            if len(tasks):
                networks = starts(sampler, runner, donors, tasks, draws, params.seed)
                values = curves(trainer, tasks, networks, rates, draws)
                values |= ensembles(trainer, tasks, networks, rates["random"])
                figures = _summary(values, params) | {f"{k}_lr": r for k, r in rates.items()}
                out[split] = {_key(name): value for name, value in figures.items()}
                out[split] |= {"tasks": len(tasks), "ensemble": draws}
            bar.advance(note=split)
    return out


def _key(name: str) -> str:
    """Name of a figure in the file of metrics, where other starts are controls."""
    return f"control_{name}" if name.startswith(CONTROLS) else name


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
    task_of_each = np.repeat(tasks, len(next(iter(fresh.values()))) // len(tasks))
    (scratch,) = trainer(task_of_each, fresh, rate, (SCRATCH_EPOCHS,))
    out = {}
    for name, weights in {"sampled": sampled, "scratch": scratch}.items():
        outputs = trainer.runner.outputs_by_task(weights, tasks, "test")
        shape = (len(tasks), -1, *outputs.shape[1:])
        out[f"{name}_ensemble"] = accuracies(outputs.softmax(-1).reshape(shape).mean(1)).numpy()
        single = accuracies(outputs).numpy().reshape(len(tasks), -1)
        seen = sum(_accuracy(trainer, tasks, weights, part) for part in ("train", "val"))
        out[f"{name}_single"] = single.mean(1)
        out[f"{name}_best"] = single[np.arange(len(tasks)), np.argmax(seen, 1)]
    return out


def _accuracy(trainer: Trainer, tasks: np.ndarray, weights: Weights, part: str) -> np.ndarray:
    """Accuracy ``(T, n)`` of n networks per task."""
    outputs = trainer.runner.outputs_by_task(weights, tasks, part)
    return accuracies(outputs).numpy().reshape(len(tasks), -1)


def _summary(values: Mapping[str, np.ndarray], params: Params) -> dict[str, float]:
    """Mean over tasks of each value, with a bootstrap interval."""
    out = {}
    for name, of_task in values.items():
        rng = stream(params.seed, "finetune", "bootstrap", name)

        def mean(index: np.ndarray, of_task: np.ndarray = of_task) -> float:
            return float(of_task[index].mean())

        out[name] = float(of_task.mean())
        out |= m.with_interval(name, mean, len(of_task), params.evaluate.bootstrap, rng)
    return out
