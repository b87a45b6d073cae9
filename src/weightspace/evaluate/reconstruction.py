"""Does a decoded latent behave like the network it came from?

Every metric is of one split; chance and the PCA per tensor alone are measured in addition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import AUTOENCODER_FILE, DATASET_FOLDER, PCA_FILE, ZOO_FOLDER
from weightspace.autoencoders.base import Autoencoder, decode_latents, encode_members, load_trained
from weightspace.data.tasks import HELD_OUT, part_of
from weightspace.evaluate import metrics as m
from weightspace.jobs.base import execute, files_in
from weightspace.params import EvaluateSettings, Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.runtime import device
from weightspace.sampling.latent_steps import LatentSteps
from weightspace.weights.spec import (
    BLOCK,
    Population,
    Weights,
    block_size,
    block_slices,
    fill_blocks,
    fill_together,
    take,
)
from weightspace.zoo.result import Result, accuracies, labels_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

SCORES = {"cosine": m.cosine, "correlation": m.correlation, "agreement": m.agreement}
OF_WIDTHS = ("agreement_mean", "encoder_only_agreement_mean", "members")  # given of every width
MEMBERS, NUMBERS = 500, 2**28  # of one job at most; fixed, so that no executor changes a byte


@dataclass(frozen=True)
class Reconstruction:
    """Original and reconstructed outputs ``(M, B, c)`` of the M members of one split.

    Attributes:
        members: their table.
        original: outputs on images of their tasks.
        rebuilt: the same of their decoded latents, after the steps of refinement.
        original_random: outputs on random inputs.
        rebuilt_random: the same of their decoded latents, after the steps of refinement.
        encoder_only: outputs of the latents that the encoder gives in one pass.

    """

    members: pd.DataFrame
    original: Tensor
    rebuilt: Tensor
    original_random: Tensor
    rebuilt_random: Tensor
    encoder_only: Tensor

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All outputs, in their order."""
        return tuple(getattr(self, field.name) for field in fields(self)[1:])


