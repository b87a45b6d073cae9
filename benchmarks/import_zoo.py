"""Import a made-up zoo of the size of Unterthiner's: peak memory and networks per second.

    PYTHONPATH=src python benchmarks/import_zoo.py --out benchmarks/import_zoo.json
    PYTHONPATH=src python benchmarks/import_zoo.py --members 20000 --measured 2000

The matrix is written block by block, every row of it, with nine snapshots of each run and the real names
of tensors and columns; what its networks reach is made up. All of
them are imported with their results believed, and ``--measured`` others are measured on ``--images`` images
of noise for each class and part. Each import runs in a process of its own. ``resident`` counts every page of it,
those of mapped files too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import report
from weightspace.data.dataset import PARTS, Dataset
from weightspace.nets.base import build_net
from weightspace.nets.convnet import Settings
from weightspace.zoo.imported import Source, import_zoo, without_images
from weightspace.zoo.runner import TaskRunner

SHAPES = {
    "sequential/conv2d/bias:0": (16,),
    "sequential/conv2d/kernel:0": (3, 3, 1, 16),
    "sequential/conv2d_1/bias:0": (16,),
    "sequential/conv2d_1/kernel:0": (3, 3, 16, 16),
    "sequential/conv2d_2/bias:0": (16,),
    "sequential/conv2d_2/kernel:0": (3, 3, 16, 16),
    "sequential/dense/bias:0": (10,),
    "sequential/dense/kernel:0": (16, 10),
}
NUMBERS = sum(int(np.prod(shape)) for shape in SHAPES.values())
STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
SETTINGS = Settings(
    channels=(16, 16, 16),
    kernels=(3, 3, 3),
    strides=(2, 2, 2),
    padding=(0, 0, 0),
    pools=(1, 1, 1),
    mean=True,
    hidden=(),
    activation="relu",
)
SHAPE, CLASSES, BLOCK = (1, 28, 28), 10, 10_000


def make(folder: Path, members: int) -> None:
    """Write the three files of a zoo of so many members."""
    rng = np.random.default_rng(0)
    weights = np.lib.format.open_memmap(
        folder / "weights.npy", "w+", np.float32, (members, NUMBERS)
    )
    for start in range(0, members, BLOCK):
        rows = weights[start : start + BLOCK]
        rows[:] = rng.standard_normal(rows.shape, np.float32) / 10
    del weights
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    layout = {"varname": list(SHAPES), "start_idx": [0, *ends[:-1]], "end_idx": ends}
    layout["shape"] = [str(shape) for shape in SHAPES.values()]
    pd.DataFrame(layout).to_csv(folder / "layout.csv", index=False)
    run, snapshot = np.divmod(np.arange(members), len(STEPS))
    table = {
        "modeldir": [f"gs://small_cnn_zoo/cifar10/unit-{i:06d}" for i in run],
        "step": np.array(STEPS)[snapshot],
        "config.activation": "relu",
        "config.dataset": "cifar10",
        "config.l2reg": 10.0 ** -(1 + run % 7),
        "config.learning_rate": 10.0 ** -(1 + run % 5),
        "config.optimizer": "adam",
        "config.w_init": "he_normal",
    }
    for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss"):
        table[name] = rng.random(members)
    pd.DataFrame(table).to_csv(
        folder / "metrics.csv.gz", compression={"method": "gzip", "compresslevel": 1}
    )


def noise(images: int) -> Dataset:
    """A dataset of one task of ten classes of noise."""
    rng = torch.Generator().manual_seed(0)
    parts = {part: torch.randn(CLASSES, images, *SHAPE, generator=rng) for part in PARTS}
    empty = without_images(SHAPE, CLASSES)
    return Dataset(parts, empty.class_names, empty.tasks, [], 0.0, 1.0)


def bring(folder: Path, images: int) -> None:
    """Import in this process; print seconds and peak memory as JSON."""
    dataset = noise(images) if images else without_images(SHAPE, CLASSES)
    runner = TaskRunner(build_net("convnet", SHAPE, CLASSES, SETTINGS), dataset)
    before, start = peak(), time.perf_counter()
    source = Source(folder, "matrix", split="0.7,0.15,0.15", believe=not images)
    made = import_zoo(source, runner, folder / "zoo")
    seconds, count = time.perf_counter() - start, len(made.members)
    size = sum(f.stat().st_size for f in (folder / "zoo").iterdir())
    shutil.rmtree(folder / "zoo")
    found = {"members": count, "seconds": round(seconds, 1)}
    found |= {"members_per_second": round(count / seconds), "zoo_gb": round(size / 1e9, 2)}
    print(json.dumps(found | {"resident_mib_before": before, "resident_mib_peak": peak()}))


def peak() -> int:
    """Most memory of this process so far, MiB; not that of its parent, which getrusage counts, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) >> 10


def apart(folder: Path, images: int) -> dict[str, object]:
    """The same in a process of its own."""
    words = [sys.executable, __file__, "--folder", str(folder), "--images", str(images), "--bring"]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def options() -> argparse.Namespace:
    """Words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--members", type=int, default=270_000, help="made, and imported as believed"
    )
    parser.add_argument("--measured", type=int, default=4_500, help="made anew, and measured")
    parser.add_argument("--images", type=int, default=20, help="of each class and part")
    parser.add_argument("--folder", type=Path, default=None, help="for some 11 GB")
    parser.add_argument("--bring", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    """Print one JSON object, and write it where asked."""
    o = options()
    if o.bring:
        bring(o.folder, o.images)
        return
    out = report.machine("1 thread") | {"numbers": NUMBERS, "images": o.images}
    for name, members, images in (("believed", o.members, 0), ("measured", o.measured, o.images)):
        with tempfile.TemporaryDirectory(dir=o.folder) as folder:
            need = 2.2 * 4 * members * NUMBERS
            if shutil.disk_usage(folder).free < need:
                raise SystemExit(f"{folder}: {need / 1e9:.0f} GB of free disk are needed")
            make(Path(folder), members)
            out[name] = apart(Path(folder), images)
    report.write(out, o.out)


if __name__ == "__main__":
    main()
