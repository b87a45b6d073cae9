"""Peak memory of every stage after the zoo, for networks of any width: does it grow with their number?

    PYTHONPATH=src python benchmarks/memory.py --out benchmarks/memory.json
    PYTHONPATH=src python benchmarks/memory.py --width 8 --members 40 120 --draws 2 8

Members are made up, not trained: a few random ResNet-18s plus noise, written shard by shard; so are
their results and the images. Every stage runs in a process of its own with settings that are small in
everything but the network; figures of other widths in the same file stay. With ``--work`` an interrupted
call continues: stages that the file has are not run again. ``resident`` counts every page of the stage's processes, files that are
mapped into memory too, which the system may drop at any time; ``anonymous`` counts the rest. A block
holds as many networks as at width 64, so that a narrow run shows what grows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import report
from weightspace.artifacts import DATASET_FOLDER, MEMBERS_FILE, ZOO_FOLDER, write_parquet
from weightspace.data.dataset import PARTS, Dataset
from weightspace.nets.base import net_for
from weightspace.params import load_params
from weightspace.rng import torch_stream
from weightspace.weights.spec import block_size, block_slices, stack
from weightspace.zoo.plan import plan_runs
from weightspace.zoo.store import Zoo, save_shard, shard_name

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "stages")]

from _stage import usage  # noqa: E402
from workspace import Workspace, clone  # noqa: E402

STAGES = ("outputs", "pca", "autoencoder", "shared_encoder", "hypernetwork", *(f"evaluate_{name}" for name in (
    "reconstruction", "sampling", "baselines", "distribution", "novelty", "finetuning", "properties",
    "generation",
)))  # fmt: skip
BASES, NOISE = 4, 0.1  # networks that members are near; noise, in units of a tensor's spread
PER_CLASS, CLASSES = 60, 10  # images
FULL = 64  # width
LOOK = 0.2  # seconds between two looks at a stage
SETTINGS = {
    "dataset.source": "npz",
    "sources.path": "images.npz",
    "zoo.architecture": "resnet18",
    "zoo.snapshots": 2,
    "zoo.batch_size": 16,  # two steps an epoch, so that trainings are short, and still measured 40 times
    "nets.resnet18.stem": "small",
    "pca.components": 8,
    "autoencoder.batch_size": 8,  # networks decoded in a step, at width 64 some 90 MiB each
    "autoencoders.functional.statistics": 4,
    "dataset.tasks": 24,  # few val tasks, on which baselines by training are tuned
    "evaluate.novelty_networks": 2,
    "evaluate.targets": 2,
    "evaluate.finetune_tasks": 2,
}


def make_images(path, pixels, seed=0):
    """Write an archive of images: a random picture for each class plus noise."""
    rng = np.random.default_rng(seed)
    of_class = rng.uniform(0, 255, (CLASSES, 1, pixels, pixels))
    images = 0.6 * of_class + 0.4 * rng.uniform(0, 255, (CLASSES, PER_CLASS, pixels, pixels))
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    np.savez(path, images=images.reshape(-1, pixels, pixels).astype(np.uint8), labels=labels)


def make_zoo(root, members):
    """Write a zoo of made-up members below ``root``, never more than a shard in memory."""
    params = load_params(root / "params.yaml")
    dataset = Dataset.load(root / "data" / DATASET_FOLDER)
    net = net_for(params, dataset.shape, dataset.classes_per_task)
    spec, rng = net.spec, torch_stream(0, "benchmark", "memory")
    bases = spec.flatten(spec.unconstrain(stack([net.init(rng) for _ in range(BASES)])))
    table = make_table(params, dataset, members)
    size = block_size(spec, members)
    table["shard"], table["row"] = np.divmod(np.arange(members), size)
    folder = root / "data" / ZOO_FOLDER
    folder.mkdir(parents=True)
    for shard, rows in enumerate(block_slices(members, size)):
        base = bases[torch.arange(rows.start, rows.stop) % BASES]
        free = base + NOISE * bases.std() * torch.randn(base.shape, generator=rng)
        weights = spec.constrain(spec.unflatten(free))
        save_shard(folder / shard_name(shard), weights, spec, shard)
    write_parquet(folder / MEMBERS_FILE.name, table)


def make_table(params, dataset, members):
    """Table of made-up members: runs as they are planned, results drawn at random."""
    rng, tasks = np.random.default_rng(0), dataset.tasks.set_index("task")
    rows = [
        {k: v for k, v in asdict(run).items() if k != "steps"}
        | {"snapshot": snapshot, "step": step, "epoch": float(step)}
        for run in plan_runs(range(-(-members // 2)), dataset, params.zoo, params.seed)
        for snapshot, step in enumerate(run.steps)
    ]
    table = pd.DataFrame(rows[:members])
    for part in PARTS:
        table[f"{part}_accuracy"] = rng.uniform(0.3, 1, members).astype(np.float32)
        table[f"{part}_loss"] = (1 - table[f"{part}_accuracy"]).astype(np.float32)
    for column in ("split", "class_set"):
        table[column] = tasks[column].loc[table["task"]].to_numpy()
    return table.assign(diverged=False, member=np.arange(members))


def watch(workspace, stage):
    """Run a stage; its seconds, CPU seconds, the fraction of these that workers took, peaks in MiB."""
    command = [sys.executable, f"stages/{stage}.py"]
    start, cpu_before, peak, alone = time.monotonic(), _cpu_of_children(), np.zeros(2), 0.0
    with tempfile.TemporaryFile() as text:
        process = subprocess.Popen(
            command, cwd=workspace.root, env=workspace.env, stdout=text, stderr=text
        )
        while process.poll() is None:
            peak = np.maximum(peak, usage(process.pid))
            alone = max(alone, _cpu_of(process.pid))
            time.sleep(LOOK)
        text.seek(0)
        if process.returncode:
            raise SystemExit(f"{stage} failed:\n{text.read().decode()[-3000:]}")
    cpu = _cpu_of_children() - cpu_before
    resident, anonymous = (round(float(x) / 2**20) for x in peak)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(cpu, 2),
        "in_workers": round(max(0.0, 1 - alone / cpu), 3),
        "resident_mib": resident,
        "anonymous_mib": anonymous,
    }


def _cpu_of_children():
    """CPU seconds of all processes that this one started, theirs included, and that have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def _cpu_of(process):
    """CPU seconds of a process without those that it started; 0 when it is gone."""
    with suppress(OSError):
        fields = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def measure(root, members, draws, options, done):
    """Run the stages that are not done yet; yields after each, with the entries of a network.

    Args:
        root: folder of the copy of the project; made unless its zoo is there.
        members: of the made-up zoo.
        draws: networks drawn for a request.
        options: of the command line.
        done: stage -> what it took; filled.

    """
    if (root / "data" / ZOO_FOLDER / MEMBERS_FILE.name).is_file():
        workspace = Workspace(root)
    else:
        workspace = made(root, members, draws, options)
    numel = Zoo.open(root / "data" / ZOO_FOLDER).spec.numel
    for stage in STAGES:
        if stage in options.stages and stage not in done:
            done[stage] = watch(workspace, stage)
            print(f"{members} members, {draws} draws, {stage}: {done[stage]}", file=sys.stderr)
            yield numel


