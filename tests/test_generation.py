"""Networks drawn without a condition: densities, the choice of a bandwidth, and all figures."""

import pytest
import torch

from weightspace.autoencoders import AUTOENCODERS
from weightspace.evaluate import generation as g
from weightspace.evaluate.metrics import pairwise_agreement
from weightspace.registry import resolve


def test_the_prior_has_the_mean_and_covariance_of_the_latents(rng):
    z = torch.randn(50, 3, generator=rng) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.1]]) + 5
    drawn = g.gaussian(z, 40_000, rng)
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), atol=0.15, rtol=0)


def test_independent_entries_keep_each_spread_and_lose_correlation(rng):
    x = torch.randn(500, 1, generator=rng)
    drawn = g.independent(torch.cat([x, x], 1), 20_000, torch.tensor([0.0, 0.0]), rng)
    assert float(drawn.std(0)[0]) == pytest.approx(float(x.std()), abs=0.05)
    assert abs(float(drawn.T.corrcoef()[0, 1])) < 0.05  # it was 1


@pytest.mark.parametrize("jointly", [True, False])
def test_bandwidth_is_narrow_only_where_val_is_near_train(jointly, rng):
    z = torch.randn(200, 2, generator=rng)
    near = z + 0.01 * torch.randn(z.shape, generator=rng)
    far = torch.randn(z.shape, generator=rng)
    assert g.bandwidth(z, near, jointly=jointly) <= g.bandwidth(z, far, jointly=jointly)
    assert g.bandwidth(z[:8], far, jointly=True) > g.bandwidth(z, near, jointly=True)


def test_agreement_of_equal_and_of_opposite_networks():
    same = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert pairwise_agreement(same) == 1
    assert pairwise_agreement(torch.tensor([[0, 1], [1, 0]])) == 0


def test_figures_of_a_tiny_zoo(world):
    tiny = world()
    autoencoder, _ = resolve(AUTOENCODERS, "mlp", "autoencoder").fit(
        tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.mlp, 3
    )
    jobs = (tiny.zoo, autoencoder, tiny.runner, 6, 3)
    found = g.evaluate_generation(*jobs)
    assert {f"{k}_{f}" for k in g.KINDS for f in g.METRICS} <= set(found)
    assert found == g.evaluate_generation(*jobs)
    assert found["members_weight_distance"] > 0.01  # leave-one-out: a member is not its own
    good = g.good_members(tiny.zoo, tiny.runner, "train", 6, 3)["test_accuracy"].mean()
    every = tiny.zoo.select("train", last_only=True)["test_accuracy"].mean()
    assert found["members_accuracy"] == pytest.approx(good)
    assert found["members_accuracy"] > every + 0.05  # the control: good ones and not any
    near, noised = (found[f"{k}_weight_distance"] for k in ("neighbourhood", "control_noised"))
    # noise of d times the member's norm makes the network sqrt(1 + d^2) times as long
    assert noised == pytest.approx(near / (1 + near**2) ** 0.5, rel=0.05)
    assert near > 1.5 * noised  # the control: the distance itself would be another figure
    assert found["networks"] == 6
