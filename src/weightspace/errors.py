"""Errors that a person reads: one line that says what, where, found, expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    head = f"{where}: {what}" if where is not None else what
    facts = []
    if got is not None:
        facts.append(f"found {got}")
    if expected is not None:
        facts.append(f"expected {expected}")
    parts = [head] + ([", ".join(facts)] if facts else []) + ([do] if do else [])
    return WeightspaceError(" ".join("; ".join(parts).split()))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid name is closest to a mistyped one, or list them all if none is close."""
    valid = list(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(valid)}"
