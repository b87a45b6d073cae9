"""The report: one page with the question, the pipeline, results, plots and a gallery."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from weightspace.artifacts import begins, check_file, read_json, structured, write_bytes
from weightspace.params import Params, read_yaml, settings_of_project
from weightspace.report import tables as results
from weightspace.report.html import element, page, picture, steps, table
from weightspace.report.plots import draw_plot

SPLITS = {
    "test_sets": "Unseen class sets: every class was seen in training, this choice of classes never.",
    "test_classes": "Unseen classes: every task has classes that no training task had.",
}
UNSEEN = {"test_sets": "unseen class sets", "test_classes": "unseen classes"}
# file of metrics -> its table
TABLES: dict[str, Callable[[dict[str, Any], str], Table]] = {
    "reconstruction": results.reconstruction_table,
    "sampling": results.sampling_table,
    "distribution": results.distribution_table,
    "baselines": results.baselines_table,
    "finetuning": results.finetuning_table,
    "properties": results.properties_table,
    "novelty": results.novelty_table,
}
# the same of files whose metrics belong to no split
WHOLE: dict[str, Callable[[dict[str, Any]], Table]] = {"generation": results.generation_table}
STEPS = {
    "dataset": "fix the images of each class, draw ordered tasks, split them by class set",
    "zoo": "train the population, keep several snapshots of each run",
    "outputs": "what train and val members give for known images",
    "pca": "one basis per named tensor",
    "autoencoder": "autoencoder between weights W and latent z",
    "shared_encoder": "dataset D and result R to the latents, by contrastive learning",
    "evaluate": "every metric with those of its controls, on tasks that no stage was fitted to",
}
CAPTIONS = {
    "pca_against_k.csv": "Val networks rebuilt from k coefficients per tensor, without autoencoder.",
    "autoencoder_loss.csv": "Members of train runs against members of val runs.",
    "outputs_over_epochs.csv": "Held-out networks by age. Solid: on test images, dashed: on noise.",
    "accuracy_scatter.csv": "Each point is one held-out network, before and after the autoencoder.",
    "shared_encoder_loss.csv": "Members of train runs against members of val runs.",
    "latent_heatmap.csv": "Row and column of one task are at the same position; 1 on the diagonal is best.",
    "calibration.csv": "Networks drawn in one pass for held-out tasks; on the grey line requests are met.",
}
AGAIN = "run make repro"
TITLE = "weightspace: report"


def write(root: Path, out: Path) -> list[str]:
    """Write the page of a project, as far as it is finished.

    Args:
        root: folder of the project.
        out: HTML file.

    Returns:
        What was written and what is missing, a line each.

    Raises:
        WeightspaceError: no settings, a file that is there but damaged, or ``out`` is another file.

    """
    check_file(out, begins(re.escape(page(TITLE, "").partition("<style>")[0])))
    missing: list[str] = []
    settings = root / "params.yaml"
    params = settings_of_project(read_yaml(settings), settings)
    metrics = _metrics(root, missing)
    with structured(root / "metrics"):
        body = [head(params, metrics), pipeline(root), tables(metrics)]
    body.append(plots(root, missing))
    body.append(element("h2", "Gallery") + _gallery(root, missing))
    said = "".join(f"<li><code>{name}</code></li>" for name in missing)
    if said:
        text = f"<p>This page is not complete; {AGAIN}. Missing:</p><ul>{said}</ul>"
        body.insert(1, f'<div class="missing">{text}</div>\n')
    write_bytes(out, page(TITLE, "".join(body)).encode())
    return [f"Written to {out}", *(f"missing: {name}; {AGAIN}" for name in missing)]


def _metrics(root: Path, missing: list[str]) -> dict[str, dict[str, Any]]:
    """Metrics of every stage that has run; the name of what is missing is added to ``missing``."""
    out = {}
    for name in ("zoo", *TABLES, *WHOLE):
        path = root / "metrics" / f"{name}.json"
        if path.is_file():
            out[name] = read_json(path)
        else:
            missing.append(f"metrics/{name}.json")
    return out


def head(params: Params, metrics: dict[str, dict[str, Any]]) -> str:
    """Title, question, and the answer in numbers where there are any."""
    out = [element("h1", "Networks drawn from P(W | D, R)")]
    question = (
        "Can one ask for a network for this dataset D that performs this well (result R), and get "
        "its weights W from a distribution, for class sets of which autoencoder and sampler saw no network?"
    )
    out.append(element("p", question, "lead"))
    out += [element("p", text) for text in answers(metrics.get("sampling", {}))]
    zoo = metrics.get("zoo", {})
    count = f"{zoo['runs']} runs, {zoo['members']} networks; " if zoo else ""
    facts = (
        f"{params.dataset.source}, {params.dataset.classes_per_task} ordered classes per task; "
        f"{params.zoo.architecture}, {params.zoo.init} initialisation; {count}seed {params.seed}. "
        "All metrics are of one seed; intervals are over class sets."
    )
    return "".join([*out, element("p", facts, "soft")])


def answers(sampling: dict[str, Any]) -> Iterator[str]:
    """A sentence for each split on how well requests are met: without gradients, then guided."""
    for split in SPLITS:
        f = sampling.get(split, {})
        keys = ("unguided_r2_identity", "r2_identity", "draws", "tasks")
        if all(f.get(k) is not None for k in keys):
            other = f.get("control_shuffled_d_r2_identity")
            control = "" if other is None else f" Drawn with the D of another task: {other:.2f}."
            yield (
                f"On {f['tasks']} tasks of {UNSEEN[split]}, draws without gradients meet the request "
                f"with R2 {f['unguided_r2_identity']:.2f} (1 is exact); guided ones, which gradient "
                "steps on labelled train images have moved, with "
                f"{f['r2_identity']:.2f}.{control}"
            )


def pipeline(root: Path) -> str:
    """A box for each stage with what it does and, where it has run, how long it took."""
    boxes = []
    for name, what in STEPS.items():
        costs = sorted((root / "metrics" / "cost").glob(f"{name}*.json"))
        seconds = sum(read_json(path)["seconds"] for path in costs)
        boxes.append((name, f"{what} ({seconds:.0f} s)" if costs else what))
    return element("h2", "Pipeline") + steps(boxes)


def tables(metrics: dict[str, dict[str, Any]]) -> str:
    """Every table of every test split there is, then those of no split."""
    out = [element("h2", "Results")]
    for split, meaning in SPLITS.items():
        of_split = [
            table(make(metrics[name][split], split))
            for name, make in TABLES.items()
            if split in metrics.get(name, {})
        ]
        if of_split:
            out += [element("p", meaning), *of_split]
            if split in metrics.get("sampling", {}):
                out += [element("p", note, "soft") for note in _notes(metrics["sampling"][split])]
    out += [table(make(metrics[name])) for name, make in WHOLE.items() if name in metrics]
    out.append(
        element("p", "A dash is a metric that the run behind this page did not measure.", "soft")
        if len(out) > 1
        else element("p", f"No metrics yet; {AGAIN}.", "missing")
    )
    return "".join(out)


def _notes(metrics: dict[str, Any]) -> list[str]:
    """Notes on one split, where its retrieval was measured."""
    return results.notes(metrics) if "w_to_d_recall_at_1" in metrics else []


def plots(root: Path, missing: list[str]) -> str:
    """Every plot that the pipeline leaves data for."""
    out = [element("h2", "Plots"), '<div class="pictures">\n']
    for name, caption in CAPTIONS.items():
        path = root / "metrics" / "plots" / name
        if path.is_file():
            alt = f"Plot of {name.removesuffix('.csv').replace('_', ' ')}. {caption}"
            out.append(picture(draw_plot(path), "svg+xml", alt, caption))
        else:
            missing.append(f"metrics/plots/{name}")
    return "".join([*out, "</div>\n"])


def _gallery(root: Path, missing: list[str]) -> str:
    """The gallery, or a line where the project's data is not there."""
    from weightspace.project.project import load
    from weightspace.report import gallery

    absent = gallery.missing(root)
    if absent:
        missing += absent
        return element("p", f"Needs {', '.join(absent)}; {AGAIN}.", "missing")
    text = (
        "Test images of a few tasks, and the confusion matrices of one draw for the lowest, the middle "
        "and the highest trained result, guided by gradient steps on train images of the task as "
        "params.yaml says. Rows are true classes, columns predicted ones; nothing was chosen."
    )
    return element("p", text) + gallery.gallery(load(root))
