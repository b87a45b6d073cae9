"""What the commands show: tables on standard output, warnings on standard error."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from weightspace.api import Samples
from weightspace.data.dataset import PARTS
from weightspace.zoo.foreign import Imported

ROWS = 20  # of a table on screen; the file has all


def console() -> Console:
    """Standard output, wide enough for a table where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 110)


def warn(message: str | None) -> None:
    """One line on standard error, if there is anything to say."""
    if message is not None:
        print(f"warning: {message}", file=sys.stderr)


def show_table(table: pd.DataFrame, title: str) -> None:
    """Show the first rows of a table; numbers with three decimals."""
    shown = Table(title=title, title_justify="left")
    for name in table:
        numeric = pd.api.types.is_float_dtype(table[name])
        shown.add_column(str(name).replace("_", " "), justify="right" if numeric else "left")
    for row in table.head(ROWS).itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    out = console()
    out.print(shown)
    if len(table) > ROWS:
        out.print(f"... and {len(table) - ROWS} more")


def show_samples(samples: Samples, out: Path) -> None:
    """Show what sampled networks achieve."""
    task, result = samples.task, samples.project.result
    for note in task.notes:
        print(f"{task.source}: {note}")
    asked = float(samples.table["asked"].iloc[0])
    columns = ["file", *(f"{p}_{k}" for p in task.parts for k in ("accuracy", "loss"))]
    show_table(samples.table[columns], f"{', '.join(task.classes)}: {result} {asked:g} asked")
    got = samples.summary()
    print(
        f"{samples.measured_on} {result}: mean {got['mean']:.3f}, median {got['median']:.3f}, "
        f"{got['min']:.3f} to {got['max']:.3f}; mean distance from the request {got['distance']:.3f}"
    )
    print(f"Written to {out}: networks, samples.parquet, report.json, MODEL_CARD.md")


def show_import(found: Imported, out: Path) -> None:
    """Show what an imported zoo holds."""
    columns = [f"{part}_accuracy" for part in PARTS]
    table = found.members.groupby("snapshot")[columns].mean().reset_index()
    table.insert(1, "members", found.members.groupby("snapshot").size().to_numpy())
    show_table(table, "Measured, mean per snapshot")
    for note in found.notes:
        print(note)
    print(f"Written to {out}: {table['members'].sum()} networks, read again and measured again")
