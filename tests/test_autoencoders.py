"""The contract of every autoencoder, and of the fit loop below it."""

import re
from dataclasses import dataclass
from itertools import chain

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cases
from cases import section
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders._coefficients import unexplained
from weightspace.autoencoders._feature_pca import FeaturePcaAutoencoder
from weightspace.autoencoders.base import (
    Autoencoder,
    AutoencoderData,
    decode_latents,
    encode_members,
    load_autoencoder,
)
from weightspace.errors import WeightspaceError
from weightspace.learning.contrastive import nt_xent
from weightspace.learning.loop import fit
from weightspace.learning.mlp import mlp
from weightspace.nets.base import build_net
from weightspace.params import FitSettings, Params
from weightspace.registry import resolve
from weightspace.weights.pca import fit_pca
from weightspace.weights.permutations import shuffled
from weightspace.weights.spec import Weights, reorder_outputs, take


@dataclass(frozen=True)
class Fitted:
    """An autoencoder fitted on a tiny zoo, its history, and the parameters that a gradient reached."""

    autoencoder: Autoencoder
    history: pd.DataFrame
    reached: set[str]


@pytest.fixture(scope="module")
def fitted(world):
    """Factory: an autoencoder fitted on the tiny zoo of an architecture."""
    made = {}

    def make(name, architecture):
        if (name, architecture) not in made:
            with pytest.MonkeyPatch.context() as patch:
                gradients = _record_gradients(patch)
                autoencoder, history = _fit(world(architecture), name)
            named = autoencoder.named_parameters()
            reached = {n for n, p in named if gradients.get(id(p), 0) > 0}
            made[name, architecture] = Fitted(autoencoder, history, reached)
        return world(architecture), made[name, architecture]

    return make


def _record_gradients(patch):
    """Largest gradient that each parameter had in any step of a fit."""
    found, clip = {}, torch.nn.utils.clip_grad_norm_

    def record(parameters, bound):
        parameters = list(parameters)
        for p in parameters:
            if p.grad is not None:
                found[id(p)] = max(found.get(id(p), 0), float(p.grad.abs().max()))
        return clip(parameters, bound)

    patch.setattr("torch.nn.utils.clip_grad_norm_", record)
    return found


# variant of an autoencoder -> its settings
VARIANTS = {
    "functional-coefficients": {"reads": "coefficients", "structural_weight": 0.1},
    "functional-both": {"reads": "both"},
    "functional-learned-probes": {"learn_probes": True},
    "mlp-behaviour": {"behaviour_weight": 1.0},
    "variational-behaviour": {"behaviour_weight": 1.0},
    "residual-behaviour": {"behaviour_weight": 1.0},
    "reverse_pca-behaviour": {"behaviour_weight": 1.0},
    "tokens-behaviour": {"behaviour_weight": 1.0},
    "tokens-layer": {"normalise": "layer", "linear": False},
    "tokens-none": {"normalise": "none", "refit": 0.0},
}


def _fit(tiny_world, name, own=None, **changes):
    """Fit an autoencoder or a variant of one, with own settings; changes are to section ``autoencoder``."""
    autoencoder, params = name.split("-")[0], tiny_world.params
    options = params.autoencoders.of(autoencoder).model_copy(
        update=VARIANTS.get(name, {}) | (own or {})
    )
    changes = {"model": autoencoder, "lr": 3e-3} | changes
    settings = params.autoencoder.model_copy(update=changes)
    return resolve(AUTOENCODERS, autoencoder, "autoencoder").fit(
        tiny_world.data, settings, options, params.seed
    )


contract = pytest.mark.parametrize(
    ("name", "architecture"),
    [(c, a) for c in AUTOENCODERS for a in cases.WORLDS]
    + [(variant, "cnn") for variant in VARIANTS],
)


@contract
def test_shapes(name, architecture, fitted):
    world, made = fitted(name, architecture)
    autoencoder = made.autoencoder
    weights = world.data.weights["val"]
    z = autoencoder.encode(weights)
    assert z.shape == (len(world.data.members["val"]), world.params.autoencoder.latent)
    assert autoencoder.latent == z.shape[1]
    assert autoencoder.spec == world.zoo.spec
    decoded = autoencoder.decode(z)
    assert autoencoder.spec.check(decoded) == len(z)
    assert all(w.isfinite().all() and w.dtype == torch.float32 for w in decoded.values())
    assert world.net.outputs(decoded, torch.zeros(2, *world.dataset.shape)).shape[1:] == (2, 3)


