"""Commands on a finished project: sample, import, encode, decode, compare, retrieve, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.errors import problem

if TYPE_CHECKING:
    from weightspace.project.project import Project

commands = typer.Typer()
PANEL = "Use a finished project"

Root = Annotated[Path, typer.Option(help="folder of the finished project")]
Out = Annotated[Path, typer.Option(help="new or empty folder; filled completely or not at all")]
IMAGES = "labelled images: .npz, folder of idx files, or folder of class folders"
Data = Annotated[Path, typer.Option(help=IMAGES)]
Classes = Annotated[str, typer.Option(help="names of the classes, in the order of the outputs")]


@commands.command(rich_help_panel=PANEL)
def sample(
    data: Data,
    classes: Classes,
    out: Out,
    accuracy: Annotated[float | None, typer.Option(help="result to ask for, 0 to 1")] = None,
    loss: Annotated[float | None, typer.Option(help="the same, where R is the loss")] = None,
    n: Annotated[int, typer.Option("-n", help="networks to draw", min=1)] = 1,
    best_of: Annotated[
        int, typer.Option(help="candidates for each network, chosen on train images", min=1)
    ] = 1,
    fine_tune_epochs: Annotated[
        int, typer.Option(help="passes over your train images after sampling", min=0)
    ] = 0,
    reestimate: Annotated[
        bool, typer.Option("--reestimate", help="running statistics from your train images")
    ] = False,
    guidance_steps: Annotated[
        int | None,
        typer.Option(
            help="gradient steps on every candidate; 0: drawn in one pass; default: params.yaml",
            min=0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="root of the random draws", min=0)] = 0,
    root: Root = Path(),
) -> None:
    """Sample networks for your own images that perform as well as you ask."""
    from weightspace.cli.output import show_samples, warn

    project = start(root, out)
    task = project.task(data, names(classes), seed=seed)
    samples = project.sample(
        task,
        accuracy=accuracy,
        loss=loss,
        n=n,
        best_of=best_of,
        seed=seed,
        fine_tune_epochs=fine_tune_epochs,
        reestimate=reestimate,
        guidance_steps=guidance_steps,
    )
    samples.save(out)
    show_samples(samples, out)
    warn(samples.warnings())


@commands.command("import", rich_help_panel=PANEL)
def import_(
    folder: Annotated[
        Path, typer.Argument(help="checkpoints: .safetensors, .pt, .pth, .ckpt, .bin")
    ],
    arch: Annotated[str, typer.Option(help="architecture, of the sizes in params.yaml: nets")],
    results: Annotated[Path, typer.Option(help="CSV or Parquet with columns file and classes")],
    out: Out,
    root: Root = Path(),
) -> None:
    """Make a zoo of your own checkpoints: read strictly, measured, never run."""
    from weightspace.artifacts import check_new
    from weightspace.cli.output import show_import
    from weightspace.project.project import import_zoo
    from weightspace.runtime import prepare

    check_new(out)
    prepare()
    show_import(import_zoo(folder, results, out, arch=arch, root=root), out)


Networks = Annotated[list[Path], typer.Argument(help="checkpoints, or folders of them")]
Asked = Annotated[float | None, typer.Option(help="result to look for; default: the best")]


@commands.command(rich_help_panel=PANEL)
def encode(
    paths: Networks,
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    root: Root = Path(),
) -> None:
    """Encode networks to latents."""
    from weightspace.cli.output import check_encode, encode_files

    check_encode(paths, out)
    encode_files(start(root), paths, out)


@commands.command(rich_help_panel=PANEL)
def decode(
    latents: Annotated[Path, typer.Argument(help="file of `encode`, or .npz with an array z")],
    out: Out,
    root: Root = Path(),
) -> None:
    """Decode latents to networks, a safetensors file each."""
    from weightspace.cli.output import decode_file

    decode_file(start(root, out), latents, out)


@commands.command(rich_help_panel=PANEL)
def compare(
    a: Annotated[Path, typer.Argument(help="a checkpoint, or a folder of them")],
    b: Annotated[Path, typer.Argument(help="another one, or as many others")],
    data: Data,
    classes: Classes,
    root: Root = Path(),
) -> None:
    """Compare networks by what they do on labelled images."""
    from weightspace.cli.output import show_comparison

    project = start(root)
    task = project.task(data, names(classes))
    show_comparison(project, a, b, task)


@commands.command(rich_help_panel=PANEL)
def retrieve(
    data: Annotated[Path | None, typer.Option(help="find networks for these images")] = None,
    classes: Annotated[str, typer.Option(help="classes of --data, in order")] = "",
    weights: Annotated[Path | None, typer.Option(help="find the task of these networks")] = None,
    accuracy: Asked = None,
    loss: Asked = None,
    n: Annotated[int, typer.Option("-n", help="how many to show", min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="new folder for the networks found")] = None,
    root: Root = Path(),
) -> None:
    """Find networks of the zoo for a dataset, or the task that a network was trained on."""
    from weightspace.cli.output import retrieve_networks, show_tasks

    if (data is None) == (weights is None):
        raise problem(
            "one of --data and --weights is needed", do="see `weightspace retrieve --help`"
        )
    project = start(root, out)
    if weights is not None:
        show_tasks(project, weights, n)
    elif data is not None:
        task = project.task(data, names(classes))
        retrieve_networks(project, task, accuracy, loss, n, out)


@commands.command(rich_help_panel=PANEL)
def predict(paths: Networks, root: Root = Path()) -> None:
    """Predict accuracy, gap, epoch and optimiser from latents, with the error to expect."""
    from weightspace.cli.output import show_predictions

    show_predictions(start(root), paths)


@commands.command(rich_help_panel=PANEL)
def export(paths: Networks, out: Out) -> None:
    """Write networks that weightspace wrote as ONNX files; they take images in [0, 1]."""
    from weightspace.artifacts import check_new
    from weightspace.project.onnx import export_onnx

    check_new(out)
    print(f"Written to {out}: {len(export_onnx(paths, out))} ONNX files")


@commands.command(rich_help_panel=PANEL)
def info(
    path: Annotated[Path, typer.Argument(help="project, zoo, autoencoder, network, images ...")],
) -> None:
    """Say what a folder or file holds."""
    from weightspace.cli.output import show_facts
    from weightspace.project.describe import describe

    show_facts(describe(path))


def start(root: Path, out: Path | None = None) -> Project:
    """Load a project for a command; an output folder that cannot be used is refused before."""
    from weightspace.artifacts import check_new
    from weightspace.project.project import load
    from weightspace.runtime import prepare

    if out is not None:
        check_new(out)
    prepare()
    return load(root)


def names(classes: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in classes.split(",") if name.strip()]
