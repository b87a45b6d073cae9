"""Networks as single files: foreign ones are read strictly, those of this package load into plain PyTorch.

No code of a file is ever run: safetensors holds none, and pickles are read by PyTorch's restricted
reader (``weights_only=True``), which refuses everything that is not a tensor or a plain value.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weightspace.artifacts import GIVEN_BYTES, check_archive
from weightspace.errors import problem
from weightspace.weights.spec import Spec, Weights, stack

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".ckpt", ".bin")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("model.", "module.", "_orig_mod.")  # Lightning and habit, DataParallel, torch.compile
COUNTER, COUNTED = ".num_batches_tracked", ".running_var"  # of batch normalisation in PyTorch
SHOWN = 6  # names listed in a message


def read_state(path: Path) -> dict[str, Tensor]:
    """Named tensors of a checkpoint, without the dictionary around them.

    Args:
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` written by ``torch.save``.

    Raises:
        WeightspaceError: no such file, damaged, carries code, or holds no one table of tensors.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"model": {"bias": torch.ones(2)}, "epoch": 3}, f"{folder}/net.pt")
    ...     read_state(Path(folder) / "net.pt")
    {'bias': tensor([1., 1.])}

    """
    if not path.is_file():
        raise problem("no such file", where=path, expected="a checkpoint")
    if path.suffix in SAFE:
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise problem(f"not a complete safetensors file ({error})", where=path) from error
    if path.suffix in PICKLED:
        return read_pickled(path)
    raise problem(
        "not a checkpoint", where=path, got=f"'{path.suffix}'", expected=", ".join(SAFE + PICKLED)
    )


def read_pickled(path: Path) -> dict[str, Tensor]:
    """As :func:`read_state`, of a file of ``torch.save`` whatever its name ends with."""
    if not path.is_file():
        raise problem("no such file", where=path, expected="a checkpoint")
    return _unwrap(_unpickle(path), path)


def _unpickle(path: Path) -> Any:
    """Read a file of ``torch.save`` without running anything in it."""
    if zipfile.is_zipfile(path):
        check_archive(path, GIVEN_BYTES)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise problem(
            "pickle that is damaged or carries code; nothing in it was run",
            where=path,
            got=f"'{refused[1]}'" if refused else None,
            expected="tensors and plain values only",
            do="save `module.state_dict()`, best as safetensors",
        ) from error
    except Exception as error:  # the parser fails in many ways; each means a file of no use
        name = type(error).__name__
        raise problem(f"not a complete file of torch.save ({name})", where=path) from error


def _unwrap(data: Any, path: Path) -> dict[str, Tensor]:
    """The table of tensors itself, or the only one under a usual name."""
    if _is_state(data):
        return dict(data)
    if not isinstance(data, Mapping):
        got = type(data).__name__
        raise problem("holds no table of tensors", where=path, got=got, expected="a state_dict")
    inside = [name for name in WRAPPERS if _is_state(data.get(name))]
    if len(inside) != 1:
        raise problem(
            "holds no table of tensors" if not inside else "holds several tables of tensors",
            where=path,
            got=_some([str(k) for k in data]),
            expected=f"tensors, or one of {', '.join(WRAPPERS)} with tensors",
        )
    return dict(data[inside[0]])


def _is_state(data: Any) -> bool:
    return (
        isinstance(data, Mapping)
        and len(data) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items())
    )


def fit_state(state: Mapping[str, Tensor], spec: Spec, where: object) -> Weights:
    """Weights ``(*shape)`` of one network, if every tensor and buffer matches exactly.

    The prefixes ``model.``, ``module.`` and ``_orig_mod.`` are removed where all names carry them
    and all names match after that, and in no other case. The counters ``num_batches_tracked`` of
    PyTorch's batch normalisation, which change no output, are left out.

    Args:
        state: name -> tensor ``(*shape)``, of any floating or integer type.
        spec: the architecture.
        where: what it is, for messages.

    Raises:
        WeightspaceError: a tensor is missing, unknown, of another shape or not made of numbers.

    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (2,), "parameter", (None,)),))
    >>> fit_state({"module.bias": torch.ones(2, dtype=torch.float64)}, spec, "net.pt")
    {'bias': tensor([1., 1.])}
    >>> fit_state({"module.bias": torch.ones(2), "gain": torch.ones(2)}, spec, "net.pt")
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: net.pt: tensors do not match architecture 'example'; ...

    """
    tries = [_without_counters(state, spec)]
    while tries[-1] and set(tries[-1]) != set(spec.names):
        common = [p for p in PREFIXES if all(k.startswith(p) for k in tries[-1])]
        if not common:
            break
        bare = {k.removeprefix(common[0]): v for k, v in tries[-1].items()}
        tries.append(_without_counters(bare, spec))
    named = min(tries, key=lambda t: len(set(t) ^ set(spec.names)))
    missing = [n for n in spec.names if n not in named]
    unknown = [n for n in named if n not in spec.names]
    if missing or unknown:
        raise problem(
            f"tensors do not match architecture '{spec.architecture}'",
            where=where,
            got=f"missing {_some(missing)}, unknown {_some(unknown)}",
            expected=f"{len(spec.names)} tensors, no more and no fewer",
        )
    return {t.name: _tensor(named[t.name], t.name, t.shape, where) for t in spec.tensors}


def _without_counters(state: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Tensors without the counters of steps that stand beside a running variance of the spec.

    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("bn.running_var", (2,), "variance", (None,)),))
    >>> names = ("bn.running_var", "bn.num_batches_tracked", "fc.num_batches_tracked")
    >>> list(_without_counters(dict.fromkeys(names, torch.ones(2)), spec))
    ['bn.running_var', 'fc.num_batches_tracked']
    """
    counted = {n.removesuffix(COUNTED) + COUNTER for n in spec.names if n.endswith(COUNTED)}
    return {k: v for k, v in state.items() if k not in counted}


def _tensor(value: Tensor, name: str, shape: tuple[int, ...], where: object) -> Tensor:
    """A tensor of the right shape; float32 whatever the precision it was stored in.

    Args:
        value: as it was stored.
        name: of the tensor, for messages.
        shape: that it must have.
        where: file, for messages.

    """
    if tuple(value.shape) != shape:
        raise problem(
            f"tensor '{name}' has another shape",
            where=where,
            got=tuple(value.shape),
            expected=shape,
        )
    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.is_complex() or value.dtype is torch.bool:
        raise problem(
            f"tensor '{name}' cannot be used",
            where=where,
            got=f"{value.dtype}, {value.layout} on {value.device.type}",
            expected="plain numbers",
        )
    return value.detach().float().contiguous()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "[" + ", ".join(names[:SHOWN]) + "]" + more if names else "none"


def find(path: Path) -> list[Path]:
    """Checkpoints at a path: the file itself, or all below a folder, sorted.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.pt", "a.safetensors", "notes.txt"):
    ...         (Path(folder) / name).touch()
    ...     [path.name for path in find(Path(folder))]
    ['a.safetensors', 'b.pt']
    """
    if not path.is_dir():
        return [path]
    checkpoints = sorted(p for p in path.rglob("*") if p.suffix in SAFE + PICKLED)
    if not checkpoints:
        raise problem("folder has no checkpoints", where=path, expected=", ".join(SAFE + PICKLED))
    return checkpoints


def read_networks(paths: Sequence[Path], spec: Spec, *, finite: bool = True) -> Weights:
    """Weights ``(N, *shape)`` of N checkpoints of one architecture, read strictly.

    Args:
        paths: one checkpoint each.
        spec: the architecture.
        finite: refuse NaN and infinity.

    >>> from tempfile import TemporaryDirectory
    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (2,), "parameter", (None,)),))
    >>> with TemporaryDirectory() as folder:
    ...     for i in range(3):
    ...         torch.save({"bias": torch.full((2,), float(i))}, f"{folder}/{i}.pt")
    ...     read_networks(find(Path(folder)), spec)
    {'bias': tensor([[0., 0.],
            [1., 1.],
            [2., 2.]])}

    """
    if not paths:
        raise problem("no checkpoints given", expected="at least one file")
    networks = [fit_state(read_state(path), spec, path) for path in paths]
    for path, network in zip(paths, networks, strict=True):
        bad = [name for name, value in network.items() if not value.isfinite().all()]
        if finite and bad:
            raise problem(f"tensor '{bad[0]}' has NaN or infinity", where=path)
    return stack(networks)
