"""The contract of every codec, and of the fit loop below it."""

from itertools import chain

import pytest
import torch
from torch import nn

from weightspace.alignment import shuffled
from weightspace.codecs import CODECS
from weightspace.codecs.base import decode_latents, encode_members, load_codec
from weightspace.errors import WeightspaceError
from weightspace.nets import NETS
from weightspace.params import FitSettings
from weightspace.registry import resolve
from weightspace.spec import reorder_outputs, take
from weightspace.training import fit, mlp


@pytest.fixture(scope="module")
def fitted(world):
    """Factory: a codec fitted on the tiny zoo of an architecture."""
    made = {}

    def make(name, architecture):
        if (name, architecture) not in made:
            made[name, architecture] = _fit(world(architecture), name)
        return world(architecture), *made[name, architecture]

    return make


# variant of a codec -> its settings
VARIANTS = {
    "functional-coefficients": {"reads": "coefficients", "structural_weight": 0.1},
    "functional-both": {"reads": "both"},
    "functional-learned-probes": {"learn_probes": True},
}


def _fit(tiny_world, name):
    codec = name.split("-")[0]
    changes = {"codec": codec} | VARIANTS.get(name, {})
    settings = tiny_world.params.autoencoder.model_copy(update=changes)
    return resolve(CODECS, codec, "codec").fit(tiny_world.data, settings, tiny_world.params.seed)


contract = pytest.mark.parametrize(
    ("name", "architecture"),
    [(c, a) for c in CODECS for a in NETS] + [(variant, "cnn") for variant in VARIANTS],
)


@contract
def test_shapes(name, architecture, fitted):
    world, codec, _ = fitted(name, architecture)
    weights = world.data.weights["val"]
    z = codec.encode(weights)
    assert z.shape == (len(world.data.members["val"]), world.params.autoencoder.latent)
    assert codec.latent == z.shape[1]
    assert codec.spec == world.zoo.spec
    decoded = codec.decode(z)
    assert codec.spec.check(decoded) == len(z)
    assert all(w.isfinite().all() and w.dtype == torch.float32 for w in decoded.values())
    assert world.net.outputs(decoded, torch.zeros(2, *world.dataset.shape)).shape[1:] == (2, 3)


@contract
def test_encoding_and_decoding_are_deterministic_and_row_by_row(name, architecture, fitted):
    world, codec, _ = fitted(name, architecture)
    weights = world.data.weights["val"]
    z = codec.encode(weights)
    assert torch.equal(codec.encode(weights), z)
    assert z.std(0).min() > 0  # members are told apart
    one = codec.encode(take(weights, slice(3, 4)))
    torch.testing.assert_close(one, z[3:4], rtol=1e-4, atol=1e-5)
    decoded = codec.decode(z)
    for part, whole in zip(codec.decode(z[3:4]).values(), decoded.values(), strict=True):
        assert part.shape == (1, *whole.shape[1:])
        torch.testing.assert_close(part, whole[3:4], rtol=1e-4, atol=1e-5)


@contract
def test_blocks_cover_every_row(name, architecture, fitted, monkeypatch):
    world, codec, _ = fitted(name, architecture)
    weights = world.data.weights["train"]
    whole = encode_members(codec, weights)
    monkeypatch.setattr("weightspace.codecs.base.BLOCK", 7)
    parts = encode_members(codec, weights)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert codec.spec.check(decode_latents(codec, parts)) == len(whole)


@contract
def test_save_and_load_are_equal_to_the_bit(name, architecture, fitted, tmp_path):
    world, codec, _ = fitted(name, architecture)
    codec.save(tmp_path / "a.safetensors")
    again = load_codec(tmp_path / "a.safetensors")
    weights = world.data.weights["val"]
    z = encode_members(codec, weights)
    assert torch.equal(encode_members(again, weights), z)
    for k, w in decode_latents(codec, z).items():
        assert torch.equal(decode_latents(again, z)[k], w)
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@contract
def test_gradients_reach_every_parameter(name, architecture, fitted):
    world, codec, _ = fitted(name, architecture)
    codec.zero_grad()
    decoded = codec.decode(codec.encode(world.data.weights["val"]))
    sum(w.square().sum() for w in decoded.values()).backward()
    for parameter_name, parameter in codec.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
    codec.zero_grad()


@contract
def test_two_fits_give_identical_bytes(name, architecture, fitted, tmp_path):
    world, codec, history = fitted(name, architecture)
    codec.save(tmp_path / "a.safetensors")
    torch.rand(5)  # a global generator must not matter
    second, again = _fit(world, name)
    second.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert history.equals(again)


