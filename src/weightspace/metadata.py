"""What the metadata of every file may be: one schema for each kind, for files that are read and written.

Metadata is JSON: finite numbers, no key twice, little nesting. Names that people give are printed on
terminals and in documents, so none may hold a control character.

A schema is strict, and that of today. A file of an earlier version is brought to it when it is opened:
see :data:`STEPS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from weightspace.errors import CONTROL, problem
from weightspace.params import MOST_COUNT, MOST_SIZE, brief

META_CHARACTERS = 1 << 24  # of the metadata of a file
MOST_ENTRIES = 1 << 40  # of an axis of a tensor: what is larger is no size
MOST_LEVELS = 32  # of tables in tables


def check_names(names: Iterable[str], where: object) -> None:
    r"""Refuse names of classes or files that could move a cursor, start a line or reorder text.

    >>> check_names(["7", "naïve"], "example")
    >>> check_names(["7\nerror: 8"], "example")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: example: name with a control character; ...
    """
    for name in names:
        if CONTROL.search(name):
            raise problem(
                "name with a control character", where=where, got=ascii(name), do="rename it"
            )


def _name(name: str) -> str:
    if CONTROL.search(name):
        raise ValueError("a control character in a name")
    return name


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name twice")
    return names


Text = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_name)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_name)]
Names = Annotated[list[Text], Field(min_length=1), AfterValidator(_unique)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Side = Annotated[int, Field(ge=1, le=MOST_SIZE)]
Table = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class Meta(BaseModel):
    """Metadata of any kind; what a schema does not name may be any JSON."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class SpecAxis(Meta):
    """An axis of a tensor whose entries may be reordered."""

    group: Text
    block: Annotated[int, Field(ge=1)]


class SpecTensor(Meta):
    """A tensor of an architecture."""

    name: Text
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MOST_ENTRIES)]], Field(max_length=8)]
    role: Literal["parameter", "buffer", "variance"]
    axes: list[SpecAxis | None]

    @model_validator(mode="after")
    def _axes_of_shape(self) -> Self:
        if self.axes and len(self.axes) != len(self.shape):
            raise ValueError(f"{len(self.axes)} axes of a shape of {len(self.shape)}")
        return self


class SpecMeta(Meta):
    """Names, shapes and permutation groups of an architecture."""

    architecture: Text
    tensors: Annotated[list[SpecTensor], Field(min_length=1)]
    head: list[Text]


class NetMeta(Meta):
    """What an architecture is rebuilt from."""

    architecture: Text
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    classes: Side
    settings: Table


class DatasetMeta(Meta):
    """Of the images of the stage dataset."""

    class_names: Names
    unseen: list[Index]
    mean: float
    std: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if any(label >= len(self.class_names) for label in self.unseen):
            raise ValueError("an unseen class without a name")
        return self


class ShardMeta(Meta):
    """Of a part of a zoo."""

    spec: SpecMeta
    shard: Index


class PcaMeta(Meta):
    """Of the principal components of each tensor."""

    spec: SpecMeta
    modes: dict[str, Literal["constant", "identity", "pca"]]
    counts: dict[str, Index]
    align: bool

    @model_validator(mode="after")
    def _of_spec(self) -> Self:
        names = {t.name for t in self.spec.tensors}
        if not names == set(self.modes) == set(self.counts):
            raise ValueError("modes or counts of other tensors than those of the spec")
        return self


class AutoencoderMeta(Meta):
    """Of any autoencoder; the rest is what its member needs."""

    autoencoder: Text
    latent: Side
    settings: Table
    net: NetMeta | None = None
    pca: PcaMeta | None = None
    spec: SpecMeta | None = None


class SizesMeta(Meta):
    """Of what a shared encoder reads and gives."""

    dataset_shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    classes: Side
    latent: Side
    widths: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)] | None = None


class SharedEncoderMeta(Meta):
    """Of any shared encoder."""

    sizes: SizesMeta
    settings: Table
    options: Table
    dataset_encoder: Table


class NetworkMeta(Meta):
    """Of a network that is used by itself; the rest says where it comes from."""

    net: NetMeta
    classes: Names
    mean: float
    std: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.classes) != self.net.classes:
            raise ValueError(f"{len(self.classes)} names of {self.net.classes} classes")
        return self


class LatentsMeta(Meta):
    """Of latents; the rest says what their networks are."""

    names: list[Label]
    autoencoder: Annotated[str, Field(min_length=1)]


class CardMeta(Meta):
    """A method card, JSON beside an autoencoder or a shared encoder: what its fit saw."""

    model: Text
    seed: int
    source: Text
    images: list[Text]
    class_sets: dict[Text, list[Names]]
    settings: Table
    options: Table


SCHEMAS: dict[str, type[Meta]] = {
    "card": CardMeta,
    "dataset": DatasetMeta,
    "zoo-shard": ShardMeta,
    "pca": PcaMeta,
    "autoencoder": AutoencoderMeta,
    "shared_encoder": SharedEncoderMeta,
    "network": NetworkMeta,
    "latents": LatentsMeta,
}  # of other kinds any table of JSON


Step = Callable[[Table], Table]


