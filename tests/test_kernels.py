"""Layers of a GPU by kernels that PyTorch stands in for: the same networks, gradients and statistics.

The kernels themselves are compared with float64 by `benchmarks/gpu.py --kernels`, on a GPU or with Triton's
interpreter; Triton is not among the dependencies.
"""

import importlib
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from weightspace.nets import _layers, base
from weightspace.nets._patches import strided
from weightspace.nets.base import build_net
from weightspace.params import CnnSettings, Resnet18Settings
from weightspace.weights.spec import EPSILON, stack

NETS = {
    "cnn": ("cnn", (1, 8, 8), CnnSettings(channels=(8, 9), batch_norm=False)),
    "cnn with batch norm": ("cnn", (2, 9, 8), CnnSettings(channels=(8, 9), batch_norm=True)),
    "resnet18": ("resnet18", (1, 9, 8), Resnet18Settings(width=2, stem="small")),
    "resnet18, large": ("resnet18", (3, 17, 16), Resnet18Settings(width=2, stem="torchvision")),
}


class Sizes:
    def __init__(self, image, size, stride, rough=False):
        self.image, self.size, self.stride, self.rough = image, size, stride, rough

    @property
    def result(self):
        return strided(self.image[0], self.stride), strided(self.image[1], self.stride)


def images(x, size):
    """``(C, H W B)`` to ``(B, C, H, W)``."""
    return x.unflatten(1, (*size, -1)).permute(3, 0, 1, 2)


def flat(x):
    return x.permute(1, 2, 3, 0).flatten(1)


def kernel(weight, size):
    """``(taps, O, I)`` to ``(O, I, size, size)``."""
    return weight.permute(1, 2, 0).unflatten(2, (size, size))


def convolve(x, weight, bias, sizes, *, transposed=False):
    out = []
    for i in range(len(x)):
        w, padding = kernel(weight[i], sizes.size), sizes.size // 2
        if transposed:
            shape = len(images(x[i], sizes.result)), w.shape[0], *sizes.image
            y = torch.nn.grad.conv2d_input(
                shape, w.transpose(0, 1), images(x[i], sizes.result), sizes.stride, padding
            )
        else:
            b = None if bias is None else bias[i].to(x.dtype)
            y = F.conv2d(images(x[i], sizes.image), w, b, sizes.stride, padding)
        out.append(flat(y))
    return torch.stack(out)


