"""The door of the command line: what every word, number and name must be, before any work.

Every command of the application is a :class:`Command`, so that a new option passes here by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from weightspace.errors import printable, problem
from weightspace.project.limits import ACCURACY, LIMITS, LOSS

MOST_CHARACTERS = 4096  # of a word; also the longest path that Linux takes


class Command(TyperCommand):
    """A command whose words are checked as they were typed, and whose numbers are finite."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Check words, let typer parse them, check numbers."""
        options = [word.partition("=")[0] for word in args]
        for parameter in self.params:
            if sum(word in parameter.opts for word in options) > 1 and not parameter.multiple:
                raise problem("is given twice", where=parameter.opts[0])
        for where, word in _words(args):
            check_text(word, where)
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise problem("not a finite number", where=_option(name), got=value)
            if isinstance(value, str | Path) and str(value).startswith("--"):
                do = f"give a value, or ./{value} where it is a name"
                raise problem("is an option", where=_option(name), got=value, do=do)
        return rest


def _words(args: list[str]) -> Iterator[tuple[str, str]]:
    """Every word with the option that it is given to, as far as can be told before parsing."""
    before = ""
    for word in args:
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            yield name, value
        else:
            yield (before if before.startswith("-") else "argument"), word
        before = word


def check_text(text: str, where: str) -> None:
    r"""Refuse text that is empty, too long, or would move a terminal's cursor.

    Args:
        text: what was given.
        where: option or argument, for messages.

    >>> check_text("ä, 猫", "--classes")
    >>> check_text("a\nb", "--classes")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: --classes: control characters; found a\nb

    """
    if not text.strip():
        raise problem("is empty", where=printable(where))
    if len(text) > MOST_CHARACTERS:
        expected = f"at most {MOST_CHARACTERS}"
        raise problem("is too long", where=where, got=f"{len(text)} characters", expected=expected)
    if printable(text) != text:
        raise problem("control characters", where=printable(where), got=printable(text))


def names(classes: str | None) -> list[str]:
    """Names between commas.

    >>> names("3, 8,1")
    ['3', '8', '1']
    """
    chosen = [name.strip() for name in (classes or "").split(",")]
    if not all(chosen):
        raise problem(
            "a name is needed", where="--classes", got=classes or "none", expected="such as 3,8,1"
        )
    return chosen


def pairs(words: list[str], where: str) -> dict[str, str]:
    """Names and values of words like ``nlin=relu``.

    >>> pairs(["nlin=relu", "epoch=50"], "--where")
    {'nlin': 'relu', 'epoch': '50'}
    """
    out: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name in out:
            expected = "different columns, such as nlin=relu"
            raise problem("is no COLUMN=VALUE", where=where, got=word, expected=expected)
        out[name] = value
    return out


def numbers(text: str | None, where: str, count: int) -> tuple[float, ...] | None:
    """So many numbers above 0 between commas; None of None.

    >>> numbers("0.5,0.25", "--pixels", 2)
    (0.5, 0.25)
    """
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(math.isfinite(v) and v > 0 for v in values):
        raise problem("is no list of numbers", where=where, got=text, expected=f"{count} above 0")
    return values


def refuse(because: str, **given: object) -> None:
    """Refuse options that have no meaning beside another one.

    Args:
        because: the other one.
        given: name -> value; None where it was not given.

    """
    for name, value in given.items():
        if value is not None:
            raise problem(f"has no meaning with {because}", where=_option(name), do="leave it out")


def _option(name: str) -> str:
    return "-n" if name == "n" else f"--{name.replace('_', '-')}"


def _project(root: Path) -> Path:
    """Where a project is, told before any work."""
    from weightspace.bundles.locate import locate

    return locate(root)


def there(path: Path) -> Path:
    """A path that exists, or the name of a bundle."""
    from weightspace.bundles.locate import names

    if path.exists():
        return path
    if str(path) in names():
        return _project(path)
    raise typer.BadParameter(f"Path '{path}' does not exist.")


def _usable(out: Path | None) -> Path | None:
    """A name for a new folder, tried before any work."""
    from weightspace.artifacts import check_new

    if out is not None:
        check_new(out)
        if out.is_dir() and out.samefile(Path.cwd()):
            raise problem("is the working folder", where=out, do="give the name of a new folder")
    return out


def _whole(name: str, *flags: str, help: str) -> typer.models.OptionInfo:
    """An option for an integer within the limits of a request."""
    low, high = LIMITS[name]
    option: typer.models.OptionInfo = typer.Option(*flags, help=help, min=low, max=high)
    return option


IMAGES = "labelled images: .npz, folder of idx files, or folder of class folders"
NAMES = "names of the classes, in the order of the outputs"
Folder = Annotated[Path, typer.Option(help="folder of the project", exists=True, file_okay=False)]
Root = Annotated[
    Path,
    typer.Option(
        help="the finished project: folder, bundle, or name of a bundle", callback=_project
    ),
]
NewFolder = Annotated[
    Path,
    typer.Option(help="new or empty folder; filled completely or not at all", callback=_usable),
]
MaybeNewFolder = Annotated[
    Path | None, typer.Option(help="new folder for the networks found", callback=_usable)
]
Data = Annotated[Path, typer.Option(help=IMAGES, exists=True)]
MaybeData = Annotated[
    Path | None, typer.Option(help=f"find networks for these {IMAGES}", exists=True)
]
Classes = Annotated[str, typer.Option(help=NAMES)]
MaybeClasses = Annotated[str | None, typer.Option(help=f"of --data: {NAMES}")]
Networks = Annotated[
    list[Path], typer.Argument(help="checkpoints, or folders of them", exists=True)
]
Accuracy = Annotated[
    float | None, typer.Option(help="result to ask for", min=ACCURACY[0], max=ACCURACY[1])
]
Loss = Annotated[
    float | None,
    typer.Option(help="the same in nats, where R is the loss", min=LOSS[0], max=LOSS[1]),
]
Count = Annotated[int, _whole("n", "-n", help="how many networks, or tasks of each")]
Seed = Annotated[int, _whole("seed", help="root of the random draws")]
BestOf = Annotated[int, _whole("best_of", help="candidates for each, chosen on train images")]
Epochs = Annotated[
    int, _whole("fine_tune_epochs", help="passes over your train images after sampling")
]
Width = Annotated[
    float | None,
    typer.Option(min=1e-3, max=1000, help="of the networks, where zoo.widths has several"),
]
Steps = Annotated[
    int | None,
    _whole(
        "guidance_steps",
        help="gradient steps on every candidate; 0: drawn in one pass; default: params.yaml",
    ),
]
