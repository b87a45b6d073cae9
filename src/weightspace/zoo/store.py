"""Read a finished zoo: its table of members and their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import (
    MEMBERS_FILE,
    Form,
    Piece,
    again,
    check_tensors,
    finite_rows,
    is_finite,
    load_part,
    load_tensors,
    once,
    read_parquet,
    tensor_pieces,
    write_pieces,
)
from weightspace.errors import problem
from weightspace.weights.spec import Spec, Weights, block_size, take

COLUMNS = ("member", "run", "snapshot", "task", "split", "diverged", "shard", "row")


def shard_name(shard: int) -> str:
    """File name of a shard's weights."""
    return f"weights-{shard:05d}.safetensors"


def read_members(path: Path) -> pd.DataFrame:
    """Table of the members of a zoo, each of which is a row of a shard.

    Args:
        path: its file.

    Raises:
        WeightspaceError: other columns, no members, or two of one row.

    """
    members = read_parquet(path, COLUMNS)
    numbers = ["member", "run", "snapshot", "task", "shard", "row"]
    whole = all(members[name].dtype.kind == "i" for name in numbers)
    if not (
        whole
        and len(members)
        and members[numbers].to_numpy().min() >= 0
        and (members["member"] == np.arange(len(members))).all()
        and not members.duplicated(["shard", "row"]).any()
        and (members["row"] < members.groupby("shard")["row"].transform("size")).all()
        and members["diverged"].dtype.kind == "b"
    ):
        expected = "member 0, 1, ... and for each another row of a shard"
        raise problem("not a table of members", where=path, expected=expected, do=again(path))
    return members


def save_shard(path: Path, weights: Weights, spec: Spec, shard: int) -> None:
    """Write the weights ``(M, *shape)`` of a shard.

    Args:
        path: file to write.
        weights: tensors ``(M, *shape)``.
        spec: the architecture.
        shard: index of the shard.

    """
    write_pieces(path, shard_pieces(weights, spec, shard))


def shard_pieces(weights: Weights, spec: Spec, shard: int) -> Iterator[Piece]:
    """Bytes of the file that :func:`save_shard` writes.

    Args:
        weights: tensors ``(M, *shape)``.
        spec: the architecture.
        shard: index of the shard.

    """
    return tensor_pieces("zoo-shard", weights, {"spec": spec.to_json(), "shard": shard})


def open_shard(
    path: Path, table: pd.DataFrame, spec: Spec | None = None, *, verify: bool = False
) -> tuple[Weights, Spec]:
    """Open a shard strictly: all tensors, right shapes. Values are read where they are used.

    Args:
        path: file of the shard.
        table: rows of its members.
        spec: architecture that is expected; None for any.
        verify: compare all values with the hash of the file.

    """
    weights, meta = load_tensors(path, "zoo-shard", verify=verify)
    stored = Spec.from_json(meta["spec"])
    if spec is not None and spec != stored:
        raise problem(
            "shard of another architecture",
            where=path,
            got=stored.fingerprint,
            expected=spec.fingerprint,
        )
    forms: dict[str, Form] = {
        t.name: (torch.float32, ("members", *t.shape)) for t in stored.tensors
    }
    check_tensors(path, weights, forms, finite=False)
    count = len(weights[stored.names[0]])
    if count < len(table):
        raise problem(
            "shard has fewer members than its table", where=path, got=count, expected=len(table)
        )
    return weights, stored


def check_shard(path: Path, table: pd.DataFrame, spec: Spec | None = None) -> tuple[Weights, Spec]:
    """Read a shard strictly: as :func:`open_shard`, finite unless diverged, as it was written.

    Args:
        path: file of the shard.
        table: rows of its members.
        spec: architecture that is expected; None for any.

    """
    weights, stored = open_shard(path, table, spec, verify=True)
    diverged = torch.tensor(table["diverged"].to_numpy(bool))
    for name, tensor in weights.items():
        if not (finite_rows(tensor[: len(table)]) | diverged).all():
            raise problem(
                f"tensor '{name}' has NaN or infinity in a member not marked as diverged",
                where=path,
                do=again(path),
            )
    return weights, stored


def verified_shard(
    path: Path, table: pd.DataFrame, spec: Spec | None = None
) -> tuple[Weights, Spec]:
    """As :func:`check_shard`, whose work is done once in this process for a file that stays.

    When other members are marked as diverged it is done again.

    Args:
        path: file of the shard.
        table: rows of its members.
        spec: architecture that is expected; None for any.

    """
    if not path.is_file():
        return open_shard(path, table, spec)
    diverged = table["diverged"].to_numpy(bool).tobytes()
    once(path, f"shard {diverged.hex()}", lambda: bool(check_shard(path, table, spec)))
    return open_shard(path, table, spec)


def _copy_rows(out: Tensor, index: np.ndarray, source: Tensor, rows: np.ndarray) -> None:
    """``out[index] = source[rows]``; ranges are copied at once."""
    steps = np.arange(len(index))
    if (index == index[0] + steps).all() and (rows == rows[0] + steps).all():
        out[index[0] : index[-1] + 1] = source[rows[0] : rows[-1] + 1]
    else:
        out[torch.from_numpy(index)] = source[torch.from_numpy(rows)]


