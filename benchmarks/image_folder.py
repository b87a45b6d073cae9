"""Write an image folder, one folder of PNG files per class, from MNIST-family files.

``python benchmarks/image_folder.py /usr/share/datasets/fashion-mnist /tmp/photos --per-class 80``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
from PIL import Image

from weightspace.data.sources.idx import load
from weightspace.params import IdxSettings


def write(source: Path, out: Path, per_class: int) -> int:
    """Write the first images of each class; returns how many."""
    images, labels, names = load(source, IdxSettings(size="original", labels="auto"), per_class, 0)
    for number, name in enumerate(names):
        folder = out / name
        folder.mkdir(parents=True)
        for i in np.flatnonzero(labels == number)[:per_class]:
            pixels = np.round(images[i, 0] * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:05d}.png")
    return len(names) * per_class


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=80)
    chosen = parser.parse_args()
    print(write(chosen.source, chosen.out, chosen.per_class), "images in", chosen.out)
