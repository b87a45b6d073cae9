"""Handwritten digits that come with scikit-learn: 1,797 images, 8x8, 10 classes.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; the test part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from weightspace.params import DigitsSettings


def load(
    path: Path, options: DigitsSettings, need: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images float32 (1797, 1, 8, 8) in [0, 1], labels int64 (1797,), class names.

    Args:
        path: not read.
        options: none.
        need: not used: there are as many as there are.
        seed: not used.

    """
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]  # (n, 1, 8, 8)
    return images, digits.target.astype(np.int64), [str(c) for c in range(10)]
