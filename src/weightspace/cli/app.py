"""The command line: its commands and its errors.

Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from typing import cast

import typer

from weightspace.cli import pipeline, use
from weightspace.errors import WeightspaceError

# The base of all errors in options and arguments; typer carries click inside and exports few names.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)

app = typer.Typer(
    name="weightspace",
    help="Weight-space learning: populations of networks, a latent of their weights, P(W | D, R).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(use.commands)
app.add_typer(pipeline.commands)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except WeightspaceError as error:
        message = str(error)
    except UsageError as error:
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        if not sys.argv[1:]:  # no command: the message is the help
            raise SystemExit(2) from None
    except typer.Abort:
        message = "interrupted"
    else:
        raise SystemExit(code)
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
