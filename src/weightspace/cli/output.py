"""What the commands show: tables on standard output, warnings on standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from weightspace.artifacts import check_file, new_folder, write_parquet
from weightspace.data.dataset import PARTS
from weightspace.data.images import GivenTask
from weightspace.errors import problem
from weightspace.project.project import Project, is_latents
from weightspace.project.samples import Samples, file_name
from weightspace.weights.checkpoints import find
from weightspace.zoo.imported import Imported

ROWS = 20  # of a table on screen; the file has all


def console() -> Console:
    """Standard output, wide enough for a table where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)


def warn(messages: list[str]) -> None:
    """Print a line on standard error for each message."""
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)


def show_table(table: pd.DataFrame, title: str) -> None:
    """Show the first rows of a table under its title; numbers with three decimals."""
    shown = Table()
    for name in table:
        numeric = pd.api.types.is_float_dtype(table[name])
        justify: JustifyMethod = "right" if numeric else "left"
        shown.add_column(str(name).replace("_", " "), justify=justify, no_wrap=not numeric)
    for row in table.head(ROWS).itertuples(index=False):
        shown.add_row(*(_cell(value) for value in row))
    out = console()
    out.print(escape(title))
    out.print(shown)
    if len(table) > ROWS:
        out.print(f"... and {len(table) - ROWS} more")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return escape(str(value))


def show_samples(samples: Samples, out: Path) -> None:
    """Show what sampled networks achieve."""
    task, request = samples.task, samples.request
    show_notes(task)
    columns = ["file", *(f"{p}_{k}" for p in task.parts for k in ("accuracy", "loss"))]
    show_table(
        samples.table[columns],
        f"{', '.join(task.classes)}: {request.result.name} {request.target:g} asked",
    )
    got = samples.summary()
    print(
        f"{samples.measured_on} {request.result.name}: mean {got['mean']:.3f}, median {got['median']:.3f}, "
        f"{got['min']:.3f} to {got['max']:.3f}; mean distance from the request {got['distance']:.3f}"
    )
    print(f"Written to {out}: networks, samples.parquet, report.json, MODEL_CARD.md")


def show_import(imported: Imported, out: Path) -> None:
    """Show what an imported zoo holds."""
    columns = [f"{part}_accuracy" for part in PARTS]
    table = imported.members.groupby("snapshot")[columns].mean().reset_index()
    table.insert(1, "members", imported.members.groupby("snapshot").size().to_numpy())
    show_table(table, "Measured, mean per snapshot")
    for note in imported.notes:
        print(note)
    print(f"Written to {out}: {table['members'].sum()} networks, read again and measured again")


def check_encode(paths: list[Path], out: Path) -> None:
    """Refuse, before anything is loaded, a file that `encode` must not write over."""
    if out.suffix != ".safetensors":
        raise problem("not a .safetensors file", where=out, do="name it with that ending")
    check_file(out, is_latents, [file for path in paths for file in find(path)])


def encode_files(project: Project, paths: list[Path], out: Path) -> None:
    """Encode checkpoints and say where the latents are."""
    files = [file for path in paths for file in find(path)]
    latents = project.encode(project.networks(*files))
    project.save_latents(out, latents, [str(f) for f in files])
    print(f"Written to {out}: {len(latents)} latents of {latents.shape[1]} numbers")


def decode_file(project: Project, path: Path, out: Path) -> None:
    """Decode latents into a folder of networks."""
    latents, names = project.load_latents(path)
    weights = project.decode(latents)
    classes = [str(i) for i in range(project.dataset.classes.shape[1])]
    same = {"classes": classes, "provenance": project.provenance()}
    files = [file_name(i) for i in range(len(latents))]
    with new_folder(out) as folder:
        project.save(folder, files, weights, [same | {"decoded_from": name} for name in names])
        write_parquet(folder / "networks.parquet", pd.DataFrame({"file": files, "latent": names}))
    print(f"Written to {out}: {len(files)} networks and networks.parquet")


def show_comparison(project: Project, a: Path, b: Path, task: GivenTask) -> None:
    """Show how alike networks behave.

    Args:
        project: the finished project.
        a: a checkpoint or a folder of them.
        b: another one, or as many others.
        task: labelled images.

    """
    table = project.compare(project.networks(a), project.networks(b), task)
    table.insert(0, "a", [file.stem for file in find(a)])
    table.insert(1, "b", [file.stem for file in find(b)])
    show_notes(task)
    show_table(table, f"{sum(task.images_per_class.values())} images of each class")
    if len(table) > 1:
        mean = table.drop(columns=["a", "b"]).mean()
        print("mean: " + ", ".join(f"{k} {v:.3f}" for k, v in mean.items()).replace("_", " "))


def retrieve_networks(
    project: Project,
    task: GivenTask,
    accuracy: float | None,
    loss: float | None,
    n: int,
    out: Path | None,
) -> None:
    """Show members of the zoo that fit a dataset, and write them where a folder is given.

    Args:
        project: the finished project.
        task: the dataset.
        accuracy: result to look for, 0 to 1; the best if None.
        loss: the same, where R is the loss.
        n: members to show.
        out: new folder for their weights; None to write none.

    """
    table, weights = project.retrieve(task, accuracy=accuracy, loss=loss, n=n)
    show_notes(task)
    on_images = [f"on_{part}_accuracy" for part in task.parts]
    columns = [
        "member",
        "classes",
        "split",
        "similarity",
        f"test_{project.result.name}",
        *on_images,
    ]
    show_table(table[columns], "Networks of the zoo; the last columns are on your images")
    if out is None:
        return
    table.insert(0, "file", [file_name(i) for i in range(len(table))])
    info = [
        {"classes": row["classes"].split(","), "member": int(row["member"])}
        for row in table.to_dict("records")
    ]
    with new_folder(out) as folder:
        project.save(folder, list(table["file"]), weights, info)
        write_parquet(folder / "networks.parquet", table)
    print(f"Written to {out}: {len(table)} networks and networks.parquet")


def show_tasks(project: Project, path: Path, n: int) -> None:
    """Show the tasks that networks were most likely trained on."""
    tables = project.retrieve_tasks(project.networks(path), n=n)
    for file, table in zip(find(path), tables, strict=True):
        show_table(table, f"{file.name}: tasks of the dataset it fits best")


def show_predictions(project: Project, paths: list[Path]) -> None:
    """Show what weights tell, and how wrong such readings are on held-out networks."""
    files = [file for path in paths for file in find(path)]
    predicted = project.predict(project.networks(*files))
    predicted.table.insert(0, "file", [f.name for f in files])
    show_table(predicted.table, "Read off the latents")
    show_table(predicted.errors, "Error on held-out networks of the zoo (test_sets)")
    for row in predicted.errors.to_dict("records"):
        if row["error"] >= row["of_a_constant"]:
            print(f"{row['property']}: no better than a constant; do not use it".replace("_", " "))


def show_facts(facts: Mapping[str, object]) -> None:
    """Show names and values, a line each."""
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, escape(str(value)))
    console().print(table)


def show_notes(task: GivenTask) -> None:
    """Say what was done to the images."""
    for note in task.notes:
        print(f"{task.source}: {note}")
