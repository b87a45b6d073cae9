"""Training throughput: many runs at once against one by one, interleaved in one run.

    PYTHONPATH=src python benchmarks/zoo_training.py --out benchmarks/zoo_training.json

Both sides train the same networks on the same images with Adam; a run-step is one optimiser step of
one network. One by one is plain PyTorch on one thread, which is its best setting: the networks are
too small for two. At once is the project's training as the zoo stage does it: one process per core.
Beside them, outputs and their gradients of many networks with 64 images each, by vmap of the module
and as the autoencoder computes them; and how near all this is to the machine's batched matrix product.
``speedup_cpu`` compares CPU time instead, on all cores, and holds on a busy machine too.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.func import functional_call, vmap

import report
from weightspace.nets.base import build_net
from weightspace.params import CnnSettings, MlpSettings, Resnet18Settings, Settings
from weightspace.runtime import prepare
from weightspace.weights.spec import stack
from weightspace.zoo.plan import Run
from weightspace.zoo.train import train_runs

CLASSES, BATCH, IMAGES = 3, 64, 90  # of a task; of a step; of a class
ALL_CLASSES = 10
ALONE = 3  # runs one by one


class Variant(NamedTuple):
    """An architecture and how much of it is run.

    Attributes:
        architecture: its name.
        settings: its sizes.
        shape: channels, height, width of an image.
        runs: of one process, at once.
        steps: of each run.
        networks: whose outputs are computed.

    """

    architecture: str
    settings: Settings
    shape: tuple[int, int, int]
    runs: int
    steps: int
    networks: int

    def net(self):
        """The architecture at this size."""
        return build_net(self.architecture, self.shape, CLASSES, self.settings)


SMALL = (1, 8, 8), 96, 100, 128
NETS = {
    "mlp": Variant("mlp", MlpSettings(hidden=(20, 16)), *SMALL),
    "cnn": Variant("cnn", CnnSettings(channels=(8, 16), batch_norm=False), *SMALL),
    "cnn-batch-norm": Variant("cnn", CnnSettings(channels=(8, 16), batch_norm=True), *SMALL),
    "resnet18": Variant(
        "resnet18", Resnet18Settings(width=4, stem="small"), (1, 12, 12), 16, 10, 16
    ),
}


def _data(variant, runs, steps):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(ALL_CLASSES, IMAGES, *NETS[variant].shape, generator=rng)
    classes = torch.stack(
        [torch.randperm(ALL_CLASSES, generator=rng)[:CLASSES] for _ in range(runs)]
    )
    return images, classes, torch.randint(IMAGES * CLASSES, (runs, steps, BATCH), generator=rng)


def one_by_one(variant):
    """Plain PyTorch: module, torch.optim.Adam, a loop. Returns wall and CPU seconds."""
    table, classes, batches = _data(variant, ALONE, NETS[variant].steps)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    seconds = cpu = 0.0
    for i in range(ALONE):
        images = table[classes[i]].flatten(0, 1)
        module = NETS[variant].net().module.requires_grad_().train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        start, start_cpu = time.perf_counter(), time.process_time()
        for index in batches[i]:
            optimizer.zero_grad()
            F.cross_entropy(module(images[index]), labels[index]).backward()
            optimizer.step()
        seconds += time.perf_counter() - start
        cpu += time.process_time() - start_cpu
    return seconds, cpu


def at_once(variant, count, steps):
    """One process's part of the project's training. Returns start, end and CPU seconds of it."""
    net = NETS[variant].net()
    images, classes, batches = _data(variant, count, steps)
    runs = [Run(i, 0, "adam", 1e-3, 0.0, 1, (steps,)) for i in range(count)]
    init = stack([net.init(torch.Generator().manual_seed(i)) for i in range(count)])
    start, start_cpu = time.time(), time.process_time()
    train_runs(net, runs, init, images, classes, batches, 0.9)
    return start, time.time(), time.process_time() - start_cpu


def matmul_peak():
    """Batched matrix products of 256 x 256. Returns start, end and CPU seconds."""
    a = torch.randn(16, 256, 256)
    start, start_cpu = time.time(), time.process_time()
    for _ in range(20):
        torch.bmm(a, a)
    return start, time.time(), time.process_time() - start_cpu


PEAK_FLOPS = 20 * 16 * 2 * 256**3  # of one call of matmul_peak


def in_all(pool, cores, work, *arguments):
    """One piece of work on every core: seconds from first start to last end, CPU seconds of all."""
    jobs = [pool.submit(work, *arguments) for _ in range(cores)]
    starts, ends, cpu = zip(*(job.result() for job in jobs), strict=True)
    return max(ends) - min(starts), sum(cpu)


def outputs(variant, batched):
    """Outputs and their gradients of many networks. Returns wall and CPU seconds."""
    net, count = NETS[variant].net(), NETS[variant].networks
    weights = stack([net.init(torch.Generator().manual_seed(i)) for i in range(count)])
    leaves = [w.requires_grad_() for w in weights.values()]
    images = torch.randn(count, BATCH, *NETS[variant].shape)
    net.module.eval()
    plain = vmap(lambda w, x: functional_call(net.module, w, (x,)))
    start, start_cpu = time.perf_counter(), time.process_time()
    out = net.outputs(weights, images) if batched else plain(weights, images)
    torch.autograd.grad(out.square().mean(), leaves)
    return time.perf_counter() - start, time.process_time() - start_cpu


def flops_per_step(variant):
    """Floating point operations of one run-step."""
    images = torch.randn(BATCH, *NETS[variant].shape)
    return report.training_flops(NETS[variant].net().module, images)


def measure(variant, rounds, cores, pool):
    """All sides of one variant, interleaved; a first round warms up and does not count."""
    _, _, _, runs, steps, networks = NETS[variant]
    at_once_in_all = lambda: in_all(pool, cores, at_once, variant, runs, steps)  # noqa: E731
    sides = {  # name -> amount of work, how to do it
        "one_by_one": (ALONE * steps, lambda: one_by_one(variant)),
        "at_once": (cores * runs * steps, at_once_in_all),
        "outputs_vmap": (networks, lambda: outputs(variant, batched=False)),
        "outputs": (networks, lambda: outputs(variant, batched=True)),
        "matmul_gflops": (cores * PEAK_FLOPS / 1e9, lambda: in_all(pool, cores, matmul_peak)),
    }
    rates, cpu_rates = {name: [] for name in sides}, {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, (amount, side) in sides.items():
            seconds, cpu = side()
            if i:
                rates[name].append(amount / seconds)
                cpu_rates[name].append(amount / cpu)
    flops = flops_per_step(variant)
    rates["speedup"] = _ratios(rates, "at_once", "one_by_one")
    rates["speedup_cpu"] = [cores * r for r in _ratios(cpu_rates, "at_once", "one_by_one")]
    rates["outputs_speedup"] = _ratios(rates, "outputs", "outputs_vmap")
    shares = _ratios(rates, "at_once", "matmul_gflops")
    rates["share_of_matmul_peak"] = [flops * share / 1e9 for share in shares]
    return {"flops_per_run_step": flops} | {name: report.spread(v) for name, v in rates.items()}


def _ratios(rates, above, below):
    return [a / b for a, b in zip(rates[above], rates[below], strict=True)]


def scaling(variant, counts, cores, pool):
    """Milliseconds per run when the zoo grows, in shards of 100 runs of 10 steps."""
    out = {}
    for count in counts:
        start = time.perf_counter()
        jobs = [pool.submit(at_once, variant, 100, 10) for _ in range(count // 100)]
        for job in jobs:
            job.result()
        out[str(count)] = round(1e3 * (time.perf_counter() - start) / count, 3)
    return out


def main():
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scaling", type=int, nargs="*", default=[], help="for instance 500 8000")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare(threads=1)
    cores = report.CORES
    out = report.machine("one process of one thread on each") | {
        "rounds": options.rounds,
        "unit": "run-steps per second (batch 64, Adam), networks per second (64 images each)",
    }
    with ProcessPoolExecutor(cores, get_context("spawn"), prepare, (1,)) as pool:
        for variant in options.nets:
            out[variant] = measure(variant, options.rounds, cores, pool)
            if options.scaling:
                times = scaling(variant, options.scaling, cores, pool)
                out[variant]["milliseconds_per_run"] = times
    report.write(out, options.out)


if __name__ == "__main__":
    main()
