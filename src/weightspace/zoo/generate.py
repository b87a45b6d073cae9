"""Generate a zoo: train the missing shards in parallel, then put all of them together."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from weightspace.artifacts import (
    MEMBERS_FILE,
    canonical,
    lock,
    read_parquet,
    remove_abandoned,
    sync_folder,
    write_bytes,
    write_parquet,
)
from weightspace.data.dataset import Dataset
from weightspace.errors import WeightspaceError, problem
from weightspace.jobs.base import execute
from weightspace.nets import NETS
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.registry import find, resolve
from weightspace.runtime import device
from weightspace.zoo.shards import ShardJob

EXECUTORS_PACKAGE = "weightspace.jobs"
KEY_LENGTH = 16  # hexadecimal digits in the name of a work folder


def work_key(params: Params, dataset: Path) -> str:
    """Name of the work folder: a hash of the code, the settings, the inputs and the device of the zoo.

    Finished shards are only ever reused under the same hash, so old and new never mix. The count
    of runs is left out: a longer zoo continues from a shorter, interrupted one. So are executors,
    which change no byte.
    """
    digest = hashlib.sha256()
    zoo = params.zoo.model_dump(mode="json", exclude={"runs"})
    net = params.nets.of(params.zoo.architecture).model_dump(mode="json")
    where = [device(params.runtime).type, torch.__version__]  # other bits, so no mixing
    digest.update(canonical([params.seed, zoo, net, where]).encode())
    loaded = (n for n in sys.modules if n.split(".")[0] == "weightspace")
    for name in sorted(n for n in loaded if not n.startswith(EXECUTORS_PACKAGE)):
        file = sys.modules[name].__file__
        digest.update(name.encode() + (Path(file).read_bytes() if file else b""))
    if member := find("nets", params.zoo.architecture):  # its code is not in the package
        digest.update(member.digest.encode())
    for path in sorted(dataset.glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:KEY_LENGTH]


def generate(params: Params, dataset_folder: Path, out: Path, scratch: Path) -> pd.DataFrame:
    """Train a zoo and write it to ``out``.

    Args:
        params: all settings.
        dataset_folder: the dataset artefact.
        out: folder of the zoo artefact; shards and ``members.parquet``.
        scratch: folder where finished shards wait; an interrupted call continues from them, and
            what was abandoned there is removed (see :func:`remove_abandoned`).

    Returns:
        The members' table.

    """
    resolve(NETS, params.zoo.architecture, "zoo.architecture")
    folder = scratch / work_key(params, dataset_folder)
    shards = -(-params.zoo.runs // params.zoo.runs_per_shard)
    where, net = device(params.runtime), params.nets.of(params.zoo.architecture)
    jobs = [
        ShardJob(dataset_folder, params.zoo, net, params.seed, folder, shard, where.type)
        for shard in range(shards)
    ]
    with _alone(folder):
        remove_abandoned(scratch, "[0-9a-f]" * KEY_LENGTH)
        todo = [job for job in jobs if not job.is_done()]
        with progress("zoo", len(jobs)) as bar:
            bar.advance(len(jobs) - len(todo), note="shards")
            for _ in execute(todo, params.runtime):
                bar.advance(note="shards")
        table = _collect(jobs, params, Dataset.load(dataset_folder), out)
        shutil.rmtree(folder)
    return table


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the work folder while a zoo is trained in it.

    Raises:
        WeightspaceError: another process holds it.

    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder)
        if handle is None:
            raise problem(
                "another process trains this zoo",
                where=folder,
                do="wait until it has finished, then run again",
            )
        try:
            # the one that held it before may have removed the folder in between
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def _collect(jobs: list[ShardJob], params: Params, dataset: Dataset, out: Path) -> pd.DataFrame:
    """Put finished shards and one table into the output folder, the table last.

    Args:
        jobs: finished.
        params: all settings.
        dataset: the tasks.
        out: folder of the zoo.

    """
    table = pd.concat([read_parquet(job.table_path) for job in jobs])
    table = _with_splits(table[table["run"] < params.zoo.runs], dataset)
    out.mkdir(parents=True, exist_ok=True)
    _empty(out)
    try:
        for job in jobs:
            _link(job.weights_path, out / job.weights_path.name)
        sync_folder(out)
        write_parquet(out / MEMBERS_FILE.name, table)
        sync_folder(out.absolute().parent)  # the work folder, removed next, has the only other copy
    except WeightspaceError:
        _empty(out)
        raise
    return table


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _link(source: Path, target: Path) -> None:
    """Hard link, or copy to another file system."""
    try:
        os.link(source, target)
    except OSError:
        write_bytes(target, source.read_bytes())


def _with_splits(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Add index of the member, split and class set of its task."""
    tasks = dataset.tasks.set_index("task")
    table = table.reset_index(drop=True)
    table.insert(0, "member", np.arange(len(table)))
    table["split"] = tasks["split"].loc[table["task"]].to_numpy()
    table["class_set"] = tasks["class_set"].loc[table["task"]].to_numpy()
    return table


def summarise(table: pd.DataFrame) -> dict[str, float | int]:
    """Metrics of ``metrics/zoo.json``: sizes, diverged runs, accuracy quantiles per snapshot."""
    good = table[~table["diverged"]]
    metrics: dict[str, float | int] = {
        "runs": int(table["run"].nunique()),
        "members": len(table),
        "diverged_runs": int(table[table["diverged"]]["run"].nunique()),
    }
    for width, group in table.groupby("width") if "width" in table else ():
        metrics[f"width_{width:g}_runs"] = int(group["run"].nunique())
    for snapshot, group in good.groupby("snapshot"):
        for q in (5, 25, 50, 75, 95):
            level = float(group["test_accuracy"].quantile(q / 100))
            metrics[f"test_accuracy_snapshot{snapshot}_q{q:02d}"] = level
    return metrics
