"""Training throughput: many runs at once against one by one, side by side in one process.

    PYTHONPATH=src python benchmarks/zoo_training.py > benchmarks/zoo_training.json

Both sides train the same networks on the same images with Adam; a run-step is one optimiser step
of one network. Rounds alternate, so that a busy machine slows both.
"""

import json
import platform
import statistics
import time

import torch
import torch.nn.functional as F

from weightspace.networks import build_net
from weightspace.params import NetsSettings
from weightspace.runtime import THREADS, prepare
from weightspace.spec import stack
from weightspace.zoo.plan import Run
from weightspace.zoo.train import train_runs

RUNS, STEPS, BATCH, ROUNDS, IMAGES = 100, 40, 32, 5, 270


def one_by_one(architecture, images, labels, batches, count):
    """Plain PyTorch: module, torch.optim.Adam, a loop. Returns run-steps per second.

    On one thread, which is its best setting: the networks are too small for two.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    for i in range(count):
        net = build_net(architecture, (1, 8, 8), 3, NetsSettings()).module.requires_grad_()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for index in batches[i]:
            optimizer.zero_grad()
            F.cross_entropy(net(images[i, index]), labels[index]).backward()
            optimizer.step()
    return count * STEPS / (time.perf_counter() - start)


def at_once(net, images, labels, batches):
    """The project's vectorised training. Returns run-steps per second."""
    runs = [Run(i, 0, "adam", 1e-3, 0.0, 1, (STEPS,)) for i in range(RUNS)]
    init = stack([net.init(torch.Generator().manual_seed(i)) for i in range(RUNS)])
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    train_runs(net, runs, init, images, labels, batches, 0.9)
    return RUNS * STEPS / (time.perf_counter() - start)


def main():
    """Print one JSON object."""
    prepare()
    torch.manual_seed(0)
    images, labels = torch.randn(RUNS, IMAGES, 1, 8, 8), torch.randint(0, 3, (IMAGES,))
    batches = torch.randint(0, IMAGES, (RUNS, STEPS, BATCH))
    out = {
        "machine": f"{platform.machine()}, one_by_one on 1 thread, at_once on {THREADS}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rounds": ROUNDS,
        "unit": "run-steps per second, batch 32, Adam; median [min, max]",
    }
    for architecture in ("cnn", "mlp"):
        net = build_net(architecture, (1, 8, 8), 3, NetsSettings())
        rates = {"one_by_one": [], "at_once": []}
        for _ in range(ROUNDS):
            rates["one_by_one"].append(one_by_one(architecture, images, labels, batches, 10))
            rates["at_once"].append(at_once(net, images, labels, batches))
        for name, values in rates.items():
            spread = [round(statistics.median(values)), round(min(values)), round(max(values))]
            out[f"{architecture}_{name}"] = spread
        ratio = [b / a for a, b in zip(*rates.values(), strict=True)]
        out[f"{architecture}_speedup"] = round(statistics.median(ratio), 2)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