def _critic_without_slopes(meta: Table) -> Table:
    """Shared encoder: a flow's critic learned results alone, before ``critic_slopes``."""
    if meta["settings"]["model"] != "flow":
        return meta
    return meta | {"options": {"critic_slopes": 0.0} | meta["options"]}


def _critic_of_whole_tasks(meta: Table) -> Table:
    """Shared encoder: a flow's critic read all classes at once, in the shape of the flow's trunk."""
    if meta["settings"]["model"] != "flow":
        return meta
    shape = {f"critic_{key}": meta["settings"][key] for key in ("width", "depth")}
    return meta | {"options": {"critic_by_class": False} | shape | meta["options"]}


# Metadata of a kind has the format 1 + the number of its steps; step k brings format k to k + 1, with
# the values of what the earlier version did. A file says its format from 2 on, so that kinds without
# steps keep their bytes: one that says none is of version 0.1.
STEPS: dict[str, tuple[Step, ...]] = {
    "shared_encoder": (_critic_without_slopes, _critic_of_whole_tasks)
}


def format_of(kind: str) -> dict[str, int]:
    """What the metadata of a file of this version says of its format.

    >>> format_of("shared_encoder"), format_of("pca")
    ({'format': 3}, {})
    """
    steps = len(STEPS.get(kind, ()))
    return {"format": 1 + steps} if steps else {}


def as_of_today(kind: str, meta: Table, where: object) -> Table:
    """Metadata of a file of this or an earlier version, as this version writes it.

    Args:
        kind: of the file.
        meta: its metadata.
        where: the file, for messages.

    Raises:
        WeightspaceError: a later version wrote it, or it is not what an earlier one wrote.

    >>> settings = {"model": "flow", "width": 9, "depth": 1}
    >>> old = {"settings": settings, "options": {"steps": 2}}
    >>> sorted(as_of_today("shared_encoder", old, "example")["options"])
    ['critic_by_class', 'critic_depth', 'critic_slopes', 'critic_width', 'steps']
    >>> as_of_today("pca", {"format": 2}, "example")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: example: written by a later version; found format 2, ...

    """
    steps, given = STEPS.get(kind, ()), meta.get("format", 1)
    if type(given) is not int or not 1 <= given <= len(steps) + 1:
        raise problem(
            "written by a later version",
            where=where,
            got=f"format {brief(given)}",
            expected=f"of a '{kind}' {len(steps) + 1} at most",
            do="install the version of weightspace that wrote it",
        )
    try:
        for step in steps[given - 1 :]:
            meta = step(meta)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise problem(
            "metadata that no earlier version wrote",
            where=where,
            got=f"a '{kind}' of format {given}, {type(error).__name__}: {error}",
            do="get the file again, or install the version that wrote it",
        ) from error
    return meta | format_of(kind)


def check_meta(
    kind: str, meta: dict[str, Any], where: object = None, do: str | None = None
) -> None:
    """Refuse metadata that is not what a file of its kind has.

    Args:
        kind: of the file.
        meta: its metadata.
        where: the file, for messages; none while it is written.
        do: what to do about it.

    >>> check_meta("network", {"mean": 0.5, "std": 0}, "net.safetensors")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: net.safetensors: metadata of a 'network': ...

    """
    validated(SCHEMAS.get(kind, Meta), meta, f"metadata of a '{kind}'", where=where, do=do)


def validated(
    model: type[Model], data: object, what: str, *, where: object = None, do: str | None = None
) -> Model:
    """Data as an instance of a schema.

    Args:
        model: the schema.
        data: a table.
        what: it is, for messages.
        where: the file, for messages; none while it is written.
        do: what to do about it.

    Raises:
        WeightspaceError: the first value that is not what the schema says, in one line.

    """
    levels(data, where)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "all of it"
        got = None if first["type"] == "missing" else brief(first["input"])
        raise problem(f"{what}: '{key}': {first['msg']}", where=where, got=got, do=do) from error


def levels(data: object, where: object) -> int:
    """How many tables and lists lie inside each other.

    Raises:
        WeightspaceError: more than ``MOST_LEVELS``.

    >>> levels({"a": [1, {"b": 2}]}, "example")
    3

    """
    depth, level = 0, [data]
    while level := [x for x in level if isinstance(x, dict | list | tuple)]:
        depth += 1
        if depth > MOST_LEVELS:
            raise problem("tables in tables", where=where, expected=f"{MOST_LEVELS} levels at most")
        level = [v for x in level for v in (x.values() if isinstance(x, dict) else x)]
    return depth


def parse_json(text: str) -> Any:
    """JSON as this package writes it: finite numbers, no key twice, few levels.

    Raises:
        ValueError: anything else, in one line.

    >>> parse_json('{"a": [1, null]}')
    {'a': [1, None]}
    >>> parse_json('{"a": NaN}')
    Traceback (most recent call last):
        ...
    ValueError: NaN is no number of JSON

    """
    if len(text) > META_CHARACTERS:
        raise ValueError(f"{len(text)} characters, more than {META_CHARACTERS}")
    try:
        return json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("too many tables in tables") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(n for n in names if names.count(n) > 1)}' stands twice")
    return table


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _no_number(text)
