"""Shards of a zoo: the unit that is trained, checked, resumed and, later, sent elsewhere.

A finished shard is three files in a work folder: the table, the checksums of table and weights, and
the weights last, so that weights on disk mean a complete shard. Tables and weights of all shards
move to the output together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import (
    canonical,
    file_sha256,
    finite_rows,
    read_parquet,
    sha256_of,
    write_bytes,
    write_parquet,
    write_pieces,
)
from weightspace.data.dataset import PARTS, Dataset
from weightspace.errors import WeightspaceError, problem
from weightspace.nets.base import Net, build_net
from weightspace.params import Settings, ZooSettings, widened
from weightspace.rng import torch_stream
from weightspace.runtime import is_half
from weightspace.weights.spec import Population, Weights, stack
from weightspace.zoo.plan import Run, draw_batches, plan_runs, width_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import check_shard, shard_name, shard_pieces
from weightspace.zoo.train import train_runs

DIVERGED_FACTOR = 2.0  # a final train loss above this many times log(classes) counts as diverged


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to train one shard: a job of jobs/base.py."""

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

    def execute(self) -> int:
        """Train it. Returns its index."""
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
            table, weights = file_sha256(self.table_path), file_sha256(self.weights_path)
            return self.checksums_path.read_bytes() == _checksums(table, weights)
        except OSError:  # missing, or on a part of the disk that cannot be read
            return False


def _checksums(table: str, weights: str) -> bytes:
    return canonical({"table": table, "weights": weights}).encode()


def train_shard(job: ShardJob) -> int:
    """Train one shard, write it, read it back and verify it. Returns the shard's index.

    A shard is always trained whole, so that the last one of a small zoo has the same bytes in a
    larger one; runs beyond ``zoo.runs`` are left out when the zoo is put together.
    """
    dataset = Dataset.load(job.dataset).to(torch.device(job.device))
    width = width_of(job.shard, job.zoo.widths, job.seed)
    sizes = widened(job.net, width)
    net = build_net(job.zoo.architecture, dataset.shape, dataset.classes_per_task, sizes)
    runner = TaskRunner(net, dataset)
    first = job.shard * job.zoo.runs_per_shard
    runs = plan_runs(range(first, first + job.zoo.runs_per_shard), dataset, job.zoo, job.seed)
    images = dataset.images["train"].shape[1] * dataset.classes_per_task
    batches = draw_batches(runs, images, job.zoo.batch_size, job.seed)
    weights = _train(runner, runs, batches, job)
    table = _table(runner, runs, weights)
    table.insert(0, "shard", job.shard)
    if len(job.zoo.widths) > 1:
        table["width"] = width
    pieces = list(shard_pieces(weights, runner.net.spec, job.shard))
    write_parquet(job.table_path, table)
    sums = _checksums(file_sha256(job.table_path), sha256_of(pieces))
    write_bytes(job.checksums_path, sums)
    write_pieces(job.weights_path, pieces)
    written = read_parquet(job.table_path)
    stored, _ = check_shard(job.weights_path, written, runner.net.spec)
    try:
        check_measured(runner, written, stored, job.weights_path)
    except WeightspaceError:
        job.weights_path.unlink()
        raise
    return job.shard


def _train(runner: TaskRunner, runs: Sequence[Run], batches: Tensor, job: ShardJob) -> Weights:
    """Weights ``(R * S, *shape)`` of the S snapshots of R runs, run after run.

    Args:
        runner: the architecture and the tasks.
        runs: R plans.
        batches: images of every step ``(R, steps, B)``.
        job: settings and seed.

    """
    tasks = torch.tensor([run.task for run in runs])
    initial = _initial(runner.net, runs, job.zoo.init, job.seed)
    images = runner.dataset.images["train"]
    if is_half(job.zoo.precision, runner.device):
        images = images.bfloat16()
    weights = train_runs(
        runner.net,
        runs,
        initial,
        images,
        runner.dataset.classes[tasks],
        batches,
        job.zoo.momentum,
    )
    return {name: w.flatten(0, 1) for name, w in weights.items()}


def _initial(net: Net, runs: Sequence[Run], init: str, seed: int) -> Weights:
    """Initialisation of each run ``(R, *shape)``: independent, or one in common (``shared``).

    Args:
        net: the architecture.
        runs: R plans.
        init: "shared" or "independent".
        seed: root seed.

    """
    indices = [[] if init == "shared" else [run.run] for run in runs]
    rngs = [torch_stream(seed, "zoo", *index, "init") for index in indices]
    return stack([net.init(rng) for rng in rngs])


def _table(runner: TaskRunner, runs: Sequence[Run], weights: Weights) -> pd.DataFrame:
    """One row per member: what it is, and its loss and accuracy on every part of its task.

    Args:
        runner: measures.
        runs: R plans.
        weights: of all snapshots ``(R * S, *shape)``, run after run.

    """
    per_epoch = runs[0].steps[-1] // runs[0].epochs
    rows = [
        {k: v for k, v in asdict(run).items() if k != "steps"}
        | {"snapshot": s, "step": step, "epoch": step / per_epoch}
        for run in runs
        for s, step in enumerate(run.steps)
    ]
    table = pd.DataFrame(rows)
    table = table.join(runner.measure(weights, table["task"].to_numpy()))
    table["diverged"] = diverged(table, finite_members(weights), runner.classes)
    table.insert(0, "row", np.arange(len(table)))
    return table


def finite_members(weights: Weights) -> np.ndarray:
    """Whether each of M networks has finite values only, bool ``(M,)``."""
    return torch.stack([finite_rows(w) for w in weights.values()]).all(0).numpy()


def diverged(members: pd.DataFrame, finite: np.ndarray, classes: int) -> np.ndarray:
    """Mark all members of a run that has a non-finite value or ends far above a uniform guess.

    Args:
        members: table with ``run``, ``snapshot`` and ``train_loss`` of M members.
        finite: whether each has finite values only, bool ``(M,)``.
        classes: outputs of a network.

    Returns:
        bool ``(M,)``.

    """
    loss = members["train_loss"].to_numpy()
    last = (members["snapshot"] == members["snapshot"].max()).to_numpy()
    bad = ~finite | ~np.isfinite(loss) | (last & (loss > DIVERGED_FACTOR * np.log(classes)))
    return np.asarray(members["run"].isin(set(members["run"][bad])))


def check_measured(
    runner: TaskRunner, members: pd.DataFrame, weights: Population, where: Path
) -> None:
    """The gate: networks that were written, read back, must reach their logged accuracies exactly.

    Args:
        runner: measures.
        members: their table.
        weights: as read back ``(M, *shape)``.
        where: the file or folder, for the message.

    """
    measured = runner.measure(weights, members["task"].to_numpy())
    good = ~members["diverged"].to_numpy(bool)
    for name in (f"{part}_accuracy" for part in PARTS):
        reached, logged = measured[name].to_numpy(), members[name].to_numpy()
        wrong = np.flatnonzero((reached != logged) & good)
        if len(wrong):
            raise problem(
                f"member {wrong[0]} does not reach its {name} after reading back",
                where=where,
                got=float(reached[wrong[0]]),
                expected=float(logged[wrong[0]]),
                do="run again; if it happens twice, check the disk",
            )
