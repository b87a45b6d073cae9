"""Limits of the numbers that a request may have, the same on the command line and in Python."""

from __future__ import annotations

import math

from weightspace.errors import problem

MOST_NETWORKS = 100_000  # of one command; their files have five digits
LIMITS: dict[str, tuple[int, int]] = {
    "n": (1, MOST_NETWORKS),
    "best_of": (1, 10_000),
    "fine_tune_epochs": (0, 10_000),
    "guidance_steps": (0, 10_000),
    "seed": (0, 2**63 - 1),
}
ACCURACY, LOSS = (0.0, 1.0), (0.0, 1000.0)  # results that can be asked for; loss in nats


def check(**given: int) -> None:
    """Refuse a number that is no integer or out of its limits.

    >>> check(n=3, seed=0)
    >>> check(n=10**9)
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: n: out of range; found 1000000000, expected an integer ...
    """
    for name, value in given.items():
        low, high = LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            expected = f"an integer from {low} to {high}"
            raise problem("out of range", where=name, got=value, expected=expected)


def check_result(name: str, value: float) -> None:
    """Refuse a result that cannot be: accuracy or loss, by its name."""
    low, high = ACCURACY if name == "accuracy" else LOSS
    if not (math.isfinite(value) and low <= value <= high):
        raise problem(f"impossible {name}", got=value, expected=f"from {low:g} to {high:g}")
