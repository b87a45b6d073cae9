"""A bundle of a finished project, tried against the project, with a card beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightspace.artifacts import check_file, read_json, write_bytes, write_json
from weightspace.autoencoders.base import encode_members
from weightspace.bundles.archive import FORMAT
from weightspace.bundles.locate import CARD, ENDING, is_bundle
from weightspace.bundles.writing import make
from weightspace.errors import problem
from weightspace.evaluate.metrics import agreement, r2_identity
from weightspace.project.project import Project, commit_of, load
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.zoo.runner import TaskRunner

SPLIT = "val"  # choices, such as that of the bits, are made on it
TASKS, NETWORKS, TARGETS, DRAWS = 60, 200, 9, 4  # tasks and members compared; draws for each target
MEGABYTE = 1_000_000


def write_bundle(
    project: Project, out: Path, bits: float, megabytes: float | None
) -> dict[str, Any]:
    """Write a bundle of a project, and beside it a card that says what its bits cost.

    Args:
        project: of a folder.
        out: file to write, one that was not there or an earlier bundle.
        bits: of a number.
        megabytes: that it may have; numbers get fewer bits where that is needed.

    Returns:
        The card.

    Raises:
        WeightspaceError: the project is a bundle itself or not complete, or ``out`` is another file.

    """
    if project.bundle is not None:
        raise problem("is a bundle itself", where=project.root, do="give the folder of a project")
    if len(project.params.zoo.widths) > 1:
        raise problem(
            "a bundle holds one width", where=project.root, got=list(project.params.zoo.widths)
        )
    check_out(out)
    most = None if megabytes is None else int(megabytes * MEGABYTE)
    data, used = make(project.root, commit_of(project.root), bits, most)
    out.with_suffix(CARD).unlink(missing_ok=True)  # it is of the bundle that is there
    write_bytes(out, data)
    card = _card(project, load(out), used)
    write_json(out.with_suffix(CARD), card)
    return card


def check_out(out: Path) -> None:
    """Refuse a file that a bundle must not be written to, before anything is computed."""
    if out.suffix != ENDING:
        raise problem(f"not a {ENDING} file", where=out, do="name it with that ending")
    check_file(out, is_bundle)
    check_file(out.with_suffix(CARD), lambda path: "made_from" in read_json(path))


def _card(project: Project, bundled: Project, bits: float) -> dict[str, Any]:
    """What is in a bundle, of what it was made, and what its bits cost."""
    assert bundled.bundle is not None
    dataset, summary = project.dataset, project.root / "metrics" / "summary.json"
    provenance = project.provenance()
    return {
        "format": FORMAT,
        "sha256": bundled.bundle.sha256,
        "bytes": bundled.root.stat().st_size,
        "bits": bits,
        "made_from": bundled.bundle.manifest.made_from,
        **{k: provenance[k] for k in ("weightspace", "commit", "trained_on", "architecture")},
        "images": list(dataset.shape),
        "classes": dataset.class_names,
        "classes_of_a_task": dataset.classes_per_task,
        "seed": project.params.seed,
        "result": project.result.name,
        "trained_range": list(project.trained_range),
        "figures": read_json(summary) if summary.is_file() else {},
        SPLIT: compare(project, bundled),
    }


def compare(project: Project, bundled: Project) -> dict[str, Any]:
    """Figures of a project and of its bundle on val tasks, from the same random numbers.

    Args:
        project: of a folder, with its zoo.
        bundled: of the bundle.

    Returns:
        ``project`` and ``bundle``, figures of draws in one pass and of finished networks rebuilt in one
        pass; ``same_predictions``, fraction of images on which both rebuild networks that agree.

    """
    members = project.zoo.select(SPLIT)
    finished = _some(members[members["snapshot"] == members["snapshot"].max()], NETWORKS)
    weights, tasks = project.zoo.weights(finished), finished["task"].to_numpy()
    rebuilt, figures = {}, {}
    original = TaskRunner(project.net, project.dataset).outputs(weights, tasks, "test")
    for name, one in (("project", project), ("bundle", bundled)):
        runner = TaskRunner(one.net, one.dataset)
        networks = one.decode(encode_members(one.autoencoder, weights).cpu())
        rebuilt[name] = runner.outputs(networks, tasks, "test")
        figures[name] = _draws(one, runner) | {
            "agreement_late": float(agreement(rebuilt[name], original).mean())
        }
    same = float(agreement(rebuilt["bundle"], rebuilt["project"]).mean())
    return {**figures, "same_predictions": same}


def _some(table: Any, most: int) -> Any:
    """Rows of a table, evenly over it."""
    return table.iloc[np.linspace(0, len(table) - 1, min(most, len(table))).round().astype(int)]


def _draws(project: Project, runner: TaskRunner) -> dict[str, float]:
    """R2, mean absolute error and accuracy at the highest target of draws in one pass."""
    tasks = project.dataset.tasks
    chosen = torch.tensor(_some(tasks[tasks["split"] == SPLIT], TASKS)["task"].to_numpy())
    targets = torch.linspace(*project.trained_range, TARGETS)
    of, target = chosen.repeat_interleave(TARGETS), targets.repeat(len(chosen))
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net)
    rng = torch_stream(project.params.seed, "bundle")
    networks = sampler.draw(Condition.of_tasks(project.dataset, of, target), DRAWS, rng)
    outputs = runner.outputs(networks, of.repeat_interleave(DRAWS).numpy(), "test")
    got, asked = project.result.of(outputs).numpy(), target.repeat_interleave(DRAWS).numpy()
    best = asked == np.float32(project.result.best(project.trained_range))
    return {
        "draw_r2": r2_identity(asked, got),
        "draw_mae": float(np.abs(got - asked).mean()),
        "draw_top": float(got[best].mean()),
    }
