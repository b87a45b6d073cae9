"""Cost as the work grows: the stages by runs of the zoo, training of ResNet-18 by its width.

    PYTHONPATH=src python benchmarks/growth.py --out benchmarks/growth.json
    PYTHONPATH=src python benchmarks/growth.py --quick       # tiny settings, to see that it runs

Every stage runs in a process of its own, on zoos of the default digits CNN; the two fits run one epoch,
and three for what an epoch takes. A simple model is fitted on the smaller half of the sizes and predicts
the larger half: a constant and a part for each run; for training, a constant, a part for each unit of width
(values between layers) and one for its square (weights, operations). Evaluations take samples with settings
that are small in what does not depend on the zoo; they run on the smallest sizes only.

CPU seconds are modelled, of all processes of a stage: a busy machine disturbs them less than seconds. What
workers of a stage take can run on other machines, the rest cannot: docs/scale.md says what a cluster takes.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import report
import zoo_training
from memory import ROOT, STAGES, watch
from weightspace.artifacts import MEMBERS_FILE, ZOO_FOLDER, read_json, read_parquet
from weightspace.params import Resnet18Settings
from weightspace.report.scale import EPOCH, FITS
from weightspace.runtime import prepare
from workspace import clone

GROWING = ("zoo", "outputs", "pca", *FITS)
EVALUATIONS = tuple(name for name in STAGES if name.startswith("evaluate"))
MORE_EPOCHS = 3
FEW = {  # what does not depend on the zoo: tasks, the critic, draws, and networks that are trained
    "dataset.tasks": 120,  # all of them have members in the smallest zoo
    "shared_encoders.flow.critic_rounds": 1,
    "shared_encoders.flow.critic_draws": 1000,
    "shared_encoders.flow.critic_epochs": 1,
    "baselines.hypernetwork.steps": 1,
    "evaluate.targets": 2,
    "evaluate.draws": 2,
    "evaluate.val_draws": 2,
    "evaluate.finetune_tasks": 2,
    "evaluate.ensemble": 2,
    "evaluate.bootstrap": 10,
    "evaluate.novelty_networks": 8,
    "evaluate.two_sample_networks": 200,
}
LARGE = (8000, 50_000)  # runs that are asked for
FULL, QUICK = ((500, 1000, 2000, 4000), (4, 8, 16, 32, 64)), ((36, 48, 60), (2, 4, 8))
NETWORKS, STEPS = 4, 3  # of ResNet-18, trained at once; of each
PIXELS, STEM = 12, "small"

# In every process that trains: spawned ones import this file, too.
zoo_training.NETS |= {
    f"resnet18-{width}": zoo_training.Variant(
        "resnet18", Resnet18Settings(width=width, stem=STEM), (1, PIXELS, PIXELS), 1, STEPS, 1
    )
    for width in (2, 4, 8, 16, 32, 64)
}


def of_zoo(root, runs, stages, tiny):
    """What stages take on a zoo of so many runs: name -> figures, and the number of its members."""
    workspace = clone(root)
    if not tiny:
        workspace.write("params.yaml", (ROOT / "params.yaml").read_text())
        workspace.set(FEW)
    workspace.set({"zoo.runs": runs, **{f"{fit}.epochs": 1 for fit in FITS}})
    workspace.stages("check", "dataset")
    out = {}
    for stage in stages:
        out[stage] = watch(workspace, stage)
        if stage in FITS:
            workspace.set({f"{stage}.epochs": MORE_EPOCHS})
            out[EPOCH.format(stage)] = of_epoch(out[stage], watch(workspace, stage))
            workspace.set({f"{stage}.epochs": 1})
        print(f"{runs} runs, {stage}: {out[stage]}", file=sys.stderr)
    members = len(read_parquet(root / "data" / ZOO_FOLDER / MEMBERS_FILE.name))
    return out | {"members": members}


def of_epoch(one, more):
    """CPU seconds of an epoch, from a fit of one and a fit of more."""
    seconds = (more["cpu_seconds"] - one["cpu_seconds"]) / (MORE_EPOCHS - 1)
    return {"cpu_seconds": round(max(seconds, 0.01), 2)}


def trained(variant):
    """Train some networks of one variant. Returns wall and CPU seconds, and the peak of the process in MiB."""
    prepare(threads=1)
    start, end, cpu = zoo_training.at_once(variant, NETWORKS, STEPS)
    return end - start, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_width(width, rounds):
    """Training of ResNet-18 of one width: operations and seconds of a run-step, in processes of their own."""
    variant = f"resnet18-{width}"
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        done = [pool.submit(trained, variant).result() for _ in range(rounds)]
    seconds, cpu, peak = zip(*done, strict=True)
    flops, steps = zoo_training.flops_per_step(variant), NETWORKS * STEPS
    out = {
        "numbers": zoo_training.NETS[variant].net().spec.numel,
        "flops_per_run_step": flops,
        "cpu_ms": report.spread([1e3 * s / steps for s in cpu]),
        "ms": report.spread([1e3 * s / steps for s in seconds]),
        "gflops": report.spread([flops * steps / s / 1e9 for s in cpu]),
        "peak_mib": round(max(peak)),
    }
    print(f"width {width}: {out}", file=sys.stderr)
    return out


def of_widths(widths, rounds):
    """Training of ResNet-18 of some widths, and a model of its CPU seconds."""
    measured = {width: of_width(width, rounds) for width in sorted(widths)}
    out = {"pixels": PIXELS, "batch": zoo_training.BATCH, "networks": NETWORKS, "rounds": rounds}
    if len(measured) > 1:
        times = {width: figures["cpu_ms"]["median"] for width, figures in measured.items()}
        out["model"] = model(layers, times)
    return out | {"widths": {str(width): figures for width, figures in measured.items()}}


def line(runs):
    """Terms of the model of a stage: a constant, and a part for each run."""
    return 1, runs


def layers(width):
    """Terms of the model of training: a constant, values between layers, weights."""
    return 1, width, width**2


def model(terms, measured, more=()):
    """Least relative squares without negative parts on the smaller half of the sizes; what they predict.

    ``measured``: size -> value, at least two. ``more``: further sizes to predict.
    """
    sizes = sorted(measured)
    fitted = sizes[: max(2, (len(sizes) + 1) // 2)]
    values = np.array([measured[size] for size in fitted])
    x = np.array([terms(size) for size in fitted], float)
    factors, _ = nnls(x / values[:, None], np.ones(len(values)))

    def predict(size):
        return float(np.dot(factors, terms(size)))

    predicted = {
        str(size): {
            "model": round(predict(size), 4),
            "measured": measured[size],
            "error": round(predict(size) / measured[size] - 1, 3),
        }
        for size in sizes
        if size not in fitted
    }
    return {
        "factors": factors.tolist(),
        "fitted_on": fitted,
        "predicted": predicted,
        "extrapolated": {str(size): round(predict(size), 4) for size in more},
    }


def of_stages(zoos):
    """Models of all stages: CPU seconds and resident MiB by runs; the fraction that workers take."""
    out = {}
    for stage in dict.fromkeys(name for zoo in zoos.values() for name in zoo if name != "members"):
        figures = {runs: zoo[stage] for runs, zoo in zoos.items() if stage in zoo}
        if len(figures) < 2:
            continue  # no line
        out[stage] = {
            key: model(line, {runs: f[key] for runs, f in figures.items()}, LARGE)
            for key in ("cpu_seconds", "resident_mib")
            if all(f.get(key, 0) > 0 for f in figures.values())
        }
        out[stage]["in_workers"] = max(f.get("in_workers", 0) for f in figures.values())
    return out


def main():
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="*", help="of the zoos; 500 to 4,000 by default")
    parser.add_argument("--evaluated", type=int, default=2, help="smallest zoos that are evaluated")
    parser.add_argument("--widths", type=int, nargs="*", help="4 to 64 by default")
    parser.add_argument("--rounds", type=int, default=3, help="of the training of each width")
    parser.add_argument("--stages", nargs="+", default=[*GROWING, "hypernetwork", *EVALUATIONS])
    parser.add_argument("--quick", action="store_true", help="tiny settings and sizes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes, some_widths = QUICK if options.quick else FULL
    if options.runs is None:
        options.runs = sizes
    if options.widths is None:
        options.widths = some_widths
    # What is not measured this time stays.
    out = read_json(options.out) if options.out and options.out.is_file() else {}
    if options.widths:
        facts = conditions()
        figures = of_widths(options.widths, options.rounds)
        out["resnet18"] = facts() | figures
    facts, zoos = conditions(), {}
    for i, runs in enumerate(sorted(options.runs)):
        stages = [s for s in options.stages if s in GROWING or i < options.evaluated]
        with tempfile.TemporaryDirectory() as root:
            zoos[runs] = of_zoo(Path(root) / "clone", runs, stages, options.quick)
        settings = {"settings": "tiny" if options.quick else FEW}
        sizes = {str(n): zoo for n, zoo in zoos.items()}
        out["stages"] = facts() | settings | {"zoos": sizes, "models": of_stages(zoos)}
        report.write(out, options.out)  # the next one may take long


def conditions():
    """A function that says where figures come from, and how busy the machine was since now."""
    start, load = time.monotonic(), os.getloadavg()[0]

    def facts():
        passed = time.monotonic() - start
        busy = {"nice": os.nice(0), "load": [round(x, 1) for x in (load, os.getloadavg()[0])]}
        return report.machine() | busy | {"minutes": round(passed / 60, 1)}

    return facts


if __name__ == "__main__":
    main()
