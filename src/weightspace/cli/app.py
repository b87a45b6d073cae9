"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from weightspace.errors import WeightspaceError

if TYPE_CHECKING:
    from weightspace.project.project import Project


# The base of all errors in options and arguments; typer carries click inside and exports few names.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)

app = typer.Typer(
    name="weightspace",
    help="Weight-space learning: populations of networks, a latent of their weights, P(W | D, R).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Root = Annotated[Path, typer.Option(help="folder of the finished project")]
Out = Annotated[Path, typer.Option(help="new or empty folder; filled completely or not at all")]
IMAGES = "labelled images: .npz, folder of idx files, or folder of class folders"
Data = Annotated[Path, typer.Option(help=IMAGES)]
Classes = Annotated[str, typer.Option(help="names of the classes, in the order of the outputs")]


@app.command()
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
    )
    samples.save(out)
    show_samples(samples, out)
    warn(samples.warnings())


@app.command("import")
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


@app.command()
def encode(
    paths: Networks,
    out: Annotated[Path, typer.Option(help="file to write, .safetensors")],
    root: Root = Path(),
) -> None:
    """Encode networks to latents."""
    from weightspace.cli.output import encode_files

    encode_files(start(root), paths, out)


@app.command()
def decode(
    latents: Annotated[Path, typer.Argument(help="file of `encode`, or .npz with an array z")],
    out: Out,
    root: Root = Path(),
) -> None:
    """Decode latents to networks, a safetensors file each."""
    from weightspace.cli.output import decode_file

    decode_file(start(root, out), latents, out)


@app.command()
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


@app.command()
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
    from weightspace.errors import problem

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


@app.command()
def predict(paths: Networks, root: Root = Path()) -> None:
    """Predict accuracy, gap, epoch and optimiser from weights alone, with the error to expect."""
    from weightspace.cli.output import show_predictions

    show_predictions(start(root), paths)


@app.command()
def export(paths: Networks, out: Out) -> None:
    """Write networks that weightspace wrote as ONNX files; they take images in [0, 1]."""
    from weightspace.artifacts import check_new
    from weightspace.project.onnx import export_onnx

    check_new(out)
    print(f"Written to {out}: {len(export_onnx(paths, out))} ONNX files")


@app.command()
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


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml"),
) -> None:
    """Check a settings file: unknown or missing keys, wrong values."""
    from weightspace.params import load_params

    load_params(path)


@app.command("params")
def params_(
    out: Annotated[Path, typer.Option(help="Markdown file to write")] = Path("docs/params.md"),
) -> None:
    """Write the reference of all settings, made from their schema."""
    from weightspace.artifacts import write_bytes
    from weightspace.report.settings import reference

    write_bytes(out, reference().encode())


@app.command()
def results(root: Annotated[Path, typer.Option(help="root of the project")] = Path()) -> None:
    """Show the results beside chance and beside the deck's published figures."""
    from weightspace.report.tables import show

    show(root)


@app.command()
def sweep(
    set_: Annotated[list[str], typer.Option("--set-param", "-S", help="key=value[,value...]")],
    metric: Annotated[
        str, typer.Option(help="file.key of the metric to sort by")
    ] = "reconstruction.val.agreement_mean",
    stage: Annotated[str | None, typer.Option(help="run only up to this stage")] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="smallest first")] = False,
) -> None:
    """Run one experiment per combination of values; fail when any fails; sort by a metric."""
    from weightspace.experiments.sweep import run_sweep

    run_sweep(set_, metric, stage, ascending=ascending)


@app.command()
def ladder(
    definition: Annotated[Path, typer.Argument(help="rows, columns and seeds, YAML")],
    out: Annotated[Path, typer.Option(help="Markdown file; raw figures beside it")] = Path(
        "docs/results.md"
    ),
    set: Annotated[
        list[str] | None, typer.Option("-S", help="key=value: a setting of every row")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="keep figures beside --out of the same settings, run what they lack"),
    ] = False,
) -> None:
    """Run a table of experiments over several seeds: mean and interval of every figure."""
    from weightspace.experiments.suite import run_suite

    run_suite(definition, out, set or [], resume=resume)


@app.command()
def report(
    root: Annotated[Path, typer.Option(help="root of the project")] = Path(),
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report/index.html"),
) -> None:
    """Write one page with question, results, plots and a gallery; it needs no network."""
    from weightspace.report.page import write
    from weightspace.runtime import prepare

    prepare()
    for line in write(root, out):
        print(line)


@app.command()
def pictures(root: Annotated[Path, typer.Option(help="root of the project")] = Path()) -> None:
    """Draw docs/pictures from the plot data in metrics/plots."""
    from weightspace.report.plots import draw_all

    draw_all(root)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except WeightspaceError as error:
        message = str(error)
    except UsageError as error:
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        if not sys.argv[1:]:  # no command: the message is the help
            raise SystemExit(2) from None
    except typer.Abort:
        message = "interrupted"
    else:
        raise SystemExit(code)
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
