"""Hidden units may be reordered together, and only together."""

import json

import pytest
import torch

from cases import NETS, build, networks
from weightspace.errors import WeightspaceError
from weightspace.weights.spec import Spec, output_orders


def _permutations(spec, rng):
    """Per group an order that moves every unit."""
    out = {}
    for group, size in spec.groups.items():
        order = torch.randperm(size, generator=rng)
        out[group] = torch.empty_like(order).scatter_(0, order, order.roll(1))
    return out


def _images(case, rng):
    shape = NETS[case][2]
    return torch.randn(20, *shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("case", NETS)
def test_coupled_permutation_keeps_outputs(case, rng):
    net = build(case)
    weights, images = networks(net, 3, dtype=torch.float64), _images(case, rng)
    order = _permutations(net.spec, rng)
    permuted = net.spec.permute(weights, order)
    moved = {t.name for t in net.spec.tensors if any(t.axes)}
    assert moved == {k for k in weights if not torch.equal(permuted[k], weights[k])}
    found, expected = net.outputs(permuted, images), net.outputs(weights, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", NETS)
def test_permutation_and_its_inverse_are_identity(case, rng):
    net = build(case)
    weights, order = networks(net, 2), _permutations(net.spec, rng)
    back = {group: p.argsort() for group, p in order.items()}
    again = net.spec.permute(net.spec.permute(weights, order), back)
    assert all(torch.equal(again[k], weights[k]) for k in weights)


@pytest.mark.parametrize("case", NETS)
def test_uncoupled_permutation_changes_outputs(case, rng):
    net = build(case)
    weights, images = networks(net, 3, dtype=torch.float64), _images(case, rng)
    permuted = net.spec.permute(weights, _permutations(net.spec, rng))
    before = net.outputs(weights, images)
    for tensor in net.spec.tensors:
        if any(tensor.axes):
            after = net.outputs(weights | {tensor.name: permuted[tensor.name]}, images)
            assert (after - before).abs().max() > 1e-6, tensor.name


@pytest.mark.parametrize("case", NETS)
def test_spec_lists_the_modules_tensors(case):
    net = build(case)
    found = {t.name: t.shape for t in net.spec.tensors}
    assert found == {k: tuple(v.shape) for k, v in net.module.state_dict().items()}
    assert list(found) == list(net.module.state_dict())
    assert set(net.spec.head) < set(found)


@pytest.mark.parametrize("case", NETS)
def test_flatten_and_unflatten_are_inverse(case):
    net = build(case)
    weights = networks(net, 4)
    flat = net.spec.flatten(weights)
    assert flat.shape == (4, net.spec.numel)
    first = net.spec.tensors[0]
    assert torch.equal(flat[:, : first.numel], weights[first.name].flatten(1))
    back = net.spec.unflatten(flat)
    assert all(torch.equal(back[k], weights[k]) for k in weights)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda w: w.pop("head.bias"), "head.bias"),
        (lambda w: w.update(surplus=torch.zeros(2, 1)), "surplus"),
        (lambda w: w.update({"head.bias": torch.zeros(2, 9)}), "head.bias"),
        (lambda w: w.update({"head.weight": w["head.weight"][:1]}), "head.weight"),
        (lambda w: w.update({"convs.1.weight": w["convs.1.weight"].mT[..., :2]}), "convs.1.weight"),
    ],
)
def test_check_names_the_tensor(change, name):
    net = build("cnn")
    weights = networks(net, 2)
    assert net.spec.check(weights) == 2
    change(weights)
    with pytest.raises(WeightspaceError, match=name) as error:
        net.spec.check(weights, "file.safetensors")
    assert "file.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", NETS)
def test_json_round_trip_keeps_the_fingerprint(case):
    spec = build(case).spec
    again = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


def test_fingerprints_tell_architectures_apart():
    specs = [build(case).spec for case in NETS]
    assert len({s.fingerprint for s in specs}) == len(NETS)
    first = specs[0].to_json()
    first["tensors"][0]["axes"] = [None] * 4  # the same tensors, other groups
    assert Spec.from_json(first).fingerprint != specs[0].fingerprint


@pytest.mark.parametrize("case", NETS)
def test_batched_outputs_equal_single_ones(case, rng):
    net = build(case)
    weights = networks(net, 3)
    own = torch.randn(3, 5, *NETS[case][2], generator=rng)
    one = [net.forward({k: w[i] for k, w in weights.items()}, own[i]) for i in range(3)]
    torch.testing.assert_close(net.outputs(weights, own), torch.stack(one))
    assert one[0].shape == (5, NETS[case][3])


@pytest.mark.parametrize("classes", [2, 5, 6, 10])
def test_orders_of_the_outputs_are_distinct_and_bearable(classes):
    orders = output_orders(classes)
    assert torch.equal(orders.sort(1).values, torch.arange(classes).expand_as(orders))
    assert len(orders.unique(dim=0)) == len(orders) <= 120
    assert torch.equal(orders[0], torch.arange(classes))
    assert torch.equal(orders, output_orders(classes))
