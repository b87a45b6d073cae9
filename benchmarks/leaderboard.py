"""Peers on the named tasks, each through `evaluate_method`, and the page of all results.

    PYTHONPATH=src python benchmarks/leaderboard.py --write-hashes reconstruction/digits   # of a new zoo
    PYTHONPATH=src python benchmarks/leaderboard.py --run              # all peers, or: --run pca mlp
    PYTHONPATH=src python benchmarks/leaderboard.py --page             # what `make leaderboard` does

Results go to benchmarks/results/FAMILY/NAME/METHOD.json. `--root` is the project whose data is scored, on all
tasks that name its dataset by hash, and whose fitted models are used; what it has no model of is fitted anew,
with the budget that its card says.
"""

import argparse
import math
import re
import sys
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from sklearn.decomposition import PCA

import weightspace as ws
from weightspace.artifacts import (
    AUTOENCODER_CARD,
    DATASET_FOLDER,
    HYPERNETWORK_FILE,
    SHARED_ENCODER_CARD,
    ZOO_FOLDER,
    read_json,
)
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import (
    AutoencoderData,
    decode_latents,
    encode_members,
    load_trained,
)
from weightspace.data.dataset import Dataset
from weightspace.errors import WeightspaceError
from weightspace.evaluate import hypernetwork
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.readings import weight_statistics
from weightspace.leaderboard.evaluate import trained_on
from weightspace.leaderboard.figures import FAMILIES
from weightspace.leaderboard.named import FOLDER, folder_hash, folders, load_task, names
from weightspace.leaderboard.page import write_page
from weightspace.params import load_params
from weightspace.registry import resolve
from weightspace.report.provenance import code_hash
from weightspace.runtime import prepare
from weightspace.sampling.requests import nearest_to
from weightspace.sampling.sampler import Condition
from weightspace.weights.pca import fit_pca
from weightspace.weights.spec import take
from weightspace.zoo.card import method_card
from weightspace.zoo.store import Zoo

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = RESULTS.parent.parent / "docs"
READS, DRAWS = ["reconstruction", "properties"], ["sampling", "novelty"]  # families of tasks
UPDATES = 400  # steps of a fit, at least
COMPONENTS = 192  # of PCA: as many as the latents of the default settings have


