"""Commands on the pipeline: settings, results, tables of experiments, pictures, dvc.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import door
from weightspace.errors import problem

commands = typer.Typer()
PANEL = "Run the pipeline"


@commands.command(rich_help_panel=PANEL)
def validate(
    path: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml"),
) -> None:
    """Check a settings file: unknown or missing keys, wrong values."""
    from weightspace.params import load_params

    load_params(path)


@commands.command("params", rich_help_panel=PANEL)
def params_(
    path: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Markdown file to write")] = Path("docs/params.md"),
) -> None:
    """Write the reference of all settings: values of the file, ranges and meanings of the schema."""
    from weightspace.artifacts import begins, check_file, write_bytes
    from weightspace.report.settings import HEAD, reference

    check_file(out, begins(re.escape(HEAD.partition(" Made")[0])))
    write_bytes(out, reference(path).encode())


@commands.command(rich_help_panel=PANEL)
def results(
    root: door.Root = Path(),
    markdown: Annotated[bool, typer.Option("--markdown", help="tables as Markdown")] = False,
) -> None:
    """Show the results beside chance and the published ones of the original study."""
    from weightspace.bundles.archive import open_bundle
    from weightspace.report.tables import as_markdown, show

    if root.is_file():
        open_bundle(root)
    if markdown:
        print(as_markdown(root))
    else:
        show(root)


@commands.command(rich_help_panel=PANEL)
def document(
    write: Annotated[
        bool, typer.Option("--write", help="write them; without it, say whether that is needed")
    ] = False,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="run the examples too; needs a finished pipeline")
    ] = False,
    root: door.Folder = Path(),
) -> None:
    """Renew the figures of README and docs from the committed metrics, and outputs of examples."""
    from weightspace.report.document import document as renew

    for name in renew(root, write=write, outputs=outputs):
        print(f"Written to {name}")


@commands.command(rich_help_panel=PANEL)
def repro(
    jobs: Annotated[int, typer.Option(help="stages at once, at most", min=1, max=64)] = 2,
) -> None:
    """Run every stage whose inputs changed, as `dvc repro` does, but two at once where that is possible."""
    from weightspace.experiments.parallel import repro as run

    run(Path(), jobs)


@commands.command(rich_help_panel=PANEL)
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


@commands.command(rich_help_panel=PANEL)
def suite(
    definition: Annotated[
        Path, typer.Argument(help="rows, columns and seeds, YAML", exists=True, dir_okay=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown file, raw figures beside it; default: docs/NAME.md"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="key=value: a setting of every row"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="folder of idx files or of class folders, for dataset.source and sources.path",
            exists=True,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="keep figures beside --out of the same settings, run what they lack"
        ),
    ] = False,
    render: Annotated[
        bool,
        typer.Option("--render", help="run nothing: write the table from the figures beside it"),
    ] = False,
) -> None:
    """Run a table of experiments over several seeds: mean and interval of every figure."""
    from weightspace.experiments.suite import image_settings, render_suite, run_suite

    sets = [*(image_settings(definition, images) if images else []), *(set_ or [])]
    out = out or Path("docs", definition.stem).with_suffix(".md")
    if render and resume:
        raise problem("--render runs nothing", got="--resume", do="leave one of them out")
    if render:
        render_suite(definition, out, sets)
    else:
        run_suite(definition, out, sets, resume=resume)


@commands.command(rich_help_panel=PANEL)
def fetch(
    name: Annotated[str, typer.Argument(help="image set, fashion-mnist; or address of a bundle")],
    to: Annotated[Path, typer.Option(help="folder of the files", file_okay=False)],
    home: Annotated[
        str | None, typer.Option("--from", help="another address of a folder that has the images")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="hash that the bundle must have")] = None,
) -> None:
    """Fetch public image files, or a bundle, to a folder; files that are there are verified."""
    from weightspace.bundles.fetching import fetch_bundle, is_address
    from weightspace.data.fetch import fetch as lines

    if is_address(name):
        door.refuse("a bundle", **{"from": home})
        print(fetch_bundle(name, sha256, to))
        return
    door.refuse("an image set, whose hashes are known", sha256=sha256)
    for line in lines(name, to, home):
        print(line)


@commands.command(rich_help_panel=PANEL)
def stages(
    write: Annotated[
        bool, typer.Option("--write", help="write them; without it, say whether that is needed")
    ] = False,
    root: door.Folder = Path(),
) -> None:
    """Find the code that each stage depends on, for the generated blocks of dvc.yaml."""
    from weightspace.experiments.stages import check_stages, write_stages

    if not write:
        check_stages(root)
    elif write_stages(root):
        print("Written to dvc.yaml")


@commands.command(rich_help_panel=PANEL)
def plugins(
    write: Annotated[
        bool, typer.Option("--write", help="write the markers by which DVC sees their versions")
    ] = False,
) -> None:
    """List the members of every family and where they come from."""
    from weightspace.experiments.markers import track, write_markers
    from weightspace.registry import every, listing

    if write:
        for path in track(write_markers(every())):
            print(f"Written for git to commit: {path}")
    else:
        for family, member, origin in listing():
            print(f"{family:<18}{member:<16}{origin}")


@commands.command(rich_help_panel=PANEL)
def report(
    root: door.Folder = Path(),
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("report/index.html"),
) -> None:
    """Write one page with question, results, plots and a gallery; it needs no network."""
    from weightspace.report.page import write
    from weightspace.runtime import prepare

    prepare()
    for line in write(root, out):
        print(line)


@commands.command(rich_help_panel=PANEL)
def pictures(root: door.Folder = Path()) -> None:
    """Draw docs/pictures from the plot data in metrics/plots, and the stages of dvc.yaml."""
    from weightspace.report.plots import draw_all
    from weightspace.report.stages import draw_stages

    draw_all(root)
    draw_stages(root)
