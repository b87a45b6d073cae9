"""A zoo made of networks that were trained elsewhere, read one by one and written shard by shard.

Results are measured wherever images are at hand; where they are not, those of the zoo are believed, and
every member says so.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch

from weightspace.artifacts import DATASET_FOLDER, MEMBERS_FILE, new_folder, write_parquet
from weightspace.data.dataset import PARTS, Dataset
from weightspace.errors import problem
from weightspace.progress import LOG_EVERY
from weightspace.registry import resolve
from weightspace.weights.spec import Weights, block_size
from weightspace.zoo._import_rules import Tasks, check_supported, selects, splits_of
from weightspace.zoo.readers import READERS
from weightspace.zoo.readers.base import NUMBERS, RESULTS, Member, Row, number
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.shards import check_measured, diverged, finite_members
from weightspace.zoo.store import Zoo, check_shard, save_shard, shard_name

PER_SHARD = 2000  # members, fewer where networks are large: a shard is in memory at once
# Settings of a run that a zoo may leave out. A constant predicts nothing, and its log is 0.
UNKNOWN: dict[str, str | float] = {
    "optimizer": "unknown",
    "lr": 1.0,
    "weight_decay": 1.0,
    "epochs": 1.0,
}
FAR = 0.02  # a claimed accuracy further than this from the measured one is pointed out


@dataclass(frozen=True)
class Source:
    """A zoo of other people, and what of it is asked for.

    Attributes:
        path: its folder.
        layout: a reader, a file in src/weightspace/zoo/readers.
        table: results, for layouts that have none of their own.
        where: column -> value; only members that have all of them are imported.
        split: None for the column split where there is one, or else the split of the task; three
            fractions of the runs; or a CSV with columns run and split.
        believe: take the results of the zoo instead of measuring.
        tolerance: most that val and test accuracies may differ from those of the zoo, on average.
        seed: root seed of splits by fractions.

    """

    path: Path
    layout: str = "folder"
    table: Path | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    believe: bool = False
    tolerance: float | None = None
    seed: int = 0

    @property
    def reader(self) -> ModuleType:
        """Module of the layout."""
        return resolve(READERS, self.layout, "--layout")


@dataclass(frozen=True)
class Imported:
    """A finished import: the table of members and what a person should know, a line each."""

    members: pd.DataFrame
    notes: tuple[str, ...]


def import_zoo(
    source: Source, runner: TaskRunner, out: Path, *, keep_dataset: bool = False
) -> Imported:
    """Read networks strictly, measure them on their tasks and write a zoo.

    At most one shard is in memory, whatever their number, and a row of numbers for each.

    Args:
        source: the zoo and what of it is asked for.
        runner: the architecture and the tasks.
        out: new or empty folder of the zoo.
        keep_dataset: write the dataset there, too, since it is not the project's.

    Raises:
        WeightspaceError: a file or row that does not fit exactly; nothing is written then.

    """
    with new_folder(out) as temporary:
        table, runs = _write_shards(temporary, source, runner)
        members, notes = _members(table, runs, source, runner)
        write_parquet(temporary / MEMBERS_FILE.name, members)
        _check_written(temporary, members, source, runner, out)
        if keep_dataset:
            (temporary / DATASET_FOLDER.name).mkdir()
            runner.dataset.save(temporary / DATASET_FOLDER.name)
            notes.append(
                f"{out / DATASET_FOLDER.name} has the images as these networks expect them"
            )
        notes = [_sizes(members), *_missing(table), *notes]
        notes += _unread(source)
        notes += [] if source.believe else _differences(table, source)
    return Imported(members, tuple(notes))


def _write_shards(
    folder: Path, source: Source, runner: TaskRunner
) -> tuple[pd.DataFrame, list[str]]:
    """Write shard after shard. Returns a row of numbers per member, and the name of each run.

    Args:
        folder: of the zoo.
        source: the zoo and what of it is asked for.
        runner: the architecture and the tasks; measures.

    """
    spec, runs = runner.net.spec, dict[str, int]()
    parts: list[pd.DataFrame] = []
    tasks, members = Tasks(runner.dataset), _selected(source)
    size = block_size(spec, PER_SHARD)
    room = {t.name: torch.empty(size, *t.shape) for t in spec.tensors}
    while block := _fill(room, islice(members, size), source, runner):
        rows = pd.DataFrame([_numbers(row, tasks, runs) for row in block])
        weights = {name: w[: len(block)] for name, w in room.items()}
        save_shard(folder / shard_name(len(parts)), weights, spec, len(parts))
        rows["shard"], rows["row"] = len(parts), np.arange(len(rows))
        rows["finite"] &= finite_members(weights)
        if not source.believe:
            measured = runner.measure(weights, rows["task"].to_numpy())
            rows = rows.join(measured.add_prefix("measured_"))
        parts.append(rows)
    if not parts:
        asked = ", ".join(f"{k}={v}" for k, v in source.where.items())
        raise problem("no networks to import", where=source.path, got=f"none with {asked}")
    return pd.concat(parts, ignore_index=True), list(runs)


def _selected(source: Source) -> Iterator[Member]:
    """Members that are asked for; how many there are so far is said now and then."""
    last, count = time.monotonic(), 0
    for row, read in source.reader.members(source.path, source.table):
        if selects(row, source.where):
            yield row, read
            count += 1
        if time.monotonic() - last >= LOG_EVERY:
            last = time.monotonic()
            print(f"read: {count} networks", file=sys.stderr, flush=True)


def _fill(
    room: Weights, members: Iterator[Member], source: Source, runner: TaskRunner
) -> list[Row]:
    """Read networks into room for a shard, verified one by one. Returns their rows.

    Small tensors that stay for a while fragment the heap: 270,000 networks took 3.7 GiB that way.

    Args:
        room: tensors ``(M, *shape)``, filled from the first on.
        members: M at most.
        source: its reader maps the tensors.
        runner: the architecture.

    """
    fit, rows = source.reader.fit, list[Row]()
    for row, read in members:
        check_supported(row, runner.net)
        network = fit(read(), runner.net.spec, row["file"])
        for name, value in network.items():
            room[name][len(rows)] = value
        rows.append(row)
    return rows


def _numbers(row: Row, tasks: Tasks, runs: dict[str, int]) -> dict[str, object]:
    """What is kept of a row: its task, its run by number, settings, results.

    Args:
        row: a member.
        tasks: finds its task.
        runs: number of each run by its name; a new one is added.

    """
    values = {name: number(row.get(name), name, row["file"]) for name in NUMBERS}
    losses = [v for name, v in values.items() if name.endswith("_loss") and v is not None]
    text = {n: _text(row.get(n)) for n in ("split", "optimizer")}
    return {
        "run": runs.setdefault(
            row["run"] if row.get("run") is not None else row["file"], len(runs)
        ),
        "run_known": row.get("run") is not None,
        "task": tasks.of(row),
        "finite": all(math.isfinite(loss) for loss in losses),
        **{name: math.nan if value is None else value for name, value in values.items()},
        **text,
    }


def _text(value: object) -> str | None:
    """Text of a column, stored once however often it is there; None where it is unknown."""
    unknown = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return None if unknown else sys.intern(str(value))


def _members(
    table: pd.DataFrame, runs: Sequence[str], source: Source, runner: TaskRunner
) -> tuple[pd.DataFrame, list[str]]:
    """One row per member, run after run, its snapshots in order of their epochs; notes on them.

    The last snapshots of all runs get the same index, also where runs have fewer than others.

    Args:
        table: what was kept of each of M members.
        runs: name of each run, by its number.
        source: the zoo and what of it is asked for.
        runner: the architecture and the tasks.

    """
    group = table.groupby("run")
    several = group["task"].nunique() > 1
    if several.any():
        name = runs[int(several.to_numpy().argmax())]
        raise problem(f"run '{name}' has members of several tasks", do="correct 'run' or 'classes'")
    epoch = table["epoch"].where(table["epoch"].notna(), group.cumcount() + 1.0)
    table = table.assign(epoch=epoch).sort_values(
        ["run", "epoch"], kind="stable", ignore_index=True
    )
    in_run = table.groupby("run")["epoch"]
    count, order = in_run.transform("size"), in_run.cumcount()
    settings = {name: table[name].fillna(value) for name, value in UNKNOWN.items()}
    splits, note = splits_of(table, runs, runner.dataset, source.split, source.seed)
    sets = runner.dataset.tasks.set_index("task")["class_set"]
    rows = pd.DataFrame(
        {
            "shard": table["shard"],
            "row": table["row"],
            "task": table["task"],
            "run": table["run"],
            "epoch": table["epoch"],
            **settings,
            "snapshot": (count.max() - count + order).astype(int),
            "step": table["epoch"],
            "split": splits,
            "class_set": sets.loc[table["task"]].to_numpy(),
        }
    )
    notes = [note] if note else []
    for name in ("lr", "weight_decay"):
        rows[name], said = _positive(rows[name])
        notes += said
    taken = "" if source.believe else "measured_"
    rows = rows.assign(**{name: table[f"{taken}{name}"].astype(np.float32) for name in RESULTS})
    rows["believed"] = source.believe
    losses = rows.assign(train_loss=rows["train_loss"].fillna(0.0)) if source.believe else rows
    rows["diverged"] = diverged(losses, table["finite"].to_numpy(bool), runner.classes)
    rows.insert(0, "member", np.arange(len(rows)))
    return rows, notes


def _positive(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Values whose log there is: one of 0 becomes a tenth of the smallest other one, or 1."""
    zero = values <= 0
    if not zero.any():
        return values, []
    other = values[~zero].min() / 10 if not zero.all() else 1.0
    return values.where(~zero, other), [f"{values.name}: 0 is written as {other:g}, for its log"]


