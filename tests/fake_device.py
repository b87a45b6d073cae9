"""A pretended GPU: every path is tried for tensors left on the wrong device, on a machine without one.

A tensor on the device is a :class:`DeviceTensor`: its data lie in host memory, and each operation on it
runs on the CPU by the same kernels. What a real GPU refuses is refused: operands on two devices, CPU
generators for numbers drawn on the device, NumPy views, products of integers. So a path that runs to
its end leaves nothing behind, and its figures can be compared with those of the CPU.

To autograd such a tensor looks like one without storage (``meta``), as this build has no device guard
for ``cuda``; to Python it says ``cuda:0``.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
ON_DEVICE = ("cuda", "meta")
IN_CONTEXT = DeviceContext.__torch_function__
AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

TRANSFERS = {aten.copy_, aten._to_copy, aten._foreach_copy_}
# Position of the operand that decides the device; the indices beside it may be on the CPU.
INDEXED = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# Take numbers of a CPU tensor without dimensions, though they are not tagged as elementwise.
SCALARS = {aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_, aten.where}
# What autocast computes in the lower precision, and in float32: the part of its lists that is used.
LOWERED = [
    "linear",
    "matmul",
    "mm",
    "mv",
    "bmm",
    "addmm",
    "addmv",
    "addbmm",
    "baddbmm",
    "conv1d",
    "conv2d",
    "scaled_dot_product_attention",
]
RAISED = [
    "exp",
    "log",
    "log1p",
    "pow.Tensor_Scalar",
    "rsqrt",
    "softplus",
    "softmax.int",
    "log_softmax.int",
    "layer_norm",
    "group_norm",
    "cosine_similarity",
    "nll_loss",
    "mse_loss",
    "cdist",
    "norm.Scalar",
    "sum",
    "sum.dim_IntList",
    "prod",
    "cumsum",
    "logsumexp",
]
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot}


class DeviceTensor(Tensor):
    """A tensor on the pretended device; ``host`` has its data."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> "DeviceTensor":
        out: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="meta",
            _extra_dispatch_keys=AUTOCAST,
        )
        out.host = host
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU: not without a copy."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.host.tolist()

    def cpu(self, *_: Any) -> Tensor:
        return aten._to_copy(self, device="cpu")

    def cuda(self, *_: Any, **__: Any) -> "DeviceTensor":
        return self

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return to(self, *args, **kwargs)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(indices(index), value)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = CUDA) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(device)

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"DeviceTensor({self.host!r})"

    def __deepcopy__(self, memo: dict) -> "DeviceTensor":
        if id(self) not in memo:
            copied = self.detach().clone()
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            else:
                copied.requires_grad_(self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]


def indices(index: Any) -> Any:
    """Lists in an index as tensors on the CPU."""
    if isinstance(index, tuple):
        return tuple(indices(part) for part in index)
    return torch.as_tensor(index) if isinstance(index, list | np.ndarray) else index


def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As ``Tensor.to``: the tensor itself where nothing changes."""
    other = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("other")
    if other is not None:
        device, dtype = other.device, other.dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    device, dtype = device or x.device, dtype or x.dtype
    if (device.type, dtype) == (x.device.type, x.dtype) and not kwargs.get("copy", False):
        return x
    return aten._to_copy(x, dtype=dtype, device="cpu" if device.type == "cpu" else "meta")


def mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """Change every leaf of nested lists, tuples and tables."""
    if isinstance(x, list | tuple):
        return type(x)([mapped(change, part) for part in x])
    if isinstance(x, dict):
        return {name: mapped(change, part) for name, part in x.items()}
    return change(x)


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on host memory; its results are on the device if its operands were."""
    operands: list[Any] = []
    mapped(operands.append, (args, kwargs))
    tensors = [x for x in operands if isinstance(x, Tensor)]
    on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
    target = kwargs.get("device")
    to_device = bool(on_device) if target is None else torch.device(target).type in ON_DEVICE
    lost = [x for x in tensors if x.is_meta]
    assert not lost, "a tensor without data, which PyTorch made inside: teach the fake device"
    if not (on_device or to_device):
        return func(*args, **kwargs)
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if to_device:
        refuse_generators(operands)
    if on_device:
        refuse_mixed(func, args, tensors)
        refuse_products(func, on_device)
    lower, named = mapped(lambda x: x.host if isinstance(x, DeviceTensor) else x, (args, kwargs))
    with torch.autocast("cpu", enabled=False):
        out = func(*lower, **named)
    owner = {id(x.host): x for x in on_device}
    leave = (lambda x: wrapped(x, owner)) if to_device else (lambda x: unshared(x, owner))
    return mapped(lambda x: leave(x) if isinstance(x, Tensor) else x, out)


def wrapped(host: Tensor, owner: dict[int, DeviceTensor]) -> DeviceTensor:
    """The operand itself where an operation worked in place, else a new tensor on the device."""
    out = owner[id(host)] if id(host) in owner else DeviceTensor(host)
    if out.shape != host.shape:  # an ``out=`` that was made larger
        out.data = DeviceTensor(host)
    return out