@contract
def test_outputs_of_latents_are_those_of_decoded_networks(name, architecture, fitted):
    world, made = fitted(name, architecture)
    z = made.autoencoder.encode(world.data.weights["val"])[:4].requires_grad_()
    images = world.dataset.images["train"][0]
    outputs = made.autoencoder.outputs(world.net, z, images)
    expected = world.net.outputs(made.autoencoder.decode(z.detach()), images)
    torch.testing.assert_close(outputs, expected, atol=1e-3, rtol=1e-3)
    (slope,) = torch.autograd.grad(outputs.square().sum(), z)
    assert slope.abs().sum() > 0


@contract
def test_encoding_and_decoding_are_deterministic_and_row_by_row(name, architecture, fitted):
    world, made = fitted(name, architecture)
    autoencoder = made.autoencoder
    weights = world.data.weights["val"]
    z = autoencoder.encode(weights)
    assert torch.equal(autoencoder.encode(weights), z)
    assert z.std(0).min() > 0.02  # members are told apart
    one = autoencoder.encode(take(weights, slice(3, 4)))
    torch.testing.assert_close(one, z[3:4], rtol=1e-4, atol=1e-5)
    decoded = autoencoder.decode(z)
    for part, whole in zip(autoencoder.decode(z[3:4]).values(), decoded.values(), strict=True):
        assert part.shape == (1, *whole.shape[1:])
        torch.testing.assert_close(part, whole[3:4], rtol=1e-4, atol=1e-5)


@contract
def test_blocks_cover_every_row(name, architecture, fitted, monkeypatch):
    world, made = fitted(name, architecture)
    autoencoder = made.autoencoder
    weights = world.data.weights["train"]
    whole = encode_members(autoencoder, weights)
    monkeypatch.setattr("weightspace.autoencoders.base.BLOCK", 7)
    parts = encode_members(autoencoder, weights)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert autoencoder.spec.check(decode_latents(autoencoder, parts)) == len(whole)


@contract
def test_save_and_load_are_equal_to_the_bit(name, architecture, fitted, tmp_path):
    world, made = fitted(name, architecture)
    autoencoder = made.autoencoder
    file = tmp_path / "autoencoder" / "a.safetensors"
    autoencoder.save(file)
    world.pca.save(tmp_path / "pca" / "pca.safetensors")
    again = load_autoencoder(file)
    weights = world.data.weights["val"]
    z = encode_members(autoencoder, weights)
    assert torch.equal(encode_members(again, weights), z)
    for k, w in decode_latents(autoencoder, z).items():
        assert torch.equal(decode_latents(again, z)[k], w)
    again.save(tmp_path / "b.safetensors")
    assert file.read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@contract
def test_gradients_reach_every_parameter(name, architecture, fitted):
    _, made = fitted(name, architecture)
    assert {n for n, _ in made.autoencoder.named_parameters()} == made.reached


@contract
def test_foreign_networks_and_nan_are_refused_by_tensor(name, architecture, fitted):
    world, made = fitted(name, architecture)
    weights = take(world.data.weights["val"], slice(2))
    first, last = made.autoencoder.spec.names[0], made.autoencoder.spec.names[-1]
    for wrong, said in (
        (weights | {last: weights[last].clone().fill_(torch.nan)}, f"'{last}' has NaN"),
        (weights | {first: weights[first][:, :-1]}, f"'{first}' has another shape"),
        ({k: w for k, w in weights.items() if k != first}, f"missing ['{first}']"),
        (weights | {"other": weights[first]}, "unknown ['other']"),
    ):
        for call in (
            made.autoencoder.encode,
            lambda w: made.autoencoder.encode_orders(w, torch.eye(3)),
        ):
            with pytest.raises(WeightspaceError, match=re.escape(said)):
                call(wrong)


