"""Tables of experiments: rows of settings, several seeds, mean and interval of each figure.

The definition is a YAML file (benchmarks/ablation.yaml explains the keys); every distinct row of
settings runs once for each seed as a DVC experiment. The raw figures go beside the table as CSV, so
that each mean can be checked, and so that a table which was interrupted can be continued.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError
from scipy.stats import t as student

from weightspace.artifacts import begins, check_file, write_bytes
from weightspace.data.sources.base import source_of
from weightspace.errors import problem
from weightspace.experiments.dvc import baseline_commit, check_settings, experiment, run_one, value
from weightspace.params import Settings, read_yaml
from weightspace.progress import progress

COMMAND = "python -m weightspace suite"
COLUMNS = ["row", "column", "seed", "value", "experiment"]  # of the raw figures


class Row(Settings):
    """One row: settings of an experiment, or other figures of the experiment above it.

    Attributes:
        name: what the row is.
        set: settings of its experiment; None for that of the row above.
        read: metric file -> prefix of the figures, None for no figure of that file.
        columns: column -> ``file.key``, or ``file:key`` where the file has no splits, where they differ from those of the table; others are empty.
        split: where it differs from that of the table.
        published: figures from elsewhere; no experiment.

    """

    name: str
    set: dict[str, Any] | None = None
    read: dict[str, str | None] = Field(default_factory=dict)
    columns: dict[str, str | None] | None = None
    split: str | None = None
    published: dict[str, float] | None = None


class Suite(Settings):
    """A table of experiments. A column without a metric is that of rows that name one."""

    title: str
    seeds: Annotated[list[int], Field(min_length=1)]
    split: str
    base: dict[str, Any] = Field(default_factory=dict)
    stages: list[str] = Field(default_factory=list)
    columns: dict[str, str | None]
    rows: Annotated[list[Row], Field(min_length=1)]
    remarks: str = ""  # Markdown below the table; what it says holds for these settings only

    def changed(self, sets: Sequence[str]) -> Suite:
        """The table with further settings (``key=value``) of every row, without the remarks.

        Raises:
            WeightspaceError: not of the form ``key=value``.

        """
        if not sets:
            return self
        return self.model_copy(update={"base": self.base | _settings(sets), "remarks": ""})

    def job(self, row: Row, seed: int) -> tuple[str, ...]:
        """Settings of a row's experiment as ``key=value``."""
        chosen = {"seed": seed} | self.base | (row.set or {})
        return tuple(_item(k, v) for k, v in chosen.items())

    def jobs(self) -> list[tuple[Row, int, tuple[str, ...]]]:
        """Every row that is measured, with each seed and the settings of its experiment."""
        out: list[tuple[Row, int, tuple[str, ...]]] = []
        for seed in self.seeds:
            job: tuple[str, ...] | None = None
            for row in self.rows:
                if row.published is None:
                    job = self.job(row, seed) if row.set is not None else job
                    if job is not None:
                        out.append((row, seed, job))
        return out

    def metric(self, row: Row, column: str) -> str | None:
        """Name of a row's metric, ``file.split.key`` or ``file.key``; None where the row has no such figure."""
        name = (self.columns if row.columns is None else row.columns).get(column)
        if name is None:
            return None
        if ":" in name:
            return name.replace(":", ".", 1)
        file, key = name.split(".", 1)
        prefix = row.read.get(file, "")
        return None if prefix is None else f"{file}.{row.split or self.split}.{prefix}{key}"


def load_suite(path: Path) -> Suite:
    """Read a definition; what it lacks is that of the one which ``like`` names, in the same folder.

    Raises:
        WeightspaceError: no file, no YAML, unknown or missing keys; one line.

    """
    try:
        data = read_yaml(path)
        if isinstance(data.get("like"), str):
            data = {**read_yaml(path.parent / data.pop("like")), **data}
        return Suite.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"not a table of experiments: '{key}': {first['msg']}"
        raise problem(what, where=path) from error


def image_settings(definition: Path, images: Path) -> list[str]:
    """Settings, ``key=value``, by which a table reads a person's images; none that it has already.

    Args:
        definition: the table.
        images: a folder of idx files, one of class folders, or an .npz file.

    Raises:
        WeightspaceError: no images there.

    """
    if not images.exists():
        raise problem(
            "no images",
            where=images,
            expected="idx files or one folder per class (IMAGES=FOLDER)",
            do="for Fashion-MNIST install the Debian package dataset-fashion-mnist, or run "
            "`python -m weightspace fetch fashion-mnist --to FOLDER`",
        )
    base = load_suite(definition).base
    chosen = {"dataset.source": source_of(images), "sources.path": str(images.absolute())}
    return [f"{key}={value}" for key, value in chosen.items() if base.get(key) != value]


