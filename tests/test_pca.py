"""One exact basis per tensor."""

import hashlib
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import reference
from cases import build, networks, section
from weightspace.artifacts import file_sha256, read_meta
from weightspace.errors import WeightspaceError
from weightspace.weights.pca import TensorPca, fit_pca, fit_tensor, stream_pca
from weightspace.weights.spec import Axis, Spec, TensorSpec


def _rows(n, d, rng):
    """Centred rows whose directions have clearly different variances."""
    scale = torch.linspace(1, 3, d, dtype=torch.float64) ** 2
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) * scale
    return x - x.mean(0)


BRANCHES = pytest.mark.parametrize(("n", "d"), [(40, 9), (10, 10), (9, 40), (2, 5), (41, 1)])


def _reader(weights, reads=None):
    """Networks in memory as a zoo on disk is read; notes what was asked for."""

    def read(who, name, rows):
        if reads is not None:
            reads.append((who, name, rows))
        return weights[name][who, rows]

    return read


def _fit(x, k, shape=None, reads=None):
    """Basis of one tensor with the rows ``x``."""
    t = TensorSpec("w", shape or (x.shape[1],), "parameter")
    read = _reader({"w": x.view(len(x), *t.shape)}, reads)
    return fit_tensor(t, read, len(x), section("pca", components=k, identity_below=0))


