"""What a task, the card of a method and a result are: strict schemas, of files and in memory.

A file that has another key, lacks one, or has a value of another type is refused by one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, ValidationError, model_validator

from weightspace.artifacts import begins, check_file, read_json, write_bytes
from weightspace.errors import problem
from weightspace.metadata import Label, Names, Sha256, Text, levels
from weightspace.params import Count, EvaluateSettings, Settings, brief

FAMILIES = ("sampling", "reconstruction", "properties", "novelty")
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=80)]
TaskName = Annotated[
    str, StringConstraints(pattern=rf"^({'|'.join(FAMILIES)})/[a-z0-9]+(-[a-z0-9]+)*$")
]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=80)]
Amount = Annotated[int, Field(ge=0, le=10**18)]
Selection = Literal["none", "val", "test", "unknown"]
Model = TypeVar("Model", bound=Settings)


class Architecture(Settings):
    """Which networks a task is about, as params.yaml names them."""

    name: Text
    settings: dict[str, Any]


class Data(Settings):
    """What a task is scored on: hashes of the contents of its folders, and where they come from."""

    zoo: Sha256 | None = Field(description="null: not fixed yet, results say what they had")
    dataset: Sha256 | None
    source: Text = Field(description="name of the images")
    aliases: list[Text] = Field(default_factory=list, description="what cards may call them, too")
    make: Label = Field(description="what to run or to fetch")


class Amounts(Settings):
    """How much is drawn and resampled; of params.yaml's section ``evaluate`` what tasks need."""

    targets: Annotated[int, Field(ge=2, le=1000)] = 9
    draws: Annotated[int, Field(ge=1, le=1000)] = 4
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000
    random_inputs: Annotated[int, Field(ge=2)] = 128
    novelty_networks: Annotated[int, Field(ge=2)] = 80
    two_sample_networks: Annotated[int, Field(ge=2)] = 1500

    def settings(self) -> EvaluateSettings:
        """As the evaluations of the pipeline read them."""
        unused = {"val_draws": 1, "guided_draws": 1, "finetune_tasks": 2, "ensemble": 2}
        return EvaluateSettings(**self.model_dump(), **unused, controls=False)


class Shown(Settings):
    """A figure that the table shows."""

    name: FigureName
    title: Text
    better: Literal["higher", "lower", "as the reference"]
    reference: FigureName | None = Field(default=None, description="a figure to see it beside")
    beside: Text = Field(default="beside", description="what the reference is of, in a word")


class Published(Settings):
    """A figure that others published, often of another zoo: a column beside what was measured."""

    method: Slug
    figure: FigureName
    value: float
    source: Text
    selection: Selection
    note: Label


class Change(Settings):
    """What is different since the version before."""

    version: Count
    change: Label


