"""What the commands show: tables on standard output, warnings on standard error."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from weightspace.artifacts import check_file, new_folder, write_parquet
from weightspace.data.dataset import PARTS
from weightspace.data.images import GivenTask
from weightspace.errors import printable, problem
from weightspace.project.network import class_names
from weightspace.project.project import Project, is_latents
from weightspace.project.samples import Samples, file_name
from weightspace.weights.checkpoints import find
from weightspace.zoo.imported import Imported

ROWS = 20  # of a table on screen; the file has all


def console() -> Console:
    """Standard output, wide enough for a table where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)


def warn(messages: Iterable[str]) -> None:
    """Print a line on standard error for each message."""
    for message in messages:
        print(f"warning: {printable(message)}", file=sys.stderr)


def plain(value: object) -> str:
    """Text for a table: no markup, no control characters."""
    return escape(printable(str(value)))


def checkpoints(paths: Iterable[Path]) -> list[Path]:
    """Checkpoints at some paths; one that is given twice is refused."""
    files = [file for path in paths for file in find(path)]
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise problem("is given twice", where=twice[0], do="name it once")
    return files


def labels(files: Sequence[Path]) -> list[str]:
    """Names of files, or their paths where names repeat.

    >>> labels([Path("a/1.pt"), Path("a/2.pt")]), labels([Path("a/1.pt"), Path("b/1.pt")])
    (['1.pt', '2.pt'], ['a/1.pt', 'b/1.pt'])
    """
    unique = len({file.name for file in files}) == len(files)
    return [file.name if unique else file.as_posix() for file in files]


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
    out.print(plain(title))
    out.print(shown)
    if len(table) > ROWS:
        out.print(f"... and {len(table) - ROWS} more")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return plain(value)


def show_samples(samples: Samples, out: Path) -> None:
    """Show what sampled networks achieve."""
    task, request = samples.task, samples.request
    show_notes(task)
    columns = ["file", *(f"{p}_{k}" for p in task.parts for k in ("accuracy", "loss"))]
    table = samples.table[columns]
    if samples.table["far_from_request"].any():
        far = samples.table["far_from_request"]
        table = table.assign(far_from_request=far.map({True: "yes", False: ""}))
    show_table(
        table,
        f"{', '.join(task.classes)}: {request.result.name} {request.target:g} asked",
    )
    got = samples.summary()
    print(
        f"{samples.measured_on} {request.result.name}: mean {got['mean']:.3f}, median {got['median']:.3f}, "
        f"{got['min']:.3f} to {got['max']:.3f}; mean distance from the request {got['distance']:.3f}"
    )
    print(f"Written to {out}: networks, samples.parquet, report.json, MODEL_CARD.md")


def show_import(imported: Imported, out: Path, *, believe: bool) -> None:
    """Show what an imported zoo holds."""
    columns = [f"{part}_accuracy" for part in PARTS]
    table = imported.members.groupby("snapshot")[columns].mean().reset_index()
    table.insert(1, "members", imported.members.groupby("snapshot").size().to_numpy())
    show_table(table, f"{'Believed' if believe else 'Measured'}, mean per snapshot")
    for note in imported.notes:
        print(note)
    how = "; results are the zoo's, none was measured" if believe else " and measured again"
    print(f"Written to {out}: {table['members'].sum()} networks, read again{how}")


def check_encode(paths: list[Path], out: Path) -> None:
    """Refuse, before anything is loaded, a file that `encode` must not write over."""
    if out.suffix != ".safetensors":
        raise problem("not a .safetensors file", where=out, do="name it with that ending")
    check_file(out, is_latents, checkpoints(paths))


def encode_files(project: Project, paths: list[Path], out: Path) -> None:
    """Encode checkpoints and say where the latents are."""
    files = checkpoints(paths)
    classes = [class_names(file) for file in files]
    latents = project.encode(project.networks(*files))
    project.save_latents(out, latents, [str(f) for f in files], classes)
    print(f"Written to {out}: {len(latents)} latents of {latents.shape[1]} numbers")


