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

from weightspace.data.tasks import TEST_SPLITS
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import untrained
from weightspace.evaluate.evaluation import Evaluation
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.weights.lazy import Selected
from weightspace.weights.spec import (
    BLOCK,
    Networks,
    Population,
    Weights,
    block_size,
    count,
    fill_together,
    take,
)
from weightspace.zoo.plan import Run
from weightspace.zoo.result import accuracies
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.train import train_runs

EPOCHS = (1, 5)  # measured, besides 0
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # learning rates of Adam to choose from
ENSEMBLE_PARTS = ("test", "train", "val")  # measured; train and val images choose the best member
CONTROLS = ("nearest_task_", "random_")  # starts that nobody sampled
SCRATCH_EPOCHS = 24  # of the networks in an ensemble trained from scratch


@dataclass(frozen=True)
class Trainer:
    """Trains networks side by side on the train images of their tasks.

    Attributes:
        runner: the tasks.
        batch_size: images of a step.
        seed: root seed; the order of the images depends on it alone.

    """

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
            rate: learning rate of Adam, above 0.
            epochs: after which a copy is taken, in rising order.

        """
        snapshots = self.trajectory(tasks, start, rate, tuple(self.per_epoch * e for e in epochs))
        return [take(snapshots, (slice(None), i)) for i in range(len(epochs))]

    def trajectory(
        self, tasks: np.ndarray, start: Weights, rate: float, steps: tuple[int, ...]
    ) -> Weights:
        """Networks ``(N, S, *shape)`` after each of S numbers of steps.

        Args:
            tasks: task of each network ``(N,)``.
            start: weights ``(N, *shape)``.
            rate: learning rate of Adam, above 0.
            steps: after which a copy is taken, in rising order.

        """
        dataset = self.runner.dataset
        images, classes = dataset.images["train"], dataset.classes[torch.from_numpy(tasks)]
        count = images.shape[1] * classes.shape[1]  # images of a task
        epochs = -(-steps[-1] // self.per_epoch)
        runs = [Run(i, int(t), "adam", rate, 0.0, epochs, steps) for i, t in enumerate(tasks)]
        rng = stream(self.seed, "finetune", "batches")
        used = self.per_epoch * self.batch_size
        order = np.stack([rng.permutation(count)[:used] for _ in range(epochs)])
        batches = torch.from_numpy(order.reshape(1, -1, self.batch_size)).expand(len(runs), -1, -1)
        return train_runs(self.runner.net, runs, start, images, classes, batches, 0.0)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; a last batch that is not full is left out."""
        dataset = self.runner.dataset
        return dataset.images["train"].shape[1] * self.runner.classes // self.batch_size

    def accuracy(
        self,
        tasks: np.ndarray,
        start: Population,
        rate: float,
        epochs: tuple[int, ...],
        part: str,
    ) -> np.ndarray:
        """Accuracy ``(E, N)`` of N networks after each number of epochs, trained block by block.

        Args:
            tasks: task of each network ``(N,)``.
            start: N networks.
            rate: learning rate of Adam, above 0.
            epochs: E numbers, in rising order.
            part: images to be measured on, "train", "val" or "test".

        """

        def compute(rows: slice) -> list[Tensor]:
            trained = self(tasks[rows], take(start, rows), rate, epochs)
            return [accuracies(self.runner.outputs(w, tasks[rows], part)) for w in trained]

        out = torch.empty(len(epochs), len(tasks), dtype=torch.float64)
        fill_together(list(out), self.at_once, compute)
        return out.numpy()

    @property
    def at_once(self) -> int:
        """Networks that are trained at once."""
        return block_size(self.runner.net.spec, BLOCK)