@contract
def test_two_fits_give_identical_bytes(name, architecture, fitted, tmp_path):
    world, made = fitted(name, architecture)
    made.autoencoder.save(tmp_path / "a.safetensors")
    torch.rand(5)  # a global generator must not matter
    second, again = _fit(world, name)
    second.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert made.history.equals(again)


@contract
def test_fitting_lowers_the_loss_and_logs_both_curves(name, architecture, fitted):
    world, made = fitted(name, architecture)
    history, part = made.history, len(made.history)
    if isinstance(made.autoencoder, FeaturePcaAutoencoder) and made.autoencoder.settings.refit:
        part = 3  # the last epoch is fitted behind the PCA, which costs more
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history[["train_loss", "val_loss"]].notna().all(axis=None)
    last, first = history["train_loss"].iloc[part - 1], history["train_loss"].iloc[0]
    if architecture == "cnn" or (name, architecture) == ("tokens", "resnet18"):
        # the same rows, probes and windows in every step, with a rate that moves nothing
        _, unmoved = _fit(world, name, lr=1e-12)
        assert unmoved["val_loss"].iloc[part - 1] == pytest.approx(unmoved["val_loss"].iloc[0])
        assert last < 0.99 * unmoved["train_loss"].iloc[part - 1]
    else:  # rows, probes and windows of the two epochs differ
        assert last < 0.99 * first


@dataclass(frozen=True)
class Planted:
    """Networks with a few directions of variation, and what a fit needs to know about them."""

    params: Params
    data: AutoencoderData
    held: Weights


@pytest.fixture(scope="module")
def planted(world):
    """Tiny world whose networks are mixtures of so many random directions; some are held out."""
    tiny = world()

    def make(rank):
        train, val, held = (_mixtures(tiny.net, rank, n, seed) for n, seed in PLANTED)
        pca = fit_pca(tiny.zoo.spec, train, tiny.params.pca)
        members = {
            s: tiny.data.members[s].iloc[:n] for s, (n, _) in zip(SEEN, PLANTED, strict=False)
        }
        weights = {"train": train, "val": val}
        data = AutoencoderData.measure(tiny.runner, pca, weights, members, tiny.data.probes)
        return Planted(tiny.params, data, held)

    return make


SEEN = ("train", "val")
PLANTED = ((80, 1), (18, 2), (20, 3))  # networks for train, val and held out, and their seeds


def _mixtures(net, rank, count, seed):
    """One network and random multiples of ``rank`` others of it, added: ``(count, *shape)``."""
    base, directions = cases.networks(net, 1), cases.networks(net, rank, seed=1)
    mixed = torch.randn(count, rank, generator=torch.Generator().manual_seed(seed))
    flat = net.spec.flatten(base) + mixed @ net.spec.flatten(directions) / rank**0.5
    return net.spec.unflatten(flat)


def _behaves_otherwise(made, autoencoder, decode=None):
    """Squared error of the outputs of held-out networks, relative to the mean network; median."""
    net, held = made.data.net, made.held
    images = made.data.dataset.images["val"].flatten(0, 1)
    rebuilt = (decode or autoencoder.decode)(encode_members(autoencoder, held))
    mean = {k: w.mean(0, keepdim=True) for k, w in made.data.weights["train"].items()}
    with torch.no_grad():
        wanted, found, none = (net.run(w, images) for w in (held, rebuilt, mean))
    left, all_ = ((x - wanted).square().mean((1, 2)) for x in (found, none))
    return float((left / all_).median())


class _LinearCode(Autoencoder):
    """The yardstick: so many numbers of the best linear code of the train networks."""

    name = "linear"

    def __init__(self, made, latent):
        super().__init__()
        self.spec, self.latent = made.data.net.spec, latent
        train = self.spec.flatten(made.data.weights["train"])
        self.mean = train.mean(0)
        self.basis = torch.linalg.svd(train - self.mean, full_matrices=False)[2][:latent]

    def _encode(self, weights):
        return (self.spec.flatten(weights) - self.mean) @ self.basis.T

    def decode(self, z):
        return self.spec.unflatten(self.mean + z @ self.basis)

    def meta(self):
        return {}


