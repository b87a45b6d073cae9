"""Sweeps with DVC experiments: values in, a sorted table out, failure when any run fails.

DVC's ``dvc exp run --run-all`` ends with exit code 0 when experiments failed, and a failed
experiment shows the figures of its baseline. In this module every combination runs alone in a temporary
copy, its exit code counts, and failed ones never reach the table. DVC is called as a command.

``dvc exp run --force`` would replace an earlier experiment of the same name, but it also reruns
every stage; so the earlier one is removed first.
"""

from __future__ import annotations

import itertools
import sys

from rich.console import Console
from rich.table import Table

from weightspace.errors import problem
from weightspace.experiments.dvc import (
    baseline_commit,
    call,
    check_settings,
    experiment,
    run_one,
    value,
)
from weightspace.progress import progress


def combinations(sets: list[str]) -> list[tuple[str, ...]]:
    """All combinations of ``key=value,value`` items, a tuple of ``key=value`` strings for each.

    A comma inside brackets does not separate.

    >>> combinations(["seed=0,1", "zoo.epochs=[4,8]"])
    [('seed=0', 'zoo.epochs=[4,8]'), ('seed=1', 'zoo.epochs=[4,8]')]
    """
    options: list[list[str]] = []
    for item in sets:
        key, equals, values = item.partition("=")
        if not equals or not key or not values:
            raise problem("not a setting", where=f"-S {item}", expected="key=value[,value...]")
        if any(key == other[0].partition("=")[0] for other in options):
            raise problem("is given twice", where=f"-S {key}", do=f"-S {key}=value,value")
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
    check_settings(jobs)
    _check_metric(metric, stage)
    baseline = baseline_commit()
    done: dict[tuple[str, ...], str] = {}
    failed: list[str] = []
    with progress("sweep", len(jobs)) as bar:
        for job in jobs:
            commit = run_one(job, [stage] if stage else [], baseline)
            if commit is None:
                failed.append(" ".join(job))
            else:
                done[job] = commit
            bar.advance(note=" ".join(job))
    rows = [(job, experiment(job), value(commit, metric)) for job, commit in done.items()]
    sign = 1 if ascending else -1
    rows.sort(key=lambda r: (r[2] is None, sign * (r[2] or 0.0)))
    _print(rows, metric)
    if failed:
        raise problem(
            f"{len(failed)} of {len(jobs)} experiments failed",
            where="sweep",
            got="; ".join(failed),
            do="see the messages above",
        )
    if all(r[2] is None for r in rows):
        raise problem(
            "no experiment has the metric",
            where="sweep",
            got=f"'{metric}'",
            expected="file.key, for instance sampling.test_sets.mae",
        )


def _check_metric(metric: str, stage: str | None) -> None:
    """Refuse a metric that the stages of this sweep do not write.

    Without this, a sweep that stops early would show the figure of its baseline in every row.
    """
    file = metric.partition(".")[0]
    dag = call("dvc", "dag", "--outs", "--dot", *([stage] if stage else []))
    if dag.returncode:
        raise problem(f"no pipeline to sweep ({dag.stdout.strip()})", where="sweep")
    if f'"metrics/{file}.json"' not in dag.stdout:
        raise problem(
            f"metrics/{file}.json is written by no stage" + (f" up to '{stage}'" if stage else ""),
            where="sweep",
            got=f"'{metric}'",
            expected="file.key, for instance sampling.test_sets.mae",
        )


def _print(rows: list[tuple[tuple[str, ...], str, float | None]], metric: str) -> None:
    table = Table(title=f"Sweep, sorted by {metric}", title_justify="left")
    settings = [dict(setting.split("=", 1) for setting in job) for job, _, _ in rows]
    keys = [k for k in settings[0] if len({s[k] for s in settings}) > 1] if rows else []
    keys = keys or list(settings[0] if rows else [])  # only what varies, unless nothing does
    for column in (*keys, metric, "experiment"):
        table.add_column(column)
    for row, (_, name, number) in zip(settings, rows, strict=True):
        values = [row[k] for k in keys]
        table.add_row(*values, "-" if number is None else f"{number:.4f}", name)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
