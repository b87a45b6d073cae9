"""What can be read off networks: properties, with the error to expect."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

ERRORS = ("property", "error", "of_a_constant", "unit", "r2")  # columns of their table


@dataclass(frozen=True)
class Predictions:
    """What was read off the weights of some networks, and how far such readings are to be trusted.

    Attributes:
        table: one row per network, one column per property.
        errors: one row per property: error on held-out members of the zoo, and that of a
            constant prediction.

    """

    table: pd.DataFrame
    errors: pd.DataFrame