class Task(Settings):
    """A named task: data by hash, split, figures, and what methods are compared with.

    Attributes:
        name: FAMILY/NAME.
        version: rises with every change that changes figures.
        title: a few words.
        question: what is asked, a sentence or two.
        split: of the members that are scored.
        result: what R is.
        seed: root of all random streams.
        data: hashes, source and origin.
        net: the architecture; null where no network is run.
        amounts: how much is drawn and resampled.
        figures: what the table shows, the one it is sorted by first.
        baselines: methods that a result is to be seen beside.
        published: figures of others.
        changelog: a line for each version, the newest last.

    """

    name: TaskName
    version: Count
    title: Text
    question: Label
    split: Literal["val", "test_sets", "test_classes"]
    result: Literal["accuracy", "loss"] = "accuracy"
    seed: int = Field(default=0, ge=0)
    data: Data
    net: Architecture | None
    amounts: Amounts = Amounts()
    figures: list[Shown] = Field(min_length=1)
    baselines: list[Slug] = Field(default_factory=list)
    published: list[Published] = Field(default_factory=list)
    changelog: list[Change] = Field(min_length=1)

    @property
    def family(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if [c.version for c in self.changelog] != list(range(1, self.version + 1)):
            raise ValueError("the changelog needs a line for each version, the newest last")
        if self.family != "properties" and (self.net is None or not self.data.source):
            raise ValueError("only tasks of properties do without an architecture")
        return self


class Trained(Settings):
    """Images and class sets that a method was fitted on, or chosen by."""

    source: Text = Field(description="name of the images")
    parts: list[Literal["train", "val", "test"]] = Field(description="parts of them")
    class_sets: list[Names] | None = Field(description="null: not known, counts as all of them")


class Cost(Settings):
    """What a network costs when it is made or read, as the method's author counts it."""

    labelled_gradients: Amount = Field(description="gradients on labelled images of the task")
    forward_passes: Amount = Field(description="images that networks are run on")


class Fitted(Settings):
    """What the fit had, in words and numbers."""

    networks: Amount = Field(description="of any population")
    labelled_gradients: Amount = Field(description="on labelled images, for all networks ever")
    seconds: Annotated[float, Field(ge=0)] | None = None
    budget: Label = Field(description="in words: settings, epochs, machine")


class Card(Settings):
    """What a method is and what it saw, by its author.

    Attributes:
        name: short name, of its result file.
        title: what the table calls it.
        description: what it does, a sentence or two.
        source: paper, address, or where its code is.
        trained_on: what it was fitted on or chosen by; from this zero-shot is computed.
        selection: what settings and state were chosen by.
        fitted: the budget of the fit.
        cost: of one network.

    """

    name: Slug
    title: Text
    description: Label
    source: Label
    trained_on: list[Trained]
    selection: Selection
    fitted: Fitted
    cost: Cost


class Scored(Settings):
    """What exactly was scored, by hashes of contents."""

    name: TaskName
    version: Count
    sha256: Sha256 = Field(description="of the task")
    zoo: Sha256
    dataset: Sha256 | None
    given: Sha256 = Field(description="of the networks or columns that the method gave")


class ZeroShot(Settings):
    """What of the scored tasks the method never saw, computed from its card."""

    class_sets: bool
    classes: bool
    images: bool


class Figure(Settings):
    """A value, with a 95 % bootstrap interval over class sets where one was computed; null: undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Result(Settings):
    """Figures of one method on one task; the file stands alone."""

    format: Literal[1] = 1
    task: Scored
    method: Card
    figures: dict[FigureName, Figure] = Field(min_length=1)
    zero_shot: ZeroShot
    pinned: bool = Field(description="whether the task names the hashes of its data")
    networks: Count = Field(description="that the method made or read")
    milliseconds: Annotated[float, Field(ge=0)] = Field(description="of the method per network")
    device: Text
    versions: dict[Text, Text]

    def write(self, path: Path | str) -> None:
        """Write it as JSON."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
        write_bytes(Path(path), (text + "\n").encode())

    @classmethod
    def read(cls, path: Path | str) -> Result:
        """Read what :meth:`write` wrote.

        Raises:
            WeightspaceError: no such file, no JSON, or another structure; one line.

        """
        return validated(cls, read_json(Path(path)), Path(path))


def validated(model: type[Model], data: object, where: object) -> Model:
    """Data as a model of this file.

    Args:
        model: Task, Card or Result.
        data: a table, or an instance already.
        where: where it comes from, for messages.

    Raises:
        WeightspaceError: the first thing that is wrong, in one line.

    >>> validated(Cost, {"labelled_gradients": 0, "forward_passes": -1}, "card")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: card: 'forward_passes': Input should be greater than ...

    """
    if isinstance(data, model):
        return data
    if not isinstance(data, dict):
        raise problem("not a table", where=where, got=type(data).__name__, expected="a table")
    levels(data, where)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "all of it"
        got = None if first["type"] == "missing" else brief(first["input"])
        raise problem(f"'{key}': {first['msg']}", where=where, got=got) from error


def check_out(out: Path | str | None) -> Path | None:
    """Refuse a file that must not be written over, before anything is computed."""
    if out is None:
        return None
    path = Path(out)
    check_file(path, begins(r'\{\s*"device"'))
    return path
