"""Each metric on perfect, chance and adversarial inputs, and against loops."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, r2_score

import reference
from cases import METRICS
from weightspace.evaluate import metrics as m

SCORES = (m.cosine, m.correlation, m.agreement, m.kappa)


@pytest.mark.parametrize("case", METRICS)
def test_known_values(case):
    (a, b), expected, tolerance = METRICS[case]
    for score, value in zip(SCORES, expected, strict=True):
        found = score(a, b)
        assert found.shape == (3,)
        assert found.tolist() == pytest.approx([value] * 3, abs=tolerance), score.__name__


@pytest.mark.parametrize("name", ["cosine", "correlation", "agreement"])
def test_equals_loops(name, rng):
    a, b = torch.randn(2, 4, 11, 5, generator=rng).double()
    b = b + 0.7 * a
    found = getattr(m, name)(a, b)
    assert found.tolist() == pytest.approx(getattr(reference, name)(a, b), abs=1e-12)


def test_kappa_equals_sklearn(rng):
    a, b = torch.randn(2, 5, 60, 3, generator=rng)
    b = b + 0.8 * a + torch.tensor([0.5, 0.0, -0.5])
    expected = [cohen_kappa_score(x, y) for x, y in zip(a.argmax(-1), b.argmax(-1), strict=True)]
    assert m.kappa(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_kappa_where_both_predict_one_class():
    a = torch.tensor([[[1.0, 0.0]] * 4])
    assert float(m.kappa(a, a)) == 0
    assert float(m.kappa(a, a.flip(-1))) == 0


def test_chance_agreement_is_that_of_shuffled_samples(rng):
    a, b = torch.randn(2, 1, 20_000, 3, generator=rng) + torch.tensor([1.0, 0.0, 0.0])
    shuffled = b[:, torch.randperm(20_000, generator=rng)]
    chance = float(m.chance_agreement(a, b))
    assert chance == pytest.approx(float(m.agreement(a, shuffled)), abs=0.015)
    assert chance > 1 / 3 + 0.05  # unequal class frequencies raise it


def test_correlation_is_per_output_and_cosine_is_not_centred(rng):
    a = torch.randn(1, 50, 3, generator=rng)
    shifted = a + torch.tensor([10.0, -10.0, 0.0])
    assert float(m.correlation(a, shifted)) == pytest.approx(1, abs=1e-6)
    assert float(m.cosine(a, shifted)) < 0.5
    scaled = a * (torch.rand(1, 50, 1, generator=rng) + 0.1)  # another factor for each sample
    assert float(m.cosine(a, scaled)) == pytest.approx(1, abs=1e-6)
    assert float(m.correlation(a, scaled)) < 0.99


def test_r2_identity():
    asked = np.linspace(0.3, 1, 8)
    assert m.r2_identity(asked, asked) == 1
    assert m.r2_identity(asked, np.full(8, asked.mean())) == pytest.approx(0, abs=1e-12)
    assert m.r2_identity(asked, asked[::-1]) == pytest.approx(-3)
    assert np.isnan(m.r2_identity(np.ones(4), asked[:4]))
    noisy = asked + np.random.default_rng(0).normal(0, 0.1, 8)
    assert m.r2_identity(asked, noisy) == pytest.approx(r2_score(asked, noisy))


def test_r2_pearson():
    x = np.random.default_rng(0).normal(size=(2, 500))
    assert m.r2_pearson(x[0], 5 - 3 * x[0]) == pytest.approx(1)
    assert m.r2_pearson(x[0], np.ones(500)) == 0
    assert m.r2_pearson(x[0], x[1]) < 0.02
    mixed = x[0] + x[1]
    assert m.r2_pearson(x[0], mixed) == pytest.approx(np.corrcoef(x[0], mixed)[0, 1] ** 2)


def test_spearman_rows_equals_scipy_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 20, 9)).astype(float)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert m.spearman_rows(a, b) == pytest.approx(expected, abs=1e-12)


def test_spearman_rows_of_perfect_reversed_and_constant_rows():
    asked = np.tile(np.arange(5.0), (3, 1))
    got = np.stack([np.exp(asked[0]), -asked[0], np.zeros(5)])
    assert m.spearman_rows(asked, got).tolist() == pytest.approx([1, -1, 0])


def test_bootstrap_resamples_units_with_repetition():
    seen = []

    def statistic(index):
        seen.append(index)
        return float(index.mean())

    m.bootstrap(statistic, 12, 50, np.random.default_rng(0))
    assert len(seen) == 50
    assert all(len(i) == 12 and i.min() >= 0 and i.max() < 12 for i in seen)
    assert any(len(set(i.tolist())) < 12 for i in seen)
    assert set(np.concatenate(seen).tolist()) == set(range(12))


def test_bootstrap_interval_covers_the_truth_about_19_times_of_20():
    """And that of copies, which are no further units, does not: .95 and, of four each, .67."""

    def coverage(copies):
        rng, hits = np.random.default_rng(0), 0
        for _ in range(1000):
            x = rng.normal(1, 2, 40).repeat(copies)
            low, high = m.bootstrap(lambda i, x=x: float(x[i].mean()), len(x), 200, rng)
            hits += low <= 1 <= high
        return hits / 1000

    assert coverage(1) == pytest.approx(0.94, abs=0.025)  # 40 units; 3 standard errors are .023
    assert coverage(4) == pytest.approx(0.67, abs=0.045)


def test_bootstrap_interval_has_the_width_of_the_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    low, high = m.bootstrap(lambda i: float(x[i].mean()), 400, 500, rng)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.2)
