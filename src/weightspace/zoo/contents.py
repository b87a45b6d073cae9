"""What is in a folder of artefacts, as one hash."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from weightspace.artifacts import (
    IMAGES_FILE,
    canonical,
    file_sha256,
    load_tensors,
    once,
    read_parquet,
)

KINDS = {IMAGES_FILE.name: "dataset"}  # of files by their names; shards have numbers
SHARD = "weights-"
KNOWN = ("class_names", "unseen", "mean", "std")  # of a dataset, what figures depend on


def folder_hash(folder: Path) -> str:
    """SHA-256 of the contents of a folder of artefacts: values of tensors and tables.

    Bytes of a file depend on the versions of what wrote it, its values do not. Tensors that are neither
    images nor shards count by their bytes, files that are neither tensors nor tables not at all.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.*")):
        if path.suffix == ".parquet":
            content = hashlib.sha256(_text(read_parquet(path)).encode()).hexdigest()
        elif path.suffix == ".safetensors":
            content = once(path, "values", partial(_values, path))
        else:
            continue
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _values(path: Path) -> str:
    """SHA-256 of names, types, shapes and values of the tensors of a file."""
    kind = "zoo-shard" if path.name.startswith(SHARD) else KINDS.get(path.name)
    if kind is None:
        return file_sha256(path)
    tensors, meta = load_tensors(path, kind)
    digest = hashlib.sha256(canonical({k: meta[k] for k in KNOWN if k in meta}).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text(table: pd.DataFrame) -> str:
    """Values of a table; lists, which readers give as arrays, in one form."""
    lists: dict[str, pd.Series] = {
        str(name): table[name].map(lambda value: [int(v) for v in value])
        for name in table
        if len(table) and hasattr(table[name].iloc[0], "tolist") and table[name].dtype == object
    }
    return str(table.assign(**lists).to_csv(index=False, lineterminator="\n"))
