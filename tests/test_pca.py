"""One exact basis per tensor."""

from itertools import pairwise

import pytest
import torch

import reference
from cases import build, networks
from weightspace.errors import WeightspaceError
from weightspace.params import PcaSettings
from weightspace.pca import TensorPca, fit_pca, principal_components, stream_components
from weightspace.spec import Axis, Spec, TensorSpec


def _rows(n, d, rng):
    """Centred rows whose directions have clearly different variances."""
    scale = torch.linspace(1, 3, d, dtype=torch.float64) ** 2
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) * scale
    return x - x.mean(0)


BRANCHES = pytest.mark.parametrize(("n", "d"), [(40, 9), (10, 10), (9, 40), (2, 5), (41, 1)])


@BRANCHES
@pytest.mark.parametrize("k", [1, 3, 100])
def test_components_equal_svd_up_to_sign(n, d, k, rng):
    x = _rows(n, d, rng)
    components, variance = principal_components(x, k)
    rank = min(k, n - 1, d)
    expected, expected_variance = (torch.from_numpy(v.copy()) for v in reference.principal(x, rank))
    assert components.shape == (rank, d)
    torch.testing.assert_close(variance, expected_variance)
    torch.testing.assert_close((components * expected).sum(1).abs(), torch.ones_like(variance))
    torch.testing.assert_close(components @ components.T, torch.eye(rank, dtype=x.dtype))