@contract
def test_fitting_lowers_the_loss_and_logs_both_curves(name, architecture, fitted):
    _, _, history = fitted(name, architecture)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert history[["train_loss", "val_loss"]].notna().all(axis=None)


def test_mlp_codec_loss_is_the_unexplained_share(fitted):
    world, codec, _ = fitted("mlp", "cnn")
    scaled = world.pca(world.data.weights["train"]) / codec.scale
    saved = {k: v.clone() for k, v in codec.decoder.state_dict().items()}
    with torch.no_grad():
        for value in codec.decoder.parameters():
            value.zero_()
        assert float(codec.loss(scaled)) == pytest.approx(1, abs=0.03)  # predicts the mean
    codec.decoder.load_state_dict(saved)


# the fit loop


def _scripted(values, patience, epochs=20):
    """Fit one parameter whose val losses are given; parameter at each validation, and at the end."""
    module, seen, script = nn.Linear(1, 1), [], iter(values)

    def loss(rows, split, generator):
        if split == "val":
            seen.append(module.weight.detach().clone())
            return {"loss": torch.tensor(next(script))}
        return {"loss": module.weight.sum() + 0 * module.bias.sum()}

    settings = FitSettings(epochs=epochs, batch_size=4, lr=0.1, patience=patience)
    history = fit("test", module, loss, {"train": 4, "val": 2}, settings, 0)
    return history, seen, module.weight.detach()


def test_stops_early_and_restores_the_best_epoch():
    history, seen, end = _scripted([3.0, 1.0, 2.0, 1.5, 1.2, 0.1], patience=3)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(end, seen[1])
    assert not torch.equal(end, seen[4])


def test_runs_to_the_end_while_val_improves():
    history, seen, end = _scripted([5.0, 4.0, 4.5, 3.0, 3.5, 2.0], patience=2, epochs=6)
    assert len(history) == 6
    assert torch.equal(end, seen[5])


def test_a_loss_that_is_not_finite_is_one_line():
    with pytest.raises(WeightspaceError, match=r"test, epoch 2: val loss is not finite.*test.lr"):
        _scripted([1.0, float("nan")], patience=3)


@pytest.mark.parametrize("empty", ["train", "val"])
def test_nothing_to_fit_is_one_line(empty):
    counts = {"train": 3, "val": 3} | {empty: 0}
    with pytest.raises(WeightspaceError, match="nothing to fit"):
        fit("test", nn.Linear(1, 1), None, counts, FitSettings(), 0)


def test_every_row_is_visited_once_per_epoch_and_val_draws_repeat():
    rows, draws = [], []
    module = nn.Linear(1, 1)

    def loss(batch, split, generator):
        if split == "val":
            draws.append(float(torch.rand((), generator=generator)))
        else:
            rows.append(batch.tolist())
        return {"loss": module.weight.square().sum() + module.bias.square().sum()}

    settings = FitSettings(epochs=3, batch_size=4, patience=9)
    fit("test", module, loss, {"train": 10, "val": 3}, settings, 0)
    assert len(rows) == 9
    epochs = [[*chain(*rows[i : i + 3])] for i in (0, 3, 6)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert epochs[0] != epochs[1]
    assert draws[0] == draws[1] == draws[2]


def test_mlp_draws_from_its_generator_only(rng):
    first = mlp([5, 7, 2], rng)
    torch.rand(3)
    again = mlp([5, 7, 2], torch.Generator().manual_seed(0))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert first[0].weight.abs().max() <= 5**-0.5
    assert first[0].weight.std() > 0.1


@contract
def test_every_order_of_the_outputs_is_encoded(name, architecture, fitted):
    world, codec, _ = fitted(name, architecture)
    weights = world.data.weights["val"]
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]])
    with torch.no_grad():
        found = codec.encode_orders(weights, orders)
        for place, order in enumerate(orders):
            single = codec.encode(reorder_outputs(codec.spec, weights, order))
            torch.testing.assert_close(found[:, place], single, atol=2e-3, rtol=2e-3)
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.05


def test_permutation_augmentation_makes_the_mlp_codec_less_sensitive_to_order(world):
    """Reordered copies of members cost less after a fit that has seen other orders."""
    tiny = world()
    weights = tiny.data.weights["val"]
    costs = {}
    for augment in (False, True):
        settings = tiny.params.autoencoder.model_copy(
            update={"augment_permutations": augment, "epochs": 30, "lr": 3e-3}
        )
        codec, _ = resolve(CODECS, "mlp", "codec").fit(tiny.data, settings, 3)
        moved = shuffled(codec.spec, weights, torch.Generator().manual_seed(1))
        costs[augment] = codec.loss(tiny.pca(moved) / codec.scale).item()
    assert costs[True] < costs[False]