def test_the_best_linear_code_of_the_planted_directions_is_exact(planted):
    made = planted(8)
    left = [_behaves_otherwise(made, _LinearCode(made, latent)) for latent in (0, 2, 7, 8)]
    assert left[0] == pytest.approx(1, abs=1e-5)
    assert left[3] < 1e-6 < 0.01 < left[2] < left[1] < 0.9


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_error_falls_as_the_latent_grows(name, planted):
    """Of 8 directions, 12 numbers hold all and 2 cannot: on networks that no fit has seen."""
    made, errors = planted(8), {}
    for latent in (2, 12):
        # the functional one starts at an untrained network, not at the mean of the members
        epochs = 32 if name == "functional" else 16
        autoencoder, _ = _fit(made, name, latent=latent, epochs=epochs, lr=1e-2)
        errors[latent] = _behaves_otherwise(made, autoencoder)
    # the mean network leaves 1; what reads outputs never sees weights, and keeps a direction only
    two = _behaves_otherwise(made, _LinearCode(made, 2))
    assert errors[12] < (0.65 * two if name == "functional" else 0.2)
    assert errors[12] < 0.5 * errors[2]
    unmoved, _ = _fit(made, name, latent=12, epochs=1, lr=1e-12)
    assert errors[12] < 0.9 * _behaves_otherwise(made, unmoved)  # of some, a PCA is a part

    def cut(z):  # the control: an autoencoder that uses two of its numbers only
        return autoencoder.decode(torch.cat([z[:, :2], z[:, 2:].mean(0).expand(len(z), -1)], 1))

    assert _behaves_otherwise(made, autoencoder, cut) > 1.5 * errors[12]


def test_no_error_means_nothing_unexplained_and_the_mean_leaves_all():
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    assert float(unexplained(x - x, [2, 0, 3])) == 0
    assert float(unexplained(x, [2, 0, 3])) == pytest.approx(1, abs=0.05)
    scaled = torch.cat([x[:, :1], torch.zeros(4000, 4)], 1)  # one wrong feature of a tensor of one
    assert float(unexplained(scaled, [1, 0, 4])) == pytest.approx(0.5, abs=0.05)


