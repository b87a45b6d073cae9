"""The table at the end of ``make repro``: figures, chance, and those of the original study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from weightspace.artifacts import read_json, structured
from weightspace.report import markdown, provenance

# D. J. Swanevelder, "A Contrastive Approach to Weight Space Learning", slide with the final figures
PUBLISHED = {
    "cosine": "-0.082",
    "correlation": "0.016",
    "agreement": "31.21 % (2.06 to 64.88)",
    "accuracy_r2": "0.006",
}


def show(root: Path) -> None:
    """Print the results of the committed or latest run."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    for part in results(root):
        console.print(part)
    console.print(
        "Plots: `dvc plots show` (data in metrics/plots). All figures: `dvc metrics show`."
    )


def as_markdown(root: Path) -> str:
    """Give the same results as Markdown, for README and docs."""
    parts = [*results(root), *more_results(root), *filter(None, [provenance.line(root)])]
    return "\n\n".join(p if isinstance(p, str) else markdown.table(p) for p in parts)


def results(root: Path) -> Iterator[Table | str]:
    """Tables and notes of every test split, in order."""
    files = {name: root / "metrics" / f"{name}.json" for name in SHOWN}
    figures = {name: read_json(path) for name, path in files.items()}
    for split in ("test_sets", "test_classes"):
        for name, makers in SHOWN.items() if split in figures["reconstruction"] else ():
            with structured(files[name]):
                parts = [part for make in makers for part in make(figures[name][split], split)]
            yield from parts
    generation = root / "metrics" / "generation.json"
    if generation.is_file():  # results of earlier versions have none
        with structured(generation):
            table = generation_table(read_json(generation))
        yield table


def more_results(root: Path) -> Iterator[Table]:
    """Tables that are not shown at the end of ``make repro``."""
    makers = {
        "properties": properties_table,
        "novelty": novelty_table,
        "distribution": distribution_table,
        "baselines": baselines_table,
    }
    for name, make in makers.items():
        path = root / "metrics" / f"{name}.json"
        for split, figures in (read_json(path) if path.is_file() else {}).items():
            if split.startswith("test"):
                with structured(path):
                    table = make(figures, split)
                yield table


def reconstruction_table(figures: dict[str, Any], split: str) -> Table:
    """Likeness of reconstructed and original networks."""
    title = f"Reconstruction, {split}: {figures['members']} networks of {_tasks(figures)}"
    table = Table(title=title, title_justify="left")
    for column in ("", "mean (range) over networks", "chance", "original study"):
        table.add_column(column)
    for name in ("cosine", "correlation"):
        table.add_row(name, _range(figures, name, ""), "0", PUBLISHED[name])
    chance = f"{100 * figures['agreement_chance']:.1f} %"
    table.add_row("agreement", _range(figures, "agreement", "%"), chance, PUBLISHED["agreement"])
    late, late_chance = (_percent(figures, f"agreement_{k}_late") for k in ("mean", "chance"))
    table.add_row("agreement, last snapshots", late, late_chance, "")
    first, last = (_percent(figures, f"encoder_only_agreement_mean{k}") for k in ("", "_late"))
    plain = f"{first}, last snapshots {last}"
    table.add_row("agreement, encoder alone (no refinement)", plain, chance, "")
    other = figures.get("control_other_member_agreement_mean_late")  # an earlier version has none
    if other is not None:
        name = "agreement of two finished networks of a task, like accuracy"
        table.add_row(name, f"{100 * other:.1f} %", "", "")
        overlap, alone, two = (
            _number(figures[f"{k}error_overlap_late"])
            for k in ("", "encoder_only_", "control_other_member_")
        )
        values = f"{overlap}, encoder alone {alone}, two finished networks {two}"
        table.add_row("overlap of errors, last snapshots", values, "", "")
    r2, low, high = (_number(figures[f"accuracy_r2{end}"]) for end in ("", "_low", "_high"))
    r2 += f" (95 % interval {low} to {high})"
    table.add_row("input-vs-output accuracy R2", r2, "0", PUBLISHED["accuracy_r2"])
    return table


def _tasks(figures: dict[str, Any]) -> str:
    """Count of tasks, and whether the method cards have none of their class sets."""
    zero_shot = figures.get("zero_shot")  # an earlier version has no cards
    if zero_shot is None:
        return f"{figures['tasks']} unseen tasks"
    return f"{figures['tasks']} tasks, zero-shot: {'yes' if zero_shot else 'no'}"