def unshared(host: Tensor, owner: dict[int, DeviceTensor]) -> Tensor:
    """What leaves the device is a copy."""
    return host.clone() if id(host) in owner else host


def refuse_generators(operands: list[Any]) -> None:
    """Numbers on the device are drawn from generators of the device."""
    if any(isinstance(x, torch.Generator) and x.device.type == "cpu" for x in operands):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Operands of two devices, but for copies, indices and numbers without dimensions."""
    operation = func.overloadpacket
    if operation in TRANSFERS:
        return
    if operation in INDEXED:
        if not isinstance(args[0], DeviceTensor):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        tensors = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor)]
    scalars = torch.Tag.pointwise in func.tags or operation in SCALARS or operation in INDEXED
    on_cpu = [x for x in tensors if not isinstance(x, DeviceTensor)]
    written = func._schema.is_mutable and any(x is args[0] for x in on_cpu)
    if written or any(x.dim() for x in on_cpu) or (on_cpu and not scalars):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func})"
        )


def refuse_products(func: Any, on_device: list[DeviceTensor]) -> None:
    """Matrix products of integers exist on the CPU alone."""
    if func.overloadpacket in PRODUCTS and not on_device[0].dtype.is_floating_point:
        raise RuntimeError(f"{func} on cuda is not implemented for {on_device[0].dtype}")


class Layout:
    """Whether tensors are made within ``torch.device("meta")``: without values, on a real GPU, too."""

    inside = 0

    @staticmethod
    def function(context: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Takes the place of what PyTorch's context does with every function called within it."""
        without_values = context.device.type == "meta"
        Layout.inside += without_values
        try:
            return IN_CONTEXT(context, func, types, args, kwargs)
        finally:
            Layout.inside -= without_values


class Operations(TorchDispatchMode):
    """Makes tensors on the device: factories and copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if Layout.inside:
            return func(*args, **kwargs or {})
        return compute(func, args, kwargs or {})


class Construction(TorchFunctionMode):
    """What names the device: factories, ``to``, and where a tensor inside ``vmap`` lies."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.to:
            return to(*args, **kwargs)
        if func is Tensor.cuda:
            return to(args[0], CUDA)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs = kwargs | {"device": "meta"}
            if func in (torch.tensor, torch.as_tensor):
                return to(func(*args, **kwargs | {"device": None}), CUDA)
        if func == Tensor.device.__get__ and inside(args[0]):
            return CUDA
        if func == Tensor.is_cuda.__get__ and inside(args[0]):
            return True
        if func is Tensor.pin_memory:
            return args[0]
        return func(*args, **kwargs)


def inside(x: Tensor) -> bool:
    """Whether a tensor that ``torch.func`` wraps lies on the device."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return isinstance(x, DeviceTensor)


def precisions() -> torch.library.Library:
    """Autocast's casts for tensors of this device, which in C++ is none that autocast knows."""
    library = torch.library.Library("aten", "IMPL")
    for names, lowered in ((LOWERED, True), (RAISED, False)):
        for name in names:
            packet, _, overload = name.partition(".")
            operation = getattr(getattr(aten, packet), overload or "default")
            with warnings.catch_warnings():  # that it replaces what stands there
                warnings.simplefilter("ignore")
                kernel = casting(operation, lowered=lowered)
                library.impl(name, kernel, "AutocastCUDA", allow_override=True)
    return library


def casting(operation: Any, *, lowered: bool) -> Any:
    """An operation whose operands are cast first."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("cuda") if lowered else torch.float32

        def cast(x: Any) -> Any:
            eligible = (
                isinstance(x, Tensor)
                and inside(x)
                and x.is_floating_point()
                and x.dtype != torch.float64
            )
            return x.to(dtype) if eligible else x

        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            cast_args, cast_kwargs = mapped(cast, (args, kwargs))
            return operation(*cast_args, **cast_kwargs)

    return kernel


ANSWERS = {
    "is_available": True,
    "_lazy_init": None,
    "device_count": 1,
    "current_device": 0,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "synchronize": None,
    "empty_cache": None,
    "reset_peak_memory_stats": None,
    "max_memory_allocated": 0,
    "mem_get_info": (80 * 2**30, 80 * 2**30),
    "get_device_name": "pretended GPU",
    "get_per_process_memory_fraction": 1.0,
    "get_device_properties": SimpleNamespace(name="pretended GPU", total_memory=80 * 2**30),
}


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """Within the block there is a GPU, ``cuda:0``."""
    with ExitStack() as stack:
        for name, value in ANSWERS.items():
            stack.enter_context(
                mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value)
            )
        function = lambda *args: Layout.function(*args)  # noqa: E731  # a method, as that of the class
        stack.enter_context(mock.patch.object(DeviceContext, "__torch_function__", function))
        library = precisions()
        stack.callback(library._destroy)
        stack.enter_context(Operations())
        stack.enter_context(Construction())
        yield CUDA
