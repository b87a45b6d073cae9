"""What is in a folder of artefacts, as one hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from weightspace.artifacts import file_sha256, read_parquet


def folder_hash(folder: Path) -> str:
    """SHA-256 of the contents of a folder of artefacts: bytes of tensors, values of tables.

    Bytes of a table depend on the version of the library that wrote it, its values do not.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.*")):
        if path.suffix == ".parquet":
            content = hashlib.sha256(_text(read_parquet(path)).encode()).hexdigest()
        elif path.suffix == ".safetensors":
            content = file_sha256(path)
        else:
            continue
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _text(table: pd.DataFrame) -> str:
    """Values of a table; lists, which readers give as arrays, in one form."""
    lists: dict[str, pd.Series] = {
        str(name): table[name].map(lambda value: [int(v) for v in value])
        for name in table
        if len(table) and hasattr(table[name].iloc[0], "tolist") and table[name].dtype == object
    }
    return str(table.assign(**lists).to_csv(index=False, lineterminator="\n"))
