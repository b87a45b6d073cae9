"""What takes too long for every run of the pipeline, on the artefacts of a finished one.

    PYTHONPATH=src python benchmarks/evidence.py --out benchmarks/evidence.json

* ``baselines``: the gradient steps of a guided draw on weights, in subspaces of them and on latents, as rows
  like those of ``metrics/baselines.json``;
* ``against_steps``: how near guided latents come to the targets after 0 to 400 steps, for draws and for
  latents drawn without R or without D;
* ``weights``: what R2 costs where draws are made harder to tell from members by their weights;
* ``lookup``: is D a lookup on few classes? The shared encoder is fitted anew with a one-hot vector for each
  class in place of its images, and draws are measured beside those of the pipeline.

Each part has its seconds, the hash of the code that made the artefacts, and the seed; parts that are not asked for stay as they
are in the file. All on ``test_sets``.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import report
from weightspace.artifacts import read_json
from weightspace.dataset_encoders import statistics
from weightspace.dataset_encoders.base import DatasetEncoder
from weightspace.evaluate.baselines import measured
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.evidence import against_steps, step_baselines
from weightspace.evaluate.trained import evaluate_trained
from weightspace.evaluate.weight_likeness import weight_likeness
from weightspace.params import load_params
from weightspace.registry import resolve
from weightspace.report.provenance import code_hash
from weightspace.rng import torch_stream
from weightspace.runtime import prepare
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import SharedEncoderData, encode_pairs
from weightspace.zoo.outputs import load_originals

SPLIT = "test_sets"


class Lookup(DatasetEncoder):
    """A one-hot vector for each class, by its number: images are not read."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = classes

    def prepare(self, images: Tensor) -> None:
        """Nothing is fitted."""

    def forward(self, images: Tensor) -> Tensor:
        """One row per class of all images of the dataset ``(K, n, C, H, W)``."""
        return torch.eye(self.features, device=images.device)[: len(images)]


def baselines(evaluation):
    """Metrics of the baselines that take gradient steps."""
    return evaluate_trained(evaluation, step_baselines(evaluation))[SPLIT]


def steps(evaluation):
    """Rows of results against the number of steps."""
    return against_steps(evaluation, SPLIT)


def drawn(evaluation):
    """Metrics of single draws in one pass."""
    grid, sampler = evaluation.grid(evaluation.tasks(SPLIT)), evaluation.sampler
    rng = torch_stream(evaluation.params.seed, "evidence", "draws")
    z = sampler.latents(grid.condition(evaluation.runner.dataset), 1, rng)
    return measured(evaluation, grid, sampler.networks(z), SPLIT)


def lookup(evaluation):
    """Metrics of draws in one pass: with the images of classes, and with their numbers alone."""
    params, zoo, sampler = evaluation.params, evaluation.zoo, evaluation.sampler
    pairs = {}
    for split, originals in load_originals(evaluation.data, zoo).items():
        table = zoo.select(split)
        pairs[split] = encode_pairs(
            table,
            zoo.networks(table),
            originals,
            evaluation.runner,
            sampler.autoencoder,
            evaluation.result,
        )
    encoder = params.dataset_encoders.of("statistics")
    data = SharedEncoderData(
        evaluation.runner, sampler.autoencoder, pairs["train"], pairs["val"], encoder
    )
    settings = params.shared_encoder.model_copy(update={"dataset_encoder": "statistics"})
    family = resolve(SHARED_ENCODERS, settings.model, "shared_encoder.model")
    classes, build = len(evaluation.runner.dataset.class_names), statistics.build
    statistics.build = lambda *_: Lookup(classes)
    try:
        model, _ = family.fit(
            data, settings, params.shared_encoders.of(settings.model), params.seed
        )
    finally:
        statistics.build = build
    other = replace(evaluation, sampler=replace(sampler, shared_encoder=model))
    return {"images": drawn(evaluation), "one_hot": drawn(other)}


def weights(evaluation):
    """Rows of changes to the weights of draws."""
    return weight_likeness(evaluation, SPLIT)


PARTS = {"baselines": baselines, "against_steps": steps, "weights": weights, "lookup": lookup}


def main():
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare()
    params = load_params("params.yaml")
    evaluation = Evaluation.load(options.data, params)
    made = read_json(options.out) if options.out and options.out.is_file() else {}
    for part in options.parts:
        start = time.monotonic()
        figures = PARTS[part](evaluation)
        made[part] = {
            "seconds": round(time.monotonic() - start),
            "code": code_hash(Path()),
            "seed": params.seed,
            **report.machine(),
            "figures": figures,
        }
        if options.out:  # an interrupted run keeps its parts
            options.out.write_text(json.dumps(made, indent=2) + "\n")
    if not options.out:
        report.write(made)


if __name__ == "__main__":
    main()
