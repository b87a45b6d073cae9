"""The command line: its commands and its errors.

Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn, cast

import typer

from weightspace import __version__
from weightspace.cli import pipeline, use
from weightspace.cli.door import Command
from weightspace.errors import WeightspaceError, printable

# The base of all errors in options and arguments; typer carries click inside and exports few names.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)
DEBUG = "--debug"
INTERRUPTED = 130  # what typer returns after Ctrl-C
ENDING = (signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    name="weightspace",
    help="Weight-space learning: populations of networks, a latent of their weights, P(W | D, R).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (use.commands, pipeline.commands):
    for command in group.registered_commands:
        command.cls = Command
    app.add_typer(group)


def _version(value: bool) -> None:
    if value:
        print(f"weightspace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="say it and end", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="show where an error comes from")] = False,
) -> None:
    """Options before the name of a command; this text is not shown."""


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        with _terminable():
            code = app(standalone_mode=False)
        if code != INTERRUPTED:
            raise SystemExit(code)
        message = "interrupted"
    except _Terminated as end:
        message, code = "terminated", end.code
    except Exception as error:
        if DEBUG in sys.argv[1:2]:
            raise
        if isinstance(error, UsageError) and not sys.argv[1:]:  # no command: the help was shown
            raise SystemExit(2) from None
        message, code = explain(error)
    print(f"error: {printable(message)}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """A request to end, or a closed terminal, ends what is under way as Ctrl-C does: nothing is left of it."""
    heard = [
        number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL
    ]  # not nohup's
    for number in heard:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


class _Terminated(SystemExit):
    """The end that another program asked for."""


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    for other in ENDING:  # nothing disturbs the end
        signal.signal(other, signal.SIG_IGN)
    raise _Terminated(128 + number)


def explain(error: Exception) -> tuple[str, int]:
    """The line that a person reads, and the exit code: 2 for an input, 1 for a bug."""
    if isinstance(error, UsageError):
        return " ".join(error.format_message().split()), 2  # type: ignore[attr-defined]
    if isinstance(error, WeightspaceError):
        return str(error), 2
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", 2
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"a bug of weightspace, please report it; {text}; `weightspace --debug` shows where", 1