@dataclass(frozen=True)
class Zoo:
    """A zoo on disk.

    Attributes:
        folder: where ``members.parquet`` and the shards lie.
        members: one row per member, with results, hyper-parameters and split.
        spec: specification of the architecture.
        width: of the members.
        widths: of all members of the zoo on disk.

    """

    folder: Path
    members: pd.DataFrame
    spec: Spec
    width: float = 1.0
    widths: tuple[float, ...] = (1.0,)

    @classmethod
    def open(cls, folder: Path | str, width: float = 1.0) -> Zoo:
        """Open a zoo, or its members of one width; shards are read when their members are asked for.

        Raises:
            WeightspaceError: no table, a damaged one, or no members of this width.

        """
        folder = Path(folder)
        members = read_members(folder / MEMBERS_FILE.name)
        of_each = members["width"] if "width" in members else pd.Series(1.0, members.index)
        widths = tuple(sorted(of_each.unique().tolist()))
        if width not in widths:
            raise problem(
                f"no members of width {width:g}",
                where=folder / MEMBERS_FILE.name,
                expected=", ".join(f"{w:g}" for w in widths),
            )
        members = members[of_each == width].reset_index(drop=True)
        first = int(members["shard"].iloc[0])
        _, spec = open_shard(folder / shard_name(first), members[members["shard"] == first])
        return cls(folder, members, spec, width, widths)

    def select(self, split: str, *, last_only: bool = False) -> pd.DataFrame:
        """Members of a split whose runs did not diverge, in order."""
        table = self.members[(self.members["split"] == split) & ~self.members["diverged"]]
        if last_only:
            table = table[table["snapshot"] == self.members["snapshot"].max()]
        return table.reset_index(drop=True)

    def part(self, members: pd.DataFrame, name: str, rows: slice) -> Tensor:
        """Some rows of one tensor of N members ``(N, rows, ...)``, for zoos larger than memory.

        Args:
            members: N rows of the members' table.
            name: name of a tensor.
            rows: range of its first axis.

        """
        shape = next(t.shape for t in self.spec.tensors if t.name == name)
        out = torch.empty(len(members), len(range(shape[0])[rows]), *shape[1:])
        shards, stored_rows = members["shard"].to_numpy(), members["row"].to_numpy()
        for shard in np.unique(shards):
            path = self.folder / shard_name(shard)
            index = np.flatnonzero(shards == shard)
            _copy_rows(out, index, load_part(path, name, rows), stored_rows[index])
            block = out[index[0] : index[-1] + 1]
            if not block.sum().isfinite() and not is_finite(out[index]):
                raise problem(
                    f"tensor '{name}' has NaN or infinity",
                    where=path,
                    do=again(path),
                )
        return out

    def reader(self, members: pd.DataFrame) -> Callable[[slice, str, slice], Tensor]:
        """Function that reads a range of N members, one tensor by name, a range of its rows.

        Their shards are verified first.
        """
        self._verified(members["shard"].unique(), partial(open_shard, verify=True))
        return lambda who, name, rows: self.part(members.iloc[who], name, rows)

    def networks(self, members: pd.DataFrame) -> Stored:
        """N rows of the members' table, whose weights are read block by block."""
        return Stored(self, members)

    def weights(self, members: pd.DataFrame) -> Weights:
        """Weights ``(N, *shape)`` of N rows of the members' table, in their order.

        The first call verifies the shards that it needs as a whole; later ones read those rows only.
        """
        if members.empty:
            raise problem(
                "no members to read", where=self.folder, do="check the splits in params.yaml"
            )
        out: Weights = {t.name: torch.empty(len(members), *t.shape) for t in self.spec.tensors}
        shards = members["shard"].to_numpy()
        wanted = np.unique(shards)
        for shard, weights in zip(wanted, self._verified(wanted, verified_shard), strict=True):
            index = np.flatnonzero(shards == shard)
            rows = members["row"].to_numpy()[index]
            for name, tensor in weights.items():
                _copy_rows(out[name], index, tensor, rows)
        return out

    def _verified(
        self, shards: np.ndarray, read: Callable[[Path, pd.DataFrame, Spec], tuple[Weights, Spec]]
    ) -> list[Weights]:
        """Weights of some shards, read and verified side by side: hashes take most of the time.

        Args:
            shards: their indices.
            read: of a file, the table of its members and the architecture.

        """

        def one(shard: int) -> Weights:
            table = self.members[self.members["shard"] == shard]
            return read(self.folder / shard_name(shard), table, self.spec)[0]

        with ThreadPoolExecutor() as pool:
            return list(pool.map(one, shards))


@dataclass(frozen=True)
class Stored:
    """Members of a zoo that stay on disk: :class:`weightspace.weights.spec.Networks`.

    Attributes:
        zoo: the population.
        members: N rows of its table.

    """

    zoo: Zoo
    members: pd.DataFrame

    def __len__(self) -> int:
        return len(self.members)

    def take(self, index: slice | Tensor) -> Weights:
        """Weights ``(n, *shape)`` of some members, by a slice or an index tensor."""
        if len(self) <= block_size(self.zoo.spec, len(self)):
            return take(self._all, index)
        rows = index if isinstance(index, slice) else index.numpy()
        return self.zoo.weights(self.members.iloc[rows])

    @cached_property
    def _all(self) -> Weights:
        """All of them, read once: no more numbers than a block may have."""
        return self.zoo.weights(self.members)
