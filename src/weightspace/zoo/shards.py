"""Shards of a zoo: the unit that is trained, checked, resumed and, later, sent elsewhere.

A finished shard is three files in a work folder: the table, the checksums of table and weights, and
the weights last, so that weights on disk mean a complete shard. Tables and weights of all shards
move to the output together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import canonical, read_parquet, write_bytes, write_parquet
from weightspace.data.dataset import PARTS, Dataset, task_batch
from weightspace.errors import problem
from weightspace.nets.base import Net, build_net
from weightspace.params import Settings, ZooSettings
from weightspace.rng import stream, torch_stream
from weightspace.weights.spec import Weights, stack, take
from weightspace.zoo.plan import Run, plan_run
from weightspace.zoo.store import check_shard, shard_bytes, shard_name
from weightspace.zoo.train import measure, train_runs

DIVERGED_FACTOR = 2.0  # a final train loss above this many times log(classes) counts as diverged


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to train one shard: a job of executors/base.py."""

    dataset: Path
    zoo: ZooSettings
    net: Settings
    seed: int
    folder: Path
    shard: int
    device: str = "cpu"

    @property
    def weights_path(self) -> Path:
        """File of the weights ``(runs x snapshots, *shape)``."""
        return self.folder / shard_name(self.shard)

    @property
    def table_path(self) -> Path:
        """File of the members' table."""
        return self.folder / f"members-{self.shard:05d}.parquet"

    @property
    def checksums_path(self) -> Path:
        """File of the checksums of the other two files, for as long as they wait in the folder."""
        return self.folder / f"checksums-{self.shard:05d}.json"

    @property
    def name(self) -> str:
        """Its weights' file."""
        return self.weights_path.name

    def inputs(self) -> dict[str, Path]:
        """Files of the dataset."""
        return {f"dataset/{f.name}": f for f in sorted(self.dataset.iterdir())}

    def packed(self) -> ShardJob:
        """Itself: nothing else is read."""
        return self

    def moved(self, folder: Path) -> ShardJob:
        """The same shard, trained in another folder."""
        return replace(self, dataset=folder / "dataset", folder=folder)

    def outputs(self) -> tuple[Path, ...]:
        """The table first and the weights last, which mean a complete shard."""
        return self.table_path, self.checksums_path, self.weights_path

    def run(self) -> int:
        """Train it. Returns its number."""
        return train_shard(self)

    def is_done(self) -> bool:
        """True when the shard is finished and undamaged; a damaged one is removed, with a line."""
        if not self.weights_path.is_file():
            return False
        if self._is_undamaged():
            return True
        print(f"{self.weights_path}: damaged shard, it is trained again", file=sys.stderr)
        for path in self.outputs():
            path.unlink(missing_ok=True)
        return False

    def _is_undamaged(self) -> bool:
        """True when both files are, byte for byte, those that were written."""
        try:
            table, weights = self.table_path.read_bytes(), self.weights_path.read_bytes()
            return self.checksums_path.read_bytes() == _checksums(table, weights)
        except OSError:  # missing, or on a part of the disk that cannot be read
            return False


def _checksums(table: bytes, weights: bytes) -> bytes:
    sums = {"table": sha256(table).hexdigest(), "weights": sha256(weights).hexdigest()}
    return canonical(sums).encode()


def train_shard(job: ShardJob) -> int:
    """Train one shard, write it, read it back and verify it. Returns the shard's number.

    A shard is always trained whole, so that the last one of a small zoo has the same bytes in a
    larger one; runs beyond ``zoo.runs`` are left out when the zoo is put together.
    """
    dataset = Dataset.load(job.dataset)
    net = build_net(job.zoo.architecture, dataset.shape, dataset.classes_per_task, job.net)
    per_epoch = steps_per_epoch(dataset, job.zoo)
    numbers = range(job.shard * job.zoo.runs_per_shard, (job.shard + 1) * job.zoo.runs_per_shard)
    runs = [plan_run(n, job.zoo, len(dataset.tasks), per_epoch, job.seed) for n in numbers]
    images, labels = task_batch(dataset, torch.tensor([r.task for r in runs]), "train")
    weights = train_runs(
        net,
        runs,
        {k: w.to(job.device) for k, w in _initial(net, runs, job).items()},
        images.to(job.device),
        labels.to(job.device),
        _batches(runs, images.shape[1], job),
        job.zoo.momentum,
    )
    flat = {k: w.flatten(0, 1).cpu() for k, w in weights.items()}  # (R * S, *shape)
    table = _table(net, dataset, runs, flat, job)
    write_parquet(job.table_path, table)
    data = shard_bytes(flat, net.spec, job.shard)
    write_bytes(job.checksums_path, _checksums(job.table_path.read_bytes(), data))
    write_bytes(job.weights_path, data)
    _verify(net, dataset, job)
    return job.shard


