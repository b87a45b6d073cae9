"""Networks per second of the fitted pipeline: encode, decode, sample, run. Needs `make repro` first.

    PYTHONPATH=src python benchmarks/throughput.py --out benchmarks/throughput.json

All members of the test split (and as many draws) are processed in batch, as the stages do, on all
cores. ``draw`` is a latent from P(z | D, R) and its decoding; ``draw_guided`` adds the gradient
steps of ``guidance``; ``encode_refined`` adds those of an encoding. A first round warms up.
"""

import argparse
import time
from pathlib import Path

import torch

import report
import weightspace as ws
from weightspace.autoencoders.base import decode_latents, encode_members
from weightspace.rng import torch_stream
from weightspace.runtime import prepare
from weightspace.sampling.latent_steps import LatentSteps
from weightspace.sampling.sampler import Condition, Sampler


def sides(project, count):
    """Name -> number of networks, how to process them."""
    members = project.zoo.select("test_sets").head(count)
    weights = project.zoo.weights(members)
    tasks = torch.tensor(members["task"].to_numpy())
    latents = encode_members(project.autoencoder, weights)
    images, _ = project.dataset.task_batch(tasks, "train")
    outputs = project.net.run(weights, images)
    guidance = project.params.guidance
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net, guidance)
    target = torch.full((len(tasks),), 0.9)
    condition = Condition.of_tasks(project.dataset, tasks.sort().values, target)

    def draw(guided):
        generator = torch_stream(0, "benchmark", "draw")
        z = sampler.latents(condition, 1, generator)
        return sampler.decode(sampler.guided(z, condition, generator) if guided else z)

    def refine():
        generator = torch_stream(0, "benchmark", "imitate")
        steps = LatentSteps(project.autoencoder, project.net, guidance)
        parts = (encode_members(project.autoencoder, weights), images, outputs)
        for z, x, y in zip(*(part.split(100) for part in parts), strict=True):
            steps.refine(z, x, y, generator)

    return {
        "encode": lambda: encode_members(project.autoencoder, weights),
        "encode_refined": refine,
        "decode": lambda: decode_latents(project.autoencoder, latents),
        "draw": lambda: draw(guided=False),
        "draw_guided": lambda: draw(guided=True),
        "run_on_270_images": lambda: project.net.run(weights, images),
    }, len(tasks)


def main():
    """Print one JSON object, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", type=int, default=1400)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare()
    project = ws.load(options.root)
    works, count = sides(project, options.networks)
    rates = {name: [] for name in works}
    for i in range(options.rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if i:
                rates[name].append(count / (time.perf_counter() - start))
    figures = report.machine() | {
        "rounds": options.rounds,
        "networks": count,
        "unit": "networks per second",
    }
    report.write(figures | {name: report.spread(v) for name, v in rates.items()}, options.out)


if __name__ == "__main__":
    main()
