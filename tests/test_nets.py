"""Buffers, batch normalisation and ResNet-18 against PyTorch's own and torchvision's layout."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from cases import NETS, WORLDS, build, networks, section
from fake_device import fake_device
from weightspace.nets import NETS as ARCHITECTURES
from weightspace.nets._batch_norm import BatchNorm
from weightspace.nets._chain import Residual, _forward
from weightspace.nets._layers import (
    Conv3x3,
    Function,
    GlobalMean,
    Linear,
    MaxPool,
    Normalise,
    NormaliseByReferences,
    PatchConv,
    Relu,
    ReluPool,
    SquarePool,
)
from weightspace.nets.base import Batched, build_net, net_from_meta
from weightspace.params import Resnet18Settings
from weightspace.weights.pca import fit_pca
from weightspace.weights.spec import EPSILON, stack, take, to_device

NORMED = [case for case in NETS if "batch-norm" in case or "resnet18" in case]


def _with_torch_norms(module, **keys):
    """Copy of a module with PyTorch's own batch normalisation in place of ours."""
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BatchNorm):
            parent, _, child = name.rpartition(".")
            theirs = nn.BatchNorm2d(len(layer.weight), **keys, dtype=layer.weight.dtype)
            setattr(module.get_submodule(parent), child, theirs)
    return module


@pytest.mark.parametrize("case", NORMED)
def test_batch_norm_is_pytorchs(case, rng):
    net = build(case)
    own = take(networks(net, 1), 0)
    theirs = _with_torch_norms(net.module).eval()
    theirs.load_state_dict(own, strict=True)
    ours = copy.deepcopy(net.module).eval()
    ours.load_state_dict(own, strict=True)
    images = torch.randn(9, *NETS[case][2], generator=rng)
    torch.testing.assert_close(ours(images), theirs(images))
    assert torch.equal(theirs.train()(images), ours.train()(images))
    counters = {k for k in theirs.state_dict() if k.endswith("num_batches_tracked")}
    assert len(counters) == sum(t.role == "variance" for t in net.spec.tensors) > 0
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name
    assert set(theirs.state_dict()) - set(ours.state_dict()) == counters


def test_resnet18_has_torchvisions_layout():
    net = build_net("resnet18", (3, 224, 224), 1000, section("nets").resnet18)
    shapes = {t.name: t.shape for t in net.spec.tensors}
    assert net.spec.parameters.numel == 11_689_512  # as torchvision documents
    assert len(shapes) == 62 + 40  # parameters, running means and variances
    assert list(shapes)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    known = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    }
    assert {name: shapes[name] for name in known} == known
    assert not [n for n in shapes if n.startswith("layer1") and "downsample" in n]


def test_stems_shrink_images_as_documented(rng):
    sizes = {}
    for stem in ("torchvision", "small"):
        settings = Resnet18Settings(width=1, stem=stem)
        net = build_net("resnet18", (1, 64, 64), 2, settings)
        net.module.layer1.register_forward_hook(
            lambda _, inputs, __, stem=stem: sizes.update({stem: inputs[0].shape[-1]})
        )
        net.forward(net.init(rng), torch.zeros(1, 1, 64, 64))
    assert sizes == {"torchvision": 16, "small": 64}


@pytest.mark.parametrize("case", NORMED)
def test_outputs_use_the_running_statistics_and_leave_them(case, rng):
    net = build(case)
    weights, images = networks(net, 3), torch.randn(8, *NETS[case][2], generator=rng)
    before = {k: w.clone() for k, w in weights.items()}
    whole = net.outputs(weights, images)
    torch.testing.assert_close(net.outputs(weights, images[:2]), whole[:, :2])  # not the batch's
    assert all(torch.equal(weights[k], w) for k, w in before.items())
    trained = net.training_outputs(weights, images)
    assert (trained - whole).abs().max() > 1e-2
    for t in net.spec.tensors:
        assert torch.equal(weights[t.name], before[t.name]) == (t.role == "parameter"), t.name