class Peers:
    """What is compared, on one finished project.

    Args:
        root: its folder.

    """

    def __init__(self, root):
        self.root, self.data = root, root / "data"
        self.params = load_params(root / "params.yaml")
        self.code = root if (root / "dvc.lock").is_file() else DOCS.parent

    @cached_property
    def evaluation(self):
        """Zoo, sampler, tasks."""
        return Evaluation.load(self.data, self.params)

    @cached_property
    def zoo(self):
        """The population."""
        return Zoo.open(self.data / ZOO_FOLDER)

    @cached_property
    def dataset(self):
        """Images and tasks."""
        return Dataset.load(self.data / DATASET_FOLDER)

    @cached_property
    def fitted_on(self):
        """What an autoencoder is fitted on: members of train, chosen on val."""
        return AutoencoderData.load(self.data, self.params)

    def card(self, name, title, description, source, **facts):
        """Card of a peer; what is not said was not needed.

        Args:
            name: of the result.
            title: in the table.
            description: a sentence.
            source: paper or file.
            **facts: trained, selection, networks, gradients, seconds, budget, passes.

        """
        fitted = {
            "networks": facts.get("networks", 0),
            "labelled_gradients": facts.get("gradients", 0),
            "seconds": facts.get("seconds"),
            "budget": facts.get("budget", "nothing is fitted"),
        }
        return {
            "name": name,
            "title": title,
            "description": description,
            "source": source,
            "trained_on": [t.model_dump() for t in facts.get("trained", [])],
            "selection": facts.get("selection", "none"),
            "fitted": fitted,
            "cost": {"labelled_gradients": 0, "forward_passes": facts.get("passes", 0)},
        }

    def of_project(self, stage):
        """Facts of a model that the pipeline fitted."""
        paths = {"autoencoder": AUTOENCODER_CARD, "shared_encoder": SHARED_ENCODER_CARD}
        path = self.data / paths[stage]
        cost = read_json(self.root / "metrics" / "cost" / f"{stage}.json")
        seconds = cost["seconds"]
        return {
            "trained": [trained_on(read_json(path))],
            "selection": "val",
            "networks": len(self.zoo.select("train")),
            "seconds": seconds,
            "budget": f"settings of its pipeline, code {code_hash(self.code)}, {seconds:.0f} s on {cost['device']}",
        }

    def weight_statistics(self):
        """Moments and quantiles of each tensor."""
        card = self.card(
            "weight-statistics",
            "weight statistics",
            "Mean, variance and quantiles of each tensor, 7 columns per tensor.",
            "arXiv 2002.11448, section 3",
        )
        return {"encode": partial(weight_statistics, self.zoo.spec)}, card

    def raw_weights(self):
        """Every number of a network."""
        card = self.card(
            "raw-weights",
            "raw weights",
            "Every number of a network is a column.",
            "the plainest reading",
        )
        return {"encode": self.zoo.spec.flatten}, card

    def pca(self):
        """Principal components of all numbers together."""
        zoo = self.zoo
        members, spec = zoo.select("train"), zoo.spec
        start = time.process_time()
        x = spec.flatten(zoo.weights(members)).numpy()
        solver = "covariance_eigh" if x.shape[1] < x.shape[0] else "full"  # of the smaller side
        model = PCA(COMPONENTS, svd_solver=solver).fit(x)
        seen = method_card(self.dataset, {"train": members}, self.params, "autoencoder")
        card = self.card(
            "pca",
            f"PCA, {COMPONENTS} components",
            "Principal components of all numbers of a network, hidden units as they come.",
            "Pearson (1901)",
            trained=[trained_on(seen)],
            networks=len(members),
            seconds=round(time.process_time() - start, 1),
            budget="one decomposition of the train members",
        )
        return {
            "encode": lambda weights: model.transform(spec.flatten(weights).numpy()),
            "decode": lambda z: model.inverse_transform(z.numpy()),
        }, card

    def autoencoder(self, model):
        """Functions of an autoencoder of the package."""
        return {"encode": partial(encode_members, model), "decode": partial(decode_latents, model)}

    def functional(self):
        """The default autoencoder, as the project has it."""
        _, model = load_trained(self.data, self.params)
        images = model.images_read
        card = self.card(
            "functional",
            "functional (default)",
            "Reads outputs on probe images, decodes to a movement of a shared network; fitted to behave alike.",
            "src/weightspace/autoencoders/functional.py",
            passes=0 if images is None else len(images),
            **self.of_project("autoencoder"),
        )
        return self.autoencoder(model), card

    def fit(self, name, kind, words, epochs=None, data=None, more="", **options):
        """An autoencoder of the package, fitted anew.

        Args:
            name: of the result.
            kind: member of the family.
            words: title, description and source.
            epochs: instead of those of the settings; more on a small zoo, for :data:`UPDATES`.
            data: instead of the project's.
            more: of the budget.
            **options: of the member, instead of those of params.yaml.

        """
        settings = self.params.autoencoder.model_copy(update={"model": kind})
        of_epoch = math.ceil(len(self.fitted_on.members["train"]) / settings.batch_size)
        epochs = max(epochs or settings.epochs, math.ceil(UPDATES / of_epoch))
        settings = settings.model_copy(update={"epochs": epochs, "patience": epochs})
        chosen = self.params.autoencoders.of(kind).model_copy(update=options)
        start = time.process_time()
        family = resolve(AUTOENCODERS, kind, "autoencoder.model")
        model, _ = family.fit(data or self.fitted_on, settings, chosen, self.params.seed)
        seconds = round(time.process_time() - start)
        members = self.fitted_on.members
        seen = method_card(self.fitted_on.dataset, members, self.params, "autoencoder")
        changed = "".join(f", {k} {v}" for k, v in options.items())
        card = self.card(
            name,
            *words,
            trained=[trained_on(seen)],
            selection="val",
            networks=len(members["train"]),
            seconds=seconds,
            budget=f"{settings.epochs} epochs{changed}, else settings of its pipeline; {seconds} s of one core{more}",
        )
        return self.autoencoder(model.eval()), card

    def mlp(self):
        """The original study's."""
        words = (
            "mlp (original study)",
            "PCA of each tensor, then an MLP autoencoder of the coefficients, fitted on weights alone.",
            "D. J. Swanevelder, A Contrastive Approach to Weight Space Learning (slides)",
        )
        return self.fit("mlp", "mlp", words)

    def matched(self):
        """The same after weight matching."""
        zoo = self.zoo
        settings = self.params.pca.model_copy(update={"align": "matching"})
        start = time.process_time()
        pca = fit_pca(zoo.spec, zoo.weights(zoo.select("train")), settings)
        words = (
            "mlp after weight matching",
            "As mlp; hidden units are matched to those of one finished network first.",
            "arXiv 2209.04836, and the original study's autoencoder",
        )
        data = replace(self.fitted_on, pca=pca)
        seconds = round(time.process_time() - start)
        return self.fit("mlp-matched", "mlp", words, data=data, more=f"; matching {seconds} s")

    def behavioural(self):
        """The same with a loss on outputs."""
        words = (
            "behavioural loss",
            "The MLP autoencoder with the loss on outputs in addition to that on weights.",
            "arXiv 2503.17138",
        )
        return self.fit("behavioural", "mlp", words, epochs=16, behaviour_weight=1.0)

    def tokens(self):
        """A sequence of tokens."""
        words = (
            "tokens",
            "A transformer on tokens of the weights, as SANE has it.",
            "arXiv 2406.09997",
        )
        return self.fit("tokens", "tokens", words, epochs=10)

    def flow_card(self, name, title, description, gradients=0, passes=0):
        """Card of the default sampler, or of what is done with its draws.

        Args:
            name: of the result.
            title: in the table.
            description: a sentence.
            gradients: labelled ones of a network.
            passes: images that networks are run on for one.

        """
        facts = self.of_project("shared_encoder")
        facts["trained"] += self.of_project("autoencoder")["trained"]
        source = "src/weightspace/shared_encoders/flow.py"
        card = self.card(name, title, description, source, passes=passes, **facts)
        card["cost"]["labelled_gradients"] = gradients
        return card

    def flow(self):
        """The default sampler, without gradients."""
        sampler = self.evaluation.sampler

        def sample(images, targets, draws, rng):
            z = sampler.latents(Condition.of_images(images, targets), draws, rng)
            return take(sampler.networks(z), slice(None))

        card = self.flow_card(
            "flow",
            "flow and critic (default)",
            "A flow draws latents for (D, R), a critic without labels moves them, the functional autoencoder decodes.",
        )
        return {"sample": sample}, card

    def flow_best_of_16(self):
        """The best of 16 of its draws by train images."""
        evaluation = self.evaluation
        sampler, net = evaluation.sampler, evaluation.runner.net

        def sample(images, targets, draws, rng):
            condition = Condition.of_images(images, targets)
            z = sampler.latents(condition, 16 * draws, rng)
            made = take(sampler.networks(z), slice(None))
            results = evaluation.result.of(net.run(made, images.flatten(0, 1)))
            results = results.reshape(len(targets), draws, 16).numpy()
            best = torch.from_numpy(nearest_to(results, targets.numpy()[:, None, None]))
            first = 16 * torch.arange(len(targets) * draws)
            return {k: w[first + best.flatten()] for k, w in made.items()}

        images = evaluation.runner.classes * evaluation.runner.dataset.images["train"].shape[1]
        card = self.flow_card(
            "flow-best-of-16",
            "flow and critic, best of 16",
            "Of 16 draws the one whose result on labelled train images is nearest to the request.",
            passes=16 * images,
        )
        return {"sample": sample}, card

    def flow_guided(self):
        """Its draws after gradient steps."""
        evaluation = self.evaluation
        sampler, dataset = evaluation.sampler, evaluation.runner.dataset

        def sample(images, targets, draws, rng):
            condition = Condition.of_images(images, targets)
            z = sampler.guided(sampler.latents(condition, draws, rng), condition, rng)
            return take(sampler.networks(z), slice(None))

        some = Condition.of_tasks(dataset, dataset.tasks_of("train")[:1], torch.zeros(1))
        gradients = sampler.image_gradients(some)
        card = self.flow_card(
            "flow-guided",
            "flow and critic, guided",
            "Gradient steps on labelled train images bring the result of a drawn latent to the request.",
            gradients=gradients,
            passes=gradients,
        )
        return {"sample": sample}, card

    def hypernetwork(self):
        """(D, R, noise) -> weights, fitted without any population."""
        runner, params = self.evaluation.runner, self.params
        path, start = self.data / HYPERNETWORK_FILE, time.monotonic()
        if path.is_file() and path.stat().st_size:
            model = hypernetwork.load(runner, params, path)
            seconds = read_json(self.root / "metrics" / "cost" / "hypernetwork.json")["seconds"]
        else:  # of presets without controls
            model = hypernetwork.fit(runner, params, torch.tensor(self.evaluation.bounds)).eval()
            seconds = round(time.monotonic() - start, 1)

        def sample(images, targets, draws, rng):
            made = model.networks(Condition.of_images(images, targets), draws, rng)
            return made.take(slice(None))

        fitted = params.baselines.hypernetwork
        facts = self.of_project("autoencoder")
        facts |= {
            "networks": 0,
            "seconds": seconds,
            "gradients": fitted.steps
            * fitted.conditions
            * fitted.images_per_class
            * runner.classes,
            "budget": f"settings of its pipeline: {fitted.steps} steps, {seconds:.0f} s",
        }
        card = self.card(
            "hypernetwork",
            "hypernetwork",
            "An MLP makes all weights from (D, R, noise); trained to hit R on train tasks, no population takes part.",
            "arXiv 1609.09106",
            **facts,
        )
        return {"sample": sample}, card

    def nearest_task(self):
        """Members of the nearest train tasks."""
        evaluation = self.evaluation
        known = evaluation.train_members

        def sample(images, targets, draws, rng):
            embedding = evaluation.sampler.embed(Condition.of_images(images, targets))
            parts = [
                take(known.nearest_task(embedding, targets.numpy(), rank), slice(None))
                for rank in range(draws)
            ]
            return {k: torch.stack([p[k] for p in parts], 1).flatten(0, 1) for k in parts[0]}

        card = self.card(
            "nearest-task",
            "network of the nearest train task",
            "The train member of the nearest task with the nearest result; further draws are of the next nearest tasks.",
            "a baseline: copies of train members",
            **self.of_project("shared_encoder"),
        )
        return {"sample": sample}, card


