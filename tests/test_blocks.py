"""Bounded memory: whatever an evaluation reads or makes, it takes no more than a block at once."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import build, networks
from weightspace.autoencoders.base import encode_members
from weightspace.evaluate import controls, guidance
from weightspace.evaluate.components import against_k
from weightspace.evaluate.distribution import evaluate_distribution
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.finetuning import evaluate_finetuning
from weightspace.evaluate.generation import evaluate_generation
from weightspace.evaluate.novelty import evaluate_novelty
from weightspace.evaluate.readings import COLUMNS, Projection, readings
from weightspace.evaluate.reconstruction import Reconstructor
from weightspace.evaluate.retrieval import retrieval
from weightspace.evaluate.sampling import evaluate_split
from weightspace.params import load_params
from weightspace.sampling.sampler import Condition
from weightspace.weights import lazy, spec
from weightspace.weights.lazy import Made, Selected
from weightspace.weights.spec import blocks, count, take
from weightspace.zoo.store import Zoo

BLOCK = 3


class Limited:
    """Networks that note how many are taken at once, and refuse more than a block."""

    def __init__(self, networks, taken):
        self.networks, self.taken = networks, taken

    def __len__(self):
        return len(self.networks)

    def take(self, index):
        size = len(torch.arange(len(self))[index])
        assert size <= BLOCK, f"{size} networks at once"
        self.taken.append(size)
        return self.networks.take(index)


@pytest.fixture
def evaluation(project_root):
    """The finished tiny pipeline."""
    return Evaluation.load(project_root / "data", load_params(project_root / "params.yaml"))


@pytest.fixture
def taken(evaluation, monkeypatch):
    """Networks at once, of all reads; reads and decoding refuse more than a block of three."""
    sizes, stored = [], Zoo.networks
    monkeypatch.setattr(spec, "BLOCK_NUMBERS", BLOCK * evaluation.zoo.spec.numel)
    monkeypatch.setattr(Zoo, "networks", lambda zoo, table: Limited(stored(zoo, table), sizes))
    autoencoder = type(evaluation.sampler.autoencoder)
    decode = autoencoder.decode

    def decode_few(self, z):
        assert len(z) <= BLOCK, f"{len(z)} latents at once"
        return decode(self, z)

    monkeypatch.setattr(autoencoder, "decode", decode_few)
    return sizes


@pytest.mark.parametrize("steps", [0, 2])
def test_guidance_is_the_same_in_processes_and_in_this_one(steps, evaluation, monkeypatch):
    """Whatever order they finish in; a job reads nothing of the process that made it."""
    settings = evaluation.params.guidance.model_copy(update={"sampling_steps": steps})
    params = evaluation.params.model_copy(update={"guidance": settings})
    e = replace(evaluation, params=params, sampler=replace(evaluation.sampler, guidance=settings))
    monkeypatch.setattr(guidance, "TASKS", 1)
    monkeypatch.setattr(guidance, "MOST_ALONE", 1)
    executed = []

    def execute(jobs, runtime):
        executed.extend(jobs)
        return [pickle.loads(pickle.dumps(job)).execute() for job in reversed(jobs)]

    monkeypatch.setattr(guidance, "execute", execute)
    tasks = np.repeat(e.tasks("test_sets")[:3], 2)
    request = Condition.of_tasks(e.runner.dataset, torch.from_numpy(tasks), torch.full((6,), 0.9))
    z = e.sampler.latents(request, 2, torch.Generator().manual_seed(0))
    moved = guidance.guide(e, "test_sets", request, z)
    assert len(executed) == (3 if steps else 0)
    here = guidance.guide(replace(e, data=None), "test_sets", request, z)
    torch.testing.assert_close(moved, here)
    assert torch.equal(moved, z) == (steps == 0)  # the control: they were moved
    lower = request.with_target(request.target - 0.4)
    assert torch.equal(guidance.guide(e, "test_sets", lower, z), moved) == (steps == 0)
    one = guidance.guide(e, "test_sets", request, z[:, 1:])
    torch.testing.assert_close(one, moved[:, 1:])  # whatever else is guided
    executed.clear()
    monkeypatch.setattr(type(e.sampler.autoencoder), "images_besides", 10**6)
    guidance.guide(e, "test_sets", request, z)
    assert not executed  # memory, not weights alone, says how many latents are moved at once


def _retrieval(e):
    members = e.zoo.select("test_sets")
    stored = e.zoo.networks(members)
    z = encode_members(e.sampler.autoencoder, stored)
    return retrieval(e.sampler, e.runner, members, stored, z)


def _reconstruct(e, _):
    members = e.zoo.select("test_sets")
    reconstruct = Reconstructor(e.sampler.autoencoder, e.runner, e.params)
    return reconstruct(members, e.zoo.networks(members))


def test_a_network_is_compared_with_the_tasks_of_every_split(evaluation):
    e = evaluation
    tasks = e.runner.dataset.tasks
    found = _retrieval(e)
    assert found["w_to_d_recall_at_1_chance"] == pytest.approx(1 / len(tasks))
    assert len(tasks) > tasks["split"].eq("test_sets").sum()


EVALUATIONS = {
    "sampling": lambda e, _: evaluate_split(e, "test_sets"),
    "retrieval": lambda e, _: _retrieval(e),
    "distribution": lambda e, _: evaluate_distribution(e),
    "novelty": lambda e, _: evaluate_novelty(e),
    "finetuning": lambda e, _: evaluate_finetuning(e),
    "generation": lambda e, _: evaluate_generation(
        e.zoo, e.sampler.autoencoder, e.runner, 6, e.params.seed
    ),
    "reconstruction": _reconstruct,
    "properties": lambda e, _: readings(
        e.zoo, e.sampler.autoencoder, {"train": e.zoo.select("train")}, 0
    ),
    "components": lambda e, pca: against_k(pca, e.zoo, e.runner, e.zoo.select("val")),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_no_more_than_a_block_is_taken_at_once(name, evaluation, taken, world):
    assert EVALUATIONS[name](evaluation, world().pca) is not None
    assert max(taken) == BLOCK


def test_who_asks_for_all_is_refused(evaluation, taken):
    members = evaluation.zoo.networks(evaluation.zoo.select("val"))
    with pytest.raises(AssertionError, match="networks at once"):
        take(members, slice(None))
    condition = evaluation.best_condition(evaluation.tasks("test_sets"))
    z = evaluation.sampler.latents(condition, 4, torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="latents at once"):
        evaluation.sampler.networks(z).take(slice(None))


# networks that are made where they are used


def _made(net, weights):
    rng, few = torch.Generator().manual_seed(1), take(weights, slice(0, 5))
    return {
        "noised": controls.noised(net.spec, few, 0.5, rng),
        "at a distance": controls.at_distance(net.spec, few, np.linspace(0.1, 1, 5), rng),
        "head only": controls.head_only(net.spec, few),
        "midpoints": controls.midpoints(
            net.spec, few, Selected(few, torch.tensor([1, 2, 3, 4, 0]))
        ),
        "untrained": controls.untrained(net, 5, rng),
    }


def test_networks_made_by_block_are_those_made_at_once():
    """Noise and all: what a network is does not depend on what it is taken with, or how often."""
    net = build("cnn-batch-norm")
    for name, made in _made(net, networks(net, 5)).items():
        assert len(made) == 5
        together = net.spec.flatten(take(made, slice(None)))
        by_two = torch.cat([net.spec.flatten(block) for block in blocks(made, 2)])
        torch.testing.assert_close(by_two, together, msg=name)
        backwards = net.spec.flatten(take(made, torch.tensor([4, 2])))
        torch.testing.assert_close(backwards, together[[4, 2]], msg=name)
        assert (together[0] - together[1]).abs().max() > 1e-3  # the control: they differ


def test_statistics_over_networks_are_those_of_all_at_once(monkeypatch):
    net = build("cnn-batch-norm")
    weights = networks(net, 7)
    weights |= {k: w + 100 for k, w in weights.items() if k.endswith("running_mean")}
    monkeypatch.setattr(lazy, "BLOCK", 2)
    std = lazy.standard_deviations(net.spec, weights)
    for name, w in net.spec.unconstrain(weights).items():
        assert std[name] == pytest.approx(float(w.double().std()), rel=1e-6), name
    for name, mean in lazy.mean_network(net.spec, weights).items():
        torch.testing.assert_close(mean, weights[name].mean(0, keepdim=True))


def test_networks_chosen_of_chosen_ones_are_those_of_the_first():
    first = Made(6, lambda rows: {"a": rows * 10})
    twice = Selected(Selected(first, torch.tensor([5, 3, 1])), torch.tensor([2, 0]))
    assert count(twice) == 2
    assert take(twice, slice(None))["a"].tolist() == [10, 50]


def test_a_projection_keeps_inner_products_and_needs_no_whole_matrix(rng, monkeypatch):
    net = build("mlp")
    weights = networks(net, 40)
    std = dict.fromkeys(net.spec.names, 1.0)
    found = torch.stack([Projection(net.spec, std, seed)(weights) for seed in range(60)])
    assert found.shape[1:] == (40, COLUMNS)
    x = net.spec.flatten(net.spec.unconstrain(weights))
    gram = (found @ found.mT).mean(0)
    torch.testing.assert_close(gram, x @ x.T, atol=0.02 * float((x @ x.T).max()), rtol=0)
    assert not torch.allclose(found[0], found[1])  # the control: another seed, other columns
    monkeypatch.setattr("weightspace.evaluate.readings.PIECE", 16)
    alone = Projection(net.spec, std, 0)(take(weights, slice(3, 4)))
    again = Projection(net.spec, std, 0)(weights)[3:4]
    torch.testing.assert_close(alone, again)


def test_a_projection_measures_each_tensor_in_its_scale():
    """A tensor of large numbers counts as much as one of small ones; a constant one not at all."""
    net = build("mlp-one-layer")
    weights = networks(net, 30)
    std = lazy.standard_deviations(net.spec, weights)
    first = net.spec.names[0]
    large = weights | {first: 1000 * weights[first]}
    project, of_large = Projection(net.spec, std, 0), std | {first: 1000 * std[first]}
    torch.testing.assert_close(
        Projection(net.spec, of_large, 0)(large), project(weights), atol=1e-3, rtol=1e-3
    )
    without = Projection(net.spec, std | {first: 0.0}, 0)
    torch.testing.assert_close(without(large), without(weights))
    assert not torch.allclose(project(large), project(weights))  # the control