def starts(evaluation: Evaluation, tasks: np.ndarray, draws: int) -> dict[str, Networks]:
    """``T * draws`` networks of each kind of start, those of a task side by side.

    All are asked for the best trained result; ``nearest_task`` has one network for a task.

    Args:
        evaluation: what draws, and the train members.
        tasks: T tasks.
        draws: networks of a task.

    """
    sampler, seed = evaluation.sampler, evaluation.params.seed
    condition = evaluation.best_condition(tasks)
    rng = torch_stream(seed, "finetune", "draws", len(tasks))
    z = sampler.guided(sampler.latents(condition, draws, rng), condition, rng)
    init = torch_stream(seed, "finetune", "init")
    return {
        "sampled": sampler.networks(z),
        "random": untrained(sampler.net, len(tasks) * draws, init),
        "nearest_task": evaluation.train_members.nearest_task(
            sampler.embed(condition), condition.target.numpy()
        ),
    }


def evaluate_finetuning(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Metrics of each test split: mean accuracy on test images, 95 % intervals over class sets."""
    params = evaluation.params
    trainer = Trainer(evaluation.runner, params.zoo.batch_size, params.seed)
    draws = params.evaluate.ensemble
    splits = {split: _some_tasks(evaluation, split) for split in TEST_SPLITS}
    val = _some_tasks(evaluation, "val")
    out: dict[str, dict[str, float]] = {}
    with progress("fine-tuning", 1 + len(splits)) as bar:
        rates = choose_rates(trainer, val, starts(evaluation, val, 1))
        bar.advance(note="learning rates chosen")
        for split, tasks in splits.items():
            if len(tasks):
                networks = starts(evaluation, tasks, draws)
                values = curves(trainer, tasks, networks, rates, draws)
                values |= ensembles(trainer, tasks, networks, rates["random"])
                metrics = _summary(values, params, evaluation.class_sets(tasks)) | {
                    f"{k}_lr": r for k, r in rates.items()
                }
                out[split] = {_key(name): value for name, value in metrics.items()}
                out[split] |= {"tasks": len(tasks), "ensemble": draws}
                out[split] |= image_gradients(evaluation, tasks)
            bar.advance(note=split)
    return out


def image_gradients(evaluation: Evaluation, tasks: np.ndarray) -> dict[str, int]:
    """Labelled image-gradients on its task that a network of each kind of start costs.

    A guided draw was moved by gradients on train images. The nearest task's network was trained on
    other tasks. Training an ensemble from scratch costs every image of every epoch.
    """
    dataset, size = evaluation.runner.dataset, evaluation.params.zoo.batch_size
    images = dataset.classes.shape[1] * dataset.images["train"].shape[1]
    guided = evaluation.sampler.image_gradients(evaluation.best_condition(tasks))
    return {
        "sampled_image_gradients": guided,
        "control_nearest_task_image_gradients": 0,
        "control_random_image_gradients": 0,
        "scratch_image_gradients": SCRATCH_EPOCHS * (images // size * size),
    }


def _key(name: str) -> str:
    """Name of a metric in the file, where starts that nobody sampled are controls."""
    return f"control_{name}" if name.startswith(CONTROLS) else name


def _some_tasks(evaluation: Evaluation, split: str) -> np.ndarray:
    """At most ``evaluate.finetune_tasks`` tasks of a split, drawn at random."""
    params = evaluation.params
    tasks = stream(params.seed, "finetune", split).permutation(evaluation.tasks(split))
    return np.sort(tasks[: params.evaluate.finetune_tasks])


def choose_rates(
    trainer: Trainer, tasks: np.ndarray, networks: Mapping[str, Population]
) -> dict[str, float]:
    """Learning rate of each kind of start with the best mean accuracy on val images.

    Args:
        trainer: trains.
        tasks: val tasks ``(T,)``.
        networks: kind of start -> one network per task.

    """
    best = {}
    for name, start in networks.items():
        accuracy = {
            rate: float(trainer.accuracy(tasks, start, rate, EPOCHS, "val").mean(1).sum())
            for rate in RATES
        }
        best[name] = max(accuracy, key=lambda rate: accuracy[rate])
    return best


def curves(
    trainer: Trainer,
    tasks: np.ndarray,
    networks: Mapping[str, Population],
    rates: Mapping[str, float],
    draws: int,
) -> dict[str, np.ndarray]:
    """Test accuracy ``(T,)`` of the first network of each kind after 0, 1 and 5 epochs.

    Args:
        trainer: trains.
        tasks: T tasks.
        networks: from :func:`starts`, kind of start -> ``T * draws`` networks.
        rates: kind of start -> learning rate.
        draws: networks of a task.

    """
    out = {}
    for name, start in networks.items():
        first = torch.arange(0, count(start), 1 if name == "nearest_task" else draws)
        one = Selected(start, first)
        out[f"{name}_epoch_0"] = accuracies(trainer.runner.outputs(one, tasks, "test")).numpy()
        after = trainer.accuracy(tasks, one, rates[name], EPOCHS, "test")
        out |= {f"{name}_epoch_{e}": of_task for e, of_task in zip(EPOCHS, after, strict=True)}
    return out


def ensembles(
    trainer: Trainer, tasks: np.ndarray, networks: Mapping[str, Population], rate: float
) -> dict[str, np.ndarray]:
    """Test accuracy ``(T,)`` of ensembles (mean softmax), of single members and of the best one.

    The best member is the one with the highest accuracy on train and val images together.

    Args:
        trainer: trains the networks from scratch.
        tasks: T tasks.
        networks: ``sampled`` and ``random`` of :func:`starts`, ``T * n`` each.
        rate: learning rate from scratch.

    """
    sampled = trainer.runner.outputs_on_parts(networks["sampled"], tasks, ENSEMBLE_PARTS)
    scratch = _scratch(trainer, tasks, networks["random"], rate)
    out = {}
    for name, (outputs, *seen) in {"sampled": sampled, "scratch": scratch}.items():
        size = len(outputs) // len(tasks)
        out[f"{name}_ensemble"] = accuracies(m.mean_softmax(outputs, size)).numpy()
        single, *known = (accuracies(y).numpy().reshape(len(tasks), -1) for y in (outputs, *seen))
        out[f"{name}_single"] = single.mean(1)
        out[f"{name}_best"] = single[np.arange(len(tasks)), np.argmax(sum(known), 1)]
    return out


def _scratch(
    trainer: Trainer, tasks: np.ndarray, fresh: Population, rate: float
) -> tuple[Tensor, ...]:
    """Outputs ``(T * n, B, c)`` of networks trained from scratch, on each part, block by block.

    Args:
        trainer: trains.
        tasks: T tasks.
        fresh: where to start, n networks for each task.
        rate: learning rate.

    """
    runner, trained_on = trainer.runner, np.repeat(tasks, count(fresh) // len(tasks))

    def compute(rows: slice) -> list[Tensor]:
        of_block = trained_on[rows]
        (trained,) = trainer(of_block, take(fresh, rows), rate, (SCRATCH_EPOCHS,))
        return [runner.outputs(trained, of_block, part) for part in ENSEMBLE_PARTS]

    rooms = tuple(runner.room(len(trained_on), part) for part in ENSEMBLE_PARTS)
    fill_together(rooms, trainer.at_once, compute)
    return rooms


def _summary(
    values: Mapping[str, np.ndarray], params: Params, class_sets: np.ndarray
) -> dict[str, float]:
    """Mean over tasks of each value, with a bootstrap interval over class sets.

    Args:
        values: name -> value of each task ``(T,)``.
        params: all settings.
        class_sets: class set of each task ``(T,)``.

    """
    out = {}
    for name, of_task in values.items():
        rng = stream(params.seed, "finetune", "bootstrap", name)

        def mean(index: np.ndarray, of_task: np.ndarray = of_task) -> float:
            return float(of_task[index].mean())

        out[name] = float(of_task.mean())
        out |= m.with_interval(name, mean, class_sets, params.evaluate.bootstrap, rng)
    return out
