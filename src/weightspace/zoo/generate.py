"""Generate a zoo: train the missing shards in parallel, then put all of them together."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd

from weightspace.artifacts import canonical, read_parquet, write_parquet
from weightspace.data.dataset import Dataset
from weightspace.nets import NETS
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.registry import resolve
from weightspace.runtime import device, prepare, workers
from weightspace.zoo.shards import ShardJob, train_shard


def work_key(params: Params, dataset: Path) -> str:
    """Name of the work folder: a hash of the code, the settings and the inputs of the zoo.

    Finished shards are only ever reused under the same hash, so old and new never mix. The number
    of runs is left out: a longer zoo continues from a shorter, interrupted one.
    """
    digest = hashlib.sha256()
    zoo = params.zoo.model_dump(mode="json", exclude={"runs"})
    nets = getattr(params.nets, params.zoo.architecture).model_dump(mode="json")
    digest.update(canonical([params.seed, zoo, nets]).encode())
    for name in sorted(n for n in sys.modules if n.split(".")[0] == "weightspace"):
        file = sys.modules[name].__file__
        digest.update(name.encode() + (Path(file).read_bytes() if file else b""))
    for path in sorted(dataset.glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def generate(params: Params, dataset_folder: Path, out: Path, scratch: Path) -> pd.DataFrame:
    """Train a zoo and write it to ``out``.

    Args:
        params: all settings.
        dataset_folder: the dataset artefact.
        out: folder of the zoo artefact; shards and ``members.parquet``.
        scratch: folder where finished shards wait; an interrupted call continues from them.

    Returns:
        The members' table.

    """
    resolve(NETS, params.zoo.architecture, "zoo.architecture")
    folder = scratch / work_key(params, dataset_folder)
    shards = -(-params.zoo.runs // params.zoo.runs_per_shard)
    where = device(params.runtime)
    jobs = [
        ShardJob(dataset_folder, params.zoo, params.nets, params.seed, folder, shard, where)
        for shard in range(shards)
    ]
    todo = [job for job in jobs if not job.is_done()]
    with progress("zoo", len(jobs)) as bar:
        bar.advance(len(jobs) - len(todo), note="shards")
        for _ in _train(todo, 1 if where == "cuda" else workers(params.runtime)):
            bar.advance(note="shards")
    table = _collect(jobs, params, Dataset.load(dataset_folder), out)
    shutil.rmtree(folder)
    return table


def _train(jobs: list[ShardJob], processes: int) -> Iterator[int]:
    """Train shards, yielding each as it finishes.

    One thread per shard, whatever the number of workers, so that it never changes a byte.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max(1, min(processes, len(jobs))), context, _start_worker, (os.getpid(),)
    ) as pool:
        futures = [pool.submit(train_shard, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """One thread, and no life after the parent's: a killed stage leaves no process behind."""
    prepare(threads=1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _collect(jobs: list[ShardJob], params: Params, dataset: Dataset, out: Path) -> pd.DataFrame:
    """Put finished shards and one table into the output folder, the table last."""
    table = pd.concat([read_parquet(job.table_path) for job in jobs])
    table = _with_splits(table[table["run"] < params.zoo.runs], dataset)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    for job in jobs:
        target = out / job.weights_path.name
        try:
            os.link(job.weights_path, target)
        except OSError:  # another file system
            shutil.copyfile(job.weights_path, target)
    write_parquet(out / "members.parquet", table)
    return table


def _with_splits(table: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Add member number, split and class set of each member's task."""
    tasks = dataset.tasks.set_index("task")
    table = table.reset_index(drop=True)
    table.insert(0, "member", np.arange(len(table)))
    table["split"] = tasks["split"].loc[table["task"]].to_numpy()
    table["class_set"] = tasks["class_set"].loc[table["task"]].to_numpy()
    return table


def summarise(table: pd.DataFrame) -> dict[str, float | int]:
    """Figures of ``metrics/zoo.json``: sizes, diverged runs, accuracy quantiles per snapshot."""
    good = table[~table["diverged"]]
    figures: dict[str, float | int] = {
        "runs": int(table["run"].nunique()),
        "members": len(table),
        "diverged_runs": int(table[table["diverged"]]["run"].nunique()),
    }
    for snapshot, group in good.groupby("snapshot"):
        for q in (5, 25, 50, 75, 95):
            level = float(group["test_accuracy"].quantile(q / 100))
            figures[f"test_accuracy_snapshot{snapshot}_q{q:02d}"] = level
    return figures
