"""Exact PCA of many large tensors from disk, against scikit-learn's IncrementalPCA.

    PYTHONPATH=src python benchmarks/pca.py --members 256 --width 64 --k 32 --out benchmarks/pca.json

A zoo of ResNet-18s of the given width is made on disk: low rank plus noise. Both sides read the same
shards and fit k components to every convolution and linear layer, each side in a process of its own,
in turns. ``error`` is the share of variance that the components leave, measured afterwards, outside
the time; ``read_twice`` only reads. The default sizes are small. Full size: 12 GB on disk.
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import sklearn
import torch
from safetensors import safe_open
from sklearn.decomposition import IncrementalPCA

from weightspace.artifacts import META_KEY, save_tensors, write_parquet
from weightspace.networks import build_net
from weightspace.params import NetsSettings
from weightspace.pca import stream_components
from weightspace.runtime import THREADS, prepare
from weightspace.spec import Spec
from weightspace.zoo.store import Zoo, shard_name

RANK = 40  # directions in which the made networks vary, besides noise


def make(folder, members, width, shard):
    """Zoo on disk: networks with common directions of falling weight, and noise."""
    settings = NetsSettings.model_validate({"resnet18": {"width": width}})
    spec = build_net("resnet18", (3, 64, 64), 3, settings).spec
    for number in range(-(-members // shard)):
        count = min(shard, members - number * shard)
        own, tensors = torch.Generator().manual_seed(10**6 + number), {}
        for i, t in enumerate(spec.tensors):
            common = torch.randn(RANK, t.numel, generator=torch.Generator().manual_seed(i))
            scores = torch.randn(count, RANK, generator=own) / torch.arange(1, RANK + 1)
            noise = 0.05 * torch.randn(count, t.numel, generator=own)
            flat = torch.addmm(noise, scores, common)
            tensors[t.name] = (
                flat.abs().view(count, *t.shape)
                if t.role == "variance"
                else flat.view(count, *t.shape)
            )
        save_tensors(folder / shard_name(number), "zoo-shard", tensors, {"spec": spec.to_json()})
    rows = range(members)
    table = pd.DataFrame({"member": rows, "run": rows, "snapshot": 0, "task": 0, "split": "train"})
    table = table.assign(
        diverged=False, shard=[r // shard for r in rows], row=[r % shard for r in rows]
    )
    write_parquet(folder / "members.parquet", table)


def _large(spec):
    return [t for t in spec.tensors if len(t.shape) > 1]


def gram(zoo, t, k):
    """The project's."""
    read = lambda rows: zoo.part(zoo.members, t.name, rows)  # noqa: E731
    return stream_components(read, len(zoo.members), t.shape, k)[:2]


def incremental(zoo, t, k):
    """scikit-learn's, in batches of 2 k members."""
    fit, size = IncrementalPCA(k), 2 * k
    for start in range(0, len(zoo.members), size):
        batch = zoo.members.iloc[start : start + size]
        if len(batch) >= k:  # what it demands
            fit.partial_fit(zoo.part(batch, t.name, slice(0, t.shape[0])).flatten(1).numpy())
    return torch.from_numpy(fit.mean_).float(), torch.from_numpy(fit.components_).float()


def read_twice(zoo, t, k):
    """Reading alone, member block by member block."""
    for _ in range(2):
        for shard in zoo.members["shard"].unique():
            zoo.part(zoo.members[zoo.members["shard"] == shard], t.name, slice(0, t.shape[0]))


SIDES = {"gram": gram, "incremental": incremental, "read_twice": read_twice}


def run(side, folder, k):
    """One side over all tensors: seconds, peak resident GiB, share of variance left."""
    prepare(THREADS)
    zoo = Zoo(folder, pd.read_parquet(folder / "members.parquet"), _spec(folder))
    seconds = left = total = 0.0
    for t in _large(zoo.spec):
        start = time.perf_counter()
        fit = SIDES[side](zoo, t, min(k, t.numel))
        seconds += time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if fit:
            a, b = _error(zoo, t, *fit)
            left, total = left + a, total + b
    return seconds, peak, left / total if total else None


def _spec(folder):
    with safe_open(folder / shard_name(0), framework="pt") as file:
        return Spec.from_json(json.loads(file.metadata()[META_KEY])["spec"])


def _error(zoo, t, mean, components):
    """Squared norm that is left, and of all, member by member."""
    left = total = 0.0
    basis = components.double()
    for i in range(len(zoo.members)):
        x = zoo.part(zoo.members.iloc[[i]], t.name, slice(0, t.shape[0])).flatten().double() - mean
        total += float(x.square().sum())
        left += float((x - (basis @ x) @ basis).square().sum())
    return left, total


def main():
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--shard", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the zoo is made; default: temporary")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = {
        "machine": f"{platform.machine()}, {THREADS} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sklearn": sklearn.__version__,
        "members": options.members,
        "k": options.k,
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder, options.members, options.width, options.shard)
        out["entries"] = sum(t.numel for t in _large(_spec(folder)))
        found = {side: [] for side in SIDES}
        spawn = get_context("spawn")
        with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
            for _ in range(options.rounds):
                for side in SIDES:
                    found[side].append(pool.submit(run, side, folder, options.k).result())
    for side, results in found.items():
        seconds = [s for s, _, _ in results]
        out[side] = {
            "seconds": dict(
                zip(
                    ("median", "min", "max"),
                    (round(f(seconds), 3) for f in (statistics.median, min, max)),
                    strict=True,
                )
            ),
            "peak_gib": round(max(p for _, p, _ in results), 2),
            "error": results[0][2],
        }
    for other in ("incremental", "read_twice"):
        ratios = [b[0] / a[0] for a, b in zip(found["gram"], found[other], strict=True)]
        out[f"{other}_over_gram"] = round(statistics.median(ratios), 2)
    text = json.dumps(out, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