def test_kl_from_the_prior_is_the_closed_form():
    mean, log_variance = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.5]])
    a, b = (torch.distributions.Normal(m, s) for m, s in ((mean, (log_variance / 2).exp()), (0, 1)))
    expected = torch.distributions.kl_divergence(a, b).sum(1)
    kl_from_prior = resolve(AUTOENCODERS, "variational", "autoencoder").kl_from_prior
    torch.testing.assert_close(kl_from_prior(mean, log_variance), expected)
    assert float(kl_from_prior(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


def test_latents_of_the_prior_decode_to_networks(fitted, rng):
    world, made = fitted("variational", "cnn")
    z = made.autoencoder.sample(4000, rng)
    assert z.shape == (4000, made.autoencoder.latent)
    assert z.mean().abs() < 0.02
    assert z.std() == pytest.approx(1, abs=0.02)
    assert world.zoo.spec.check(made.autoencoder.decode(z[:5])) == 5


def test_the_kl_warms_up(fitted):
    _, made = fitted("variational", "cnn")
    autoencoder = resolve(AUTOENCODERS, "variational", "autoencoder").from_meta(
        made.autoencoder.meta()
    )
    autoencoder.warm_steps = 4
    x, rng = torch.randn(6, autoencoder.pca.features), torch.Generator()
    with torch.no_grad():
        weights = [float(autoencoder.rebuild(x, "train", rng)[1]["prior"]) for _ in range(6)]
        full = float(autoencoder.rebuild(x, "val", rng)[1]["prior"])
    shares = [0.25, 0.5, 0.75, 1, 1, 1]
    assert [w / full for w in weights] == pytest.approx(shares, rel=1e-5)


def test_the_residual_autoencoder_keeps_the_coefficients_that_explain_most(fitted):
    world, made = fitted("residual", "cnn")
    autoencoder, weights = made.autoencoder, world.data.weights["train"]
    assert autoencoder.learned == round(0.25 * autoencoder.latent)
    scaled, rebuilt = (
        autoencoder.scaled(weights),
        autoencoder.scaled(autoencoder.decode(autoencoder.encode(weights))),
    )
    torch.testing.assert_close(
        rebuilt[:, autoencoder.linear], scaled[:, autoencoder.linear], atol=1e-4, rtol=1e-3
    )
    assert (rebuilt - scaled)[:, autoencoder.predicted].abs().max() > 0.01  # the control
    sizes, eye = autoencoder.pca.sizes, torch.eye(autoencoder.pca.features)
    gain = torch.stack([unexplained(scaled * only, sizes) for only in eye])
    assert gain[autoencoder.linear].min() >= gain[autoencoder.predicted].max() * (1 - 1e-4)
    assert (
        gain[autoencoder.linear].min() > gain[autoencoder.predicted].min()
    )  # the control: they differ


def test_the_residual_autoencoder_predicts_what_pca_lost(planted):
    """On networks that no fit has seen, whose 8 directions show in the kept coefficients, too."""
    made = planted(8)
    autoencoder, _ = _fit(made, "residual", epochs=16, lr=1e-2)
    with torch.no_grad():
        scaled, rebuilt = (
            autoencoder.scaled(w)
            for w in (made.held, autoencoder.decode(autoencoder.encode(made.held)))
        )
    lost, predicted = (x[:, autoencoder.predicted] for x in (scaled, rebuilt))
    none = lost.square().mean()
    assert (predicted - lost).square().mean() < 0.6 * none
    assert (predicted.roll(1, 0) - lost).square().mean() > none  # the control


def test_a_residual_autoencoder_without_anything_lost_is_one_line(world):
    with pytest.raises(WeightspaceError, match=r"autoencoder.latent: .* nothing is lost"):
        _fit(world(), "residual", latent=world().pca.features)


@pytest.mark.parametrize("name", ["reverse_pca", "tokens"])
def test_the_pca_of_pooled_autoencoders_is_exact(name, fitted):
    """Latents of the train members are uncorrelated, of falling variance, of mean square 1."""
    world, made = fitted(name, "cnn")
    weights = world.data.weights["train"]
    with torch.no_grad():
        z = made.autoencoder.encode(weights).double()
        h = made.autoencoder.features(weights).double()
    covariance = z.T @ z / (len(z) - 1)
    variance = covariance.diagonal()
    assert (covariance - variance.diag()).abs().max() < 1e-3 * variance.max()
    assert (variance.diff() <= 1e-6).all()
    assert variance.mean() == pytest.approx(1, rel=1e-3)
    values = torch.linalg.eigvalsh((h - h.mean(0)).T @ (h - h.mean(0))).flip(0)
    left = (h - made.autoencoder.pool.inverse(z.float()).double()).square().sum()
    assert left == pytest.approx(float(values[z.shape[1] :].sum()), rel=1e-3)


# tokens


WIDE = section("nets", cnn={"channels": [5, 6]}).cnn
TOKENS = resolve(AUTOENCODERS, "tokens", "autoencoder")


@pytest.mark.parametrize("case", cases.NETS)
@pytest.mark.parametrize("size", [7, 200])
def test_tokens_hold_every_entry_once(case, size):
    net = cases.build(case)
    layout = TOKENS.Layout(net.spec, size)
    entries = layout.index[layout.index < net.spec.numel]
    assert entries.sort().values.tolist() == list(range(net.spec.numel))
    assert layout.index.flatten()[layout.entry].tolist() == list(range(net.spec.numel))
    matrices = [t for t in net.spec.tensors if len(t.shape) > 1]
    assert len(layout.layers) == len(matrices)  # each vector found the matrix it belongs to
    if size == 200:
        flat = net.spec.flatten(cases.networks(net, 1))[0]
        for name in (t.name for t in matrices[-1:]):
            rows = net.spec.unflatten(flat[None])[name][0].flatten(1)
            token = F.pad(flat, (0, 1))[layout.index][layout.layer == len(matrices) - 1]
            pieces = token.reshape(len(rows), -1)
            assert torch.equal(pieces[:, : rows.shape[1]], rows)


def test_padding_changes_nothing(fitted):
    """What stands in padded places of decoded tokens is ignored, in the loss too."""
    world, made = fitted("tokens", "cnn")
    autoencoder = made.autoencoder
    tokens = autoencoder.tokens(take(world.data.weights["val"], slice(3)))
    padded = (autoencoder.layout.index == autoencoder.spec.numel).expand_as(tokens)
    assert padded.any()
    assert (tokens[padded] == 0).all()
    noised = tokens.masked_fill(padded, 9.0)
    assert all(
        torch.equal(w, autoencoder.untokenised(noised)[k])
        for k, w in autoencoder.untokenised(tokens).items()
    )
    assert float(TOKENS.per_token(noised - tokens, autoencoder.mask())) == 0
    assert float(TOKENS.per_token(noised - tokens, autoencoder.mask() | True)) > 1  # the control


def test_the_loss_per_token_is_the_unexplained_share(fitted):
    world, made = fitted("tokens", "cnn")
    tokens = made.autoencoder.tokens(world.data.weights["train"])
    assert float(TOKENS.per_token(tokens, made.autoencoder.mask())) == pytest.approx(1, rel=1e-3)
    one = tokens.clone()
    one[:, 1:] = 0  # all wrong in one token of T
    share = float(TOKENS.per_token(one, made.autoencoder.mask()))
    assert share == pytest.approx(1 / tokens.shape[1], rel=1e-3)


@pytest.mark.parametrize("name", ["reverse_pca", "tokens"])
def test_what_never_varies_is_decoded_exactly(name, fitted):
    world, made = fitted(name, "cnn")
    still, moving = (layer for layer in TOKENS.layers(world.zoo.spec)[:2])
    weights = dict(world.data.weights["train"])
    for t in still:
        weights[t.name] = weights[t.name][:1].expand_as(weights[t.name])
    autoencoder = _copy(made.autoencoder)
    autoencoder.fit_scale(weights)
    x = autoencoder.spec.unflatten(autoencoder.standardise(weights))
    decoded = autoencoder.decode(torch.randn(4, autoencoder.latent))
    for t in still:
        assert (x[t.name] == 0).all()
        assert torch.equal(decoded[t.name], weights[t.name][:4])
    for t in moving:  # the control
        assert x[t.name].mean(0).abs().max() < 1e-4
        assert 0.1 < x[t.name].std() < 10
        assert not torch.equal(decoded[t.name], weights[t.name][:4])


def test_windows_cover_the_sequence_once(fitted):
    _, made = fitted("tokens", "resnet18")
    autoencoder = made.autoencoder
    parts = autoencoder.windows()
    assert len(parts) > 10
    assert [i for p in parts for i in range(p.start, p.stop)] == list(
        range(len(autoencoder.layout))
    )
    assert max(p.stop - p.start for p in parts) <= autoencoder.settings.window


def test_places_between_learned_ones_are_interpolated():
    table = torch.tensor([[0.0], [2.0], [6.0]])
    places = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert TOKENS.interpolate(table, places)[:, 0].tolist() == [0, 1, 2, 4, 6]
    assert TOKENS.interpolate(table[:1], places)[:, 0].tolist() == [0] * 5


def test_one_autoencoder_reads_networks_of_two_widths_by_its_transformers(planted):
    """Without the linear path and without a gradient step at the second width."""
    made = planted(4)
    wide = build_net("cnn", made.data.dataset.shape, 3, WIDE)
    held = {True: made.held, False: _mixtures(wide, 4, 20, 3)}
    own = {"linear": False, "features": 16, "width": 32, "contrast_weight": 0.0}
    autoencoder, _ = _fit(made, "tokens", own, epochs=32, lr=1e-2)

    def errors(c):
        c.fit_pool(made.data.weights["train"])
        both = {True: c, False: c.at(wide.spec, _mixtures(wide, 4, 40, 2))}
        return [_weights_left(both[k], held[k]) for k in held]

    narrow, other = errors(autoencoder)
    assert narrow < 0.1  # the mean network leaves 1
    assert other < 0.3
    # the controls: neither position and projection alone nor a transformer without a fit do that
    cut = _copy(autoencoder)
    for block in chain(cut.encoder.blocks, cut.decoder.blocks):
        for value in chain(block.out.parameters(), block.mlp.parameters()):
            value.detach().zero_()
    assert all(a > 1.5 * b for a, b in zip(errors(cut), (narrow, other), strict=True))
    fresh = TOKENS.from_meta(autoencoder.meta())
    fresh.fit_scale(made.data.weights["train"])
    assert min(errors(fresh)) > 1


def _copy(autoencoder):
    """An independent autoencoder with the same numbers."""
    again = resolve(AUTOENCODERS, autoencoder.name, "autoencoder").from_meta(autoencoder.meta())
    again.load_state_dict(autoencoder.state_dict())
    return again.eval()


@torch.no_grad()
def _weights_left(autoencoder, weights):
    """Squared error of decoded weights, relative to that of their mean."""
    flat, rebuilt = (
        autoencoder.spec.flatten(w)
        for w in (weights, autoencoder.decode(autoencoder.encode(weights)))
    )
    return float((rebuilt - flat).square().mean() / (flat - flat.mean(0)).square().mean())


def test_the_autoencoder_of_another_width_is_the_same_autoencoder(fitted):
    world, made = fitted("tokens", "cnn")
    wide = build_net("cnn", world.dataset.shape, 3, WIDE)
    autoencoder = made.autoencoder.at(wide.spec, cases.networks(wide, 20))
    own = dict(made.autoencoder.named_parameters())
    assert all(own[name] is p for name, p in autoencoder.named_parameters())
    with pytest.raises(WeightspaceError, match="other layers"):
        made.autoencoder.at(cases.build("mlp").spec, cases.networks(cases.build("mlp"), 4))


def test_the_views_of_the_contrast_are_permuted_networks(fitted, monkeypatch):
    """Row i of both views is one network, its hidden units in two orders, its outputs unchanged."""
    world, made = fitted("tokens", "cnn")
    autoencoder, read, pairs = _copy(made.autoencoder), [], []
    tokens_of = autoencoder.tokens
    monkeypatch.setattr(autoencoder, "tokens", lambda w: read.append(w) or tokens_of(w))
    monkeypatch.setattr(TOKENS, "nt_xent", lambda a, b, t: pairs.append((a, b)) or nt_xent(a, b, t))
    loss = TOKENS.TokensLoss(autoencoder, world.data, world.params.autoencoder)
    rows = torch.tensor([5, 3, 8, 0])
    parts = loss(rows, "train", torch.Generator().manual_seed(1), None)
    original, permuted = read
    spec, images = world.zoo.spec, world.dataset.images["train"][0]
    assert all(torch.equal(original[k], w[rows]) for k, w in world.data.weights["train"].items())
    with torch.no_grad():
        wanted, found = (world.net.run(w, images) for w in (original, permuted))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    moved = [k for k in spec.names if not torch.equal(original[k], permuted[k])]
    assert moved
    for name in moved:  # the control: a tensor alone, without those that it is coupled to
        with torch.no_grad():
            alone = world.net.run(original | {name: permuted[name]}, images)
        assert (alone - wanted).abs().max() > 0.01
    ((a, b),) = pairs
    one, (part,) = slice(2, 3), loss._parts(torch.Generator().manual_seed(1))
    for row, view in ((a, original), (b, permuted)):
        tokens = tokens_of(take(view, one))[:, part]
        expected = autoencoder.head(autoencoder.encode_tokens(tokens, part).mean(1))
        torch.testing.assert_close(row[one], expected, rtol=1e-4, atol=1e-5)
    weight, temperature = autoencoder.settings.contrast_weight, autoencoder.settings.temperature
    expected = weight * nt_xent(a, b, temperature)
    torch.testing.assert_close(parts["nt_xent"], expected)
    assert (weight * nt_xent(a, b.roll(1, 0), temperature) - expected).abs() > 0.01 * weight


# the fit loop


def _scripted(values, patience, epochs=20):
    """Fit one parameter whose val losses are given; parameter at each validation, and at the end."""
    module, seen, script = nn.Linear(1, 1), [], iter(values)

    def loss(rows, split, generator):
        if split == "val":
            seen.append(module.weight.detach().clone())
            return {"loss": torch.tensor(next(script))}
        return {"loss": module.weight.sum() + 0 * module.bias.sum()}

    settings = FitSettings(
        epochs=epochs, batch_size=4, lr=0.1, weight_decay=0.01, patience=patience
    )
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


def _behind(stale):
    """Fit the second of two layers behind a frozen first one, which holds gradients of that size."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    x = 50 * torch.randn(8, 3)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, stale)
    module[0].requires_grad_(requires_grad=False)

    def loss(rows, split, generator):
        return {"loss": (module(x[rows]) - x[rows].sum(1, keepdim=True)).square().mean()}

    settings = FitSettings(epochs=6, batch_size=2, lr=0.01, weight_decay=0.01, patience=9)
    fit("test", module, loss, {"train": 8, "val": 8}, settings, 0)
    return module


def test_old_gradients_of_frozen_parts_do_not_count_in_the_clipped_norm():
    fresh, after = _behind(0.0), _behind(1e12)
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), after.parameters(), strict=True)
    )
    assert all(p.grad is None for p in after[0].parameters())
    norm = torch.cat([p.grad.flatten() for p in after[1].parameters()]).norm()
    assert float(norm) == pytest.approx(1, abs=1e-4)  # the control: what is fitted is clipped


@pytest.mark.parametrize("empty", ["train", "val"])
def test_nothing_to_madeis_one_line(empty):
    counts = {"train": 3, "val": 3} | {empty: 0}
    with pytest.raises(WeightspaceError, match="nothing to fit"):
        fit("test", nn.Linear(1, 1), None, counts, section("autoencoder"), 0)


def test_every_row_is_visited_once_per_epoch_and_val_draws_repeat():
    rows, draws = [], []
    module = nn.Linear(1, 1)

    def loss(batch, split, generator):
        if split == "val":
            draws.append(float(torch.rand((), generator=generator)))
        else:
            rows.append(batch.tolist())
        return {"loss": module.weight.square().sum() + module.bias.square().sum()}

    settings = FitSettings(epochs=3, batch_size=4, lr=1e-3, weight_decay=0.01, patience=9)
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
    world, made = fitted(name, architecture)
    autoencoder = made.autoencoder
    weights = world.data.weights["val"]
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2]])
    with torch.no_grad():
        found = autoencoder.encode_orders(weights, orders)
        for place, order in enumerate(orders):
            single = autoencoder.encode(reorder_outputs(autoencoder.spec, weights, order))
            near = 2e-3 if autoencoder.name == "functional" else 1e-5  # its products are in bf16
            torch.testing.assert_close(found[:, place], single, atol=near, rtol=near)
    # The head is a small part of a ResNet, and of all features that PCA is fitted to.
    small = isinstance(autoencoder, FeaturePcaAutoencoder) and architecture == "resnet18"
    assert (found[:, 0] - found[:, 1]).abs().max() > (0.005 if small else 0.05)


def test_permutation_augmentation_makes_the_mlp_autoencoder_less_sensitive_to_order(world):
    """Other orders of train members cost less after a fit that has seen other orders.

    The control: the orders that the members have cost more, so it is no better fit in general.
    """
    tiny = world()
    weights, costs = tiny.data.weights["train"], {}
    for augment in (False, True):
        settings = tiny.params.autoencoder.model_copy(
            update={"augment_permutations": augment, "epochs": 30, "lr": 3e-3}
        )
        autoencoder, _ = resolve(AUTOENCODERS, "mlp", "autoencoder").fit(
            tiny.data, settings, tiny.params.autoencoders.mlp, 3
        )
        costs[augment] = torch.tensor(
            [_cost(autoencoder, w) for w in (weights, *_orders(autoencoder.spec, weights))]
        )
    assert (costs[True][1:] < 0.9 * costs[False][1:]).all()
    assert costs[True][0] > 1.1 * costs[False][0]


def _orders(spec, weights):
    """Networks with their hidden units in other orders, three times."""
    return [shuffled(spec, weights, torch.Generator().manual_seed(seed)) for seed in range(3)]


def _cost(autoencoder, weights):
    """What compressing and expanding leaves of the coefficients of networks."""
    scaled = autoencoder.scaled(weights)
    rebuilt = autoencoder.expand(autoencoder.compress(scaled))
    return unexplained(rebuilt - scaled, autoencoder.pca.sizes).item()
