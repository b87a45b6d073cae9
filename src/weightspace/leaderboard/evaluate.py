"""Score a method that is given as functions on a named task."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from weightspace import __version__
from weightspace.artifacts import read_json
from weightspace.errors import problem
from weightspace.leaderboard.figures import FAMILIES, as_figures
from weightspace.leaderboard.method import Decode, Encode, Method, Sample
from weightspace.leaderboard.named import TaskData, load_task, open_data, task_hash
from weightspace.leaderboard.schema import (
    Card,
    Result,
    Scored,
    Task,
    Trained,
    ZeroShot,
    check_out,
    validated,
)
from weightspace.zoo.card import class_sets

PACKAGES = ("torch", "numpy", "scikit-learn")


def evaluate_method(
    task: str | Path | Task,
    *,
    encode: Encode | None = None,
    decode: Decode | None = None,
    sample: Sample | None = None,
    card: Card | dict[str, Any] | str | Path,
    root: str | Path = ".",
    out: str | Path | None = None,
) -> Result:
    """Score a method on a task, by the functions that the pipeline's own figures come from.

    A task of ``reconstruction`` needs ``encode`` and ``decode``, one of ``properties`` ``encode``, one of
    ``sampling`` or ``novelty`` ``sample``. Networks are a table name -> tensor or array ``(N, *shape)``, or
    a matrix ``(N, numbers)`` with all tensors side by side in the order of the zoo.

    Args:
        task: name (:func:`weightspace.leaderboard.named.names`), path of a YAML file, or a task.
        encode: networks ``{name: (N, *shape)}`` -> latents or other columns ``(N, L)``.
        decode: latents ``(N, L)`` -> N networks.
        sample: train images of the classes of a task, standardised, ``(c, n, C, H, W)``; requested
            results ``(K,)``; draws of each request; a random stream -> ``K * draws`` networks, those of a
            request side by side.
        card: what the method is and saw: :class:`weightspace.leaderboard.schema.Card`, a table, or the
            path of a JSON file.
        root: folder of a project, or a folder with ``zoo`` and ``dataset``.
        out: JSON file for the result; None: none is written.

    Returns:
        Figures with 95 % intervals over class sets, and what was scored, by hash.

    Raises:
        WeightspaceError: no such task, data that is not the task's, a card that is not complete, or a
            function that fails or gives what cannot be scored; one line.

    """
    task, path = load_task(task), check_out(out)
    known = validated(Card, read_json(Path(card)) if isinstance(card, str | Path) else card, "card")
    figures, names = FAMILIES[task.family]
    functions = {"encode": encode, "decode": decode, "sample": sample}
    for name in names:
        if not callable(functions[name]):
            got = type(functions[name]).__name__
            raise problem(f"task {task.name} needs a function '{name}'", got=got)
    data = open_data(task, root)
    method = Method(data.zoo.spec, encode, decode, sample)
    result = _result(data, known, method, figures(data, method))
    if path is not None:
        result.write(path)
    return result


def _result(data: TaskData, card: Card, method: Method, values: dict[str, float]) -> Result:
    """Figures together with all that is needed to read them.

    Args:
        data: what was scored on.
        card: of the method.
        method: what it gave, and how long that took.
        values: figures and their bounds.

    """
    task = data.task
    scored = Scored(
        name=task.name,
        version=task.version,
        sha256=task_hash(task),
        zoo=data.hashes["zoo"],
        dataset=data.hashes.get("dataset"),
        given=method.given,
    )
    return Result(
        task=scored,
        method=card,
        figures=as_figures(values),
        zero_shot=zero_shot(data, card),
        pinned=task.data.zoo is not None,
        networks=method.networks,
        milliseconds=float(f"{1000 * method.seconds / method.networks:.3g}"),
        device=_device(),
        versions={
            "weightspace": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    )


def zero_shot(data: TaskData, card: Card) -> ZeroShot:
    """What of the scored tasks is not among all that a card lists.

    Args:
        data: the scored tasks, and the name of their images.
        card: lists what the method was fitted on or chosen by.

    """
    given = data.task.data
    sources = {name.casefold() for name in (given.source, *given.aliases)}
    same = [t for t in card.trained_on if t.source.strip().casefold() in sources]
    images = not any("test" in t.parts for t in same)
    if data.dataset is None:  # which class sets there are is not known
        unseen = not same
        return ZeroShot(class_sets=unseen, classes=unseen, images=images)
    tasks = data.tasks(data.task.split)
    scored = [frozenset(names) for names in class_sets(data.dataset, tasks)]
    known = all(t.class_sets is not None for t in same)
    seen = {frozenset(names) for t in same for names in t.class_sets or ()}
    classes = known and frozenset().union(*seen).isdisjoint(frozenset().union(*scored))
    return ZeroShot(class_sets=known and seen.isdisjoint(scored), classes=classes, images=images)


def seen(
    task: str | Path | Task, root: str | Path = ".", splits: Sequence[str] = ("train",)
) -> Trained:
    """What the card lists of a method that was fitted on all members of some splits, or chosen by them.

    Args:
        task: whose data it was.
        root: as in :func:`evaluate_method`.
        splits: of the members.

    """
    data = open_data(load_task(task), root)
    tasks = data.zoo.members.loc[data.zoo.members["split"].isin(splits), "task"].to_numpy()
    sets = None if data.dataset is None else class_sets(data.dataset, tasks)
    return Trained(source=data.task.data.source, parts=["train", "val"], class_sets=sets)


def trained_on(card: dict[str, Any]) -> Trained:
    """What a method card of the pipeline, ``data/*/card.json``, says of training."""
    sets = {frozenset(names) for part in card["class_sets"].values() for names in part}
    return Trained(
        source=card["source"], parts=card["images"], class_sets=sorted(map(sorted, sets))
    )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
