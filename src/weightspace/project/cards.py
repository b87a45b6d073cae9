"""Cards: what a person needs to judge a zoo, an autoencoder or a sampler, and to have its figures again.

A card is JSON with a schema, :class:`Card`; its Markdown has the same in words. The model card of sampled
networks is made of the same pieces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from weightspace.artifacts import again, read_json
from weightspace.metadata import Index, Label, Names, Sha256, Side, Text, as_of_today, validated
from weightspace.params import Settings

KIND = "project card"  # for messages, and for steps from earlier formats
Kind = Literal["zoo", "autoencoder", "sampler"]
Counts = dict[Text, Index]
# Licences of image sources; of all others only the person who has the images can tell.
IMAGES_OF = {
    "digits": "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0",
    "glyphs": "drawn from the DejaVu fonts, free to use (Bitstream Vera licence)",
}
YOURS = "For networks that were drawn with your images, the licence of these holds, too."
NOT_MEASURED = "Not measured: other images, shifted or noisy ones, calibration, harm of any kind."


class Made(Settings):
    """What made it, and what that took."""

    weightspace: Text
    commit: Text | None = Field(description="of the project; + where tracked files changed")
    seed: int
    cost: dict[str, Any] | None = Field(
        description="of the stage: seconds, peak_mib, device, precision, torch; null: not recorded"
    )


class Architecture(Settings):
    """The networks."""

    name: Text
    numbers: Index = Field(description="of one network, buffers included")
    settings: dict[str, Any]


class Images(Settings):
    """The images that networks are trained and measured on."""

    source: Text
    size: Annotated[list[Side], Field(min_length=3, max_length=3)] = Field(
        description="channels, height, width"
    )
    classes: Names
    unseen: list[Text] = Field(description="classes that no train task contains")
    per_class: Counts = Field(description="part -> images of a class")


class Split(Settings):
    """What was fitted on, chosen by, and measured on."""

    rule: Label
    tasks: Counts
    class_sets: Counts


class Population(Settings):
    """The members of a zoo."""

    members: Index
    runs: Index
    diverged_runs: Index = Field(description="left out of everything")
    per_split: Counts = Field(description="split -> members")
    imported: bool = Field(description="whether another program trained them")
    believed: Index = Field(description="members whose results are their source's, not measured")


class Fit(Settings):
    """What a fit saw."""

    model: Text
    images: list[Text] = Field(description="parts of them")
    class_sets: dict[Text, list[Names]] = Field(description="split of members -> their class sets")
    zero_shot: dict[Text, bool] = Field(
        description="split -> whether none of its class sets was seen"
    )


class Figure(Settings):
    """A figure of one split; null: not defined there."""

    name: Text
    meaning: Label
    split: Text
    value: float | None


class Card(Settings):
    """A card of a zoo, an autoencoder or a sampler.

    Attributes:
        format: of this schema.
        kind: of what.
        description: in a sentence.
        made: version, commit, seed, cost.
        architecture: the networks.
        images: that they are trained and measured on.
        split: of the tasks.
        population: members; of a zoo only.
        fit: what was seen; not of a zoo.
        trained_range: lowest and highest result that sampling was trained for; of a sampler only.
        settings: sections of params.yaml that act.
        figures: with the split that each is of.
        sha256: of files, and of contents of folders.
        limits: what it was not made for.
        licence: of code, images and weights.
        reproduce: commands.

    """

    format: Literal[1] = 1
    kind: Kind
    description: Label
    made: Made
    architecture: Architecture
    images: Images
    split: Split
    population: Population | None = None
    fit: Fit | None = None
    trained_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    settings: dict[Text, dict[str, Any]]
    figures: list[Figure]
    sha256: dict[Text, Sha256]
    limits: list[Label]
    licence: list[Label]
    reproduce: list[Label]

    @classmethod
    def of(cls, data: dict[str, Any], where: object = None) -> Card:
        """Validate a card, of this or an earlier format.

        Raises:
            WeightspaceError: another structure, or a later format; one line.

        """
        return validated(cls, as_of_today(KIND, data, where), KIND, where=where)

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read what :meth:`text` gave; errors as those of :meth:`of`."""
        data = as_of_today(KIND, read_json(path), path)
        return validated(cls, data, KIND, where=path, do=again(path))

    def text(self) -> str:
        """The card as JSON of stable bytes."""
        data = self.model_dump(mode="json")
        return (
            json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
        )

    def markdown(self) -> str:
        """The card for people."""
        return "\n".join(_markdown(self)) + "\n"