@BRANCHES
def test_full_rank_is_exact(n, d, rng):
    x = _rows(n, d, rng)
    components, variance = principal_components(x, d)
    torch.testing.assert_close(x @ components.T @ components, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(variance.sum(), x.square().sum() / (n - 1))


@BRANCHES
def test_signs_do_not_depend_on_the_solver(n, d, rng):
    x = _rows(n, d, rng)
    components, _ = principal_components(x, 2)
    flipped, _ = principal_components(-x, 2)  # the same covariance
    torch.testing.assert_close(flipped, components)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_low_rank_data_gives_an_orthonormal_basis(rng):
    x = _rows(8, 2, rng) @ torch.randn(2, 30, generator=rng, dtype=torch.float64)
    components, variance = principal_components(x, 6)
    torch.testing.assert_close(components @ components.T, torch.eye(6, dtype=x.dtype))
    assert variance[2:].max() < 1e-9 * variance[0]


@BRANCHES
@pytest.mark.parametrize("k", [1, 3, 100])
def test_streamed_components_equal_those_in_memory(n, d, k, rng, monkeypatch):
    shape = (d // 2, 2) if d % 2 == 0 else (d,)
    x = 5 + _rows(n, d, rng).float()
    reads = []

    def read(rows):
        reads.append(rows)
        return x.view(n, *shape)[:, rows]

    monkeypatch.setattr("weightspace.pca.PART_BYTES", 8 * n * 4)  # four columns
    mean, components, variance = stream_components(read, n, shape, k)
    rows = [(r.start, r.stop) for r in reads]
    half = len(rows) // 2
    assert rows[:half] == rows[half:]  # read twice, each time whole and in order
    assert [a for a, _ in rows[1:half]] == [b for _, b in rows[: half - 1]]
    assert (rows[0][0], rows[half - 1][1], max(b - a for a, b in rows) <= 4) == (0, shape[0], True)
    centred = x.double() - x.double().mean(0)
    expected, expected_variance = principal_components(centred, k)
    torch.testing.assert_close(mean, x.double().mean(0).float())
    torch.testing.assert_close(variance, expected_variance, rtol=1e-8, atol=0)
    torch.testing.assert_close(components, expected.float(), rtol=0, atol=1e-5)


def test_streamed_components_stop_at_the_rank(rng):
    x = _rows(8, 2, rng) @ torch.randn(2, 30, generator=rng, dtype=torch.float64)
    _, components, variance = stream_components(lambda rows: x[:, rows], 8, (30,), 6)
    assert components.shape == (2, 30)
    assert len(variance) == 2
    torch.testing.assert_close(components @ components.T, torch.eye(2), rtol=0, atol=1e-6)


def _toy():
    """Spec with one tensor for each mode."""
    shapes = {"still": (3, 2), "small": (4,), "large": (5, 4)}
    axes = {n: tuple(None for _ in s) for n, s in shapes.items()}
    axes["large"] = (Axis("h"), None)
    return Spec("toy", tuple(TensorSpec(n, s, "parameter", axes[n]) for n, s in shapes.items()))


def _toy_weights(n, rng):
    return {
        "still": torch.full((n, 3, 2), 0.1),
        "small": torch.randn(n, 4, generator=rng),
        "large": torch.randn(n, 5, 4, generator=rng) * torch.arange(1.0, 5.0) ** 2,
    }


def test_modes_and_counts(rng):
    pca = fit_pca(_toy(), _toy_weights(30, rng), PcaSettings(components=6, identity_below=5))
    assert pca.modes == {"still": "constant", "small": "identity", "large": "pca"}
    assert pca.counts == {"still": 0, "small": 4, "large": 6}
    assert pca.features == 10 == len(pca.scale())
    table = pca.table().set_index("tensor")
    assert table["mode"].to_dict() == pca.modes
    assert table["explained"]["still"] == 1
    assert table["explained"]["small"] == pytest.approx(1)
    assert 0 < table["explained"]["large"] < 1


def test_identity_below_is_a_strict_bound(rng):
    weights = _toy_weights(30, rng)
    modes = [fit_pca(_toy(), weights, PcaSettings(identity_below=b)).modes for b in (4, 5)]
    assert [m["small"] for m in modes] == ["pca", "identity"]


@pytest.mark.parametrize("n", [30, 12])  # covariance and Gram matrix
def test_all_components_rebuild_the_train_members(n, rng):
    weights = _toy_weights(n, rng)
    pca = fit_pca(_toy(), weights, PcaSettings(components=50, identity_below=5))
    back = pca.inverse(pca(weights))
    for name, w in weights.items():
        torch.testing.assert_close(back[name], w, rtol=1e-5, atol=2e-5)
    assert pca.explained(50) == pytest.approx(1, abs=1e-6)


def test_constant_tensor_returns_the_constant_for_any_network(rng):
    pca = fit_pca(_toy(), _toy_weights(30, rng), PcaSettings(components=6, identity_below=5))
    other = _toy_weights(2, rng) | {"still": torch.ones(2, 3, 2)}
    assert torch.equal(pca.inverse(pca(other))["still"], torch.full((2, 3, 2), 0.1))


def test_error_falls_with_k_as_explained_variance_says(rng):
    weights = _toy_weights(30, rng)
    pca = fit_pca(_toy(), weights, PcaSettings(components=20, identity_below=5))
    flat = _toy().flatten(weights).double()
    total = (flat - flat.mean(0)).square().sum()
    shares = []
    for k in range(1, 21):
        error = (_toy().flatten(pca.inverse(pca(weights), k)) - flat).square().sum()
        shares.append(float(error / total))
        assert shares[-1] == pytest.approx(1 - pca.explained(k), abs=1e-5)
    assert all(a > b for a, b in pairwise(shares))


def test_scale_is_the_root_mean_square_of_a_tensors_coefficients(rng):
    weights = _toy_weights(30, rng)
    pca = fit_pca(_toy(), weights, PcaSettings(components=6, identity_below=5))
    coefficients = pca(weights).double()
    small, large = coefficients.square().sum(0).div(29).split([4, 6])
    expected = torch.cat([small.mean().sqrt().expand(4), large.mean().sqrt().expand(6)])
    torch.testing.assert_close(pca.scale().double(), expected, rtol=1e-5, atol=0)


def test_save_and_load_are_equal_to_the_bit(tmp_path, rng):
    net = build("cnn")
    weights = networks(net, 20)
    pca = fit_pca(net.spec, weights, PcaSettings(components=5, identity_below=5))
    pca.save(tmp_path / "a.safetensors")
    again = TensorPca.load(tmp_path / "a.safetensors")
    assert (again.spec, again.modes, again.counts) == (pca.spec, pca.modes, pca.counts)
    assert torch.equal(again(weights), pca(weights))
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_one_member_is_refused(rng):
    with pytest.raises(WeightspaceError, match="too few train members"):
        fit_pca(_toy(), _toy_weights(1, rng), PcaSettings())


def test_aligned_coefficients_ignore_the_order_of_hidden_units(rng):
    net = build("cnn-one-layer")  # one group, for which weight matching is exact
    weights = networks(net, 12)
    pca = fit_pca(net.spec, weights, PcaSettings(components=6, align="matching"))
    plain = fit_pca(net.spec, weights, PcaSettings(components=6))
    order = {g: torch.randperm(n, generator=rng) for g, n in net.spec.groups.items()}
    permuted = net.spec.permute(weights, order)
    torch.testing.assert_close(pca(permuted), pca(weights), atol=1e-5, rtol=1e-4)
    assert (plain(permuted) - plain(weights)).abs().max() > 0.1  # the control


def test_alignment_survives_a_file(tmp_path):
    net = build("cnn")
    weights = networks(net, 12)
    pca = fit_pca(net.spec, weights, PcaSettings(components=6, align="matching"))
    pca.save(tmp_path / "pca.safetensors")
    again = TensorPca.load(tmp_path / "pca.safetensors")
    assert torch.equal(again(weights), pca(weights))
    assert again.align