@pytest.mark.parametrize("case", NORMED)
def test_reestimated_statistics_are_those_of_the_images(case, rng):
    net = build(case)
    weights = networks(net, 3, dtype=torch.float64)
    images = torch.randn(3, 12, *NETS[case][2], generator=rng, dtype=torch.float64)
    found = net.reestimate(weights, images)
    for i in range(3):
        theirs = _with_torch_norms(net.module.double(), momentum=None).train()  # plain average
        theirs.load_state_dict({k: w[i] for k, w in weights.items()})
        for layer in theirs.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
        with torch.no_grad():
            theirs(images[i])
        for name, w in found.items():
            torch.testing.assert_close(w[i], theirs.state_dict()[name])
    assert all(
        torch.equal(w, weights[t.name]) == (t.role == "parameter")
        for t, w in zip(net.spec.tensors, found.values(), strict=True)
    )


@pytest.mark.parametrize("case", NORMED)
def test_statistics_of_references_are_measured_with_their_gradient(case, rng):
    """Batched networks against vmap of the module, and against networks that carry the statistics."""
    net = build(case)
    net.module.double()
    shape, learned = NETS[case][2], net.spec.parameters.names
    weights = networks(net, 3, dtype=torch.float64)
    leaves = {k: w.requires_grad_(k in learned) for k, w in weights.items()}
    images, references = (
        torch.randn(*n, *shape, generator=rng, dtype=torch.float64) for n in ((3, 5), (4,))
    )
    outputs = net.outputs_by_references(leaves, images, references)
    plain = net.outputs(net.with_statistics(leaves, references), images)
    torch.testing.assert_close(outputs, plain)
    assert not torch.allclose(outputs, net.outputs(leaves, images))  # their statistics differ
    slope = torch.randn(outputs.shape, generator=rng, dtype=torch.float64)
    net._mode(training=True, references=len(references))
    copies = {k: w if k in learned else w.detach().clone() for k, w in leaves.items()}
    mapped = vmap(lambda w, x: net._call(w, torch.cat([x, references]))[: len(x)])(copies, images)
    torch.testing.assert_close(outputs, mapped)
    parts = [leaves[name] for name in learned]
    through, expected, fixed = (
        torch.autograd.grad((y * slope).sum(), parts) for y in (outputs, mapped, plain)
    )
    for one, other in zip(through, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(through[0], fixed[0])  # the control: statistics held still


def test_reestimation_leaves_networks_without_buffers(rng):
    net = build("cnn")
    weights = networks(net, 2)
    found = net.reestimate(weights, torch.randn(6, *NETS["cnn"][2], generator=rng))
    assert all(torch.equal(found[k], w) for k, w in weights.items())


def test_unconstrained_coordinates_reach_every_variance_and_no_other():
    net = build("cnn-batch-norm")
    weights = networks(net, 40)
    back = net.spec.constrain(net.spec.unconstrain(weights))
    for name, w in weights.items():
        torch.testing.assert_close(back[name], w)
    free = {k: 30 * torch.randn_like(w) for k, w in weights.items()}
    bound = net.spec.constrain(free)
    for t in net.spec.tensors:
        assert torch.equal(bound[t.name], free[t.name]) == (t.role != "variance")
        assert t.role != "variance" or (bound[t.name] >= 0).all()
    dead = dict(weights) | {"norms.0.running_var": torch.zeros(40, 3)}
    again = net.spec.constrain(net.spec.unconstrain(dead))["norms.0.running_var"]
    assert again.abs().max() < 1e-3 * EPSILON


def test_pca_keeps_buffers_and_never_decodes_a_negative_variance(rng):
    net = build("cnn-batch-norm")
    weights = stack([take(networks(net, 1, seed=i), 0) for i in range(30)])
    pca = fit_pca(net.spec, weights, section("pca", components=50, identity_below=3))
    for name, w in pca.inverse(pca(weights)).items():
        torch.testing.assert_close(w, weights[name], rtol=1e-4, atol=1e-4)
    wild = pca.inverse(20 * torch.randn(50, pca.features, generator=rng))
    for t in net.spec.tensors:
        assert t.role != "variance" or (wild[t.name] >= 0).all()
    assert net.outputs(wild, torch.randn(4, 1, 8, 8, generator=rng)).isfinite().all()
    assert (wild["convs.0.weight"] < 0).any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("case", [c for c in NETS if isinstance(build(c).module, Batched)])
def test_batched_forward_equals_vmap_of_the_module(case, own, training, rng):
    net = build(case)
    images = torch.randn(*((3,) if own else ()), 7, *NETS[case][2], generator=rng).double()
    images.requires_grad_()
    net.module.train(training)
    found, expected = (networks(net, 3, dtype=torch.float64) for _ in range(2))
    grads = []
    for weights, call in (
        (found, lambda w, x: net.module.batched(w, x).outputs().mT),
        (expected, _vmapped(net)),
    ):
        leaves = [
            weights[t.name].requires_grad_()
            for t in net.spec.tensors
            if t.role == "parameter" or not training
        ] + [images]
        out = call(weights, images)
        assert out.shape == (3, 7, NETS[case][3])
        grads.append([out, *torch.autograd.grad(out.sin().sum(), leaves), *weights.values()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("case", NETS)
def test_gradient_of_training_equals_that_of_autograd(case, own, rng):
    net = build(case)
    images = torch.randn(*((3,) if own else ()), 7, *NETS[case][2], generator=rng).double()
    found, expected = (networks(net, 3, dtype=torch.float64) for _ in range(2))
    leaves = {name: expected[name].requires_grad_() for name in net.spec.parameters.names}
    net.module.train()
    loss = _vmapped(net)(expected, images).sin().sum()
    grads = torch.autograd.grad(loss, tuple(leaves.values()))
    got = net.gradient(found, images, torch.cos)
    assert set(got) == set(leaves)
    for name, g in zip(leaves, grads, strict=True):
        assert got[name].abs().max() > 0
        torch.testing.assert_close(got[name], g, rtol=1e-9, atol=1e-11)
    for name in set(net.spec.names) - set(leaves):  # running statistics
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["resnet18", "resnet18-small", "resnet18-small-odd"])
def test_a_step_of_training_saves_no_more_than_what_layers_return(case, rng):
    net = build(case)
    images = torch.randn(3, 7, *NETS[case][2], generator=rng)
    net.module.train()
    chain = net.module.batched(networks(net, 3), images)
    most = net.activations * 3 * 7
    assert 0.9 * most < _saved(chain.layers, chain) < 1.1 * most
    assert _saved([_without_recomputing(layer) for layer in chain.layers], chain) > 1.5 * most


def _saved(layers, chain):
    """Numbers that a forward pass keeps for the gradient, weights left out."""
    _, saved = _forward(layers, chain.x, chain.weights)
    kept = {t.data_ptr(): t.untyped_storage().nbytes() // t.itemsize for t in _tensors(saved)}
    weights = {w.data_ptr() for w in chain.weights.values()}
    return sum(count for pointer, count in kept.items() if pointer not in weights)


def _without_recomputing(layer):
    """The same layer, which saves its patches."""
    if isinstance(layer, Residual):
        return Residual(
            *([_without_recomputing(x) for x in y] for y in (layer.body, layer.shortcut))
        )
    return replace(layer, recompute=False) if hasattr(layer, "recompute") else layer


@pytest.mark.parametrize("case", ["cnn-batch-norm", "resnet18", "resnet18-small"])
def test_float32_is_near_float64(case, rng):
    net = build(case)
    images = torch.randn(3, 7, *NETS[case][2], generator=rng)
    exact = {name: w.double() for name, w in networks(net, 3).items()}
    gradients = net.gradient(networks(net, 3), images, torch.cos)
    for name, g in net.gradient(exact, images.double(), torch.cos).items():
        assert (gradients[name] - g).abs().max() < 1e-3 * g.abs().max(), name


@pytest.mark.parametrize("case", ["cnn-batch-norm", "mlp", "resnet18-small"])
def test_gradients_of_bf16_activations_are_as_near_as_those_of_autocast(case, rng):
    net = build(case)
    images = torch.randn(3, 40, *NETS[case][2], generator=rng)
    whole, half, cast = (networks(net, 3) for _ in range(3))
    learned = net.spec.parameters
    exact = learned.flatten(net.gradient(whole, images, torch.cos))
    gradient = net.gradient(half, images.bfloat16(), torch.cos)
    assert {g.dtype for g in gradient.values()} == {torch.float32}
    leaves = [cast[name].requires_grad_() for name in learned.names]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [functional_call(net.module, take(cast, i), (images[i],)) for i in range(3)]
    loss = torch.stack(outputs).float().sin().sum()
    by_autocast = dict(zip(learned.names, torch.autograd.grad(loss, leaves), strict=True))
    lost, usual = (
        1 - torch.cosine_similarity(learned.flatten(g), exact).mean()
        for g in (gradient, by_autocast)
    )
    assert 0 < lost < 4 * usual < 0.2  # at most twice the angle
    assert 1 - torch.cosine_similarity(exact, exact.roll(1, 0)).mean() > 0.2  # the control
    for name, w in half.items():  # running statistics
        torch.testing.assert_close(w, whole[name], rtol=0.05, atol=0.05)
    outputs = net.outputs(whole, images.bfloat16())
    torch.testing.assert_close(outputs, net.outputs(whole, images), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("case", ["cnn-batch-norm", "mlp", "resnet18", "resnet18-small"])
def test_networks_run_and_train_on_the_device_as_on_the_cpu(case, rng):
    net = build(case)
    images = torch.randn(3, 7, *NETS[case][2], generator=rng)

    def results(device):
        weights = to_device(networks(net, 3), device)
        learned = {name: w.clone().requires_grad_() for name, w in weights.items()}
        x = images.to(device)
        outputs = net.outputs(learned, x)
        by_weight = torch.autograd.grad(outputs.square().sum(), list(learned.values()))
        by_loss = net.gradient(weights, x, torch.cos)
        yield from (outputs, *by_weight, *by_loss.values(), *weights.values())
        yield net.training_outputs(weights, x)
        yield from net.reestimate(weights, x).values()

    with fake_device() as device:
        on_device = list(results(device))
        assert all(x.device == device for x in on_device)
        copies = [x.detach().cpu() for x in on_device]
    for a, b in zip(copies, list(results(torch.device("cpu"))), strict=True):
        torch.testing.assert_close(a, b.detach())


def test_a_chain_runs_backward_once():
    net = build("cnn")
    weights = {k: w.requires_grad_() for k, w in networks(net, 2).items()}
    out = net.outputs(weights, torch.ones(3, 1, 8, 8)).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="runs backward once"):
        out.backward()


def _vmapped(net):
    """Outputs of many networks by vmap of the plain module."""

    def call(weights, images):
        own = 0 if images.ndim == 5 else None
        one = lambda w, x: functional_call(net.module, w, (x,), strict=True)  # noqa: E731
        return vmap(one, in_dims=(0, own))(weights, images)

    return call


def test_every_architecture_has_a_case_and_a_world():
    assert {architecture for architecture, *_ in NETS.values()} == set(ARCHITECTURES)
    assert {architecture for architecture, _ in WORLDS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", NETS)
def test_a_net_is_rebuilt_from_what_its_files_carry(case):
    net = build(case)
    again = net_from_meta(json.loads(json.dumps(net.meta)))
    assert (again.spec, again.meta) == (net.spec, net.meta)
    others = {net_from_meta(build(other).meta).spec.fingerprint for other in NETS if other != case}
    assert again.spec.fingerprint not in others


def test_batch_normalisation_takes_the_place_of_a_bias():
    plain, normed = (build(case).spec for case in ("cnn", "cnn-batch-norm"))
    removed, added = set(plain.names) - set(normed.names), set(normed.names) - set(plain.names)
    assert removed == {"convs.0.bias", "convs.1.bias"}
    assert {name.split(".")[0] for name in added} == {"norms"}
    assert plain.groups == normed.groups


LAYERS = {  # name -> layer of 4x6 images, shapes of its weights, whether its input is overwritten
    "linear": (Linear("w", "b"), {"w": (3, 5, 2), "b": (3, 5)}, False),
    "conv": (Conv3x3("w", "b", h=4, w=6), {"w": (3, 5, 2, 3, 3), "b": (3, 5)}, False),
    "patches": (
        PatchConv("w", "b", h=4, w=6, size=7, stride=2),
        {"w": (3, 5, 2, 7, 7), "b": (3, 5)},
        False,
    ),
    "relu": (Relu(), {}, True),
    "pool": (ReluPool(4, 6), {}, True),
    "max pool": (MaxPool(4, 6), {}, False),
    "squares": (SquarePool(4, 6, 2), {}, False),
    "squares, some left over": (SquarePool(4, 6, 3), {}, False),
    "function": (Function(torch.tanh), {}, False),
    "patches without a border": (
        PatchConv("w", "b", h=4, w=6, size=2, stride=1, border=0),
        {"w": (3, 5, 2, 2, 2), "b": (3, 5)},
        False,
    ),
    "patches with a wide border": (
        PatchConv("w", "b", h=4, w=6, size=3, stride=2, border=2),
        {"w": (3, 5, 2, 3, 3), "b": (3, 5)},
        False,
    ),
    "mean": (GlobalMean(24), {}, False),
    "normalise": (
        Normalise(torch.zeros(3, 2), torch.ones(3, 2), ("w", "b")),
        {"w": (3, 2), "b": (3, 2)},
        True,
    ),
    "references": (
        NormaliseByReferences(torch.zeros(3, 2), torch.ones(3, 2), ("w", "b"), 4, 3),
        {"w": (3, 2), "b": (3, 2)},
        True,
    ),
    "residual": (
        Residual([Linear("w"), Relu(), Linear("v")]),
        {"w": (3, 5, 2), "v": (3, 2, 5)},
        False,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_overwrites_what_it_says_and_its_gradient_nothing(name, rng):
    layer, shapes, overwrites = LAYERS[name]
    weights = {key: torch.randn(shape, generator=rng) for key, shape in shapes.items()}
    x = torch.randn(3, 2, 4 * 6 * 7, generator=rng)
    before = x.clone()
    out, saved = layer.forward(x, weights)
    assert torch.equal(x, before) != overwrites
    assert ("overwrites its input" in layer.__doc__.lower()) == overwrites
    grad, tensors = torch.randn(out.shape, generator=rng), _tensors(saved)
    copies = [t.clone() for t in (grad, *tensors)]
    by_x, gradients = layer.backward(grad, saved, needs_input_grad=True)
    assert all(torch.equal(a, b) for a, b in zip((grad, *tensors), copies, strict=True))
    assert by_x.shape == x.shape
    assert {key: g.shape for key, g in gradients.items()} == shapes
    assert set(layer.names) == set(shapes)


def _tensors(saved):
    """All tensors in what layers saved."""
    if isinstance(saved, torch.Tensor):
        return [saved]
    return [t for part in saved for t in _tensors(part)]


def test_of_equal_pixels_the_first_gets_the_whole_gradient():
    pool = SquarePool(2, 4, 2)
    out, saved = pool.forward(torch.zeros(1, 1, 8), {})
    by_x, _ = pool.backward(torch.tensor([[[3.0, 5.0]]]), saved, needs_input_grad=True)
    assert out.tolist() == [[[0.0, 0.0]]]
    assert by_x.tolist() == [[[3.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]]]