def decode_file(project: Project, path: Path, out: Path) -> None:
    """Decode latents into a folder of networks."""
    latents = project.load_latents(path)
    weights = project.decode(latents.z)
    unknown = [f"output {i}" for i in range(project.dataset.classes_per_task)]
    provenance = project.provenance()
    info = [
        {"classes": classes or unknown, "provenance": provenance, "decoded_from": name}
        for name, classes in zip(latents.names, latents.classes, strict=True)
    ]
    files = [file_name(i) for i in range(len(info))]
    with new_folder(out) as folder:
        project.save(folder, files, weights, info)
        table = pd.DataFrame({"file": files, "latent": latents.names})
        write_parquet(folder / "networks.parquet", table)
    print(f"Written to {out}: {len(files)} networks and networks.parquet")
    nameless = latents.classes.count(None)
    if nameless:
        warn([f"{nameless} of {len(files)} latents have no names of classes; outputs are numbered"])


def check_order(paths: Sequence[Path], classes: list[str]) -> list[str]:
    """Refuse classes that networks have in another order; say where networks are for others.

    Args:
        paths: networks, or folders of them.
        classes: in the order of the images' labels.

    Returns:
        A line for each other choice of classes.

    Raises:
        WeightspaceError: a network was made for the same classes in another order.

    """
    others = {}
    for file in (file for path in paths for file in find(path)):
        stated = class_names(file)
        if stated is None or stated == classes:
            continue
        if set(stated) == set(classes):
            raise problem(
                "classes in another order than those of the network",
                where="--classes",
                got=",".join(classes),
                expected=f"{','.join(stated)}, as {file} says",
            )
        others[",".join(stated)] = file
    return [
        f"{file} is a network for the classes {stated}; its outputs are compared with labels "
        f"{','.join(classes)} by their position"
        for stated, file in others.items()
    ]


def show_comparison(project: Project, a: Path, b: Path, task: GivenTask) -> None:
    """Show how alike networks behave.

    Args:
        project: the finished project.
        a: a checkpoint or a folder of them.
        b: another one, or as many others.
        task: labelled images.

    """
    table = project.compare(project.networks(a), project.networks(b), task)
    files = find(a), find(b)
    shown = labels([*files[0], *files[1]])
    table.insert(0, "a", shown[: len(files[0])])
    table.insert(1, "b", shown[len(files[0]) :])
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
    for file, table in zip(labels(find(path)), tables, strict=True):
        show_table(table, f"{file}: tasks of the dataset it fits best")


def show_predictions(project: Project, paths: list[Path]) -> None:
    """Show what weights tell, and how wrong such readings are on held-out networks."""
    files = checkpoints(paths)
    predicted = project.predict(project.networks(*files))
    predicted.table.insert(0, "file", labels(files))
    show_table(predicted.table, "Read off the latents")
    show_table(predicted.errors, "Error on held-out networks of the zoo (test_sets)")
    for row in predicted.errors.to_dict("records"):
        if row["error"] >= row["of_a_constant"]:
            print(f"{row['property']}: no better than a constant; do not use it".replace("_", " "))


def show_bundle(card: Mapping[str, Any], out: Path) -> None:
    """Show what a bundle holds and what its bits cost."""
    rows = {"project": card["val"]["project"], "bundle": card["val"]["bundle"]}
    table = pd.DataFrame(rows).T.rename_axis("of").reset_index()
    show_table(table, f"{card['bits']:g} bits: figures on val tasks, draws in one pass")
    print(
        f"Networks rebuilt by both predict alike on {card['val']['same_predictions']:.1%} of the images\n"
        f"Written to {out}: {card['bytes'] / 1e6:.2f} MB, sha256 {card['sha256']}, and its card"
    )


def show_facts(facts: Mapping[str, object]) -> None:
    """Show names and values, a line each."""
    table = Table(show_header=False)
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        table.add_row(plain(name), "\n".join(plain(line) for line in lines))
    console().print(table)


def show_notes(task: GivenTask) -> None:
    """Say what was done to the images."""
    for note in task.notes:
        print(printable(f"{task.source}: {note}"))