def steps_per_epoch(dataset: Dataset, settings: ZooSettings) -> int:
    """Optimiser steps per epoch; a last batch that is not full is left out."""
    per_task = dataset.images["train"].shape[1] * dataset.classes.shape[1]
    if per_task < settings.batch_size:
        raise problem(
            "a batch is larger than a task",
            where="params.yaml: zoo.batch_size",
            got=settings.batch_size,
            expected=f"at most {per_task} images",
        )
    return per_task // settings.batch_size


def _initial(net: Net, runs: Sequence[Run], job: ShardJob) -> Weights:
    """Own initialisation of each run, or the one that all share."""
    if job.zoo.init == "shared":
        one = net.init(torch_stream(job.seed, "zoo", "init"))
        return stack([one] * len(runs))
    return stack([net.init(torch_stream(job.seed, "zoo", r.run, "init")) for r in runs])


def _batches(runs: Sequence[Run], images: int, job: ShardJob) -> Tensor:
    """Order of the images in every step of every run: ``(R, steps, B)``, zero after a run's end."""
    size = job.zoo.batch_size
    per_epoch = images // size
    out = np.zeros((len(runs), max(r.epochs for r in runs) * per_epoch, size), np.int64)
    for row, run in zip(out, runs, strict=True):
        rng = stream(job.seed, "zoo", run.run, "batches")
        for epoch in range(run.epochs):
            order = rng.permutation(images)[: per_epoch * size]
            row[epoch * per_epoch : (epoch + 1) * per_epoch] = order.reshape(per_epoch, size)
    return torch.from_numpy(out)


def _table(
    net: Net, dataset: Dataset, runs: Sequence[Run], weights: Weights, job: ShardJob
) -> pd.DataFrame:
    """One row per member: what it is, and its loss and accuracy on every part of its task."""
    per_epoch = runs[0].steps[-1] // runs[0].epochs
    rows = [
        {k: v for k, v in asdict(run).items() if k != "steps"}
        | {"snapshot": s, "step": step, "epoch": step / per_epoch}
        for run in runs
        for s, step in enumerate(run.steps)
    ]
    table = pd.DataFrame(rows)
    for part, (loss, accuracy) in measure_members(
        net, dataset, table["task"].to_numpy(), weights
    ).items():
        table[f"{part}_loss"], table[f"{part}_accuracy"] = loss.numpy(), accuracy.numpy()
    table["diverged"] = _diverged(table, weights, dataset.classes.shape[1])
    table.insert(0, "shard", job.shard)
    table.insert(1, "row", np.arange(len(table)))
    return table


def measure_members(
    net: Net,
    dataset: Dataset,
    tasks: np.ndarray,
    weights: Weights,
    parts: Sequence[str] = PARTS,
    block: int = 100,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Loss and accuracy ``(N,)`` of N members on parts of their tasks, in fixed blocks."""
    out: dict[str, tuple[Tensor, Tensor]] = {}
    for part in parts:
        pieces = []
        for start in range(0, len(tasks), block):
            here = slice(start, start + block)
            images, labels = task_batch(dataset, torch.tensor(tasks[here]), part)
            pieces.append(torch.stack(measure(net, take(weights, here), images, labels)))
        loss, accuracy = torch.cat(pieces, 1)
        out[part] = (loss, accuracy)
    return out


def _diverged(table: pd.DataFrame, weights: Weights, classes: int) -> np.ndarray:
    """Mark all members of a run that has a non-finite value or ends far above a uniform guess."""
    finite = torch.stack([w.flatten(1).isfinite().all(1) for w in weights.values()]).all(0).numpy()
    bad = ~finite | ~np.isfinite(table["train_loss"].to_numpy())
    last = table["snapshot"] == table["snapshot"].max()
    bad |= last.to_numpy() & (table["train_loss"].to_numpy() > DIVERGED_FACTOR * np.log(classes))
    return np.asarray(table["run"].isin(set(table["run"][bad])))


def _verify(net: Net, dataset: Dataset, job: ShardJob) -> None:
    """The gate: what was written, read back, must reach the logged accuracies exactly."""
    table = read_parquet(job.table_path)
    weights, _ = check_shard(job.weights_path, table, net.spec)
    again = measure_members(net, dataset, table["task"].to_numpy(), weights)
    for part, (_, accuracy) in again.items():
        logged = table[f"{part}_accuracy"].to_numpy()
        wrong = np.flatnonzero((accuracy.numpy() != logged) & ~table["diverged"].to_numpy(bool))
        if len(wrong):
            job.weights_path.unlink()
            raise problem(
                f"member {wrong[0]} does not reach its logged {part} accuracy after reading back",
                where=job.weights_path,
                got=float(accuracy[wrong[0]]),
                expected=float(logged[wrong[0]]),
                do="run again; if it happens twice, check the disk",
            )
