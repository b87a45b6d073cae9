"""Networks as ONNX files, for programs without PyTorch. Needs the extra ``weightspace[onnx]``."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.artifacts import new_folder, write_bytes
from weightspace.errors import problem
from weightspace.project.network import Network, load_network
from weightspace.weights.checkpoints import find

NEEDED = ("onnx", "onnxscript")
INPUT, OUTPUT = "images", "outputs"


class Standardised(nn.Module):
    """A network together with the standardisation of its images: ``f((x - mean) / std)``."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.register_buffer("mean", torch.tensor(network.mean))
        self.register_buffer("std", torch.tensor(network.std))

    def forward(self, images: Tensor) -> Tensor:
        """Pre-softmax outputs ``(n, classes)`` of images ``(n, C, H, W)`` in [0, 1]."""
        out: Tensor = self.module((images - self.mean) / self.std)
        return out


def onnx_bytes(network: Network) -> bytes:
    """A network as an ONNX model.

    Its input ``images`` is float32 ``(n, C, H, W)`` in [0, 1] for any n; the standardisation is a
    part of the graph. Its output ``outputs`` is ``(n, classes)`` before the softmax. The names of
    the classes are a JSON list under the metadata key ``classes``.

    Raises:
        WeightspaceError: the extra ``onnx`` is not installed.

    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise problem(
            "ONNX export needs the extra 'onnx'",
            got=f"no package {', '.join(missing)}",
            do="pip install 'weightspace[onnx]', or in the project's folder pip install '.[onnx]'",
        )
    example = torch.zeros(2, *network.info["net"]["shape"])
    with _quiet():
        program = torch.onnx.export(
            Standardised(network).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "classes", json.dumps(network.classes, ensure_ascii=False)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _strip(model: Any) -> None:
    """Remove notes of the exporter: they hold stack traces with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which tells of packages that none of these networks needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def export_onnx(paths: Sequence[Path], out: Path) -> list[Path]:
    """Write an ``.onnx`` file for each network that weightspace wrote.

    Args:
        paths: files, or folders of which every checkpoint is read.
        out: new or empty folder; it is filled completely or not at all.

    Returns:
        The files written.

    Raises:
        WeightspaceError: a file is not a network of weightspace, two have one name, or the extra
            ``onnx`` is not installed.

    """
    files = [file for path in paths for file in find(path)]
    names = [f"{file.stem}.onnx" for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise problem("two networks of one name", where=twice[0], do="export them one by one")
    with new_folder(out) as folder:
        for file, name in zip(files, names, strict=True):
            write_bytes(folder / name, onnx_bytes(load_network(file)))
    return [out / name for name in names]
