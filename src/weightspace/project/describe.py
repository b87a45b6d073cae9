"""What a folder or file holds: a project, a zoo, a dataset, an autoencoder, a network, images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weightspace.artifacts import (
    AUTOENCODER_FILE,
    DATASET_FOLDER,
    HYPERNETWORK_FILE,
    IMAGES_FILE,
    MEMBERS_FILE,
    OUTPUTS_FILES,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    TASKS_FILE,
    ZOO_FOLDER,
    file_sha256,
    load_meta,
    read_meta,
    sha256_of,
    stated_sha256,
    verify_file,
)
from weightspace.bundles.archive import open_bundle
from weightspace.bundles.locate import ENDING
from weightspace.data.dataset import Dataset
from weightspace.data.images import class_sizes, read_images
from weightspace.data.sources.base import source_of
from weightspace.errors import printable, problem
from weightspace.weights.checkpoints import PICKLED, SAFE, read_state
from weightspace.zoo.store import Zoo, open_shard, shard_name

Facts = dict[str, object]
SHOWN = 12  # tensors named
MOST_CLASSES = 100  # classes named
STAGES = [
    f.parent.name
    for f in (
        IMAGES_FILE,
        MEMBERS_FILE,
        OUTPUTS_FILES["train"],
        PCA_FILE,
        AUTOENCODER_FILE,
        SHARED_ENCODER_FILE,
        READOUT_FILE,
        HYPERNETWORK_FILE,
    )
]


def describe(path: Path) -> Facts:
    """Facts about a path, name -> value.

    Raises:
        WeightspaceError: nothing that weightspace knows.

    """
    if path.is_dir():
        kinds = {
            "params.yaml": _project,
            MEMBERS_FILE.name: _zoo,
            TASKS_FILE.name: _dataset,
        }
        for name, read in kinds.items():
            if (path / name).is_file():
                return read(path)
        unfinished = path.name == "data" and (path.parent / "params.yaml").is_file()
        if unfinished or any((path / name).is_dir() for name in STAGES):
            return _data(path)
        if any(path.glob("*.safetensors")):
            return _networks(path)
        return _onnx(path) if any(path.glob("*.onnx")) else _images(path)
    readers = {".onnx": _onnx, ".npz": _images, ENDING: _bundle}
    if path.suffix in readers and path.is_file():
        return readers[path.suffix](path)
    if path.suffix in SAFE and path.is_file() and (meta := read_meta(path)) is not None:
        return _artefact(path, meta)
    if path.suffix in SAFE + PICKLED:
        return {"kind": "checkpoint of another program", **_tensors(path)}
    raise problem(
        "nothing that weightspace reads",
        where=path,
        expected=f"a folder, .npz, .onnx, {', '.join(SAFE + PICKLED)}",
    )


def _project(path: Path) -> Facts:
    """Which stages of a project have run, and facts about its dataset and zoo."""
    return {**_data(path / "data"), "kind": "project"}


def _data(path: Path) -> Facts:
    """The same of the folder that the stages write to."""
    done = [s for s in STAGES if (path / s).is_dir()]
    facts: Facts = {
        "kind": "data of a project",
        "finished": ", ".join(done) or "nothing; run `make repro`",
    }
    parts = {DATASET_FOLDER.name: _dataset, ZOO_FOLDER.name: _zoo}
    for name, read in parts.items():
        if name in done:
            of_part = read(path / name)
            facts |= {f"{name}: {k}": v for k, v in of_part.items() if k != "kind"}
    return facts


def _bundle(path: Path) -> Facts:
    """Facts about a bundle and the dataset in it."""
    bundle = open_bundle(path.absolute())
    dataset = Dataset.load(bundle.path / "data" / DATASET_FOLDER)
    return {
        "kind": "bundle",
        "bytes": path.stat().st_size,
        "bits of a number": f"{bundle.manifest.bits:g}",
        "sha256": bundle.sha256,
        "made from commit": bundle.manifest.commit or "unknown",
        **{f"sha256 of {k}": v for k, v in bundle.manifest.made_from.items()},
        **{f"dataset: {k}": v for k, v in _content(dataset).items()},
    }


def _zoo(path: Path) -> Facts:
    """Facts about a zoo, whose shards are verified: architecture, members, accuracies."""
    zoo = Zoo.open(path)
    hashes = []
    for shard, table in zoo.members.groupby("shard"):
        file = path / shard_name(int(str(shard)))
        open_shard(file, table, zoo.spec, verify=True)
        hashes.append(stated_sha256(load_meta(file, "zoo-shard")))
    m = zoo.members
    runs = m.groupby("split")["run"].nunique()
    others = ", ".join(f"{w:g}" for w in zoo.widths if w != zoo.width)
    return {
        "kind": "zoo",
        **({"width": f"1, of which the rest is; others: {others}"} if others else {}),
        "architecture": f"{zoo.spec.architecture}, {zoo.spec.numel} numbers in {len(zoo.spec.tensors)} tensors",
        "members": f"{len(m)} of {m['run'].nunique()} runs",
        "runs per split": ", ".join(f"{split} {n}" for split, n in runs.items()),
        "diverged runs": int(m.loc[m["diverged"], "run"].nunique()),
        "test accuracy": ", ".join(
            f"{q} % quantile {m['test_accuracy'].quantile(q / 100):.3f}" for q in (5, 50, 95)
        ),
        "sha256 of its shards": "no hash"
        if "no hash" in hashes
        else sha256_of(h.encode() for h in hashes),
    }


def _dataset(path: Path) -> Facts:
    """Facts about a dataset: images, classes, tasks."""
    sha256 = stated_sha256(load_meta(path / IMAGES_FILE.name, "dataset"))
    return {"kind": "dataset", **_content(Dataset.load(path)), "sha256": sha256}


def _content(dataset: Dataset) -> Facts:
    """What is in a dataset."""
    splits = dataset.tasks["split"].value_counts(sort=False)
    return {
        "images": "x".join(str(n) for n in dataset.shape),
        "classes": f"{len(dataset.class_names)}, {len(dataset.unseen)} of them unseen",
        "images per class": ", ".join(f"{p} {x.shape[1]}" for p, x in dataset.images.items()),
        "tasks": ", ".join(f"{split} {n}" for split, n in splits.items()),
        "classes of a task": dataset.classes.shape[1],
    }


def _networks(path: Path) -> Facts:
    """Facts about a folder of networks or artefacts: how many, and what the first is."""
    files = sorted(path.glob("*.safetensors"))
    return {"files": len(files), "the first": printable(files[0].name), **describe(files[0])}


def _onnx(path: Path) -> Facts:
    """Facts about ONNX files, as ``export`` writes them; their graph is not read."""
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in files]
    return {
        "kind": "ONNX",
        "files": len(files),
        "the first": printable(files[0].name),
        "bytes": sum(sizes),
        "sha256": file_sha256(files[0]),
    }


def _images(path: Path) -> Facts:
    """Facts about labelled images: how many of each class."""
    if source_of(path) == "folder":
        counts, shape = class_sizes(path), "any; central squares are read, at the size needed"
    else:
        given = read_images(path)
        sizes = np.bincount(given.labels, minlength=len(given.names)).tolist()
        counts = dict(zip(given.names, sizes, strict=True))
        shape = "x".join(str(n) for n in given.images.shape[1:])
    listed = [f"{printable(name)} ({count})" for name, count in counts.items()]
    more = [f"and {len(listed) - MOST_CLASSES} more"] if len(listed) > MOST_CLASSES else []
    classes = ", ".join(listed[:MOST_CLASSES] + more)
    return {"kind": "images", "images": sum(counts.values()), "shape": shape, "classes": classes}


def _artefact(path: Path, meta: dict[str, Any]) -> Facts:
    """Kind and metadata of an artefact; long tables are left out."""
    verify_file(path, meta)
    flat = _flatten({k: v for k, v in meta.items() if k not in ("kind", "pca", "spec", "settings")})
    return {"kind": meta.get("kind"), "sha256": stated_sha256(meta), **flat, **_tensors(path)}


def _flatten(data: dict[str, Any], prefix: str = "") -> Facts:
    """Nested facts as flat ones, texts cut to 200 characters.

    >>> _flatten({"net": {"architecture": "mlp"}, "mean": 0.5})
    {'net: architecture': 'mlp', 'mean': '0.5'}
    """
    out: Facts = {}
    for name, value in data.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{name}: ")
        else:
            text = printable(str(value))
            out[printable(prefix + name)] = text if len(text) <= 200 else text[:200] + " ..."
    return out


def _tensors(path: Path) -> Facts:
    """Count, names, shapes and types of the tensors of a checkpoint."""
    state = read_state(path)
    listed = [f"{printable(k)} {tuple(v.shape)} {v.dtype}" for k, v in list(state.items())[:SHOWN]]
    more = [f"and {len(state) - SHOWN} more"] if len(state) > SHOWN else []
    total = sum(v.numel() for v in state.values())
    return {"tensors": f"{len(state)}, {total} numbers", "shapes": listed + more}