@BRANCHES
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("parts", ["whole", "many"])
def test_components_equal_svd_up_to_sign(n, d, k, parts, rng, monkeypatch):
    if parts == "many":
        monkeypatch.setattr("weightspace.weights.pca.PART_BYTES", 40 * n)
        monkeypatch.setattr("weightspace.weights.pca.BLOCK_BYTES", 1)
        monkeypatch.setattr("weightspace.weights.pca.MIN_COLUMNS", 3)
    x = 5 + _rows(n, d, rng)
    fit, rank = _fit(x, k), min(k, n - 1, d)
    expected, variance = (torch.from_numpy(v.copy()) for v in reference.principal(x, rank))
    components = fit.components.double()
    assert (fit.mode, components.shape) == ("pca", (rank, d))
    torch.testing.assert_close(fit.mean.double(), x.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(fit.variance, variance, rtol=1e-9, atol=0)
    torch.testing.assert_close(fit.total, x.var(0).sum(), rtol=1e-12, atol=0)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(
        (components * expected).sum(1).abs(), torch.ones(rank).double(), **close
    )
    torch.testing.assert_close(components @ components.T, torch.eye(rank).double(), **close)


def test_a_large_tensor_is_read_twice_by_its_rows_and_a_small_one_once_by_members(rng, monkeypatch):
    monkeypatch.setattr(
        "weightspace.weights.pca.PART_BYTES", 4 * 9 * 4
    )  # two rows of two, of 9 members
    for n, shape, columns in ((9, (20, 2), True), (30, (3, 2), False)):
        reads, numel = [], torch.Size(shape).numel()
        _fit(_rows(n, numel, rng), 2, shape, reads)
        parts = [rows if columns else who for who, _, rows in reads]
        every = [i for p in parts for i in range(*p.indices(20 if columns else n))]
        assert every == 2 * list(range(20)) if columns else every == [0, *range(n)]
        assert max(len(range(*p.indices(99))) for p in parts) <= 3


@BRANCHES
def test_full_rank_is_exact(n, d, rng):
    x = _rows(n, d, rng)
    fit = _fit(x, d)
    components = fit.components.double()
    torch.testing.assert_close(x @ components.T @ components, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(fit.variance.sum(), fit.total)


@BRANCHES
def test_signs_do_not_depend_on_the_solver(n, d, rng):
    x = _rows(n, d, rng)
    components = _fit(x, 2).components
    torch.testing.assert_close(_fit(-x, 2).components, components)  # the same covariance
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("n", [8, 40])
def test_components_stop_at_the_rank(n, rng):
    x = _rows(n, 2, rng) @ torch.randn(2, 30, generator=rng, dtype=torch.float64)
    fit = _fit(x, 6)
    assert fit.components.shape == (2, 30)
    assert len(fit.variance) == 2
    torch.testing.assert_close(fit.variance.sum(), fit.total)


def test_weak_directions_stay_orthonormal(rng):
    basis = torch.linalg.qr(torch.randn(50, 6, generator=rng, dtype=torch.float64))[0]
    x = torch.randn(9, 6, generator=rng, dtype=torch.float64) * 10.0 ** -torch.arange(6) @ basis.T
    components = _fit(x, 6).components.double()
    torch.testing.assert_close(components @ components.T, torch.eye(6).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(components @ basis @ basis.T, components, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [30, 12])
def test_a_large_mean_costs_no_digits_of_the_variance(n, rng):
    x = _rows(n, 20, rng).float().double()
    shifted = x + 2.0**20  # as float64 exact
    torch.testing.assert_close(_fit(shifted, 5).variance, _fit(x, 5).variance, rtol=1e-9, atol=0)


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
    pca = fit_pca(_toy(), _toy_weights(30, rng), section("pca", components=6, identity_below=5))
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
    modes = [fit_pca(_toy(), weights, section("pca", identity_below=b)).modes for b in (4, 5)]
    assert [m["small"] for m in modes] == ["pca", "identity"]


@pytest.mark.parametrize("n", [30, 12])  # covariance and Gram matrix
def test_all_components_rebuild_the_train_members(n, rng):
    weights = _toy_weights(n, rng)
    pca = fit_pca(_toy(), weights, section("pca", components=50, identity_below=5))
    back = pca.inverse(pca(weights))
    for name, w in weights.items():
        torch.testing.assert_close(back[name], w, rtol=1e-5, atol=2e-5)
    assert pca.explained(50) == pytest.approx(1, abs=1e-6)


def test_constant_tensor_returns_the_constant_for_any_network(rng):
    pca = fit_pca(_toy(), _toy_weights(30, rng), section("pca", components=6, identity_below=5))
    other = _toy_weights(2, rng) | {"still": torch.ones(2, 3, 2)}
    assert torch.equal(pca.inverse(pca(other))["still"], torch.full((2, 3, 2), 0.1))


def test_error_falls_with_k_as_explained_variance_says(rng):
    weights = _toy_weights(30, rng)
    pca = fit_pca(_toy(), weights, section("pca", components=20, identity_below=5))
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
    pca = fit_pca(_toy(), weights, section("pca", components=6, identity_below=5))
    coefficients = pca(weights).double()
    small, large = coefficients.square().sum(0).div(29).split([4, 6])
    expected = torch.cat([small.mean().sqrt().expand(4), large.mean().sqrt().expand(6)])
    torch.testing.assert_close(pca.scale().double(), expected, rtol=1e-5, atol=0)


def test_save_and_load_are_equal_to_the_bit(tmp_path, rng):
    net = build("cnn")
    weights = networks(net, 20)
    pca = fit_pca(net.spec, weights, section("pca", components=5, identity_below=5))
    pca.save(tmp_path / "a.safetensors")
    again = TensorPca.load(tmp_path / "a.safetensors")
    assert (again.spec, again.modes, again.counts) == (pca.spec, pca.modes, pca.counts)
    assert torch.equal(again(weights), pca(weights))
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_one_member_is_refused(rng):
    with pytest.raises(WeightspaceError, match="too few train members"):
        fit_pca(_toy(), _toy_weights(1, rng), section("pca"))


def test_aligned_coefficients_ignore_the_order_of_hidden_units(rng):
    net = build("cnn-one-layer")  # one group, for which weight matching is exact
    weights = networks(net, 12)
    pca = fit_pca(net.spec, weights, section("pca", components=6, align="matching"))
    plain = fit_pca(net.spec, weights, section("pca", components=6))
    order = {g: torch.randperm(n, generator=rng) for g, n in net.spec.groups.items()}
    permuted = net.spec.permute(weights, order)
    torch.testing.assert_close(pca(permuted), pca(weights), atol=1e-5, rtol=1e-4)
    assert (plain(permuted) - plain(weights)).abs().max() > 0.1  # the control


@pytest.mark.parametrize("align", ["none", "matching"])
def test_a_zoo_on_disk_gives_what_networks_in_memory_give(align, world, tmp_path, monkeypatch):
    zoo = world("cnn-batch-norm").zoo  # buffers, and variances as logarithms
    train, settings = zoo.select("train"), section("pca", components=6, align=align)
    expected = fit_pca(zoo.spec, zoo.weights(train), settings)
    for part in (4 * 7 * zoo.spec.numel, 1 << 27):  # seven networks, all
        monkeypatch.setattr("weightspace.weights.pca.PART_BYTES", part)
        found = stream_pca(zoo.spec, zoo.reader(train), len(train), settings, tmp_path)
        assert not list(tmp_path.iterdir())  # aligned copies are gone
        assert (found.modes, found.counts) == (expected.modes, expected.counts)
        for name, value in found.tensors.items():
            torch.testing.assert_close(value, expected.tensors[name], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, expected.tensors[k]) for k, v in found.tensors.items())
    assert found.sha256 == expected.sha256


def test_alignment_survives_a_file(tmp_path):
    net = build("cnn")
    weights = networks(net, 12)
    pca = fit_pca(net.spec, weights, section("pca", components=6, align="matching"))
    pca.save(tmp_path / "pca.safetensors")
    again = TensorPca.load(tmp_path / "pca.safetensors")
    assert torch.equal(again(weights), pca(weights))
    assert again.align


def test_a_basis_is_known_by_the_hash_of_its_file(tmp_path, rng):
    first, second = (
        fit_pca(_toy(), _toy_weights(30, rng), section("pca", components=6)) for _ in range(2)
    )
    path = tmp_path / "pca.safetensors"
    first.save(path)
    digest = read_meta(path)["sha256"]
    again = TensorPca.load(path)
    assert again.sha256 == first.sha256 == digest != second.sha256
    empty = TensorPca.from_meta(first.meta())
    assert empty.sha256 == digest
    assert {x.device.type for name, x in empty.tensors.items() if "components" in name} == {"meta"}
    empty.find(path, Path("autoencoder"))
    assert all(torch.equal(x, first.tensors[name]) for name, x in empty.tensors.items())
    with pytest.raises(WeightspaceError, match="fitted with another PCA") as caught:
        TensorPca.from_meta(second.meta()).find(path, Path("autoencoder"))
    assert "\n" not in str(caught.value)


def _mapped(path, x):
    """Whether a tensor's values lie where the system maps a file into memory."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return any(first <= x.data_ptr() < last for first, last in ranges)


def test_a_loaded_basis_is_the_mapped_file_and_part_of_no_state(tmp_path, rng):
    pca = fit_pca(_toy(), _toy_weights(30, rng), section("pca", components=6, identity_below=5))
    path = tmp_path / "pca.safetensors"
    pca.save(path)
    again = TensorPca.load(path)
    assert all(_mapped(path, x) for x in again.tensors.values() if x.numel())
    assert not any(_mapped(path, x) for x in pca.tensors.values())
    assert not again.state_dict()
    assert again.tensors.keys() == pca.tensors.keys()


def test_hash_of_a_file_that_changed_is_that_of_the_change(tmp_path, monkeypatch):
    path, reads = tmp_path / "file", []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: reads.append(a) or digest(*a))
    for text, age in ((b"one", 60), (b"two", 30)):
        path.write_bytes(text)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        for _ in range(3):
            assert file_sha256(path) == hashlib.sha256(text).hexdigest()
    assert len(reads) == 2  # once for each content
    path.write_bytes(b"now")  # a moment ago: a further change might not show
    assert {file_sha256(path) for _ in range(2)} == {hashlib.sha256(b"now").hexdigest()}
    assert len(reads) == 4
