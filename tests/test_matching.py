"""Alignment by weight matching, and the novelty figures built on it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cases
from weightspace.evaluate import novelty
from weightspace.evaluate.controls import TrainMembers
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.metrics import error_overlap
from weightspace.weights.matching import align, match_weights
from weightspace.weights.permutations import random_permutations, shuffled
from weightspace.weights.spec import stack, take
from weightspace.zoo.result import Result


@pytest.fixture(params=sorted(cases.WORLDS))
def tiny(request, world):
    """The tiny world of each architecture."""
    return world(request.param)


def _one(tiny, seed):
    return stack([tiny.net.init(torch.Generator().manual_seed(seed))])


def _permutations(spec, seed):
    rng = torch.Generator().manual_seed(seed)
    return {g: torch.randperm(size, generator=rng) for g, size in spec.groups.items()}


def test_a_planted_permutation_is_recovered(tiny):
    spec, one = tiny.net.spec, _one(tiny, 0)
    planted = _permutations(spec, 1)
    moved = spec.permute(one, planted)
    assert (spec.flatten(moved) - spec.flatten(one)).norm() > 0.5
    found = match_weights(spec, one, moved)
    for group, order in planted.items():
        assert torch.equal(order[found[group][0]], torch.arange(len(order)))
    torch.testing.assert_close(align(spec, one, moved), one)


def test_alignment_keeps_outputs_and_never_moves_apart(tiny):
    spec = tiny.net.spec
    images = tiny.dataset.images["val"][0]
    for seed in range(3):
        a, b = _one(tiny, seed), _one(tiny, seed + 10)
        moved = align(spec, a, b)
        torch.testing.assert_close(
            tiny.net.outputs(moved, images), tiny.net.outputs(b, images), atol=1e-5, rtol=1e-5
        )
        before, after = (float((spec.flatten(x) - spec.flatten(a)).norm()) for x in (b, moved))
        assert after < before


def test_distance_of_a_hidden_copy_is_zero_and_of_another_network_is_not(tiny):
    spec, one = tiny.net.spec, _one(tiny, 0)
    copy = spec.permute(one, _permutations(spec, 3))
    assert novelty.weight_distances(spec, one, copy)[0] == pytest.approx(0, abs=1e-6)
    assert novelty.weight_distances(spec, one, _one(tiny, 1))[0] > 0.3


def test_nearest_finds_the_copy_and_leave_one_out_skips_it(tiny):
    spec = tiny.net.spec
    members = tiny.zoo.weights(tiny.zoo.select("train", last_only=True).iloc[:6])
    labels = novelty.predictions(tiny.runner, members)
    order = torch.tensor([3, 1, 5])
    hidden = spec.permute(take(members, order), _permutations(spec, 4))
    hidden_labels = novelty.predictions(tiny.runner, hidden)
    found = novelty.nearest(spec, (hidden, hidden_labels), (members, labels))
    assert found.row.tolist() == order.tolist()
    assert found.weight.max() < 1e-5
    assert found.function.max() < 0.02
    left = novelty.nearest(spec, (members, labels), (members, labels), np.eye(6, dtype=bool))
    assert (left.row != np.arange(6)).all()
    assert left.weight.min() > 0.01


def test_noise_is_at_the_distance_asked_for(tiny, rng):
    spec = tiny.net.spec
    members = tiny.zoo.weights(tiny.zoo.select("train").iloc[:3])
    asked = np.array([0.1, 0.5, 2.0])
    moved = take(novelty.at_distance(spec, members, asked, rng), slice(None))
    a, b = spec.flatten(members), spec.flatten(moved)
    assert ((a - b).norm(dim=1) / a.norm(dim=1)).tolist() == pytest.approx(asked.tolist(), rel=1e-4)


def test_midpoint_of_a_network_and_its_hidden_copy_is_the_network(tiny):
    spec, one = tiny.net.spec, _one(tiny, 0)
    copy = spec.permute(one, _permutations(spec, 5))
    torch.testing.assert_close(take(novelty.midpoints(spec, one, copy), slice(None)), one)


def test_error_overlap_of_equal_disjoint_and_faultless_networks():
    right = torch.eye(3).repeat_interleave(2, 0)  # (6, 3): no error
    first, second = right.clone(), right.clone()
    first[0], second[5] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 1, 0])

    def overlap(*outputs):
        return error_overlap(novelty._wrong(torch.stack(outputs)))

    assert overlap(first, first) == 1
    assert overlap(first, second) == 0
    both = first.clone()
    both[5] = second[5]
    assert overlap(first, both) == pytest.approx(0.5)
    assert np.isnan(overlap(right, right))


@pytest.fixture(params=sorted(cases.NETS))
def net(request):
    """The net of each case."""
    return cases.build(request.param)


def _images(net, count=4):
    return torch.randn(count, *net.meta["shape"], generator=torch.Generator().manual_seed(5))


def test_shuffled_networks_have_other_weights_and_the_same_outputs(net, rng):
    weights = cases.networks(net, 5)
    moved = shuffled(net.spec, weights, rng)
    assert ((net.spec.flatten(moved) - net.spec.flatten(weights)).norm(dim=1) > 0.5).all()
    images = _images(net)
    before, after = net.run(weights, images), net.run(moved, images)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_reordering_one_tensor_alone_changes_the_outputs(net):
    """The control: a permutation that is not coupled to its other tensors."""
    weights = cases.networks(net, 3)
    orders = {g: torch.arange(n).roll(1).repeat(3, 1) for g, n in net.spec.groups.items()}
    moved = net.spec.permute(weights, orders)
    first = next(t.name for t in net.spec.tensors if any(t.axes))
    images = _images(net)
    before, after = net.run(weights, images), net.run(weights | {first: moved[first]}, images)
    assert ((after - before).abs().amax((1, 2)) > 1e-3).all()


def test_matching_recovers_another_order_for_each_network(net, rng):
    """All at once and one by one; the reordered reference comes back exactly."""
    spec, one = net.spec, take(cases.networks(net, 1), slice(0, 1))
    copies = {k: w.repeat(4, *[1] * (w.ndim - 1)) for k, w in one.items()}
    orders = random_permutations(spec, 4, rng)
    moved = spec.permute(copies, orders)
    found = match_weights(spec, one, moved)
    for group, order in orders.items():
        back = order.gather(1, found[group])
        assert torch.equal(back, torch.arange(back.shape[1]).expand_as(back))
    torch.testing.assert_close(align(spec, one, moved), copies, rtol=0, atol=0)


def test_networks_are_matched_as_if_each_were_alone(net):
    spec, weights = net.spec, cases.networks(net, 4)
    one, others = take(weights, slice(0, 1)), take(weights, slice(1, None))
    together = align(spec, one, others)
    for i in range(3):
        alone = align(spec, one, take(others, slice(i, i + 1)))
        torch.testing.assert_close(take(together, slice(i, i + 1)), alone, rtol=0, atol=0)


def test_one_order_for_all_is_that_of_the_spec(net):
    spec, weights = net.spec, cases.networks(net, 3)
    orders = _permutations(spec, 2)
    each = spec.permute(weights, {g: p.expand(3, -1) for g, p in orders.items()})
    torch.testing.assert_close(each, spec.permute(weights, orders), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "best"), [("accuracy", 0.9), ("loss", 0.2)])
def test_novelty_asks_for_the_best_networks_whatever_the_result_is(name, best, world, monkeypatch):
    """The upper end of the trained range of an accuracy, the lower one of a loss."""
    tiny, targets = world(), []
    members = tiny.zoo.select("train")

    def embed(condition):
        return condition.class_images[condition.classes].flatten(1)[:, :4]

    def latents(condition, count, rng):
        targets.extend(condition.target.tolist())
        return torch.zeros(len(condition), count, 1)

    model = SimpleNamespace(result=Result(name), bounds=(0.2, 0.9))
    sampler = SimpleNamespace(
        shared_encoder=model,
        embed=embed,
        latents=latents,
        guided=lambda z, condition, rng: z,
        networks=lambda z: tiny.zoo.networks(members.iloc[: len(z.flatten(0, 1))]),
    )
    asked, nearest_task = [], TrainMembers.nearest_task

    def noted(self, embedding, target, rank=0):
        asked.extend(target.tolist())
        return nearest_task(self, embedding, target, rank)

    monkeypatch.setattr(TrainMembers, "nearest_task", noted)
    settings = tiny.params.evaluate.model_copy(update={"novelty_networks": 4})
    params = tiny.params.model_copy(update={"evaluate": settings})
    novelty.evaluate_novelty(Evaluation(tiny.zoo, sampler, tiny.runner, params))
    assert targets == pytest.approx([best] * 4)
    assert asked == pytest.approx([best] * 8)  # the networks that draws are compared with, too