def _check_written(
    folder: Path, members: pd.DataFrame, source: Source, runner: TaskRunner, out: Path
) -> None:
    """Read every shard again; networks must reach what was measured, bytes be those written.

    Args:
        folder: of the zoo, where it is now.
        members: its table.
        source: whether results are believed.
        runner: measures.
        out: of the zoo, for messages.

    """
    zoo = Zoo.open(folder)
    for shard, rows in zoo.members.groupby("shard"):
        if source.believe:
            check_shard(folder / shard_name(int(str(shard))), rows.sort_values("row"), zoo.spec)
        else:
            check_measured(runner, rows.reset_index(drop=True), zoo.networks(rows), out)


def _sizes(members: pd.DataFrame) -> str:
    """Say what the zoo holds."""
    splits = ", ".join(f"{k} {v}" for k, v in members.groupby("split", sort=False).size().items())
    runs, bad = members["run"].nunique(), members.loc[members["diverged"], "run"].nunique()
    marked = f"; {bad} diverged runs are kept and marked" if bad else ""
    return f"{len(members)} members of {runs} runs: {splits}{marked}"


def _missing(table: pd.DataFrame) -> list[str]:
    """Say what the zoo leaves out and what is used instead."""
    absent = [n for n in UNKNOWN if table[n].isna().all()]
    said = [f"table has no {', '.join(absent)}: a constant is used"] if absent else []
    if not table["run_known"].any():
        said.append("table has no run: every file counts as one run")
    return said