def sampling_table(figures: dict[str, Any], split: str) -> Table:
    """Achieved results against the targets, of sampled networks and of the controls."""
    result = "accuracy" if "accuracy_at_top" in figures else "loss"
    table = Table(
        title=f"Sampling from P(W | D, R), {split}: {_tasks(figures)}",
        title_justify="left",
    )
    for column in (
        "",
        "R2 (achieved = target)",
        "MAE",
        "of each third of the targets",
        "rank corr. in a task",
        f"{result} at the highest target",
    ):
        table.add_column(column)
    for rows in _sampling_rows(figures):
        for name, prefix in rows.items():
            r2, mae, rank, top = (
                _number(figures.get(prefix + k))
                for k in ("r2_identity", "mae", "spearman_within_task", f"{result}_at_top")
            )
            table.add_row(name, r2, mae, _thirds(figures, prefix), rank, top)
        table.add_section()
    single, best = (figures.get(f"{result}_scratch{suffix}") for suffix in ("_single", ""))
    table.add_row("trained from scratch: mean run", "", "", "", "", _number(single))
    table.add_row("trained from scratch: best run on val images", "", "", "", "", _number(best))
    return table


def _thirds(figures: dict[str, Any], prefix: str) -> str:
    """Mean absolute error of the lowest, middle and highest targets."""
    errors = [figures.get(f"{prefix}mae_third_{i}") for i in (1, 2, 3)]
    return "-" if None in errors else " / ".join(map(_number, errors))


