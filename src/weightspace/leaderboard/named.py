"""Named tasks: their files, and whether the data at hand is what they name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from weightspace.artifacts import (
    DATASET_FOLDER,
    MEMBERS_FILE,
    TASKS_FILE,
    ZOO_FOLDER,
    canonical,
)
from weightspace.data.dataset import Dataset
from weightspace.errors import nearest, problem
from weightspace.evaluate.evaluation import Scoring
from weightspace.leaderboard.schema import Task, validated
from weightspace.nets.base import build_net
from weightspace.params import EvaluateSettings, options_of, read_yaml
from weightspace.shared_encoders.base import range_of
from weightspace.zoo.contents import folder_hash
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

FOLDER = Path(__file__).resolve().parent / "tasks"


def names() -> list[str]:
    """Names of the tasks that come with the package, FAMILY/NAME."""
    files = sorted(FOLDER.glob("*/*.yaml"))
    return [path.relative_to(FOLDER).with_suffix("").as_posix() for path in files]


def load_task(task: str | Path | Task) -> Task:
    """A task by its name, by the path of its file, or as it is.

    Raises:
        WeightspaceError: no such task, or a file of another structure; one line.

    """
    if isinstance(task, Task):
        return task
    text = str(task)
    if text.endswith((".yaml", ".yml")):
        return validated(Task, read_yaml(Path(text)), Path(text))
    if text not in (known := names()):
        raise problem(f"unknown task '{text}'", do=nearest(text, known))
    path = FOLDER / f"{text}.yaml"
    loaded = validated(Task, read_yaml(path), path)
    if loaded.name != text:
        raise problem("task has another name than its file", where=path, got=loaded.name)
    return loaded


def task_hash(task: Task) -> str:
    """SHA-256 of all that figures depend on: not of titles, baselines, published figures, changelog."""
    told = {"title", "question", "figures", "baselines", "published", "changelog"}
    data = task.model_dump(mode="json", exclude=told)
    for key in ("make", "aliases"):
        del data["data"][key]
    return hashlib.sha256(canonical(data).encode()).hexdigest()


@dataclass(frozen=True)
class TaskData(Scoring):
    """The data of a task, as evaluations read it.

    Attributes:
        task: what is asked.
        zoo: the population.
        hashes: of the folders "zoo" and "dataset".
        dataset: images and tasks; None where the task has none.

    """

    task: Task
    zoo: Zoo
    hashes: dict[str, str]
    dataset: Dataset | None

    @cached_property
    def runner(self) -> TaskRunner:  # type: ignore[override]
        """Runs networks on the images of their tasks."""
        if self.task.net is None or self.dataset is None:
            raise problem("no network is run in this task", where=self.task.name)
        name = self.task.net.name
        settings = options_of("nets", name, self.task.net.settings)
        net = build_net(name, self.dataset.shape, self.dataset.classes_per_task, settings)
        if net.spec != self.zoo.spec:
            raise problem(
                "the zoo has another architecture",
                where=self.task.name,
                got=self.zoo.spec.fingerprint,
                expected=net.spec.fingerprint,
            )
        return TaskRunner(net, self.dataset)

    @property
    def settings(self) -> EvaluateSettings:
        """How much is drawn and resampled."""
        return self.task.amounts.settings()

    @property
    def seed(self) -> int:
        """That of the task."""
        return self.task.seed

    @property
    def result(self) -> Result:
        """What R is."""
        return Result(self.task.result)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """From the 1 to the 99 % quantile of the results of train members."""
        results = self.result.of_members(self.zoo.select("train"))
        low, high = range_of(torch.from_numpy(results)).tolist()
        return low, high


def folders(root: Path) -> dict[str, Path]:
    """Folders "zoo" and "dataset" of a project, or of a folder that has them itself."""
    inside = root / "data" if (root / "data" / MEMBERS_FILE).is_file() else root
    return {"zoo": inside / ZOO_FOLDER, "dataset": inside / DATASET_FOLDER}


def needed(task: Task, root: Path) -> Iterator[tuple[str, Path, str | None]]:
    """Name, folder and expected hash of what a task is scored on."""
    at = folders(root)
    yield "zoo", at["zoo"], task.data.zoo
    if task.net is not None:
        yield "dataset", at["dataset"], task.data.dataset


def open_data(task: Task, root: Path | str) -> TaskData:
    """Open the data of a task, if it is what the task names.

    Args:
        task: a task.
        root: folder of a project, or a folder with ``zoo`` and ``dataset``.

    Raises:
        WeightspaceError: it is not there, or it is other data; one line that says what to do.

    """
    root, hashes = Path(root), dict[str, str]()
    first = {"zoo": MEMBERS_FILE.name, "dataset": TASKS_FILE.name}
    for name, folder, expected in needed(task, root):
        if not (folder / first[name]).is_file():
            raise problem(f"no {name} of task {task.name}", where=folder, do=task.data.make)
        hashes[name] = folder_hash(folder)
        if expected is not None and hashes[name] != expected:
            raise problem(
                f"not the {name} of task {task.name}, version {task.version}",
                where=folder,
                got=hashes[name][:12],
                expected=expected[:12],
                do=task.data.make,
            )
    at = folders(root)
    dataset = Dataset.load(at["dataset"]) if "dataset" in hashes else None
    return TaskData(task, Zoo.open(at["zoo"]), hashes, dataset)
