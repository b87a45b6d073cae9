"""Exact PCA of many large tensors from disk, against scikit-learn's IncrementalPCA.

    PYTHONPATH=src python benchmarks/pca.py --full --out benchmarks/pca.json

A zoo of ResNet-18s is made on disk: common directions of falling weight, and noise. All sides read
the same shards through the same function and fit k components to every convolution and linear layer,
each round in a process of its own, in turns; ``read_twice`` only reads. IncrementalPCA gets ``--batch``
members at once. ``peak_gib`` is the peak resident memory of a side's process, ``error`` the share of
variance that its components leave, measured afterwards in another process. ``speedup_cpu`` compares CPU
time instead and holds on a busy machine too. The default sizes are small; ``--full`` is 256 members of
11.2 million parameters, 12 GB on disk, where IncrementalPCA gets two of the tensors, in rounds of their
own; on all of them, with ``--slow-rounds 1``, it takes a quarter of an hour and 12 GiB of memory.
"""

import argparse
import os
import re
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the stages do: read when torch loads

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.decomposition import IncrementalPCA

import report
from weightspace.artifacts import load_meta, save_tensors, write_parquet
from weightspace.nets.base import build_net
from weightspace.params import PcaSettings, Resnet18Settings
from weightspace.runtime import THREADS, prepare
from weightspace.weights.pca import fit_tensor
from weightspace.weights.spec import Spec
from weightspace.zoo.store import Zoo, shard_name

POOL = 1 << 24
RANK = 40  # directions in which the made networks vary, besides noise
FULL = {"members": 256, "width": 64, "k": 32, "rounds": 3, "slow_rounds": 0, "subset_rounds": 3}
SUBSET = ("layer1.0.conv1.weight", "layer3.0.conv1.weight")  # a small one, one of middle size


