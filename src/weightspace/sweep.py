"""Sweeps with DVC experiments: values in, a sorted table out, failure when any run fails.

DVC's own ``dvc exp run --run-all`` ends with exit code 0 when experiments failed, and a failed
experiment shows the figures of its baseline. Here each combination runs on its own in a temporary
copy, its exit code counts, and failed ones never reach the table. DVC is called as a command.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from weightspace.errors import problem
from weightspace.progress import progress


def combinations(sets: list[str]) -> list[tuple[str, ...]]:
    """All combinations of ``key=value,value`` items, each as ``key=value`` strings.

    A comma inside brackets does not separate: ``zoo.epochs=[4,8],[12,24]`` are two values.
    """
    options = []
    for item in sets:
        key, equals, values = item.partition("=")
        if not equals or not key or not values:
            raise problem("not a setting", where=f"-S {item}", expected="key=value[,value...]")
        options.append([f"{key}={value}" for value in _split(values)])
    return list(itertools.product(*options))


def _split(values: str) -> list[str]:
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def run_sweep(sets: list[str], metric: str, stage: str | None, *, ascending: bool) -> None:
    """Run every combination, one after the other, and print the table.

    Args:
        sets: ``key=value[,value...]``.
        metric: ``file.key``, for instance ``sampling.test_sets.mae``.
        stage: run only up to this stage; all if None.
        ascending: smallest value first.

    Raises:
        WeightspaceError: any experiment failed, or the metric does not exist; after the table.

    """
    jobs = combinations(sets)
    done: dict[tuple[str, ...], str] = {}
    failed: list[str] = []
    with progress("sweep", len(jobs)) as bar:
        for job in jobs:
            name = run_one(job, stage)
            if name is None:
                failed.append(" ".join(job))
            else:
                done[job] = name
            bar.advance(note=" ".join(job))
    rows = [(job, name, value(name, metric)) for job, name in done.items()]
    sign = 1 if ascending else -1
    rows.sort(key=lambda r: (r[2] is None, sign * (r[2] or 0.0)))
    _print(rows, metric)
    if failed:
        raise problem(
            f"{len(failed)} of {len(jobs)} experiments failed",
            where="sweep",
            found="; ".join(failed),
            do="see the messages above",
        )
    if all(r[2] is None for r in rows):
        raise problem(
            "no experiment has the metric",
            where="sweep",
            found=f"'{metric}'",
            expected="file.key, for instance sampling.test_sets.mae",
        )


def run_one(job: tuple[str, ...], stage: str | None) -> str | None:
    """Run one experiment in a temporary copy; its name, or None if it failed."""
    name = "sweep-" + _slug(job)
    command = ["dvc", "exp", "run", "--temp", "--force", "--name", name]
    command += [part for setting in job for part in ("-S", setting)] + ([stage] if stage else [])
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        print(f"\nexperiment failed: {' '.join(job)}\n{result.stdout}", file=sys.stderr)
        return None
    return name


def _slug(job: tuple[str, ...]) -> str:
    text = "-".join(job).lower()
    return "".join(c if c.isalnum() else "-" for c in text).strip("-")[:80]


def value(experiment: str, metric: str) -> float | None:
    """Read one metric of an experiment."""
    file, _, key = metric.partition(".")
    shown = subprocess.run(
        ["git", "show", f"{_revision(experiment)}:metrics/{file}.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode:
        return None
    found: Any = json.loads(shown.stdout)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _revision(experiment: str) -> str:
    refs = subprocess.run(
        ["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in refs.stdout.splitlines():
        commit, ref = line.split(" ", 1)
        if ref.endswith(f"/{experiment}"):
            return commit
    raise problem("experiment is gone", where=experiment, do="run the sweep again")


def _print(rows: list[tuple[tuple[str, ...], str, float | None]], metric: str) -> None:
    table = Table(title=f"Sweep, sorted by {metric}", title_justify="left")
    keys = [setting.partition("=")[0] for setting in rows[0][0]] if rows else []
    for column in (*keys, metric, "experiment"):
        table.add_column(column)
    for job, name, number in rows:
        values = [setting.partition("=")[2] for setting in job]
        table.add_row(*values, "-" if number is None else f"{number:.4f}", name)
    Console().print(table)