def made(root, members, draws, options):
    """Copy of the project with a made-up zoo; arguments as those of :func:`measure`."""
    size = {"zoo.runs": -(-members // 2), "nets.resnet18.width": options.width}
    size |= {"evaluate.draws": draws, "evaluate.val_draws": draws, "evaluate.ensemble": draws}
    workspace = clone(root, SETTINGS | size)
    shorten(workspace, (options.width / FULL) ** 2)
    make_images(root / "images.npz", options.pixels)
    workspace.stages("check", "dataset")
    make_zoo(root, members)
    return workspace


def shorten(workspace, fraction):
    """Make the blocks of a copy of the project smaller, as much as its networks are; fewer rates to try."""
    block = "BLOCK_NUMBERS = 1 << 26"
    lines = {
        "weights/spec.py": (block, f"BLOCK_NUMBERS = {int(fraction * (1 << 26))}"),
        "evaluate/trained.py": ("RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)", "RATES = (1e-3, 3e-3)"),
        "evaluate/finetuning.py": ("RATES = (3e-4, 1e-3, 3e-3, 1e-2)", "RATES = (1e-3, 3e-3)"),
    }
    for name, (line, other) in lines.items():
        path = f"src/weightspace/{name}"
        if line not in (text := workspace.read(path)):
            raise SystemExit(f"{path}: no line '{line}'")
        workspace.write(path, text.replace(line, other))


def rows(sizes):
    """Lines of a table: a stage each, seconds and peaks for each size."""
    yield f"{'':24}" + "".join(f"{name:>34}" for name in sizes)
    yield f"{'stage':24}" + f"{'s':>10}{'resident':>12}{'anonymous':>12}" * len(sizes)
    for stage in next(iter(sizes.values())):
        cells = (sizes[name][stage] for name in sizes)
        yield f"{stage:24}" + "".join(
            f"{c['seconds']:10}{c['resident_mib']:8} MiB{c['anonymous_mib']:8} MiB" for c in cells
        )


def main():
    """Print a table and one JSON object, and write the latter where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=FULL)
    parser.add_argument("--members", type=int, nargs="+", default=[200])
    parser.add_argument("--draws", type=int, nargs="+", default=[2], help="one for each size")
    parser.add_argument("--pixels", type=int, default=16, help="side of an image")
    parser.add_argument("--stages", nargs="+", default=STAGES, help="all by default")
    parser.add_argument(
        "--work", type=Path, help="folder for data, which stay, so that a call continues"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = {"widths": {}}
    if options.out and options.out.is_file():
        out = json.loads(options.out.read_text())
    known = out["widths"].get(str(options.width), {}).get("sizes", {}) if options.work else {}
    sizes = dict(known)
    with ExitStack() as folders:
        work = options.work or folders.enter_context(tempfile.TemporaryDirectory())
        for members, draws in zip(options.members, options.draws, strict=True):
            name = f"{members} members, {draws} draws"
            root = Path(work) / f"width{options.width}members{members}draws{draws}"
            for numel in measure(root, members, draws, options, sizes.setdefault(name, {})):
                facts = {"numbers_of_a_network": numel, "pixels": options.pixels}
                facts |= {"load": os.getloadavg(), "nice": os.nice(0), "settings": SETTINGS}
                out["widths"][str(options.width)] = report.machine() | facts | {"sizes": sizes}
                if options.out:  # the next stage may take long
                    options.out.write_text(json.dumps(out, indent=2) + "\n")
    print("\n".join(rows(sizes)), file=sys.stderr)
    report.write(out, options.out)


if __name__ == "__main__":
    main()
