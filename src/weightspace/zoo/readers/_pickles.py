"""Pickles whose classes are not there: each becomes a plain stub by its name, and no code of theirs runs."""

from __future__ import annotations

import collections
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weightspace.artifacts import SOURCE_BYTES, check_archive
from weightspace.errors import problem

# All that is ever looked up; everything else, builtins too, is a stub.
KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "device"): torch.device,
    ("torch", "Size"): torch.Size,
}
NUMBERS = ("b1", "i4", "i8", "f4", "f8")  # NumPy's names of types
DEEPEST = 20  # values inside values


class Stub:
    """An object of a class that is not looked up: its name, arguments and state."""

    name = ""

    def __new__(cls, *arguments: Any, **_: Any) -> Stub:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.arguments, self.state, self.items = arguments, {}, []
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        """Run nothing."""

    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an entry."""
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an element."""
        self.items.append(value)

    def __hash__(self) -> int:
        """By identity: a stub may be a key."""
        return id(self)

    def __call__(self, *arguments: Any) -> Stub:
        """A stub may stand for a function that another stub gave; that is a stub, too."""
        return Stub(*arguments)


class _Unpickler(pickle.Unpickler):
    """Unpickler that looks up nothing but :data:`KNOWN`."""

    def find_class(self, module: str, name: str) -> Any:
        """A known function, or a new class of stubs."""
        known = KNOWN.get((module, name))
        return known if known is not None else type("Stub", (Stub,), {"name": f"{module}.{name}"})


class _Pickle:
    """What ``torch.load`` takes in place of the module pickle."""

    Unpickler = _Unpickler


def read_stubbed(path: Path) -> Any:
    """What a file of ``torch.save`` holds, with stubs for objects of other classes.

    Raises:
        WeightspaceError: no such file, damaged, of the format before PyTorch 1.6, or TorchScript.

    """
    if not path.is_file():
        raise problem("no such file", where=path, expected="a file of torch.save")
    if not zipfile.is_zipfile(path):
        raise problem("not a complete file of torch.save", where=path)
    names = check_archive(path, SOURCE_BYTES)
    if any(name.endswith("/constants.pkl") for name in names):
        raise problem("TorchScript, whose code is not run", where=path, expected="torch.save")
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Pickle)
    except Exception as error:  # the parser fails in many ways; each means a file of no use
        name = type(error).__name__
        raise problem(f"not a complete file of torch.save ({name})", where=path) from error


def _numpy_scalar(value: Stub) -> Any:
    """Number of a pickled NumPy scalar: its type's short name and its bytes, or these as text."""
    kind, raw = value.arguments
    if isinstance(raw, Stub):  # _codecs.encode(text, "latin1"), as protocol 2 has it
        raw = str(raw.arguments[0]).encode("latin1")
    name = str(kind.arguments[0])
    if name not in NUMBERS or len(raw) != np.dtype(name).itemsize:
        raise problem("no number", where="NumPy scalar", got=name, expected=", ".join(NUMBERS))
    return np.frombuffer(raw, name)[0].item()


def plain(value: Any, depth: int = 0) -> Any:
    """Values of stubs as plain tables, lists and numbers: dataclasses, paths, omegaconf's containers.

    >>> node = Stub()
    >>> node.state = {"_metadata": None, "_content": {"lr": Stub()}}
    >>> node.state["_content"]["lr"].state = {"_val": 0.1}
    >>> plain(node)
    {'lr': 0.1}
    """
    if depth > DEEPEST:
        raise problem("values are nested too deeply", expected=f"at most {DEEPEST} levels")
    if isinstance(value, Stub):
        if value.name.endswith("multiarray.scalar"):
            return _numpy_scalar(value)
        state = value.state
        if isinstance(state, tuple):  # state and slots
            state = next((s for s in state if isinstance(s, Mapping)), {})
        if not isinstance(state, Mapping):
            return state
        for inside in ("_content", "_val"):  # omegaconf: containers, leaves
            if inside in state:
                return plain(state[inside], depth + 1)
        return plain(state if state else list(value.arguments), depth + 1)
    if isinstance(value, Mapping):
        return {str(k): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value]
    return value
