"""Do distilled images match the gradients of real ones, on networks that no step has seen?

    PYTHONPATH=src python benchmarks/distillation.py --out benchmarks/distillation.json

For each seed, every class of a dataset (default: ``data/dataset``, its train images, made by `make repro`)
is distilled with the settings of params.yaml, and its gradients are compared on ``--networks`` new
networks: of the encoder's kind (GELU), and the same with ReLU, which no step uses. ``mismatch`` is
``sum over layers of 1 - cos``, mean over networks and classes, then mean and standard deviation over
seeds; 0 is the best. Sides: the learned images, their start, the class mean, as many random
real images, half of the real images, learned images of the next class. ``accuracy`` trains new small
ReLU networks on the few images of all classes and tests them on the val images.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import report
from weightspace.data.dataset import Dataset
from weightspace.dataset_encoders import distillation
from weightspace.params import load_params
from weightspace.rng import torch_stream
from weightspace.runtime import prepare

KINDS = {"gelu": F.gelu, "relu": F.relu}


def distilled(images, settings, seed, **changes):
    """Learned images ``(M, m, C, H, W)`` of all classes."""
    settings = settings.model_copy(update=changes)
    rng = torch_stream(seed, "benchmark", "encoder")
    encoder = distillation.build(images.shape[2:], settings, rng)
    return torch.stack([encoder.distil(own) for own in images])


def sides(images, settings, seed):
    """Name -> images of each class; seconds that the learning took, on the CPU."""
    few = settings.images
    start = time.process_time()
    learned = distilled(images, settings, seed)
    seconds = time.process_time() - start
    rows = torch.randperm(images.shape[1], generator=torch_stream(seed, "benchmark", "real"))
    return {
        "learned": learned,
        "start": distilled(images, settings, seed, steps=0),
        "class_mean": images.mean(1, keepdim=True),
        "random_real": images[:, rows[:few]],
        "half_of_real": images[:, rows[: len(rows) // 2]],
        "learned_of_another_class": learned.roll(1, 0),
    }, seconds


def mismatches(nets, shown, images, activation):
    """Name -> mismatch, mean over networks and classes."""

    def slopes(x):
        return distillation.gradients_one_by_one(nets, x, activation)

    found = {name: [] for name in shown}
    for number, own in enumerate(images):
        wanted = slopes(own)
        for name, few in shown.items():
            found[name].append(distillation.distance(slopes(few[number]), wanted))
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def network(width, shape, classes):
    """A small ReLU network for all classes."""
    layers, channels = [], shape[0]
    for _ in range(2):
        layers += [torch.nn.Conv2d(channels, width, 3, padding=1)]
        layers += [torch.nn.InstanceNorm2d(width, affine=True), torch.nn.ReLU()]
        channels = width
    layers[3:3] = [torch.nn.AvgPool2d(2)]
    size = width * math.prod(n // 2 for n in shape[1:])
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(size, classes))


def accuracy(shown, tested, seed, steps=200):
    """Share of ``(M, n, C, H, W)`` that a network trained on the shown images names rightly."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = network(32, shown.shape[2:], len(shown))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    labels = torch.arange(len(shown)).repeat_interleave(shown.shape[1])
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(shown.flatten(0, 1)), labels).backward()
        optimizer.step()
    with torch.no_grad():
        found = net(tested.flatten(0, 1)).argmax(1).unflatten(0, tested.shape[:2])
    return float((found == torch.arange(len(tested))[:, None]).double().mean())


def measure(images, tested, settings, seed, networks):
    """Figures of one seed: (kind, side) -> figure."""
    shown, seconds = sides(images, settings, seed)
    width, found = settings.width, {("seconds", "learned"): seconds}
    rng = torch_stream(seed, "benchmark", "fresh networks")
    nets = distillation.random_networks(networks, images.shape[2], width, rng)
    for kind, activation in KINDS.items():
        for side, value in mismatches(nets, shown, images, activation).items():
            found[f"mismatch_{kind}", side] = value
    for side, few in shown.items():
        if side != "learned_of_another_class":
            found["accuracy", side] = accuracy(few, tested, seed)
    return found


def main():
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--dataset", type=Path, default=Path("data/dataset"))
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    prepare(1)
    settings, dataset = load_params().dataset_encoders.distillation, Dataset.load(o.dataset)
    images, tested = (dataset.images[part][dataset.seen] for part in ("train", "val"))
    rounds = [measure(images, tested, settings, s, o.networks) for s in range(o.seeds)]
    out = report.machine("1 thread") | {
        "images": list(images.shape),
        "settings": settings.model_dump(),
        "seeds": o.seeds,
        "networks": o.networks,
        "unit": "mean and standard deviation over seeds",
    }
    for kind, side in rounds[0]:
        values = [found[kind, side] for found in rounds]
        spread = statistics.stdev(values) if len(values) > 1 else None
        out.setdefault(kind, {})[side] = {
            "mean": round(statistics.mean(values), 3),
            "std": None if spread is None else round(spread, 3),
        }
    report.write(out, o.out)


if __name__ == "__main__":
    main()