def correlate(x, grad, sizes):
    shape = grad.shape[1], x.shape[1], sizes.size, sizes.size
    pairs = (
        (images(a, sizes.image), images(g, sizes.result)) for a, g in zip(x, grad, strict=True)
    )
    by = [
        torch.nn.grad.conv2d_weight(a, shape, g, sizes.stride, sizes.size // 2).flatten(2)
        for a, g in pairs
    ]
    return torch.stack(by).permute(0, 3, 1, 2)


def affine(x, weight, bias, rectified):
    variance, mean = torch.var_mean(x, -1, correction=0)
    inverse = (variance + EPSILON).rsqrt()
    y = (x - mean[..., None]) * (weight * inverse)[..., None] + bias[..., None]
    return y.relu() if rectified else y, torch.stack([mean, inverse, variance])


def normalise(x, weight, bias, *, rectified):
    return affine(x, weight, bias, rectified)


def normalise_backward(x, grad, weight, bias, statistics, *, rectified):
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    with torch.enable_grad():
        y, _ = affine(*inputs, rectified)
    return torch.autograd.grad(y, inputs, grad)


@pytest.fixture
def kernels(monkeypatch):
    """Both forms of the layers: sets which; the module of the kernels is PyTorch's functions."""
    stand_in = ModuleType("weightspace.nets._kernels")
    for part in (Sizes, convolve, correlate, normalise, normalise_backward):
        setattr(stand_in, part.__name__, part)
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr(
        importlib.import_module("weightspace.nets"), "_kernels", stand_in, raising=False
    )
    monkeypatch.delitem(sys.modules, "weightspace.nets._gpu", raising=False)

    def choose(yes):
        for module in (_layers, base):
            monkeypatch.setattr(module, "has_kernels", lambda _: yes)
        return stand_in

    yield choose
    sys.modules.pop("weightspace.nets._gpu", None)


def computed(name):
    """All that a net computes, in float64: names to tensors."""
    architecture, shape, settings = NETS[name]
    net = build_net(architecture, shape, 3, settings)
    rng = torch.Generator().manual_seed(0)
    weights = {k: w.double() for k, w in stack([net.init(rng) for _ in range(2)]).items()}
    x, probes = (torch.randn(n, *shape, generator=rng).double() for n in (5, 4))
    mine = torch.randn(2, 5, *shape, generator=rng).double()
    out = {"outputs": net.outputs(weights, x), "on images of each": net.outputs(weights, mine)}
    trained = {k: w.clone() for k, w in weights.items()}
    out |= net.gradient(trained, mine, torch.ones_like)
    out |= {f"after a step: {k}": w for k, w in trained.items()}
    out |= {f"measured: {k}": w for k, w in net.with_statistics(weights, probes).items()}
    free = {k: w.clone().requires_grad_() for k, w in weights.items()}
    loss = net.outputs_by_references(free, mine, probes).square().sum()
    learned = {k: w for k, w in free.items() if k in net.spec.parameters.names}
    gradients = torch.autograd.grad(loss, list(learned.values()))
    return out | {f"by references: {k}": g for k, g in zip(learned, gradients, strict=True)}


def far(a, b):
    return [k for k in a if not torch.allclose(a[k], b[k], rtol=1e-9, atol=1e-10)]


@pytest.mark.parametrize("name", NETS)
def test_layers_of_a_gpu_compute_what_those_of_the_cpu_do(kernels, name):
    kernels(False)
    plain = computed(name)
    kernels(True)
    assert far(plain, computed(name)) == []
    assert "weightspace.nets._gpu" in sys.modules


def test_a_kernel_that_forgets_the_rectifier_is_noticed(kernels, monkeypatch):
    kernels(False)
    plain = computed("resnet18")
    stand_in = kernels(True)
    monkeypatch.setattr(stand_in, "normalise", lambda *t, rectified: affine(*t, False))
    assert far(plain, computed("resnet18"))


def test_images_are_filled_up_for_the_kernels_and_the_rest_is_cut_off(kernels, monkeypatch):
    stand_in = kernels(True)
    seen, plain = [], convolve
    monkeypatch.setattr(
        stand_in, "convolve", lambda x, w, b, s: seen.append(x.shape[2]) or plain(x, w, b, s)
    )
    architecture, shape, settings = NETS["cnn"]
    net = build_net(architecture, shape, 3, settings)
    weights = stack([net.init(torch.Generator().manual_seed(0))])
    assert net.outputs(weights, torch.zeros(17, *shape)).shape == (1, 17, 3)
    assert seen == [4 * 4 * 32]


def test_products_are_rough_in_fits_and_precise_where_networks_are_trained_or_measured(
    kernels, monkeypatch
):
    stand_in = kernels(True)
    rough, plain = [], convolve
    monkeypatch.setattr(
        stand_in,
        "convolve",
        lambda x, w, b, s, **k: rough.append(s.rough) or plain(x, w, b, s, **k),
    )
    architecture, shape, settings = NETS["resnet18"]
    net = build_net(architecture, shape, 3, settings)
    weights = stack([net.init(torch.Generator().manual_seed(0))])
    images = torch.zeros(1, 16, *shape)
    net.run(weights, images)
    net.gradient(weights, images, torch.ones_like)
    assert set(rough) == {False}
    rough.clear()
    moving = {name: w.clone().requires_grad_() for name, w in weights.items()}
    net.outputs(moving, images).sum().backward()
    assert set(rough) == {True}
    with torch.no_grad():
        rough.clear()
        net.outputs(moving, images)
    assert set(rough) == {False}
