"""Alignment by weight matching, and the novelty figures built on it."""

import numpy as np
import pytest
import torch

from weightspace.alignment import align, match_weights
from weightspace.evaluate import novelty
from weightspace.nets import NETS
from weightspace.spec import stack, take


@pytest.fixture(params=sorted(NETS))
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
        assert torch.equal(order[found[group]], torch.arange(len(order)))
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
    assert novelty.weight_distance(spec, one, copy) == pytest.approx(0, abs=1e-6)
    assert novelty.weight_distance(spec, one, _one(tiny, 1)) > 0.3


def test_nearest_finds_the_copy_and_leave_one_out_skips_it(tiny):
    spec = tiny.net.spec
    members = tiny.zoo.weights(tiny.zoo.select("train", last_only=True).iloc[:6])
    labels = novelty.predictions(tiny.net, tiny.dataset, members)
    order = torch.tensor([3, 1, 5])
    hidden = spec.permute(take(members, order), _permutations(spec, 4))
    hidden_labels = novelty.predictions(tiny.net, tiny.dataset, hidden)
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
    moved = novelty.at_distance(spec, members, asked, rng)
    a, b = spec.flatten(members), spec.flatten(moved)
    assert ((a - b).norm(dim=1) / a.norm(dim=1)).tolist() == pytest.approx(asked.tolist(), rel=1e-4)


def test_midpoint_of_a_network_and_its_hidden_copy_is_the_network(tiny):
    spec, one = tiny.net.spec, _one(tiny, 0)
    copy = spec.permute(one, _permutations(spec, 5))
    torch.testing.assert_close(novelty.midpoints(spec, one, copy), one)


def test_error_overlap_of_equal_disjoint_and_faultless_networks():
    right = torch.eye(3).repeat_interleave(2, 0)  # (6, 3): no error
    first, second = right.clone(), right.clone()
    first[0], second[5] = torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 1, 0])
    assert novelty.error_overlap(torch.stack([first, first]), 1) == 1
    assert novelty.error_overlap(torch.stack([first, second]), 1) == 0
    both = first.clone()
    both[5] = second[5]
    assert novelty.error_overlap(torch.stack([first, both]), 1) == pytest.approx(0.5)
    assert np.isnan(novelty.error_overlap(torch.stack([right, right]), 1))