def run_suite(path: Path, out: Path, sets: Sequence[str] = (), *, resume: bool = False) -> None:
    """Run all rows for all seeds and write ``out`` (Markdown) and the raw figures beside it.

    Both are written after each experiment; a table that lacks some says so.

    Args:
        path: the definition.
        out: file to write.
        sets: further settings of every row, ``key=value``; they replace those of ``base``, and the
            remarks are left out.
        resume: keep the figures beside ``out`` that have the same settings, and run only what they
            lack; whether the code is the same is the caller's to know.

    Raises:
        WeightspaceError: ``out`` is another file, or a row has settings that cannot be; nothing ran. An
            experiment failed; what was measured before it stays.

    """
    suite = load_suite(path).changed(sets)
    check_settings(job for _, _, job in suite.jobs())
    _check_files(path, out, reads_raw=resume)
    heading = command(path, out, sets)
    raw = out.with_suffix(".csv")
    known = _known(raw, suite) if resume else pd.DataFrame(columns=COLUMNS)
    parts = [known]
    for measured in itertools.chain([[]], _measure(suite, known)):  # first what is known
        parts.append(pd.DataFrame(measured, columns=COLUMNS))
        figures = _in_order(suite, parts)
        if len(figures):
            write_bytes(raw, figures.to_csv(index=False, lineterminator="\n").encode())
            write_bytes(out, markdown(suite, figures, heading).encode())


def render_suite(path: Path, out: Path, sets: Sequence[str] = ()) -> None:
    """Write ``out`` anew from the raw figures beside it; runs nothing and leaves them as they are.

    Args:
        path: the definition.
        out: file to write.
        sets: the further settings that the figures were measured with, ``key=value``.

    Raises:
        WeightspaceError: no such figures.

    """
    suite = load_suite(path).changed(sets)
    _check_files(path, out, reads_raw=True)
    figures = _read(out.with_suffix(".csv"), COLUMNS[:-1])
    write_bytes(out, markdown(suite, figures, command(path, out, sets)).encode())


def _check_files(definition: Path, out: Path, *, reads_raw: bool) -> None:
    """Refuse to write the table, or the raw figures beside it, over anything else.

    Args:
        definition: an input.
        out: the table.
        reads_raw: the raw figures are read first, which refuses other files by a message.

    """
    raw = out.with_suffix(".csv")
    if out == raw:
        raise problem("is the name of the raw figures", where=out, do="name the table .md")
    check_file(out, begins(rf"([^\n]*\n){{0,3}}Made by `{COMMAND} "), [definition])
    if not reads_raw:
        check_file(raw, begins(",".join(COLUMNS[:-1])), [definition])


def _read(raw: Path, columns: list[str]) -> pd.DataFrame:
    """Figures of an earlier run.

    Raises:
        WeightspaceError: no such file, or one of another kind.

    """
    try:
        return pd.read_csv(raw)[columns]
    except (OSError, KeyError, ValueError) as error:
        raise problem(
            "no figures of an earlier run",
            where=raw,
            got=str(error),
            expected=f"a CSV of {', '.join(columns)}",
            do="run without --resume and --render",
        ) from error


def _known(raw: Path, suite: Suite) -> pd.DataFrame:
    """Figures of an earlier run that come from the table's experiments."""
    figures = _read(raw, COLUMNS)
    names = {(row.name, seed): experiment(job) for row, seed, job in suite.jobs()}
    measured = zip(figures["row"], figures["seed"], figures["experiment"], strict=True)
    return figures[[names.get((row, seed)) == name for row, seed, name in measured]]


