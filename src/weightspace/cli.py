"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from weightspace.errors import WeightspaceError

app = typer.Typer(
    name="weightspace",
    help="Weight-space learning: populations of networks, a latent of their weights, P(W | D, R).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(help="settings file")] = Path("params.yaml"),
) -> None:
    """Check a settings file: unknown or missing keys, wrong values."""
    from weightspace.params import load_params

    load_params(path)


@app.command()
def results(root: Annotated[Path, typer.Option(help="root of the project")] = Path()) -> None:
    """Show the results beside chance and beside the deck's published figures."""
    from weightspace.results import show

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
    from weightspace.sweep import run_sweep

    run_sweep(set_, metric, stage, ascending=ascending)


@app.command()
def ladder(
    definition: Annotated[Path, typer.Argument(help="rows, columns and seeds, YAML")],
    out: Annotated[Path, typer.Option(help="Markdown file; raw figures beside it")] = Path(
        "docs/results.md"
    ),
) -> None:
    """Run a table of experiments over several seeds: mean and interval of every figure."""
    from weightspace.ladder import run_ladder

    run_ladder(definition, out)


@app.command()
def pictures(root: Annotated[Path, typer.Option(help="root of the project")] = Path()) -> None:
    """Draw docs/pictures from the plot data in metrics/plots."""
    from weightspace.pictures import draw_all

    draw_all(root)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        app()
    except WeightspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