def _markdown(card: Card) -> Iterator[str]:
    """Lines of the Markdown of a card."""
    yield f"# Card: {card.kind}"
    yield from ("", card.description)
    yield from section("Made", card.made.model_dump())
    yield from section("Architecture", card.architecture.model_dump())
    yield from section("Images", card.images.model_dump())
    yield from section("Split", card.split.model_dump())
    if card.population:
        yield from section("Population", card.population.model_dump())
    if card.fit:
        counts = {s: f"{len(sets)} class sets" for s, sets in card.fit.class_sets.items()}
        yield from section("Fit", card.fit.model_dump() | {"class_sets": counts})
    if card.trained_range:
        yield from section(
            "Results", dict(zip(("lowest", "highest"), card.trained_range, strict=True))
        )
    yield from section("Settings", {f"`{k}`": v for k, v in card.settings.items()})
    yield from ("", "## Figures", "")
    yield from _figures(card.figures) if card.figures else ("None were measured.",)
    yield from section("sha256", {f"`{k}`": v for k, v in card.sha256.items()})
    for title, lines in (("Limits", card.limits), ("Licence", card.licence)):
        yield from ("", f"## {title}", "", *(f"* {line}" for line in lines))
    yield from ("", "## Reproduce", "", "```bash", *card.reproduce, "```")


def _figures(figures: list[Figure]) -> Iterator[str]:
    """A row for each figure, a column for each split."""
    splits = list(dict.fromkeys(figure.split for figure in figures))
    values = {(f.name, f.split): f.value for f in figures}
    yield "| figure | " + " | ".join(splits) + " | meaning |"
    yield "|---|" + "---:|" * len(splits) + "---|"
    for name, meaning in {f.name: f.meaning for f in figures}.items():
        cells = [values.get((name, split)) for split in splits]
        shown = ["-" if value is None else f"{value:.4g}" for value in cells]
        yield f"| `{name}` | {' | '.join(shown)} | {meaning} |"


def section(title: str, entries: Mapping[str, Any]) -> Iterator[str]:
    r"""Lines of a section, one for each entry.

    >>> print(*section("Data", {"per_class": {"train": 9}, "mean": 0.25}), sep="\n")
    <BLANKLINE>
    ## Data
    <BLANKLINE>
    * per class: train 9
    * mean: 0.25
    """
    yield from ("", f"## {title}", "")
    for name, value in entries.items():
        shown = name if name.startswith("`") else name.replace("_", " ")
        yield f"* {shown}: {in_words(value)}"


def in_words(value: Any) -> str:
    """A value in words.

    >>> in_words({"low": 0.5, "high": [1, None]})
    'low 0.5, high 1, none'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {in_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def precision(images: int) -> str:
    """How far an accuracy on so many images goes.

    >>> precision(100)
    'an accuracy of such a sample has a standard error of up to 0.05'
    """
    error = 0.5 / math.sqrt(images)
    return f"an accuracy of such a sample has a standard error of up to {error:.2g}"


def requests(low: float, high: float) -> str:
    """Which results sampling was trained for."""
    return f"Requests: results from {low:.3g} to {high:.3g} were sampled in training, no others."


def licence(source: str) -> list[str]:
    """Licences of code, images and weights, a line each; images are those of a source."""
    images = IMAGES_OF.get(source, "not known here; whoever gave the images can tell")
    return [
        "Code: weightspace is under the MIT licence.",
        f"Images ({source}): {images}.",
        "Weights: none is set; what holds for them depends on the images they were trained on.",
    ]
