"""Sampled networks: what they achieve, and the folder that is left of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from weightspace.artifacts import new_folder, write_bytes, write_json, write_parquet
from weightspace.data.images import GivenTask
from weightspace.nets.base import Net
from weightspace.project import cards, limits
from weightspace.project.network import Standardisation, save_networks
from weightspace.weights.spec import Weights
from weightspace.zoo.result import Result

REPRODUCE = (
    "In a project of the same commit, settings and artefacts (hashes above), with the same images "
    "(`data`: sha256 of their pixels as float32 in [0, 1], at the size above, class after class, those "
    "that describe D first):"
)
FAR = 0.2  # of the trained range: a result that is farther from the request misses it


@dataclass(frozen=True)
class Request:
    """What is requested of the sampler.

    Attributes:
        result: what R is.
        target: the requested result.
        trained_range: lowest and highest R that sampling was trained for.
        n: networks, 1 or more; sample i is the same whatever n is.
        best_of: candidates drawn for each, 1 or more; the one whose result on train images is
            nearest to the target is chosen.
        seed: root seed.
        fine_tune_epochs: passes over the train images after sampling, 0 or more.
        reestimate: replace running statistics by those of the train images.
        guidance_steps: gradient steps that moved every candidate; 0 for draws without gradients.
        images_per_step: labelled train images that each of them read.
        width: of the networks, where the zoo has several; 1 for the first.

    Raises:
        WeightspaceError: the target, or a number that is out of its limits.

    >>> request = Request(Result("accuracy"), 0.99, trained_range=(0.5, 0.95), n=2)
    >>> request.outside_trained_range
    True
    >>> request.table(("cat", "dog"))[["file", "target", "best_of"]].values.tolist()[0]
    ['network-00000.safetensors', 0.99, 1]

    """

    result: Result
    target: float
    trained_range: tuple[float, float]
    n: int = 1
    best_of: int = 1
    seed: int = 0
    fine_tune_epochs: int = 0
    reestimate: bool = False
    guidance_steps: int = 0
    images_per_step: int = 0
    width: float = 1.0

    def __post_init__(self) -> None:
        limits.check_result(self.result.name, self.target)
        limits.check(**{name: getattr(self, name) for name in limits.LIMITS})

    @property
    def outside_trained_range(self) -> bool:
        """True where the nearest end of the trained range is sampled instead."""
        low, high = self.trained_range
        return not low <= self.target <= high

    def is_far(self, results: pd.Series) -> pd.Series:
        """Which results ``(N,)`` miss the request by more than a fifth of the trained range."""
        low, high = self.trained_range
        return (results - self.target).abs() > FAR * (high - low)

    @property
    def image_gradients(self) -> int:
        """Labelled image-gradients that every candidate cost before a fine-tuning."""
        return self.guidance_steps * self.images_per_step

    def history(self) -> str:
        """What was done to the networks, in one sentence.

        A network that was moved by gradients on labelled images is not called untrained.
        """
        out = f"{self.n} network{'s' if self.n > 1 else ''} drawn from P(W | D, R)"
        if self.best_of > 1:
            out += f", each chosen among {self.best_of} draws by its result on the train images"
        if self.image_gradients:
            out += (
                f", every draw guided by {self.guidance_steps} gradient steps x "
                f"{self.images_per_step} labelled images ({self.image_gradients:,} labelled "
                "image-gradients)"
            )
        else:
            out += ", without a gradient step"
        if self.reestimate:
            out += ", with the running statistics of the train images"
        if self.fine_tune_epochs:
            out += (
                f", then fine-tuned for {self.fine_tune_epochs} epochs of Adam on the train images"
            )
        return f"{out}."

    def table(self, classes: tuple[str, ...]) -> pd.DataFrame:
        """One row per network: the request, the same in each row, and the name of its file."""
        table = pd.DataFrame({"sample": np.arange(self.n)})
        table["file"] = [file_name(i) for i in range(self.n)]
        table["classes"] = [list(classes)] * self.n
        table["target"] = self.target
        table["outside_trained_range"] = self.outside_trained_range
        table["best_of"], table["seed"] = self.best_of, self.seed
        table["fine_tune_epochs"], table["reestimate"] = self.fine_tune_epochs, self.reestimate
        return table

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form, for the report."""
        width = {"width": self.width} if self.width != 1 else {}
        return {
            "result": self.result.name,
            "target": self.target,
            **width,
            "trained_range": dict(zip(("low", "high"), self.trained_range, strict=True)),
            "outside_trained_range": self.outside_trained_range,
            "networks": self.n,
            "best_of": self.best_of,
            "fine_tune_epochs": self.fine_tune_epochs,
            "reestimate": self.reestimate,
            "guidance_steps": self.guidance_steps,
            "images_per_step": self.images_per_step,
            "image_gradients": self.image_gradients,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Samples:
    """Sampled networks and what each achieves.

    Attributes:
        request: target, count, seed and so on.
        task: the dataset they were drawn for.
        net: their architecture.
        weights: tensors ``(N, *shape)``.
        table: one row per network: request and measured results.
        standardisation: of the images they read.
        class_distances: class -> how unlike those of training its images are; above 1: unlike any.
        provenance: what made the pipeline that drew them.

    """

    request: Request
    task: GivenTask
    net: Net
    weights: Weights
    table: pd.DataFrame
    standardisation: Standardisation
    class_distances: Mapping[str, float]
    provenance: Mapping[str, Any]

    @property
    def measured_on(self) -> str:
        """Part that the report is about: test, or train where nothing could be held out."""
        return self.task.parts[-1]

    def summary(self) -> dict[str, float]:
        """Mean, median, lowest and highest result, and mean distance from the target."""
        got = self.table[f"{self.measured_on}_{self.request.result.name}"]
        off = (got - self.request.target).abs().mean()
        names = ("mean", "median", "min", "max")
        return {k: float(getattr(got, k)()) for k in names} | {"distance": float(off)}

    def warnings(self) -> list[str]:
        """What a reader of the metrics must know: request or images unlike those of training."""
        out, request, (low, high) = [], self.request, self.request.trained_range
        equal = self.task.equal_classes
        out += [
            f"images of classes {', '.join(c)} are equal: nothing tells them apart" for c in equal
        ]
        if request.outside_trained_range:
            out.append(
                f"the {request.result.name} asked for, {request.target:g}, is outside the trained "
                f"range {low:.3f} to {high:.3f}; the nearest end of it was sampled"
            )
        known = {name for names in equal for name in names}
        unlike = {k: v for k, v in self.class_distances.items() if v > 1 and k not in known}
        if unlike:
            listed = ", ".join(f"{name} ({value:.1f})" for name, value in unlike.items())
            out.append(
                f"images unlike those of training: {listed} times as far from the nearest training "
                "class as training classes are from one another at most"
            )
        far = int(self.table["far_from_request"].sum())
        if far and not equal and not request.outside_trained_range:
            more = min(limits.LIMITS["best_of"][1], max(16, 4 * request.best_of))
            out.append(
                f"{far} of {request.n} results are farther from the request than "
                f"{FAR * (high - low):.2g}; --best-of {more} chooses each network among {more} draws"
            )
        return out

    def report(self) -> dict[str, Any]:
        """Everything that was requested, done and measured, JSON-ready."""
        task = self.task
        return {
            "request": self.request.to_json(),
            "data": {
                "source": task.source,
                "classes": ",".join(task.classes),
                "images_per_class": task.images_per_class,
                "image": task.image,
                "sha256": task.sha256,
                "held_out": task.held_out,
                "class_distances": dict(self.class_distances),
                "notes": "; ".join(task.notes),
            },
            "measured": {
                "part": self.measured_on,
                **self.summary(),
                "warnings": "; ".join(self.warnings()) or "none",
            },
            "provenance": dict(self.provenance),
        }

    def save(self, out: Path | str) -> Path:
        """Write one safetensors file per network, the table, the report and a model card.

        Args:
            out: a new or empty folder; it is filled completely or not at all.

        Returns:
            The folder.

        Raises:
            WeightspaceError: the folder holds files, or cannot be written.

        """
        with new_folder(Path(out)) as folder:
            write([self], folder)
        return Path(out)

    def save_networks(self, folder: Path) -> None:
        """Write one safetensors file per network into a folder."""
        report = self.report()
        same = {k: report[k] for k in ("request", "data", "provenance")}
        same["classes"] = list(self.task.classes)
        columns = [c for c in self.table if str(c).startswith(self.task.parts)]
        info = [same | {"measured": row} for row in self.table[columns].to_dict("records")]
        names = list(self.table["file"])
        save_networks(folder, names, self.net, self.weights, self.standardisation, info)

    def card(self) -> str:
        """Model card of the sampled networks, Markdown."""
        report = self.report()
        lines = ["# Sampled networks", "", self.request.history()]
        for title, entries in report.items():
            lines += cards.section(title.capitalize(), entries)
        lines += ["", "## Limits", "", *(f"* {line}" for line in self._limits())]
        of_images = cards.licence(self.provenance["trained_on"])
        lines += ["", "## Licence", "", *(f"* {line}" for line in (*of_images, cards.YOURS))]
        lines += ["", "## Reproduce", "", REPRODUCE, "", "```bash", self._command(), "```"]
        lines += ["", "## Use", "", "```python", "import weightspace as ws", ""]
        lines += [
            f'network = ws.load_network("{file_name(0)}")',
            "network.module  # torch.nn.Module",
        ]
        lines += ["network.predict(images)  # images in [0, 1]", "```", ""]
        return "\n".join(lines)

    def _limits(self) -> Iterator[str]:
        """What these networks were not made for, and how far their figures go, a line each."""
        low, high = self.request.trained_range
        part, per_class = self.measured_on, self.task.images_per_class[self.measured_on]
        images = per_class * len(self.task.classes)
        yield cards.requests(low, high)
        measured = f"measured on {images} {part} images, {per_class} of each class"
        yield f"Figures: {measured}; {cards.precision(images)}."
        yield cards.NOT_MEASURED
        yield f"Images: {self.task.image}; larger ones are reduced to that, smaller ones refused."

    def _command(self) -> str:
        """The command line that draws these networks."""
        request = self.request
        words = ["weightspace", "sample", "--data", self.task.source]
        words += ["--classes", ",".join(self.task.classes)]
        words += [f"--{request.result.name}", f"{request.target!r}", "-n", str(request.n)]
        for name in ("best_of", "fine_tune_epochs", "guidance_steps", "seed"):
            words += [f"--{name.replace('_', '-')}", str(getattr(request, name))]
        words += ["--width", f"{request.width:g}"] if request.width != 1 else []
        words += ["--reestimate"] if request.reestimate else []
        words += ["--root", bundle["root"]] if (bundle := self.provenance.get("bundle")) else []
        return shlex.join([*words, "--out", "again"])


def join(blocks: Iterable[Samples]) -> Samples:
    """Samples of one request that came in blocks, as one."""
    every = list(blocks)
    weights = {k: torch.cat([b.weights[k] for b in every]) for k in every[0].weights}
    return replace(every[0], weights=weights, table=_tables(every))


def write(blocks: Iterable[Samples], folder: Path) -> Samples:
    """Write samples into a folder as they come: the networks of a block, then the next block.

    Args:
        blocks: samples of one request.
        folder: an empty one.

    Returns:
        All of them, without weights: these are in the folder only.

    """
    written = []
    for block in blocks:
        block.save_networks(folder)
        written.append(replace(block, weights={}))
    whole = replace(written[0], table=_tables(written))
    write_parquet(folder / "samples.parquet", whole.table)
    write_json(folder / "report.json", whole.report())
    write_bytes(folder / "MODEL_CARD.md", whole.card().encode())
    return whole


def _tables(blocks: Sequence[Samples]) -> pd.DataFrame:
    return pd.concat([block.table for block in blocks], ignore_index=True)


def file_name(sample: int) -> str:
    """File of a sampled network.

    >>> file_name(7)
    'network-00007.safetensors'
    """
    return f"network-{sample:05d}.safetensors"
