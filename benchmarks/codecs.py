"""Published behaviour of codecs, measured on a zoo of one shared initialisation.

    PYTHONPATH=src python benchmarks/codecs.py --out benchmarks/codecs.json

The zoo is made by the package: scikit-learn's digits, ordered 3-class tasks split by class set. Every
figure is the agreement of predictions between held-out networks (split ``test_sets``) and their
reconstructions on test images of their tasks, without refinement. Chance is one of three, and a mean
network has some agreement, too: both are given. Each figure once per seed, of the zoo and of the
codec; mean and range over the seeds are printed.

a. Schürholt et al. (2022), arXiv 2209.14733: normalising the loss of tokens turns chance
   reconstruction into working reconstruction.
b. Meynent et al. (2025), arXiv 2503.17138: a behavioural loss raises agreement by 20 points or more
   where the loss on weights alone leaves room.
c. The token codec reaches the agreement of per-tensor PCA at the same number of latent features.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from weightspace.codecs import CODECS
from weightspace.codecs.base import CodecData, decode_latents, encode_members
from weightspace.data.dataset import make_dataset
from weightspace.networks import build_net
from weightspace.outputs import real_outputs
from weightspace.params import Params, PcaSettings
from weightspace.pca import fit_pca
from weightspace.registry import resolve
from weightspace.runtime import prepare
from weightspace.zoo.generate import generate
from weightspace.zoo.store import Zoo

ZOO = {
    "init": "shared",
    "runs_per_shard": 50,
    "epochs": [8, 12],
    "snapshots": 3,
}
FIT = {"epochs": 20, "batch_size": 64, "lr": 2e-3, "patience": 20}
BEHAVIOUR_EPOCHS = 60  # of both sides of b
TOKENS = {"depth": 1, "contrast_weight": 0.0}  # for a benchmark of a few minutes


class World:
    """A zoo, its splits and the agreement of reconstructions on it."""

    def __init__(self, architecture, runs, seed, folder):
        zoo = ZOO | {"architecture": architecture, "runs": runs}
        self.params = Params.model_validate({"seed": seed, "zoo": zoo, "autoencoder": FIT})
        self.dataset = make_dataset(self.params.dataset, self.params.sources, seed)
        if not (folder / "zoo").exists():
            self.dataset.save(folder / "dataset")
            generate(self.params, folder / "dataset", folder / "zoo", folder / "scratch")
        self.zoo = Zoo.open(folder / "zoo")
        self.net = build_net(architecture, self.dataset.shape, 3, self.params.nets)
        self.members = {s: self.zoo.select(s) for s in ("train", "val", "test_sets")}
        self.weights = {s: self.zoo.weights(t) for s, t in self.members.items()}
        self.wanted = self.outputs(self.weights["test_sets"])

    def outputs(self, weights):
        """Outputs of networks on the test images of the tasks of the held-out ones."""
        tasks = self.members["test_sets"]["task"].to_numpy()
        return real_outputs(self.net, self.dataset, tasks, weights, "test")

    def agreement(self, weights):
        """Share of images on which networks predict what the held-out ones do."""
        same = self.outputs(weights).argmax(-1) == self.wanted.argmax(-1)
        return float(same.double().mean())

    def mean_network(self):
        """Agreement of the mean of the train members, which knows nothing of a network."""
        count = len(self.members["test_sets"])
        mean = {k: w.mean(0).expand(count, *w.shape[1:]) for k, w in self.weights["train"].items()}
        return self.agreement(mean)

    def pca(self, components):
        """Per-tensor PCA with so many components each."""
        settings = PcaSettings(components=components, identity_below=0)
        return fit_pca(self.zoo.spec, self.weights["train"], settings)

    def pca_agreement(self, latent):
        """Agreement of per-tensor PCA, the most components that fit a latent, and their number."""
        k = max(k for k in range(1, latent + 1) if self.pca(k).features <= latent)
        pca = self.pca(k)
        return self.agreement(pca.inverse(pca(self.weights["test_sets"]))), pca.features

    def codec(self, name, latent, settings=None, **own):
        """Agreement of a codec, and what its fit took in seconds."""
        start = time.perf_counter()
        fit = self.params.autoencoder.model_copy(
            update={"codec": name, "latent": latent} | (settings or {})
        )
        section = getattr(self.params.codecs, name).model_copy(update=own)
        codecs = self.params.codecs.model_copy(update={name: section})
        seen = ("train", "val")
        data = CodecData(
            self.net,
            self.pca(128),
            {s: self.weights[s] for s in seen},
            {s: self.members[s] for s in seen},
            self.dataset,
        )
        codec, _ = resolve(CODECS, name, "codec").fit(data, fit, codecs, self.params.seed)
        rebuilt = decode_latents(codec, encode_members(codec, self.weights["test_sets"]))
        return self.agreement(rebuilt), time.perf_counter() - start


def measure(architecture, runs, seed, latents):
    """All figures of one seed."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(architecture, runs, seed, Path(folder))
    low, high = latents
    out = {"train": len(world.members["train"]), "test": len(world.members["test_sets"])}
    out["mean_network"] = world.mean_network()
    for normalise in ("none", "layer", "token"):  # as published: no linear path
        own = TOKENS | {"normalise": normalise, "linear": False}
        out[f"a_{normalise}"] = world.codec("tokens", high, **own)[0]
    for latent in (low // 2, low):
        for weight in (0.0, 1.0):
            own = {"settings": {"epochs": BEHAVIOUR_EPOCHS}, "behaviour_weight": weight}
            out[f"b_mlp_{latent}_weight_{weight:g}"] = world.codec("mlp", latent, **own)[0]
    for latent in latents:
        out[f"c_pca_{latent}"], out[f"c_pca_{latent}_used"] = world.pca_agreement(latent)
        out[f"c_tokens_{latent}"], out[f"c_tokens_{latent}_seconds"] = world.codec(
            "tokens", latent, **TOKENS
        )
    return out


def main():
    """Measure every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="cnn")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--latents", type=int, nargs=2, default=[8, 32])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    prepare(threads=1)
    seeds = {s: measure(args.architecture, args.runs, s, args.latents) for s in args.seeds}
    table = pd.DataFrame(seeds)
    summary = {"mean": table.mean(axis=1), "min": table.min(axis=1), "max": table.max(axis=1)}
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": 1}
    settings = (
        {"zoo": ZOO, "fit": FIT, "tokens": TOKENS, "b_epochs": BEHAVIOUR_EPOCHS}
        | vars(args)
        | {"out": args.out.name}
    )
    result = {"figures": pd.DataFrame(summary).to_dict("index"), "n": len(seeds)}
    args.out.write_text(json.dumps({"settings": settings, **machine, **result}, indent=2) + "\n")
    print(pd.DataFrame(summary).round(3).to_string())


if __name__ == "__main__":
    main()
