"""Errors that a person reads: one line that says what, where, found, expected and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

# What moves a cursor, starts a line or reorders text: controls, separators, directions, halves
CONTROL = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
MOST_CHARACTERS = 500  # of one part of a message; of longer ones the ends are shown


class WeightspaceError(Exception):
    """A problem with an input. The message is one line and names file or key, found and expected."""


def problem(
    what: str,
    *,
    where: object = None,
    got: object = None,
    expected: object = None,
    do: str | None = None,
) -> WeightspaceError:
    """Build the one-line error of the house: ``where: what; found ..., expected ...; what to do``."""
    place = shown(where) if isinstance(where, Path) else where
    head = f"{place}: {_brief(what)}" if place is not None else _brief(what)
    facts = []
    if got is not None:
        facts.append(f"found {_brief(str(got))}")
    if expected is not None:
        facts.append(f"expected {_brief(str(expected))}")
    parts = [head] + ([", ".join(facts)] if facts else []) + ([do] if do else [])
    return WeightspaceError(printable(" ".join("; ".join(parts).split())))


def _brief(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    r"""Text with every control character as its escape, fit for a terminal.

    >>> print(printable("a\x1b[1A"))
    a\x1b[1A
    """
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shown(path: Path) -> str:
    """A path as messages name it: relative where it is inside the working folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, relative already, or the folder is gone
        return str(path)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid name is closest to a mistyped one, or list them all if none is close."""
    valid = list(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(valid)}"