def _sampling_rows(figures: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the table, name -> prefix of their figures: draws without gradients, guided, controls."""
    among = {k: f"best of {figures.get(k)} on train images" for k in ("draws", "guided_draws")}
    cost = figures.get("image_gradients")  # an earlier version has none
    each = "" if cost is None else f" ({cost:,} labelled image-gradients each)"
    more = {"requests at quantiles of train results, without gradients": "quantiles_"}
    return [
        {
            "draws without gradients": "unguided_",
            f"{among['draws']}, without gradients": "unguided_best_of_n_",
        }
        | (more if "quantiles_mae" in figures else {}),
        {f"guided draws{each}": "", f"{among['guided_draws']}, guided": "best_of_n_"},
        {
            "D only, without gradients": "control_d_only_",
            "R only, without gradients": "control_r_only_",
            "D shuffled, without gradients": "control_shuffled_d_",
            "R shuffled, without gradients": "control_shuffled_r_",
            "one class of D replaced, without gradients": "control_one_other_class_",
            "drawn for another D, guided by the own": "control_other_d_guided_by_own_",
            "unconditional draw, guided": "control_guidance_only_",
            "guided head, average backbone": "control_head_only_",
            "nearest training task's network": "control_nearest_task_",
            "the same with noise": "control_noised_copy_",
            "average of networks": "control_average_",
        },
    ]


def finetuning_table(figures: dict[str, Any], split: str) -> Table:
    """Accuracy after fine-tuning from several starts, beside what a start cost, and of ensembles."""
    title = f"Fine-tuning and ensembles, {split}: mean test accuracy over {figures['tasks']} tasks"
    table = Table(title=title, title_justify="left")
    cost = "labelled image-gradients on the task"
    after = ("as it starts", "fine-tuned 1 epoch", "fine-tuned 5 epochs")
    for column in ("start", f"{cost}, before", *after):
        table.add_column(column)
    drawn = _drawn(figures)
    names = {
        "sampled": drawn,
        "control_nearest_task": "nearest training task's network",
        "control_random": "random initialisation",
    }
    for key, name in names.items():
        values = (_number(figures[f"{key}_epoch_{epoch}"]) for epoch in (0, 1, 5))
        table.add_row(name, _cost(figures, key), *values)
    table.add_section()
    table.add_row("", cost, "single", "best on train and val", f"ensemble of {figures['ensemble']}")
    for key, name in (("sampled", drawn), ("scratch", "trained from scratch")):
        kinds = ("single", "best", "ensemble")
        values = (_number(figures[f"{key}_{kind}"]) for kind in kinds)
        table.add_row(f"{name}, each", _cost(figures, key), *values)
    return table


def _drawn(figures: dict[str, Any]) -> str:
    """What sampled networks are: guided, unless the figures say that no gradient was taken."""
    return (
        "draw without gradients" if figures.get("sampled_image_gradients") == 0 else "guided draw"
    )


def _cost(figures: dict[str, Any], start: str) -> str:
    """Labelled image-gradients of a kind of start; ``-`` where an earlier version did not count."""
    count = figures.get(f"{start}_image_gradients")
    return "-" if count is None else f"{count:,}"


def properties_table(figures: dict[str, Any], split: str) -> Table:
    """What weights tell about training, from the latent and from simpler readings."""
    title = f"Properties read off the weights, {split}: {figures['members']} networks"
    columns = {
        "test accuracy, R2": "test_accuracy_r2",
        "rank corr. (Kendall)": "test_accuracy_tau",
        "generalisation gap, R2": "generalisation_gap_r2",
        "epoch, R2": "epoch_r2",
        "optimizer, share right": "optimizer_accuracy",
        "classes, share found": "classes_recall",
        "class set, share exact": "classes_exact",
    }
    rows = {
        "latent": "latent",
        "weight statistics (Unterthiner et al.)": "control_weight_statistics",
        "raw weights": "control_raw_weights",
        "hyper-parameters only": "control_hyperparameters",
        "nothing: the mean, the commonest": "control_mean",
        "nothing: classes drawn at random": "control_chance",
    }
    return _grid(title, "read from", rows, columns, figures)


def novelty_table(figures: dict[str, Any], split: str) -> Table:
    """How far samples are from the training members, beside what that distance is worth."""
    title = (
        f"Novelty, {split}: {figures['networks']} sampled networks, {figures['members']} members"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "sampled networks", "members of the zoo"):
        table.add_column(column)
    rows = {
        "distance to the nearest train member, aligned weights": "weight_distance",
        "distance to the nearest train member, predictions": "function_distance",
    }
    _add_pairs(table, rows, ("", "_leave_one_out"), figures)
    overlap = {"overlap of errors of two networks of one task": "error_overlap"}
    _add_pairs(table, overlap, ("_draws", "_members"), figures)
    accuracy = {
        "accuracy": "accuracy",
        "accuracy of the nearest training task's network": "control_accuracy_nearest_task",
        "the same with noise of the samples' distance": "control_accuracy_noise_same_distance",
        "midpoint of the two nearest tasks' networks": "control_accuracy_interpolation",
    }
    for name, key in accuracy.items():
        table.add_row(name, _number(figures.get(key)), "")
    return table


def distribution_table(figures: dict[str, Any], split: str) -> Table:
    """How well draws in one pass are told from members, and how alike two of them are."""
    title = (
        f"Draws in one pass and trained networks, {split}: ROC-AUC of telling "
        f"{figures['networks']} of each kind apart (.5: impossible)"
    )
    kinds = {"outputs": "outputs", "norms of tensors": "weights", "matched weights": "matched"}
    columns = {
        f"{name}, {classifier}": f"{kind}{suffix}"
        for name, kind in kinds.items()
        for classifier, suffix in (("trees", ""), ("logistic regression", "_linear"))
    }
    rows = {
        "draws in one pass": "auc",
        "another member of like result": "null_auc",
        "reconstructions in one pass": "reconstruction_auc",
        "half of the members, the other half": "control_exact_auc",
        "too narrow: between two members": "control_narrow_auc",
        "too wide: members with noise": "control_wide_auc",
    }
    table = _grid(title, "told from members", rows, columns, figures)
    table.add_section()
    table.add_row("two of one request, ensembles", "draws in one pass", "members")
    pairs = {
        "agreement": "agreement",
        "overlap of errors": "error_overlap",
        "accuracy of an ensemble at the highest target": "ensemble_accuracy",
        "its gain over a single network": "ensemble_gain",
        "loss of accuracy on the line between two": "barrier",
        "the same after matching": "barrier_matched",
    }
    _add_pairs(table, pairs, ("_draws", "_members"), figures)
    return table


def baselines_table(figures: dict[str, Any], split: str) -> Table:
    """Networks that others make for the same requests: what they do, and the gradients that one took."""
    result = "accuracy" if any(k.endswith("accuracy_at_top") for k in figures) else "loss"
    title = f"Baselines with the same information, {split}: one network for each request"
    columns = {
        "MAE": "mae",
        f"mean {result} at the top": f"{result}_at_top_mean",
        "agreement of two": "agreement_draws",
        "overlap of errors": "error_overlap_draws",
        "told by outputs, AUC": "auc_outputs",
    }
    table = Table(title=title, title_justify="left")
    for column in ("", "R2 (95 %)", *columns, "image-gradients", "chosen on val", "tasks"):
        table.add_column(column)
    rows = {
        "hypernetwork: no population, trained to hit R": "hypernetwork",
        "trained from scratch until the target": "train_and_stop",
        "nearest training task's network, trained until the target": "train_and_stop_nearest_task",
        "best of all train members, in all orders of outputs": "best_of_zoo",
        "nearest task's network, output layer by ridge regression": "ridge_head",
        "steps of a guided draw: random weights": "steps_random",
        "the same: the decoder's network": "steps_reference",
        "the same: nearest task's network": "steps_nearest_task",
        "the same: random subspace through the decoder's network": "steps_random_subspace",
        "the same: first components through it": "steps_pca_subspace",
        "the same: latents drawn without R": "steps_d_only",
        "the same: latents drawn without D": "steps_r_only",
    }
    for name, key in rows.items():
        if f"{key}_{result}_at_top_mean" in figures:
            cells = [_number(figures.get(f"{key}_{value}")) for value in columns.values()]
            cells = [with_interval(figures, f"{key}_r2_identity"), *cells]
            count = figures.get(f"{key}_tasks")
            cost = f"{figures[f'{key}_image_gradients']:,.0f}"
            tasks = "all" if count is None else f"{count}"
            table.add_row(name, *cells, cost, _setting(figures, key), tasks)
    return table


def with_interval(figures: dict[str, Any], key: str) -> str:
    """A figure and its interval, where it has one."""
    value, low, high = (figures.get(key + end) for end in ("", "_low", "_high"))
    return _number(value) + ("" if low is None else f" ({_number(low)} to {_number(high)})")


def _setting(figures: dict[str, Any], key: str) -> str:
    """Settings of a baseline, and for how many targets a better one may lie beyond those tried."""
    for name in ("rate", "penalty"):
        if f"{key}_{name}_low" in figures:
            low, high, edge = (figures[f"{key}_{name}_{k}"] for k in ("low", "high", "at_edge"))
            to = f" to {high:g}" if high > low else ""
            return f"{name} {low:g}{to}" + (f", {100 * edge:.0f} % at the edge" if edge else "")
    return ""


def _add_pairs(
    table: Table, rows: dict[str, str], ends: tuple[str, str], figures: dict[str, Any]
) -> None:
    """Add rows of two figures each.

    Args:
        table: what they are added to.
        rows: name -> start of the keys.
        ends: of the two keys.
        figures: metrics of one split.

    """
    for name, key in rows.items():
        table.add_row(name, *(_number(figures.get(key + end)) for end in ends))


def generation_table(figures: dict[str, Any]) -> Table:
    """Networks drawn from the latents alone and their controls; no split, for no task is asked."""
    title = (
        f"Generation without a condition: {figures['networks']} networks of each kind; "
        "distances to the nearest good train member"
    )
    columns = {
        "accuracy": "accuracy",
        "agreement between networks": "agreement",
        "weight distance": "weight_distance",
        "function distance": "function_distance",
    }
    rows = {
        "Gaussian of all latents": "prior",
        "each entry on its own (kernel density)": "kde",
        "around a good member": "neighbourhood",
        "good train members themselves": "members",
        "members with noise of the same distance": "control_noised",
        "average of two members": "control_average",
        "random initialisation": "control_random",
    }
    return _grid(title, "", rows, columns, figures)


def _grid(
    title: str, corner: str, rows: dict[str, str], columns: dict[str, str], figures: dict[str, Any]
) -> Table:
    """Table of the figures ``{row}_{column}``; names of rows and columns -> these parts of a key."""
    table = Table(title=title, title_justify="left")
    for column in (corner, *columns):
        table.add_column(column)
    for name, row in rows.items():
        table.add_row(name, *(_number(figures.get(f"{row}_{key}")) for key in columns.values()))
    return table


def notes(figures: dict[str, Any]) -> list[str]:
    """Retrieval and diversity of one split, a line each."""
    recall = ", ".join(
        f"{name} {figures[key]:.3f} (late {figures[key + '_late']:.3f}, chance {figures[key + '_chance']:.3f})"
        for name, key in (
            ("(D, R) to weights", "d_to_w_recall_at_1"),
            ("weights to D", "w_to_d_recall_at_1"),
        )
    )
    out = [f"Retrieval, recall@1 of the ordered task: {recall}"]
    running = _number(figures.get("w_to_d_by_running_recall_at_1"))
    out[0] += f"; running every network on every task {running}"
    if figures.get("r2_identity_ceiling") is not None:
        out.append(
            "Noise: with so few test images, networks of exactly the requested accuracy would have "
            f"R2 {figures['r2_identity_ceiling']:.3f}"
        )
    if figures.get("agreement_between_members") is not None:
        draws, members = (figures[f"agreement_between_{k}"] for k in ("draws", "members"))
        guided = "" if figures.get("image_gradients") == 0 else "guided "
        out.append(
            f"Diversity: two {guided}draws of one (D, R) agree on {100 * draws:.1f} % of the images, "
            f"two trained networks of like result on {100 * members:.1f} %"
        )
    return out


def _range(figures: dict[str, Any], name: str, unit: str) -> str:
    mean, low, high = (figures[f"{name}_{part}"] for part in ("mean", "min", "max"))
    if unit == "%":
        return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _percent(figures: dict[str, Any], name: str) -> str:
    """Share as text; ``-`` where an earlier version did not measure it."""
    value = figures.get(name)
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# Files of metrics -> what makes tables and notes of one split of each, in the order shown.
SHOWN: dict[str, tuple[Callable[[dict[str, Any], str], Iterable[Table | str]], ...]] = {
    "reconstruction": (lambda figures, split: [reconstruction_table(figures, split)],),
    "sampling": (
        lambda figures, split: [sampling_table(figures, split)],
        lambda figures, _: notes(figures),
    ),
    "finetuning": (lambda figures, split: [finetuning_table(figures, split)],),
}
