"""Commands on a finished project: sample, import, encode, decode, compare, retrieve, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.bundles.locate import FEWEST, FIRST, MOST
from weightspace.cli import door
from weightspace.cli.door import names
from weightspace.errors import problem

if TYPE_CHECKING:
    from weightspace.project.project import Project

commands = typer.Typer()
PANEL = "Use a finished project"
ZooFolder = Annotated[
    Path,
    typer.Argument(
        help="checkpoints, or the unpacked folder of a public zoo", exists=True, file_okay=False
    ),
]
MaybeTable = Annotated[
    Path | None,
    typer.Option(
        help="layout folder: CSV or Parquet with columns file and classes",
        exists=True,
        dir_okay=False,
    ),
]
MaybeSplit = Annotated[
    str | None,
    typer.Option(help="fractions of the runs, 0.7,0.15,0.15, or a CSV with columns run and split"),
]
MaybeTolerance = Annotated[
    float | None,
    typer.Option(
        help="most that accuracies may differ from the zoo's, on average", min=1e-6, max=1
    ),
]


@commands.command(rich_help_panel=PANEL)
def demo(
    out: Annotated[Path, typer.Option(help="HTML page to write")] = Path("demo.html"),
    seed: door.Seed = 0,
    root: door.Root = Path(FIRST),
) -> None:
    """Draw networks for a task that nothing was fitted to, and show what they do: a first look."""
    from weightspace.cli.demo import show, show_next
    from weightspace.report.demo import check_out, draw, write

    check_out(out)
    project = start(root)
    drawn = draw(project, seed)
    show(drawn)
    write(drawn, project, out)
    print(f"The same as a page, which needs no network: {out}")
    show_next()


@commands.command(rich_help_panel=PANEL)
def sample(
    data: door.Data,
    classes: door.Classes,
    out: door.NewFolder,
    accuracy: door.Accuracy = None,
    loss: door.Loss = None,
    n: door.Count = 1,
    best_of: door.BestOf = 1,
    fine_tune_epochs: door.Epochs = 0,
    reestimate: Annotated[
        bool, typer.Option("--reestimate", help="running statistics from your train images")
    ] = False,
    guidance_steps: door.Steps = None,
    width: door.Width = None,
    seed: door.Seed = 0,
    root: door.Root = Path(),
) -> None:
    """Sample networks for your own images that perform as well as you ask."""
    from weightspace.artifacts import new_folder
    from weightspace.cli.output import show_samples, warn

    chosen = names(classes)
    with new_folder(out) as folder:
        project = start(root, width)
        project.target(accuracy, loss)  # before images are read
        samples = project.sample(
            project.task(data, chosen, seed=seed),
            accuracy=accuracy,
            loss=loss,
            n=n,
            best_of=best_of,
            seed=seed,
            fine_tune_epochs=fine_tune_epochs,
            reestimate=reestimate,
            guidance_steps=guidance_steps,
            into=folder,
        )
    show_samples(samples, out)
    warn(samples.warnings())


@commands.command("import", rich_help_panel=PANEL)
def import_(
    folder: ZooFolder,
    arch: Annotated[str, typer.Option(help="architecture, of the sizes in params.yaml: nets")],
    out: door.NewFolder,
    results: MaybeTable = None,
    layout: Annotated[str, typer.Option(help="folder, matrix, ray_tune or wild_park")] = "folder",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: only these networks; may be repeated")
    ] = None,
    split: MaybeSplit = None,
    believe: Annotated[
        bool, typer.Option("--believe", help="take the results of the zoo, measure nothing")
    ] = False,
    tolerance: MaybeTolerance = None,
    pixels: Annotated[
        str | None, typer.Option(help="MEAN,STD that pixels in [0, 1] were standardised by")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="C,H,W of the images, where there are none: with --believe")
    ] = None,
    root: door.Root = Path(),
) -> None:
    """Make a zoo of networks that were trained elsewhere: read strictly, measured, never run as code."""
    from weightspace.cli.output import show_import
    from weightspace.project.project import import_zoo
    from weightspace.runtime import prepare

    chosen = door.pairs(where or [], "--where")
    moments = door.numbers(pixels, "--pixels", 2)
    sizes = door.numbers(shape, "--shape", 3)
    prepare()
    imported = import_zoo(
        folder,
        results,
        out,
        arch=arch,
        root=root,
        layout=layout,
        where=chosen,
        split=split,
        believe=believe,
        tolerance=tolerance,
        pixels=(moments[0], moments[1]) if moments else None,
        shape=(int(sizes[0]), int(sizes[1]), int(sizes[2])) if sizes else None,
    )
    show_import(imported, out, believe=believe)


@commands.command(rich_help_panel=PANEL)
def encode(
    paths: door.Networks,
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    width: door.Width = None,
    root: door.Root = Path(),
) -> None:
    """Encode networks to latents."""
    from weightspace.cli.output import check_encode, encode_files

    check_encode(paths, out)
    encode_files(start(root, width), paths, out)


@commands.command(rich_help_panel=PANEL)
def decode(
    latents: Annotated[
        Path,
        typer.Argument(
            help="file of `encode`, or .npz with an array z", exists=True, dir_okay=False
        ),
    ],
    out: door.NewFolder,
    width: door.Width = None,
    root: door.Root = Path(),
) -> None:
    """Decode latents to networks, a safetensors file each."""
    from weightspace.cli.output import decode_file

    decode_file(start(root, width), latents, out)


@commands.command(rich_help_panel=PANEL)
def compare(
    a: Annotated[Path, typer.Argument(help="a checkpoint, or a folder of them", exists=True)],
    b: Annotated[Path, typer.Argument(help="another one, or as many others", exists=True)],
    data: door.Data,
    classes: door.Classes,
    root: door.Root = Path(),
) -> None:
    """Compare networks by what they do on labelled images."""
    from weightspace.cli.output import check_order, show_comparison, warn

    chosen = names(classes)
    notes = check_order((a, b), chosen)
    project = start(root)
    show_comparison(project, a, b, project.task(data, chosen))
    warn(notes)


@commands.command(rich_help_panel=PANEL)
def retrieve(
    data: door.MaybeData = None,
    classes: door.MaybeClasses = None,
    weights: Annotated[
        Path | None, typer.Option(help="find the task of these networks", exists=True)
    ] = None,
    accuracy: door.Accuracy = None,
    loss: door.Loss = None,
    n: door.Count = 5,
    out: door.MaybeNewFolder = None,
    root: door.Root = Path(),
) -> None:
    """Find networks of the zoo for a dataset, or the task that a network was trained on."""
    from weightspace.cli.output import retrieve_networks, show_tasks

    if weights is not None:
        door.refuse("--weights", data=data, classes=classes, accuracy=accuracy, loss=loss, out=out)
        show_tasks(start(root), weights, n)
    elif data is not None:
        chosen = names(classes)
        project = start(root)
        if (accuracy, loss) != (None, None):
            project.target(accuracy, loss)
        retrieve_networks(project, project.task(data, chosen), accuracy, loss, n, out)
    else:
        raise problem(
            "one of --data and --weights is needed", do="see `weightspace retrieve --help`"
        )


@commands.command(rich_help_panel=PANEL)
def predict(paths: door.Networks, root: door.Root = Path()) -> None:
    """Predict accuracy, gap, epoch and optimiser from latents, with the error to expect."""
    from weightspace.cli.output import show_predictions

    show_predictions(start(root), paths)


@commands.command(rich_help_panel=PANEL)
def export(paths: door.Networks, out: door.NewFolder) -> None:
    """Write networks that weightspace wrote as ONNX files; they take images in [0, 1]."""
    from weightspace.project.onnx import export_onnx

    print(f"Written to {out}: {len(export_onnx(paths, out))} ONNX files")


@commands.command(rich_help_panel=PANEL)
def bundle(
    out: Annotated[Path, typer.Option(help="file to write, .bundle; its card beside it")],
    bits: Annotated[
        float, typer.Option(help="of each number in large tensors", min=FEWEST, max=MOST)
    ] = MOST,
    megabytes: Annotated[
        float | None,
        typer.Option(help="that it may have, with fewer bits where needed", min=0.1, max=1e6),
    ] = None,
    root: door.Folder = Path(),
) -> None:
    """Make one file of a finished project, for sample, encode, decode, predict and --root."""
    from weightspace.cli.output import show_bundle
    from weightspace.project.bundling import check_out, write_bundle

    check_out(out)
    show_bundle(write_bundle(start(root), out, bits, megabytes), out)


@commands.command(rich_help_panel=PANEL)
def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="project, bundle, zoo, autoencoder, network, images ...", callback=door.there
        ),
    ],
) -> None:
    """Say what a folder or file holds."""
    from weightspace.cli.output import show_facts
    from weightspace.project.describe import describe

    show_facts(describe(path))


@commands.command(rich_help_panel=PANEL)
def card(
    kind: Annotated[str, typer.Argument(help="zoo, autoencoder or sampler")],
    root: door.Root = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Print a card: data by hash, split, settings, figures, limits, licence, how to have it again."""
    from weightspace.project.carding import make

    made = make(root, kind)
    print(made.text() if as_json else made.markdown(), end="")


@commands.command(rich_help_panel=PANEL)
def ls(
    section: Annotated[
        str | None, typer.Argument(help="one section, such as autoencoders; default: all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """List what there is to choose from: members of families, named tasks, bundles, a line each."""
    import json

    from weightspace.cli.catalogue import catalogue, lines

    sections = catalogue(section)
    text = json.dumps(sections, indent=2) if as_json else "\n".join(lines(sections))
    print(text)


def start(root: Path, width: float | None = None) -> Project:
    """Load a project for a command, at one width where it has several."""
    from weightspace.project.project import load
    from weightspace.runtime import prepare

    prepare()
    project = load(root)
    return project if width is None else project.at(width)
