"""DVC experiments, run one by one in temporary copies; DVC and git are called as commands."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weightspace.errors import problem
from weightspace.params import parse_yaml, read_yaml, validate_params
from weightspace.registry import FAMILIES, resolve

INSTALL = {
    "dvc": "pip install 'weightspace[pipeline]', or use the environment that `make` builds",
    "git": "install git",
}


def check_settings(jobs: Iterable[tuple[str, ...]], path: Path = Path("params.yaml")) -> None:
    """Refuse settings that the file cannot have, before the first experiment runs.

    Args:
        jobs: settings of each, ``key=value``.
        path: file that they change.

    Raises:
        WeightspaceError: no such key, or a value that it cannot have, with the others of its job.

    """
    for job in dict.fromkeys(jobs):
        table = read_yaml(path)
        for setting in job:
            change(table, setting)
        params = validate_params(table, f"{path} with {' '.join(job)}")
        for family in FAMILIES.values():
            resolve(family.table, family.selected(params), family.key)


def change(table: dict[str, Any], setting: str) -> None:
    """Change a value of a table as ``-S key=value`` does."""
    key, _, text = setting.partition("=")
    *sections, name = key.removeprefix("params.yaml:").removeprefix("+").split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise problem("no section of that name", where=f"-S {setting}", got=section)
    value = parse_yaml(f"value: {text}", Path(f"-S {setting}"))
    if value.keys() != {"value"}:
        raise problem("not one value", where=f"-S {setting}")
    table[name] = value["value"]


def baseline_commit() -> str:
    """The commit that experiments start from."""
    return _git("rev-parse", "HEAD").strip()


def run_one(job: tuple[str, ...], stages: list[str], baseline: str) -> str | None:
    """Run one experiment in a temporary copy; its commit, None if it failed.

    Args:
        job: settings, ``key=value`` each.
        stages: run only up to these; all if empty.
        baseline: commit that the experiment starts from.

    """
    name = experiment(job)
    if _commit(name, baseline):
        call("dvc", "exp", "remove", name)
    command = ["dvc", "exp", "run", "--temp", "--name", name]
    command += [part for setting in job for part in ("-S", setting)] + stages
    result = call(*command)
    commit = None if result.returncode else _commit(name, baseline)
    if commit is None:
        print(f"\nexperiment failed: {' '.join(job)}\n{result.stdout}", file=sys.stderr)
    return commit


def experiment(job: tuple[str, ...]) -> str:
    """Name of a combination's experiment: readable, and different for different settings.

    >>> experiment(("seed=0", "pca.components=8"))
    'sweep-seed-0-pca-components-8-76de0c'

    """
    text = "".join(c if c.isalnum() else "-" for c in "-".join(job).lower()).strip("-")[:60]
    return f"sweep-{text}-{hashlib.sha256(repr(job).encode()).hexdigest()[:6]}"


def value(commit: str, metric: str) -> float | None:
    """Read one metric of an experiment; None if it has none."""
    file, _, key = metric.partition(".")
    figure = figure_of(json.loads(_git("show", f"{commit}:metrics/{file}.json")), key)
    return float(figure) if isinstance(figure, int | float) else None


def figure_of(metrics: Any, key: str) -> Any:
    """What stands under a dotted key of a metric file; None where nothing does.

    >>> figure_of({"val": {"r2": 0.5}}, "val.r2"), figure_of({"val": {"r2": 0.5}}, "test.r2")
    (0.5, None)
    """
    for part in key.split("."):
        metrics = metrics.get(part) if isinstance(metrics, dict) else None
    return metrics


def _commit(name: str, baseline: str) -> str | None:
    """Commit of an experiment on this baseline; other baselines may have one of the same name."""
    ref = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    return _git("for-each-ref", "--format=%(objectname)", ref).strip() or None


def _git(*arguments: str) -> str:
    result = call("git", *arguments)
    if result.returncode:
        raise problem(f"git {arguments[0]} failed ({result.stdout.strip()})", where="sweep")
    return result.stdout


def call(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its standard output and error together, and its exit code.

    Raises:
        WeightspaceError: the command is not installed.

    """
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except FileNotFoundError as error:
        raise problem(
            f"no command '{command[0]}'", where="experiments", do=INSTALL[command[0]]
        ) from error