def _in_order(suite: Suite, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Figures of the table's rows and columns, the newest of each, by seed, row and column."""
    rows = {row.name: i for i, row in enumerate(suite.rows)}
    columns = {column: i for i, column in enumerate(suite.columns)}
    every = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    every = every[every["row"].isin(rows) & every["column"].isin(columns)]
    every = every.drop_duplicates(["row", "column", "seed"], keep="last")
    order = every.assign(row=every["row"].map(rows), column=every["column"].map(columns))
    return every.loc[order.sort_values(["seed", "row", "column"]).index]


def _settings(sets: Sequence[str]) -> dict[str, str]:
    """``key=value`` items as a table."""
    for item in sets:
        if not all(item.partition("=")):
            raise problem("not a setting", where=f"-S {item}", expected="key=value")
    return dict(item.split("=", 1) for item in sets)


def _item(key: str, value: Any) -> str:
    """A setting as ``key=value``, as YAML spells it."""
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _measure(suite: Suite, known: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Figures of each row and seed that are not known; each distinct experiment runs once."""
    baseline, commits, jobs = baseline_commit(), dict[tuple[str, ...], str](), suite.jobs()
    with progress("experiments", len(jobs)) as bar:
        for row, seed, job in jobs:
            if not _has(suite, known, row, seed):
                if job not in commits:
                    commits[job] = _experiment(suite, row, job, baseline)
                measured = _figures(suite, row, seed, commits[job], baseline)
                yield [figure | {"experiment": experiment(job)} for figure in measured]
            bar.advance(note=f"seed {seed}: {row.name}")


def _has(suite: Suite, figures: pd.DataFrame, row: Row, seed: int) -> bool:
    """Whether a row has all its figures of a seed."""
    columns = figures[(figures["row"] == row.name) & (figures["seed"] == seed)]["column"]
    return set(columns) >= {c for c in suite.columns if suite.metric(row, c) is not None}


def _experiment(suite: Suite, row: Row, job: tuple[str, ...], baseline: str) -> str:
    """Commit of an experiment that was run."""
    commit = run_one(job, suite.stages, baseline)
    if commit is None:
        raise problem("experiment failed", where=row.name, got=" ".join(job))
    return commit


def _figures(suite: Suite, row: Row, seed: int, commit: str, baseline: str) -> list[dict[str, Any]]:
    """Figures of one experiment.

    Files in metrics/cost are outputs of no stage: one that came from DVC's cache leaves them as they
    were in the baseline, and its time is not known.
    """
    out = []
    for column in suite.columns:
        metric = suite.metric(row, column)
        if metric is not None:
            figure = value(commit, metric)
            if metric.startswith("cost/") and figure == value(baseline, metric):
                figure = None
            out.append({"row": row.name, "column": column, "seed": seed, "value": figure})
    return out


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t) over seeds ``(n,)``; 0 for one seed.

    >>> mean, half = interval(np.array([0.7, 0.8, 0.9]))
    >>> print(f"{mean:.3f} ± {half:.3f}")
    0.800 ± 0.248

    """
    n = len(values)
    if n < 2:
        return float(values.mean()), 0.0
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(half)


def command(path: Path, out: Path, sets: Sequence[str] = ()) -> str:
    """Command line that makes a table."""
    items = [part for item in sets for part in ("-S", item)]
    words = [path.as_posix(), *items, "--out", out.as_posix()]
    return f"{COMMAND} " + shlex.join(words)


def markdown(suite: Suite, figures: pd.DataFrame, heading: str) -> str:
    """The table, mean ± half width of the 95 % interval.

    Args:
        suite: the definition.
        figures: raw figures, a row each, columns as in ``COLUMNS``.
        heading: the command that makes the table.

    """
    seeds = f"seed {suite.seeds[0]}, one run, no interval over seeds"
    if len(suite.seeds) > 1:
        seeds = (
            f"seeds {', '.join(map(str, suite.seeds))} (everything differs with the seed: images, "
            "tasks, networks, autoencoder), mean ± half the width of the 95 % interval over seeds "
            "(Student's t)"
        )
    base = ", ".join(f"`{_item(k, v)}`" for k, v in suite.base.items()) or "default settings"
    lines = [
        f"# {suite.title}",
        "",
        f"Made by `{heading}`; raw figures in the CSV beside it. Split `{suite.split}`; {seeds}. "
        f"Settings in addition to the default ones: {base}.",
        "",
        "| | " + " | ".join(suite.columns) + " |",
        "|---" * (len(suite.columns) + 1) + "|",
    ]
    for row in suite.rows:
        cells = [_cell(suite, row, column, figures) for column in suite.columns]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lacking = _lacking(suite, figures)
    if lacking:
        lines += ["", f"Not complete, `--resume` continues: {lacking}."]
    if suite.remarks:
        lines += ["", suite.remarks.strip()]
    return "\n".join(lines) + "\n"


def _lacking(suite: Suite, figures: pd.DataFrame) -> str:
    """Rows without figures of all seeds, and those seeds."""
    out = []
    for row in suite.rows:
        seeds = [str(s) for s in suite.seeds if not _has(suite, figures, row, s)]
        if row.published is None and seeds:
            out.append(f"{row.name} without seed {', '.join(seeds)}")
    return "; ".join(out)


def _cell(suite: Suite, row: Row, column: str, figures: pd.DataFrame) -> str:
    if row.published is not None:
        return f"{row.published[column]:.3f}" if column in row.published else ""
    values = figures[(figures["row"] == row.name) & (figures["column"] == column)]["value"].dropna()
    if values.empty:
        return ""
    mean, half = interval(values.to_numpy(float))
    digits = ",.0f" if abs(mean) >= 100 else ".3f"
    varies = len(values) > 1 and half > 0  # a number of parameters does not
    return f"{mean:{digits}} ± {half:{digits}}" if varies else f"{mean:{digits}}"