PEERS = {
    "weight-statistics": (Peers.weight_statistics, ["properties"]),
    "raw-weights": (Peers.raw_weights, ["properties"]),
    "pca": (Peers.pca, READS),
    "functional": (Peers.functional, READS),
    "mlp": (Peers.mlp, READS),
    "mlp-matched": (Peers.matched, READS),
    "behavioural": (Peers.behavioural, READS),
    "tokens": (Peers.tokens, READS),
    "flow": (Peers.flow, DRAWS),
    "flow-best-of-16": (Peers.flow_best_of_16, ["sampling"]),
    "flow-guided": (Peers.flow_guided, ["sampling"]),
    "hypernetwork": (Peers.hypernetwork, DRAWS),
    "nearest-task": (Peers.nearest_task, DRAWS),
}


def tasks_at(root):
    """Named tasks whose images and class sets are those of a project."""
    dataset = folder_hash(folders(root)["dataset"])
    return [task for task in map(load_task, names()) if task.data.dataset == dataset]


def run(root, chosen):
    """Score peers on a project.

    Args:
        root: a finished project.
        chosen: names of peers; none for all.

    """
    peers, tasks = Peers(root), tasks_at(root)
    for name in chosen or PEERS:
        make, families = PEERS[name]
        asked = [task for task in tasks if task.family in families]
        if not asked:
            continue
        functions, card = make(peers)
        for task in asked:
            _, needed = FAMILIES[task.family]
            given = {k: functions[k] for k in needed}
            out = RESULTS / task.name / f"{name}.json"
            start = time.monotonic()
            result = ws.evaluate_method(task, card=card, root=root, out=out, **given)
            first = task.figures[0].name
            seconds = time.monotonic() - start
            print(
                f"{task.name} {name}: {first} {result.figures[first].value} ({seconds:.0f} s)",
                flush=True,
            )


def write_hashes(root, chosen):
    """Write the hashes of a project's data into tasks.

    Args:
        root: a finished project.
        chosen: names of tasks that are about it.

    """
    hashes = {key: folder_hash(folder) for key, folder in folders(root).items()}
    for name in chosen:
        path = FOLDER / f"{load_task(name).name}.yaml"
        text = path.read_text()
        for key, value in hashes.items():
            text = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.M)
        path.write_text(text)
        print(f"{name}: zoo {hashes['zoo'][:12]}, dataset {hashes['dataset'][:12]}")


def main():
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--write-hashes", nargs="+", choices=names(), metavar="TASK")
    parser.add_argument("--run", nargs="*", choices=PEERS, metavar="PEER")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    prepare(1)
    try:
        if options.write_hashes:
            write_hashes(options.root, options.write_hashes)
        if options.run is not None:
            run(options.root, options.run)
        if options.page:
            for path in write_page(RESULTS, DOCS):
                print(f"Written to {path}")
    except WeightspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