def _unread(source: Source) -> list[str]:
    """Say which files of the folder were not named, where the layout can tell."""
    unread = getattr(source.reader, "unread", None)
    return list(unread(source.path, source.table)) if unread else []


def _differences(table: pd.DataFrame, source: Source) -> list[str]:
    """Compare claimed accuracies with the measured ones, and refuse what is beyond the tolerance."""
    out = []
    names = [n for n in RESULTS if n.endswith("_accuracy") and table[n].notna().any()]
    gates = [name for name in names if not name.startswith("train")]  # a running value, often
    if source.tolerance is not None and not gates:
        raise problem("nothing to compare with", where="--tolerance", got="no test accuracies")
    for name in names:
        off = (table[f"measured_{name}"] - table[name]).abs().dropna()
        if source.tolerance is not None and name in gates and off.mean() > source.tolerance:
            raise problem(
                f"{name}: the networks do not reach what the zoo says",
                where=source.path,
                got=f"a mean difference of {off.mean():.3f}",
                expected=f"at most {source.tolerance:g}",
                do="check --pixels, the images, the order of the classes and the activation",
            )
        out.append(
            f"{name}: {int((off > FAR).sum())} of {len(off)} members differ from the table by more "
            f"than {FAR:g}, {off.max():.3f} at most; the zoo holds what was measured"
        )
    return out


def with_pixels(dataset: Dataset, mean: float, std: float) -> Dataset:
    """The same images, standardised by other numbers: pixels in [0, 1] minus mean, by std.

    >>> import torch
    >>> images = {part: torch.tensor([[[[[-1.0, 1.0]]]]]) for part in ("train", "val", "test")}
    >>> seen = Dataset(images, ["a"], pd.DataFrame(), [], mean=0.25, std=0.25)  # pixels 0 and 0.5
    >>> with_pixels(seen, 0.5, 0.5).images["val"].flatten()
    tensor([-1.,  0.])
    """
    images = {
        part: ((x.double() * dataset.std + dataset.mean - mean) / std).float()
        for part, x in dataset.images.items()
    }
    return Dataset(images, dataset.class_names, dataset.tasks, dataset.unseen, mean, std)


def without_images(shape: tuple[int, int, int], classes: int) -> Dataset:
    """A dataset of one task and no images: for zoos whose results are believed.

    Args:
        shape: channels, height, width of the images that networks expect.
        classes: of the task, called 0, 1, ...

    """
    task = {"task": [0], "classes": [list(range(classes))], "class_set": [0], "split": ["train"]}
    images = {part: torch.empty(classes, 0, *shape) for part in PARTS}
    names = [str(c) for c in range(classes)]
    return Dataset(images, names, pd.DataFrame(task), [], 0.0, 1.0)
