"""The pretended GPU refuses what a GPU refuses, and takes what it takes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_device import DeviceTensor, fake_device

MIXED = "on the same device"
NUMPY = "can't convert cuda:0 device type tensor to numpy"


@pytest.fixture(autouse=True)
def device():
    with fake_device() as where:
        yield where


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assign(x, index, value):
    x[index] = value
    return x


# name -> function of x (3, 3) on the device, the same y and integers i (3,) on another
MIXTURES = {
    "add": lambda x, y, i: x + y,
    "add from the left": lambda x, y, i: y + x,
    "add in place": lambda x, y, i: x.clone().add_(y),
    "add in place on the other": lambda x, y, i: y.clone().add_(x),
    "out": lambda x, y, i: torch.add(x, x, out=torch.empty_like(y)),
    "product": lambda x, y, i: x @ y,
    "linear": lambda x, y, i: F.linear(x, x, y[0]),
    "batched product": lambda x, y, i: torch.bmm(x[None], y[None]),
    "conv": lambda x, y, i: F.conv2d(x[None, None], y[None, None]),
    "einsum": lambda x, y, i: torch.einsum("ij,jk->ik", x, y),
    "cat": lambda x, y, i: torch.cat([x, y]),
    "stack": lambda x, y, i: torch.stack((x, y)),
    "where": lambda x, y, i: torch.where(x > 0, x, y),
    "where, condition": lambda x, y, i: torch.where(y > 0, x, x),
    "gather": lambda x, y, i: x.gather(0, i[None]),
    "scatter": lambda x, y, i: x.scatter_add(0, i[None], x),
    "index_select": lambda x, y, i: x.index_select(0, i),
    "searchsorted": lambda x, y, i: torch.searchsorted(x[0].sort().values, y[0]),
    "cross entropy": lambda x, y, i: F.cross_entropy(x, i),
    "lerp": lambda x, y, i: x.lerp(y, 0.5),
    "addcmul": lambda x, y, i: x.addcmul(x, y),
    "cdist": lambda x, y, i: torch.cdist(x, y),
    "values of an index": lambda x, y, i: assign(x.clone(), i, y),
    "masked fill, mask": lambda x, y, i: x.masked_fill(y > 0, 1.0),
    "quantile": lambda x, y, i: x.quantile(y[0].abs().clamp(0, 1)),
    "bincount, weights": lambda x, y, i: torch.bincount(i, weights=x[0]),
    "vmap": lambda x, y, i: torch.vmap(torch.add)(x, y),
    "functional_call": lambda x, y, i: torch.func.functional_call(
        nn.Linear(3, 3), {"weight": x, "bias": y[0]}, (x,)
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_operands_of_two_devices_are_refused_and_of_one_are_not(name, device):
    x, i = numbers(3, 3), torch.tensor([2, 0, 1])
    on_cpu = MIXTURES[name](x, x, i)
    on_device = MIXTURES[name](x.to(device), x.to(device), i.to(device))
    assert on_device.device == device
    assert torch.equal(on_device.cpu(), on_cpu)
    with pytest.raises(RuntimeError, match=MIXED):
        MIXTURES[name](x.to(device), x, i)


@pytest.mark.parametrize(
    "index",
    [[2, 0], np.array([2, 0]), (slice(None), [1, 1]), ([0, 2], [1, 1]), [True, False, True]],
    ids=str,
)
def test_lists_are_indices_too(index, device):
    x = numbers(3, 3)
    assert torch.equal(x.to(device)[index].cpu(), x[index])
    assert torch.equal(assign(x.to(device), index, 0.0).cpu(), assign(x.clone(), index, 0.0))


@pytest.mark.parametrize("index", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_indices_may_be_on_the_cpu_but_what_they_index_may_not(index, device):
    x = numbers(3, 3)
    for where in (index, index.to(device)):
        assert torch.equal(x.to(device)[where].cpu(), x[index])
        assert torch.equal(assign(x.to(device), where, 0.0).cpu(), assign(x.clone(), index, 0.0))
    with pytest.raises(RuntimeError, match="indices should be either on cpu"):
        x[index.to(device)]


def test_numbers_without_dimensions_may_be_on_the_cpu_where_entries_are_computed(device):
    x, number = numbers(3, 3).to(device), torch.tensor(2.0)
    results = x * number, number - x, x.masked_fill(x > 0, number), torch.where(x > 0, x, number)
    assert all(y.device == device for y in results)
    with pytest.raises(RuntimeError, match=MIXED):
        torch.stack([x[0, 0], number])
    with pytest.raises(RuntimeError, match=MIXED):
        number.add_(x[0, 0])
    with pytest.raises(RuntimeError, match=MIXED):
        numbers(3) * x[0, 0]


def test_copies_go_both_ways_and_leave_the_original(device):
    x = numbers(2, 2)
    y = x.to(device)
    back = y.cpu()
    assert (y.device, back.device, type(back)) == (device, x.device, torch.Tensor)
    back.zero_()
    x.copy_(y)
    assert y.cpu().any()
    y.copy_(back)
    assert not y.cpu().any()
    assert y.to(device) is y
    assert y.to(x).device == x.device
    assert x.to(y).device == device
    assert y.to(device, torch.float64).dtype == y.double().dtype == torch.float64


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, lambda x: np.linalg.norm(x)])
def test_numpy_reads_only_the_cpu(read, device):
    x = numbers(2)
    read(x)
    read(x.to(device).cpu())
    with pytest.raises(TypeError, match=NUMPY):
        read(x.to(device))
    assert torch.from_numpy(np.ones(2)).device.type == "cpu"


@pytest.mark.parametrize(
    "draw",
    [
        lambda device, rng: torch.randn(2, generator=rng, device=device),
        lambda device, rng: torch.rand(2, generator=rng, device=device),
        lambda device, rng: torch.randint(9, (2,), generator=rng, device=device),
        lambda device, rng: torch.randperm(9, generator=rng, device=device),
        lambda device, rng: torch.zeros(2, device=device).normal_(generator=rng),
        lambda device, rng: torch.multinomial(torch.ones(3, device=device), 2, generator=rng),
    ],
)
def test_cpu_generators_draw_on_the_cpu(draw, device):
    rng = torch.Generator().manual_seed(0)
    assert draw("cpu", rng).device.type == "cpu"
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        draw(device, rng)


def test_factories_make_tensors_where_they_are_told(device):
    x = numbers(2).to(device)
    made = [
        torch.zeros(2, device="cuda"),
        torch.arange(3, device=device),
        torch.tensor([1, 2], device=x.device),
        torch.as_tensor([1.0], device="cuda:0"),
        torch.eye(2, device=device),
        torch.zeros_like(x),
        x.new_ones(3),
        x.new_tensor([[1.0], [2.0]]),
        F.one_hot(torch.arange(2, device=device)),
    ]
    assert all(y.device == device for y in made)
    on_cpu = torch.zeros(2), torch.arange(3), torch.zeros_like(x, device="cpu"), torch.tensor([1])
    assert all(y.device.type == "cpu" for y in on_cpu)


def test_matrix_products_of_integers_are_refused(device):
    i = torch.ones(2, 2, dtype=torch.int64)
    assert (i @ i).sum() == 8
    with pytest.raises(RuntimeError, match="not implemented"):
        i.to(device) @ i.to(device)


def test_views_and_what_is_derived_stay_on_the_device(device):
    x = numbers(4, 4).to(device)
    derived = x[1:], x.T, x.detach(), x.data, x.reshape(2, 8), *x.split(2), x.to(torch.bfloat16)
    derived += (nn.Parameter(x), x.as_strided((2, 2), (1, 4)), x.sort().values, x.max(), x > 0)
    assert all(isinstance(y, DeviceTensor) and y.device == device for y in derived)
    x[0, 1:3].zero_()  # through a view
    assert x.T[1, 0] == 0


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def trained(device, options):
    """State after three steps, on the CPU."""
    net = module().to(device)
    optimizer = options["kind"](net.parameters(), 0.1, **options["more"])
    x, labels = numbers(8, 3).to(device), (torch.arange(8) % 3).to(device)
    best = copy.deepcopy(net.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        best = copy.deepcopy(net.state_dict())
    net.load_state_dict(best)
    assert all(x.device.type == torch.device(device).type for x in net.state_dict().values())
    states = [x for s in optimizer.state.values() for x in s.values() if x is not None]
    assert all(x.device.type == torch.device(device).type for x in states if x.dim())
    return {name: x.cpu() for name, x in net.state_dict().items()}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": torch.optim.AdamW, "more": {"fused": True}},
        {"kind": torch.optim.Adam, "more": {}},
        {"kind": torch.optim.SGD, "more": {"momentum": 0.9}},
    ],
    ids=lambda options: options["kind"].__name__,
)
def test_modules_and_optimizers_train_on_the_device_as_on_the_cpu(options, device):
    for (name, a), b in zip(
        trained("cpu", options).items(), trained(device, options).values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)


def test_a_module_on_the_cpu_does_not_take_tensors_of_the_device(device):
    with pytest.raises(RuntimeError, match=MIXED):
        module()(numbers(8, 3).to(device))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * grad + 0 * x


def test_gradients_are_on_the_device_also_of_custom_functions_and_through_copies(device):
    x = numbers(3).to(device).requires_grad_()
    (grad,) = torch.autograd.grad(Double.apply(x).sum(), x)
    assert (grad.device, grad.cpu().tolist()) == (device, [2.0, 2.0, 2.0])
    y = numbers(3).requires_grad_()
    (y.to(device) * 3).sum().cpu().backward()
    assert y.grad.device.type == "cpu"
    assert torch.func.grad(lambda a: a.square().sum())(x.detach()).device == device
    assert torch.vmap(lambda a: a + torch.ones(1, device=a.device))(x.detach()).device == device


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_autocast_is_that_of_the_device(where, device):
    x = numbers(3, 3).to(device)
    with torch.autocast(where, torch.bfloat16):
        product = x @ x
        assert product.dtype == (torch.bfloat16 if where == "cuda" else torch.float32)
        assert F.linear(x, x).dtype == product.dtype
        assert product.softmax(1).dtype == torch.float32
    assert (x @ x).dtype == torch.float32


def test_there_is_a_gpu_only_within_the_block(device):
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 1
    torch.cuda.synchronize()
