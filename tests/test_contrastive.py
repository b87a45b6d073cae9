"""NT-Xent and retrieval."""

import math

import pytest
import torch
from scipy.stats import hypergeom

import reference
from weightspace.evaluate.metrics import recall_at
from weightspace.learning.contrastive import nt_xent


def _views(rng, n=7, features=5):
    return torch.randn(2, n, features, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2, 2, 2, 3], [0] * 7, list(range(7))])
def test_equals_triple_loop(temperature, groups, rng):
    a, b = _views(rng)
    labels = None if groups is None else torch.tensor(groups)
    found = float(nt_xent(a, b, temperature, labels))
    assert found == pytest.approx(reference.nt_xent(a, b, temperature, groups), abs=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_identical_rows_give_log_of_all_others(n):
    rows = torch.ones(n, 4, dtype=torch.float64)
    assert float(nt_xent(rows, rows, 0.1)) == pytest.approx(math.log(2 * n - 1), abs=1e-12)


def test_masked_groups_leave_only_the_partner(rng):
    a, b = _views(rng)
    assert float(nt_xent(a, b, 0.1, torch.zeros(7))) == pytest.approx(0, abs=1e-12)
    assert float(nt_xent(a, b, 0.1)) > 0.5


def test_own_groups_mask_nothing(rng):
    a, b = _views(rng)
    assert torch.equal(nt_xent(a, b, 0.1, torch.arange(7)), nt_xent(a, b, 0.1))


def test_falls_when_pairs_are_aligned(rng):
    a, b = _views(rng)
    losses = [float(nt_xent(a, (1 - s) * b + s * a, 0.1)) for s in (0.0, 0.5, 1.0)]
    assert losses[0] > losses[1] > losses[2]


def test_depends_on_the_pairing_and_on_the_temperature(rng):
    a, _ = _views(rng)
    right, wrong = nt_xent(a, a, 0.1), nt_xent(a, a.roll(1, 0), 0.1)
    assert wrong > right + 1
    assert abs(nt_xent(a, a, 1.0) - right) > 0.1


def test_ignores_length_and_order_of_views(rng):
    a, b = _views(rng)
    expected = nt_xent(a, b, 0.2)
    torch.testing.assert_close(nt_xent(3 * a, 0.1 * b, 0.2), expected)
    torch.testing.assert_close(nt_xent(b, a, 0.2), expected)
    order = torch.randperm(7, generator=rng)
    torch.testing.assert_close(nt_xent(a[order], b[order], 0.2), expected)


def test_descent_aligns_the_pairs(rng):
    a, b = _views(rng)
    b.requires_grad_()
    optimizer = torch.optim.Adam([b], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        nt_xent(a, b, 0.5).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize
    similarity = unit(b.detach(), dim=1) @ unit(a, dim=1).T
    assert recall_at(similarity, torch.arange(7), torch.arange(7), 1)[0] == 1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_of_perfect_and_adversarial_order(k):
    labels = torch.arange(10)
    assert recall_at(torch.eye(10), labels, labels, k)[0] == 1
    assert recall_at(-torch.eye(10), labels, labels, k)[0] == 0


def test_recall_of_random_order_is_its_chance(rng):
    items = torch.arange(20) // 2
    queries = torch.randint(10, (6000,), generator=rng)
    similarity = torch.rand(6000, 20, generator=rng)
    for k in (1, 3, 8):
        recall, chance = recall_at(similarity, queries, items, k)
        assert recall == pytest.approx(chance, abs=0.025)


@pytest.mark.parametrize("k", [1, 2, 5, 9, 50])
def test_chance_is_hypergeometric(k):
    items = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    for label, right in enumerate((3, 2, 4, 0)):
        _, chance = recall_at(torch.zeros(1, 9), torch.tensor([label]), items, k)
        assert chance == pytest.approx(1 - hypergeom.pmf(0, 9, right, min(k, 9)), abs=1e-12)


def test_transposed_similarity_gives_another_recall():
    labels = torch.arange(3)
    skew = torch.tensor([[1.0, 2.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert recall_at(skew, labels, labels, 1)[0] == pytest.approx(2 / 3)
    assert recall_at(skew.T, labels, labels, 1)[0] == pytest.approx(1 / 3)