def make(folder, members, width, shard):
    """Zoo on disk, shard by shard. Vectors are windows of one pool of random numbers."""
    resnet18 = Resnet18Settings(width=width, stem="torchvision")
    spec = build_net("resnet18", (3, 64, 64), 3, resnet18).spec
    pool = np.random.default_rng(0).standard_normal(POOL, np.float32)
    pool = torch.from_numpy(pool).unfold(0, max(t.numel for t in spec.tensors), 1)
    for number in range(-(-members // shard)):
        count = min(shard, members - number * shard)
        own, tensors = np.random.default_rng(10**6 + number), {}
        for i, t in enumerate(spec.tensors):
            windows = np.random.default_rng(i).integers(len(pool), size=RANK)
            common = pool[torch.from_numpy(windows), : t.numel]
            scores = own.standard_normal((count, RANK)) / np.arange(1, RANK + 1)
            noise = pool[torch.from_numpy(own.integers(len(pool), size=count)), : t.numel]
            flat = torch.addmm(noise, torch.from_numpy(scores).float(), common, beta=0.05)
            tensors[t.name] = flat.abs_() if t.role == "variance" else flat
            tensors[t.name] = tensors[t.name].view(count, *t.shape)
        save_tensors(folder / shard_name(number), "zoo-shard", tensors, {"spec": spec.to_json()})
    rows = range(members)
    table = pd.DataFrame({"member": rows, "run": rows, "snapshot": 0, "task": 0, "split": "train"})
    table = table.assign(
        diverged=False, shard=[r // shard for r in rows], row=[r % shard for r in rows]
    )
    write_parquet(folder / "members.parquet", table)


def open_zoo(folder):
    """The zoo, without a look at its values: the files stay as cold as they are."""
    spec = Spec.from_json(load_meta(folder / shard_name(0), "zoo-shard")["spec"])
    return Zoo(folder, pd.read_parquet(folder / "members.parquet"), spec)


def large(spec, names=()):
    """Convolutions and linear layers, all or some."""
    return [t for t in spec.tensors if len(t.shape) > 1 and (not names or t.name in names)]


def ours(zoo, t, k, batch):
    """The project's, as the pca stage calls it."""
    fit = fit_tensor(
        t,
        zoo.reader(zoo.members),
        len(zoo.members),
        PcaSettings(components=k, identity_below=17, align="none"),
    )
    return fit.mean.numpy(), fit.components.numpy()


def incremental(zoo, t, k, batch):
    """scikit-learn's."""
    fit = IncrementalPCA(min(k, t.numel), copy=False)
    for start in range(0, len(zoo.members), batch):
        rows = zoo.members.iloc[start : start + batch]
        fit.partial_fit(zoo.part(rows, t.name, slice(None)).flatten(1).numpy())
    return fit.mean_.astype("float32"), fit.components_.astype("float32")


def read_twice(zoo, t, k, batch):
    """Reading alone, each shard's tensor whole."""
    for _ in range(2):
        for _, rows in zoo.members.groupby("shard"):
            zoo.part(rows, t.name, slice(None))


SIDES = {"ours": ours, "incremental": incremental, "read_twice": read_twice}


def run(side, folder, names, k, batch):
    """One side over some tensors: seconds, CPU seconds, peak GiB. Leaves its bases on disk."""
    prepare(THREADS)
    zoo, seconds, cpu = open_zoo(folder), 0.0, 0.0
    for t in large(zoo.spec, names):
        start, start_cpu = time.perf_counter(), time.process_time()
        fit = SIDES[side](zoo, t, k, batch)
        seconds += time.perf_counter() - start
        cpu += time.process_time() - start_cpu
        if fit:
            for part, values in zip(("mean", "components"), fit, strict=True):
                np.save(folder / f"{side}-{t.name}-{part}.npy", values)
        del fit
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    return seconds, cpu, peak / 2**20


def error(side, folder, names):
    """Share of variance that the bases of one side leave, in float64."""
    prepare(THREADS)
    zoo, left, total = open_zoo(folder), 0.0, 0.0
    for t in large(zoo.spec, names):
        mean, basis = (
            torch.from_numpy(np.load(folder / f"{side}-{t.name}-{part}.npy"))
            for part in ("mean", "components")
        )
        product = torch.zeros(len(zoo.members), len(basis), dtype=torch.float64)
        inner, place = torch.zeros(len(basis), len(basis), dtype=torch.float64), 0
        for row in range(0, t.shape[0], 8):
            x = zoo.part(zoo.members, t.name, slice(row, row + 8)).flatten(1).double()
            here = slice(place, place + x.shape[1])
            x -= mean[here]
            v = basis[:, here].double()
            total += float(x.square().sum())
            product.addmm_(x, v.T)
            inner.addmm_(v, v.T)
            place = here.stop
        # |x - x V'V|^2 = |x|^2 - 2 |x V'|^2 + |x V'V|^2, without V V' = 1
        left += float(((product @ inner) * product).sum() - 2 * product.square().sum())
    return (left + total) / total


def compare(pool, folder, names, rounds, k, batch):
    """All sides in turns, each as often as ``rounds`` says, perhaps never; ratios of medians."""
    found = {side: [] for side in SIDES}
    for turn in range(max(rounds.values())):
        for side in SIDES:
            if turn < rounds[side]:
                found[side].append(pool.submit(run, side, folder, names, k, batch).result())
                print(f"{side}: {found[side][-1][0]:.1f} s", flush=True)
    out = {}
    for side, results in ((s, r) for s, r in found.items() if r):
        seconds = [s for s, _, _ in results]
        out[side] = {
            "n": len(seconds),
            "seconds": round(statistics.median(seconds), 3),
            "seconds_min": round(min(seconds), 3),
            "seconds_max": round(max(seconds), 3),
            "cpu_seconds": round(statistics.median(c for _, c, _ in results), 3),
            "peak_gib": round(max(p for _, _, p in results), 2),
        }
        if side != "read_twice":
            out[side]["error"] = pool.submit(error, side, folder, names).result()
    for kind, suffix in (("seconds", ""), ("cpu_seconds", "_cpu")):
        base = out["ours"][kind]
        out[f"ours_over_read_twice{suffix}"] = round(base / out["read_twice"][kind], 2)
        if "incremental" in out:
            out[f"speedup{suffix}"] = round(out["incremental"][kind] / base, 2)
    if "incremental" in out:
        out["error_is_no_higher"] = out["ours"]["error"] <= out["incremental"]["error"]
    return out


def options():
    """Settings of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "members": 64, "width": 12, "k": 8, "shard": 16, "rounds": 3, "slow_rounds": 3,
        "subset_rounds": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--batch", type=int, help="members of a batch; default: 2 k")
    parser.add_argument("--full", action="store_true", help=f"{FULL}")
    parser.add_argument("--folder", type=Path, help="where the zoo is made; default: temporary")
    parser.add_argument("--out", type=Path)
    found = parser.parse_args()
    if found.full:
        parser.set_defaults(**FULL)
    return parser.parse_args()


def main():
    """Print one JSON object, and write it where asked."""
    o = options()
    batch = o.batch or 2 * o.k
    with tempfile.TemporaryDirectory(dir=o.folder) as name:
        folder, spawn, start = Path(name), get_context("spawn"), time.perf_counter()
        need = 1.3 * 4 * o.members * 11.2e6 * (o.width / 64) ** 2
        if shutil.disk_usage(folder).free < need:
            raise SystemExit(f"{folder}: {need / 1e9:.0f} GB of free disk are needed")
        with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
            pool.submit(make, folder, o.members, o.width, o.shard).result()
            print(f"made: {time.perf_counter() - start:.1f} s", flush=True)
            tensors = large(open_zoo(folder).spec)
            out = report.machine(f"{THREADS} threads") | {
                "sklearn": sklearn.__version__,
                "unit": "seconds: median, min and max of n runs",
                "members": o.members,
                "tensors": len(tensors),
                "entries": sum(t.numel for t in tensors),
                "k": o.k,
                "incremental_batch": batch,
            }
            rounds = dict.fromkeys(SIDES, o.rounds) | {"incremental": o.slow_rounds}
            out["all_tensors"] = compare(pool, folder, (), rounds, o.k, batch)
            if o.subset_rounds:
                rounds = dict.fromkeys(SIDES, o.subset_rounds)
                some = compare(pool, folder, SUBSET, rounds, o.k, batch)
                out["some_tensors"] = {"names": list(SUBSET), **some}
        out["minutes"] = round((time.perf_counter() - start) / 60, 1)
    report.write(out, o.out)


if __name__ == "__main__":
    main()
