"""A look at single networks: a few test tasks, the requests, what the sampled networks confuse."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from weightspace.artifacts import AUTOENCODER_FILE, IMAGES_FILE, PCA_FILE, SHARED_ENCODER_FILE
from weightspace.data.tasks import TEST_SPLITS
from weightspace.project.project import Project
from weightspace.report.html import element, picture
from weightspace.report.plots import INK, as_svg
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition, Sampler

TASKS, SHOWN, ZOOM = 3, 8, 96  # tasks, images of each class, least pixels of an image's side
FILES = (IMAGES_FILE, PCA_FILE, AUTOENCODER_FILE, SHARED_ENCODER_FILE)


@dataclass(frozen=True)
class Sampled:
    """One sampled network on the test images of its task.

    Attributes:
        target: requested result.
        accuracy: accuracy on the test images, from 0 to 1.
        confusion: fraction of the images of each class (row) that are predicted as each (column).

    """

    target: float
    accuracy: float
    confusion: np.ndarray


def missing(root: Path) -> list[str]:
    """Files of a finished project that are not there."""
    return [f"data/{name}" for name in FILES if not (root / "data" / name).is_file()]


def gallery(project: Project) -> str:
    """Give the gallery of a finished project, HTML."""
    out = []
    for task in chosen_tasks(project):
        names = [project.dataset.class_names[c] for c in project.dataset.classes[task]]
        split = project.dataset.tasks.set_index("task")["split"][task]
        out.append(element("h3", f"Task {', '.join(names)} ({split})"))
        alt = f"Test images of the classes {', '.join(names)}, a row each"
        out.append(picture(strip(project, task), "png", alt))
        out.append('<div class="pictures small">\n')
        for network in sampled(project, task):
            text = (
                f"{project.result.name} {network.target:.2f} requested, "
                f"accuracy {network.accuracy:.2f} on test images"
            )
            out.append(picture(draw(network, names), "svg+xml", f"Confusion matrix, {text}", text))
        out.append("</div>\n")
    return "".join(out)


def chosen_tasks(project: Project) -> list[int]:
    """Test tasks of different class sets, evenly over the table, unseen classes first."""
    tasks = project.dataset.tasks
    for split in reversed(TEST_SPLITS):
        one_of_each_set = tasks[tasks["split"] == split].drop_duplicates("class_set")
        if count := len(one_of_each_set):
            rows = np.linspace(0, count - 1, min(TASKS, count)).round().astype(int)
            return [int(t) for t in one_of_each_set["task"].iloc[rows]]
    return []


def sampled(project: Project, task: int) -> list[Sampled]:
    """One network for the lowest, the middle and the highest trained result, each a single draw."""
    sampler = Sampler(
        project.autoencoder, project.shared_encoder, project.net, project.params.guidance
    )
    low, high = project.trained_range
    target = torch.tensor([low, (low + high) / 2, high])
    tasks = torch.full((len(target),), task)
    condition = Condition.of_tasks(project.dataset, tasks, target)
    weights = sampler.draw(condition, 1, torch_stream(project.params.seed, "report", task))
    images, labels = project.dataset.task_batch(tasks[:1], "test")
    with torch.no_grad():
        predicted = project.net.run(weights, images[0]).argmax(-1).cpu()  # (3, B)
    labels = labels.cpu()
    out = []
    for value, guess in zip(target.tolist(), predicted, strict=True):
        table = confusion(labels, guess, project.dataset.classes.shape[1])
        out.append(Sampled(value, float((guess == labels).double().mean()), table))
    return out


def confusion(labels: torch.Tensor, guess: torch.Tensor, classes: int) -> np.ndarray:
    """Fraction of the images of each true class (row) that are predicted as each class (column).

    Args:
        labels: true classes ``(B,)``.
        guess: predicted classes ``(B,)``.
        classes: how many there are.

    Returns:
        ``(classes, classes)``; a row of zeros where a class has no image.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
    [[0.5, 0.5], [0.0, 1.0]]

    """
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    counts.index_put_(
        (labels, guess), torch.ones(len(labels), dtype=torch.float64), accumulate=True
    )
    return (counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()


def draw(network: Sampled, names: list[str]) -> bytes:
    """Draw a confusion matrix as SVG."""
    figure, axes = plt.subplots(figsize=(2.5, 2.4), layout="constrained")
    axes.imshow(network.confusion, cmap="Blues", vmin=0, vmax=1)
    for (row, column), fraction in np.ndenumerate(network.confusion):
        colour = "white" if fraction > 0.55 else INK
        axes.text(column, row, f"{fraction:.2f}", ha="center", va="center", color=colour)
    positions = range(len(names))
    axes.set_xticks(positions, names)
    axes.set_yticks(positions, names)
    axes.set(xlabel="predicted", ylabel="true")
    return as_svg(figure)


def strip(project: Project, task: int) -> bytes:
    """Some test images of a task, a row per class, as PNG."""
    dataset = project.dataset
    images = dataset.task_images(torch.tensor([task]), "test")[0, :, :SHOWN]  # (c, n, C, H, W)
    pixels = (images * dataset.std + dataset.mean).clamp(0, 1)
    pixels = torch.nn.functional.pad(pixels, (0, 1, 0, 1), value=1)
    classes, shown, channels, height, width = pixels.shape
    grid = pixels.permute(0, 3, 1, 4, 2).reshape(classes * height, shown * width, channels)
    array = (grid * 255).round().to(torch.uint8).cpu().numpy()
    grey = channels == 1
    image = Image.fromarray(array[..., 0] if grey else array)
    zoom = max(1, ZOOM // height)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()
