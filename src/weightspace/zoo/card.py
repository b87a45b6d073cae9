"""Method cards: what an autoencoder or a sampler saw when it was fitted, as JSON beside its file.

That the figures of a split are zero-shot is not claimed but read off the cards: no class set of its
tasks is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from weightspace.artifacts import again, read_json
from weightspace.data.dataset import Dataset
from weightspace.metadata import as_of_today, check_meta
from weightspace.params import Params


def method_card(
    dataset: Dataset,
    members: Mapping[str, pd.DataFrame],
    params: Params,
    section: Literal["autoencoder", "shared_encoder"],
) -> dict[str, Any]:
    """What a fit saw, JSON-ready: class sets, classes and source of their images, seed, settings.

    Args:
        dataset: images and tasks.
        members: split -> table of the members that the fit read; those of val choose, and count as seen.
        params: all settings.
        section: of params.yaml, the fitted model's.

    """
    settings, families = getattr(params, section), getattr(params, f"{section}s")
    return {
        "model": settings.model,
        "seed": params.seed,
        "source": params.dataset.source,
        "images": ["train", "val"],  # parts: networks run on the first, R is measured on the second
        "class_sets": {s: class_sets(dataset, t["task"].to_numpy()) for s, t in members.items()},
        "settings": settings.model_dump(mode="json"),
        "options": families.of(settings.model).model_dump(mode="json"),
    }


def read_card(path: Path) -> dict[str, Any]:
    """Read a method card, of this or an earlier version.

    Raises:
        WeightspaceError: no such file, or another structure; one line.

    """
    card = as_of_today("card", read_json(path), path)
    check_meta("card", card, path, again(path))
    return card


def class_sets(dataset: Dataset, tasks: np.ndarray) -> list[list[str]]:
    """Names of the classes of each class set that occurs among tasks ``(N,)``, in order."""
    sets = dataset.classes[torch.tensor(tasks)].sort(1).values.unique(dim=0)
    return [[dataset.class_names[c] for c in one] for one in sets.tolist()]


def zero_shot(dataset: Dataset, tasks: np.ndarray, *cards: Path) -> bool:
    """True where none of the cards has a class set of the tasks.

    Args:
        dataset: images and tasks.
        tasks: whose class sets may be seen ``(N,)``.
        *cards: files of method cards.

    Raises:
        WeightspaceError: no such file, or not a card.

    """
    seen = {
        frozenset(names)
        for path in cards
        for sets in read_card(path)["class_sets"].values()
        for names in sets
    }
    return seen.isdisjoint(map(frozenset, class_sets(dataset, tasks)))
