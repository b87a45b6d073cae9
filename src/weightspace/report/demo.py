"""A first look: networks drawn in one pass for a task that nothing was fitted to, as figures and a page."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from weightspace.artifacts import begins, check_file, write_bytes
from weightspace.data.tasks import TEST_SPLITS
from weightspace.errors import problem
from weightspace.project.project import Project
from weightspace.report.gallery import Sampled, confusion, strip
from weightspace.report.gallery import draw as draw_confusion
from weightspace.report.html import element, page, picture, table
from weightspace.report.plots import INK, SOFT, SVG, as_svg
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.zoo.result import accuracies

TITLE = "weightspace: demo"
NETWORKS = 8  # drawn for each request
REQUESTS = (0.93, 0.63, 0.25)  # fractions of the trained range
DECIMALS = 2  # of a request
TIMED = 3  # times that all are drawn; the shortest counts
NEXT = (
    (
        "Networks for your own images",
        "weightspace sample --root digits --data my.npz --classes 3,8,1 --accuracy 0.9 --out samples",
    ),
    ("All of it from the beginning, in a clone", "make repro"),
)


@dataclass(frozen=True)
class Answer:
    """What networks drawn for one request achieve on the test images of the task.

    Attributes:
        first: the first network: request, accuracy, what it confuses.
        results: what each network achieves ``(n,)``.

    """

    first: Sampled
    results: np.ndarray


@dataclass(frozen=True)
class Demo:
    """Networks drawn for one task, and how they were drawn.

    Attributes:
        task: number of the task.
        classes: names, in the order of the outputs.
        result: what is requested: accuracy or loss.
        pixels: test images of each class in [0, 1] ``(c, n, C, H, W)``.
        describing: train images that D consists of.
        answers: for each request.
        numbers: of one network.
        seconds: that all draws took together, from noise to weights.

    """

    task: int
    classes: list[str]
    result: str
    pixels: Tensor
    describing: int
    answers: list[Answer]
    numbers: int
    seconds: float

    @property
    def images(self) -> int:
        """Test images that networks are measured on."""
        return self.pixels.shape[0] * self.pixels.shape[1]

    def what(self) -> str:
        """What is shown, in words."""
        return (
            f"The task: tell {', '.join(self.classes[:-1])} and {self.classes[-1]} apart. No network that "
            "autoencoder and sampler were fitted on was trained on this choice of classes. "
            f"{self.describing} labelled images describe it; results are on {self.images} others."
        )

    def how(self) -> str:
        """How the networks came about, in words."""
        count = sum(len(answer.results) for answer in self.answers)
        each = 1000 * self.seconds / count
        return (
            f"{count} networks of {self.numbers:,} numbers in {1000 * self.seconds:.0f} ms, {each:.1f} ms "
            "each, drawn in one pass: random numbers, the described task and the requested "
            f"{self.result} go through the sampler and the decoder and come out as weights. None of them was "
            "trained: no gradient on any image, nothing chosen."
        )


@torch.no_grad()
def draw(project: Project, seed: int) -> Demo:
    """Draw networks for one of the test tasks of a project.

    Args:
        project: a finished one, or its bundle.
        seed: of the choice of the task, and of the draws.

    Raises:
        WeightspaceError: the project has no test task.

    """
    dataset, tasks = project.dataset, project.dataset.tasks
    unseen = tasks[tasks["split"] == TEST_SPLITS[0]]
    if not len(unseen):
        raise problem("no task of unseen class sets", where=project.root)
    task = int(stream(seed, "demo", "task").choice(unseen["task"].to_numpy()))
    low, high = project.trained_range
    asked = [round(low + fraction * (high - low), DECIMALS) for fraction in REQUESTS]
    target = torch.tensor(asked).repeat_interleave(NETWORKS)
    condition = Condition.of_tasks(dataset, torch.full((len(target),), task), target)
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net)
    seconds = []
    for _ in range(TIMED):  # the same networks each time: a first draw also starts libraries
        start = time.perf_counter()
        weights = sampler.draw(condition, 1, torch_stream(seed, "demo", "draw"))
        seconds.append(time.perf_counter() - start)
    images, labels = (x.cpu() for x in dataset.task_batch(torch.tensor([task]), "test"))
    outputs = project.net.run(weights, images[0].to(dataset.device)).cpu()
    test = images[0].unflatten(0, (dataset.classes_per_task, -1))
    return Demo(
        task,
        [dataset.class_names[c] for c in dataset.classes[task]],
        project.result.name,
        (test * dataset.std + dataset.mean).clamp(0, 1),
        dataset.images["train"].shape[1] * dataset.classes_per_task,
        [
            _answer(value, y, project.result.of(y), labels)
            for value, y in zip(asked, outputs.split(NETWORKS), strict=True)
        ],
        project.net.spec.numel,
        min(seconds),
    )


def _answer(target: float, outputs: Tensor, results: Tensor, labels: Tensor) -> Answer:
    """Figures of the networks of one request.

    Args:
        target: requested result.
        outputs: ``(n, B, c)``, on images class after class.
        results: of them ``(n,)``.
        labels: of the images ``(B,)``.

    """
    table = confusion(labels, outputs[0].argmax(-1), outputs.shape[-1])
    return Answer(Sampled(target, float(accuracies(outputs[:1])[0]), table), results.numpy())


def write(demo: Demo, project: Project, out: Path) -> None:
    """Write what a demo shows as one HTML page that carries everything inside.

    Args:
        demo: drawn for a task of the project.
        project: a finished one, or its bundle.
        out: file that :func:`check_out` has let pass.

    """
    names = demo.classes
    rows = f"Test images, a row for each class: {', '.join(names)}"
    points = "Each point is one network; on the line requests are met."
    body = [
        element("h1", f"Networks that tell {', '.join(names[:-1])} and {names[-1]} apart"),
        element("p", demo.what(), "lead"),
        picture(strip(project, demo.task), "png", rows, rows),
        element("h2", f"Requested {demo.result}, and what networks achieve"),
        element("p", demo.how()),
        '<div class="pictures">\n',
        picture(scatter(demo), "svg+xml", f"Achieved against requested {demo.result}", points),
        f"<div>{table(results_table(demo))}</div></div>\n",
        element("h2", "What they confuse"),
        element("p", "The first network of each request. Rows: true classes; columns: predicted."),
        '<div class="pictures small">\n',
    ]
    for answer in demo.answers:
        first = answer.first
        text = f"{first.target:.2f} requested, accuracy {first.accuracy:.2f} on test images"
        body.append(picture(draw_confusion(first, names), "svg+xml", f"Confusion, {text}", text))
    body += ["</div>\n", element("h2", "Next")]
    for what, command in NEXT:
        body.append(f"<p>{escape(what)}:<br><code>{escape(command)}</code></p>\n")
    write_bytes(out, page(TITLE, "".join(body)).encode())


def check_out(out: Path) -> None:
    """Refuse a file that the page must not be written to, before anything is drawn."""
    check_file(out, begins(re.escape(page(TITLE, "").partition("<style>")[0])))


def results_table(demo: Demo) -> Table:
    """A row for each request: what its networks achieve on test images."""
    out = Table()
    for name in (f"requested {demo.result}", "first network", f"mean of {NETWORKS}", "from", "to"):
        out.add_column(name, justify="right")
    for answer in demo.answers:
        got = answer.results
        row = (answer.first.target, got[0], got.mean(), got.min(), got.max())
        out.add_row(*(f"{value:.2f}" for value in row))
    return out


def scatter(demo: Demo) -> bytes:
    """Achieved results against the requests, every network a point, as SVG."""
    every = np.concatenate([answer.results for answer in demo.answers])
    asked = [answer.first.target for answer in demo.answers]
    ends = [min(*asked, every.min()), max(*asked, every.max())]
    with mpl.rc_context(SVG):
        figure, axes = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
        axes.plot(ends, ends, color=SOFT, lw=1, label="as requested")
        axes.scatter(np.repeat(asked, NETWORKS), every, s=26, alpha=0.6, color=INK, lw=0)
        axes.set(xlabel=f"requested {demo.result}", ylabel="achieved on test images")
        axes.legend(loc="upper left", frameon=False)
        return as_svg(figure)