@dataclass(frozen=True)
class Reconstructor:
    """Encodes, refines, decodes and runs networks, on val images for val members, else on test images.

    Attributes:
        autoencoder: weights <-> latent.
        runner: the tasks.
        params: all settings.

    """

    autoencoder: Autoencoder
    runner: TaskRunner
    params: Params

    def __call__(
        self, members: pd.DataFrame, networks: Population, number: int = 0
    ) -> Reconstruction:
        """Reconstruct the members of one part of a split, block by block.

        Args:
            members: table of M members of one split.
            networks: their weights.
            number: index of the part in its split; names the random stream.

        """
        tasks, split = members["task"].to_numpy(), members["split"].iloc[0]
        rng = torch_stream(self.params.seed, "evaluate", "refine", split, number)
        runner, inputs = self.runner, self.params.evaluate.random_inputs
        real = [runner.room(len(tasks), part_of(split)) for _ in range(3)]
        noise = [torch.empty(len(tasks), inputs, runner.classes) for _ in range(2)]
        rooms = [*real[:2], *noise, *real[2:]]
        fill_together(
            rooms,
            block_size(runner.net.spec, BLOCK),
            lambda rows: self._block(take(networks, rows), tasks[rows], part_of(split), rng),
        )
        return Reconstruction(members, *rooms)

    def _block(
        self, weights: Weights, tasks: np.ndarray, part: str, rng: torch.Generator
    ) -> list[Tensor]:
        """Outputs of some members in the order of a :class:`Reconstruction`.

        Args:
            weights: the originals ``(M, *shape)``.
            tasks: task of each ``(M,)``.
            part: images to be measured on.
            rng: chooses images of the steps of refinement.

        """
        inputs, seed = self.params.evaluate.random_inputs, self.params.seed

        def real(w: Weights) -> Tensor:
            return self.runner.outputs(w, tasks, part)

        def noise(w: Weights) -> Tensor:
            return self.runner.random_outputs(w, inputs, seed)

        z = encode_members(self.autoencoder, weights)
        original = real(weights), noise(weights)
        encoded = real(decode_latents(self.autoencoder, z))
        rebuilt = decode_latents(self.autoencoder, self.refined(tasks, weights, z, rng))
        return [original[0], real(rebuilt), original[1], noise(rebuilt), encoded]

    def refined(
        self, tasks: np.ndarray, weights: Weights, z: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Latents of some members, refined on the train images of their tasks.

        Args:
            tasks: task of each member ``(M,)``.
            weights: the originals ``(M, *shape)``.
            z: their latents ``(M, L)``.
            rng: chooses images.

        """
        settings, runner = self.params.guidance, self.runner
        steps = LatentSteps(self.autoencoder, runner.net, settings)

        def compute(rows: slice) -> Tensor:
            images, _ = runner.dataset.task_batch(torch.tensor(tasks[rows]), "train")
            outputs = runner.net.run(take(weights, rows), images)
            return steps.refine(z[rows], images, outputs, rng)

        images_per_class = runner.dataset.images["train"].shape[1]
        size = steps.at_once(settings.images_per_step(images_per_class, runner.classes))
        return fill_blocks(torch.empty_like(z), size, compute)


@dataclass(frozen=True)
class PartJob:
    """Some members of a split, to be reconstructed: a :class:`weightspace.jobs.base.Job`.

    Attributes:
        data: folder of the artefacts.
        params: all settings.
        split: of the members.
        number: index of the part in the split.
        members: their table.
        weights: tensors ``(m, *shape)``, for a machine without the zoo; None: they are read from it.
        device: where it runs.

    """

    data: Path
    params: Params
    split: str
    number: int
    members: pd.DataFrame
    weights: Weights | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Index and split."""
        return f"part {self.number} of {self.split}"

    def inputs(self) -> dict[str, Path]:
        """All artefacts but the zoo."""
        folders = DATASET_FOLDER, AUTOENCODER_FILE.parent, PCA_FILE.parent
        return files_in(*(self.data / folder for folder in folders))

    def packed(self) -> PartJob:
        """The same job with its members' weights."""
        return replace(self, weights=take(self._networks(), slice(None)))

    def _networks(self) -> Population:
        return self.weights or self._zoo.networks(self.members)

    @property
    def _zoo(self) -> Zoo:
        return Zoo.open(self.data / ZOO_FOLDER, self.params.width)

    def moved(self, folder: Path) -> PartJob:
        """The same job on artefacts in another folder."""
        return replace(self, data=folder)

    def outputs(self) -> tuple[Path, ...]:
        """It writes no file."""
        return ()

    def execute(self) -> tuple[tuple[str, int], list[np.ndarray]]:
        """Split and index, and the outputs ``(m, B, c)`` in the order of a Reconstruction's."""
        runner, autoencoder = load_trained(self.data, self.params)
        reconstruct = Reconstructor(autoencoder, runner, self.params)
        part = reconstruct(self.members, self._networks(), self.number)
        return (self.split, self.number), [x.numpy() for x in part.outputs]


def reconstruct_splits(data: Path, params: Params) -> dict[str, Reconstruction]:
    """Reconstruct the members of every held-out split that has any, part by part.

    Args:
        data: folder of the artefacts.
        params: all settings; the executor is one of them.

    """
    zoo = Zoo.open(data / ZOO_FOLDER, params.width)
    tables = {split: table for split in HELD_OUT if len(table := zoo.select(split))}
    size = max(1, min(MEMBERS, NUMBERS // zoo.spec.numel))
    where = device(params.runtime).type
    jobs = [
        PartJob(data, params, split, number, table[rows], device=where)
        for split, table in tables.items()
        for number, rows in enumerate(block_slices(len(table), size))
    ]
    done = {}
    with progress("reconstruction", len(jobs)) as bar:
        for key, outputs in execute(jobs, params.runtime):
            done[key] = outputs
            bar.advance(note="parts")
    parts = {s: [done[job.split, job.number] for job in jobs if job.split == s] for s in tables}
    return {
        split: Reconstruction(
            table, *(torch.from_numpy(np.concatenate(x)) for x in zip(*parts[split], strict=True))
        )
        for split, table in tables.items()
    }


def of_other_widths(data: Path, params: Params) -> dict[str, dict[str, float]]:
    """Split -> how like their reconstructions members of every other width than 1 are.

    Metrics ``width_<width>_<metric>``, a few of :func:`reconstruction_metrics`.

    Args:
        data: folder of the artefacts.
        params: all settings.

    """
    out: dict[str, dict[str, float]] = {}
    for one in params.each_width()[1:]:
        for split, rebuilt in reconstruct_splits(data, one).items():
            metrics = reconstruction_metrics(rebuilt, params.evaluate, params.seed)
            chosen = {k: metrics[k] for k in OF_WIDTHS}
            out[split] = out.get(split, {}) | m.prefixed(f"width_{one.width:g}", chosen)
    return out


def reconstruction_metrics(
    r: Reconstruction, settings: EvaluateSettings, seed: int
) -> dict[str, float]:
    """All metrics of one split.

    Suffix ``_random``: on random inputs; ``_late``: members of the last snapshot only. Prefix
    ``encoder_only_``: without refinement;
    ``control_other_member_``: another network in place of the reconstruction.

    Args:
        r: outputs of the members of the split.
        settings: section ``evaluate`` of params.yaml.
        seed: root seed.

    """
    out = _likeness(r.original, r.rebuilt, "")
    out |= _likeness(r.original_random, r.rebuilt_random, "_random")
    out |= _intervals(r, settings, seed)
    finished = (r.members["snapshot"] == r.members["snapshot"].max()).to_numpy()
    last = torch.tensor(finished)
    out |= _likeness(r.original[last], r.rebuilt[last], "_late")
    first = _likeness(r.original, r.encoder_only, "")
    first |= _likeness(r.original[last], r.encoder_only[last], "_late")
    shown = ("_mean", "_r2", "error_overlap")
    out |= {f"encoder_only_{k}": v for k, v in first.items() if any(part in k for part in shown)}
    out |= _other_member(r.members[finished], r.original[last])
    out["members"] = len(r.members)
    out["tasks"] = int(r.members["task"].nunique())
    return out


def _likeness(a: Tensor, b: Tensor, suffix: str) -> dict[str, float]:
    """Mean, min and max of each score over members; chance, kappa.

    Where labels exist accuracy, and overlap of errors over members with any.

    Args:
        a: outputs of the originals ``(M, B, c)``.
        b: outputs of the reconstructions ``(M, B, c)``.
        suffix: of the names; ``_random`` where there are no labels.

    """
    out = {}
    for name, score in SCORES.items():
        values = score(a, b)
        for part in ("mean", "min", "max"):
            out[f"{name}_{part}{suffix}"] = float(getattr(values, part)())
    out[f"agreement_chance{suffix}"] = float(m.chance_agreement(a, b).mean())
    out[f"kappa{suffix}"] = float(m.kappa(a, b).mean())
    if suffix != "_random":
        out[f"error_overlap{suffix}"] = _error_overlap(a, b)
        before, after = accuracies(a).numpy(), accuracies(b).numpy()
        out[f"accuracy_original{suffix}"] = float(before.mean())
        out[f"accuracy_reconstructed{suffix}"] = float(after.mean())
        out[f"accuracy_r2{suffix}"] = m.r2_pearson(before, after)
        out[f"accuracy_r2_identity{suffix}"] = m.r2_identity(before, after)
    return out


def _error_overlap(a: Tensor, b: Tensor) -> float:
    """Mean overlap of errors of outputs ``(M, B, c)`` with others, where there are any; else NaN."""
    values = m.overlap_of_pairs(*(x.argmax(-1) != labels_of(x) for x in (a, b)))
    return float(values[values.isfinite()].mean())


def _other_member(members: pd.DataFrame, outputs: Tensor) -> dict[str, float]:
    """How alike two finished networks of one task with like accuracies on val images are.

    Args:
        members: table of M finished networks.
        outputs: of each ``(M, B, c)``.

    """
    result = Result("accuracy").of_members(members)
    pairs = m.pairs_alike(members["task"].to_numpy(), members["run"].to_numpy(), result)
    a, b = (outputs[torch.from_numpy(rows)] for rows in pairs.T)
    return {
        "control_other_member_agreement_mean_late": float(m.agreement(a, b).mean()),
        "control_other_member_error_overlap_late": _error_overlap(a, b),
        "control_other_member_pairs": len(pairs),
    }


def _intervals(r: Reconstruction, settings: EvaluateSettings, seed: int) -> dict[str, float]:
    """95 % bootstrap intervals of the means and of accuracy R2, over class sets.

    Args:
        r: outputs of the members.
        settings: says how often class sets are drawn.
        seed: root seed.

    """
    tasks, unit = np.unique(r.members["task"], return_inverse=True)
    before, after = accuracies(r.original).numpy(), accuracies(r.rebuilt).numpy()
    rows = [np.flatnonzero(unit == t) for t in range(len(tasks))]
    class_sets = r.members.groupby("task")["class_set"].first().to_numpy()  # of each task, as above

    def mean_of(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[np.ndarray], float]:
        values = score(r.original, r.rebuilt).numpy()
        means = np.array([values[i].mean() for i in rows])
        return lambda index: float(means[index].mean())

    def r2(index: np.ndarray) -> float:
        chosen = np.concatenate([rows[i] for i in index])
        return m.r2_pearson(before[chosen], after[chosen])

    out: dict[str, float] = {}
    statistics = {name: mean_of(score) for name, score in SCORES.items()} | {"accuracy_r2": r2}
    for name, statistic in statistics.items():
        rng = stream(seed, "evaluate", "bootstrap", name)
        out |= m.with_interval(name, statistic, class_sets, settings.bootstrap, rng)
    return out


def over_epochs(r: Reconstruction) -> pd.DataFrame:
    """Scores per snapshot, on real and on random inputs: the two curves of the original study."""
    rows = []
    for snapshot, group in r.members.groupby("snapshot"):
        index = torch.tensor(group.index.to_numpy())
        row = {"snapshot": snapshot, "epoch": group["epoch"].median()}
        pairs = {"real": (r.original, r.rebuilt), "random": (r.original_random, r.rebuilt_random)}
        for inputs, (a, b) in pairs.items():
            row |= {f"{inputs}_{k}": float(f(a[index], b[index]).mean()) for k, f in SCORES.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def scatter(r: Reconstruction, points: int, seed: int) -> pd.DataFrame:
    """Accuracy before and after the autoencoder, of at most so many members drawn at random.

    Args:
        r: outputs of the members.
        points: members at most.
        seed: root seed.

    """
    table = pd.DataFrame(
        {"original": accuracies(r.original).numpy(), "reconstructed": accuracies(r.rebuilt).numpy()}
    )
    chosen = stream(seed, "evaluate", "scatter").permutation(len(table))[:points]
    return table.iloc[np.sort(chosen)]
