"""Files whose hash is right and whose content is not what a reader expects: one line, and no memory.

Anybody can write such a file: a hash says that it is whole, not who wrote it.
"""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from sklearn.ensemble import HistGradientBoostingRegressor
from torch.utils._python_dispatch import TorchDispatchMode

from test_strict import OPENED, read_or_refused, refused
from weightspace import artifacts
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    HYPERNETWORK_FILE,
    IMAGES_FILE,
    MEMBERS_FILE,
    META_KEY,
    OUTPUTS_FILES,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    TASKS_FILE,
    ZOO_FOLDER,
    canonical,
    load_tensors,
    read_meta,
    save_tensors,
)
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import load_autoencoder
from weightspace.data.dataset import Dataset
from weightspace.evaluate import hypernetwork
from weightspace.evaluate.readout import arrays_of, evaluate, load_readout
from weightspace.params import load_params
from weightspace.project.describe import describe
from weightspace.project.project import load
from weightspace.registry import resolve
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import Sizes, load_shared_encoder
from weightspace.zoo.outputs import Originals
from weightspace.zoo.runner import load_runner
from weightspace.zoo.store import Zoo, shard_name

ROOT = Path(__file__).resolve().parent.parent
SHARD_FILE = ZOO_FOLDER / shard_name(0)
READERS = OPENED | {
    SHARD_FILE: lambda path: Zoo.open(path.parent),
    OUTPUTS_FILES["train"]: lambda path: load_originals(path.parents[1]),
    HYPERNETWORK_FILE: lambda path: load_hypernetwork(path.parents[1]),
}


def load_hypernetwork(data):
    """The network that draws are compared with."""
    params = load_params(data.parent / "params.yaml")
    return hypernetwork.load(load_runner(data, params), params, data / HYPERNETWORK_FILE)


def load_originals(data):
    """Stored outputs, compared with the zoo beside them."""
    members = Zoo.open(data / ZOO_FOLDER).select("train")
    return Originals.load(data / OUTPUTS_FILES["train"], members)


def other_type(x):
    """The same numbers in another type."""
    return x.to(torch.int32 if x.is_floating_point() else torch.float32)


CHANGES = {
    "another type": other_type,
    "half": lambda x: x.to(torch.bfloat16) if x.is_floating_point() else x.to(torch.int8),
    "no rows": lambda x: x[:0] if x.dim() else x.reshape(1)[:0],
    "a further axis": lambda x: x[None],
    "flat": lambda x: x.reshape(-1) if x.dim() > 1 else x.reshape(1, 1, -1),
    "twice as long": lambda x: torch.cat([x, x], -1) if x.dim() else torch.stack([x, x]),
}
TABLES = {
    "without the first tensor": lambda t: dict(list(t.items())[1:]),
    "without the last tensor": lambda t: dict(list(t.items())[:-1]),
    "without tensors": lambda t: {},
    "with another tensor": lambda t: t | {"zz": torch.ones(2)},
    "with another name": lambda t: {
        (k + "x" if i == 0 else k): x for i, (k, x) in enumerate(t.items())
    },
}


def first_tensors(tensors, count=4):
    """Some of the names: the first, the last and those between at equal distances."""
    names = sorted(tensors)
    return {names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)}


@pytest.fixture
def data(project_root, world, tmp_path):
    """Copy of the data of a finished tiny pipeline, with its stored outputs."""
    folder = shutil.copytree(project_root / "data", tmp_path / "project" / "data")
    shutil.copy(project_root / "params.yaml", tmp_path / "project")
    world().data.originals["train"].save(folder / OUTPUTS_FILES["train"])
    return folder


def forge(path, tensors, meta=None):
    """Write a file with these tensors in place of another, with the hash that they have."""
    known = dict(read_meta(path) if meta is None else meta)
    kind = known.pop("kind")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_meta", lambda *a: None)
        save_tensors(path, kind, tensors, known)


@pytest.mark.parametrize("file", READERS, ids=str)
def test_other_tensors_under_the_right_hash_are_one_line(file, data):
    path = data / file
    READERS[file](path)  # the control
    tensors = {k: x.clone() for k, x in load_tensors(path, read_meta(path)["kind"])[0].items()}
    tried = [(case, change(tensors)) for case, change in TABLES.items()]
    for name in first_tensors(tensors):
        tried += [
            (f"{case}: {name}", tensors | {name: c(tensors[name])}) for case, c in CHANGES.items()
        ]
    for case, changed in tried:
        forge(path, changed)
        line = refused(lambda: READERS[file](path), path.name)
        assert "tensor" in line, case
    forge(path, tensors)
    READERS[file](path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "file", [IMAGES_FILE, PCA_FILE, AUTOENCODER_FILE, SHARED_ENCODER_FILE, READOUT_FILE], ids=str
)
def test_a_value_that_is_no_number_is_one_line(file, value, data):
    path = data / file
    tensors = {k: x.clone() for k, x in load_tensors(path, read_meta(path)["kind"])[0].items()}
    for name in first_tensors(
        {k for k, x in tensors.items() if x.is_floating_point() and x.numel()}
    ):
        changed = tensors[name].clone()
        changed.view(-1)[-1] = value
        forge(path, tensors | {name: changed})
        refused(lambda: READERS[file](path), path.name, f"'{name.split('.')[-1]}'"[1:-1], "NaN")


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made and takes memory."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.device.type != "meta":
            self.most = max(self.most, out.nbytes)
        return out


HUGE = [10**9, 65536, 0, 1.5, [10**9]]


def paths_of(meta, before=()):
    """Where metadata has numbers."""
    for key, value in meta.items() if isinstance(meta, dict) else enumerate(meta):
        if isinstance(value, dict | list):
            yield from paths_of(value, (*before, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*before, key)


def changed(meta, path, value):
    """A copy of metadata with another value at one place."""
    copy = json.loads(canonical(meta))
    part = copy
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return copy


@pytest.fixture(scope="module")
def models(world, tmp_path_factory):
    """Factory: the file of a member of a family, hardly fitted, beside the PCA that it needs."""
    tiny, made = world(), {}
    params = tiny.params

    def autoencoder(name):
        settings = params.autoencoder.model_copy(update={"epochs": 1})
        member = resolve(AUTOENCODERS, name, "autoencoder.model")
        return member.fit(tiny.data, settings, params.autoencoders.of(name), 0)[0]

    def shared_encoder(name):
        model, encoder = name.split("-")
        settings = params.shared_encoder.model_copy(
            update={"model": model, "dataset_encoder": encoder}
        )
        sizes = Sizes(tiny.dataset.shape, 3, 6, params.dataset_encoders.of(encoder))
        options = params.shared_encoders.of(model)
        return resolve(SHARED_ENCODERS, model, "x").build(
            sizes, settings, options, torch.Generator()
        )

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder / (
                AUTOENCODER_FILE if name in AUTOENCODERS else SHARED_ENCODER_FILE
            )
            tiny.pca.save(folder / PCA_FILE)
            (autoencoder if name in AUTOENCODERS else shared_encoder)(name).save(made[name])
        return made[name]

    return make


def opened(path):
    """Load a model; the bytes of the largest tensor that was made for it."""
    read = load_autoencoder if path.name == AUTOENCODER_FILE.name else load_shared_encoder
    with Largest() as noted:
        read(path)
    return noted.most


MODELS = [
    *AUTOENCODERS,
    *(f"{m}-{e}" for m in SHARED_ENCODERS for e in ("deepsets", "statistics", "distillation")),
]


@pytest.mark.parametrize("name", MODELS)
def test_sizes_that_metadata_claims_take_no_memory(name, models, tmp_path):
    """Every kind of number in it; the control is the file as it was written."""
    source = models(name)
    folder = shutil.copytree(source.parent.parent, tmp_path / "data")
    path = folder / source.relative_to(source.parent.parent)
    tensors, meta = load_tensors(path, read_meta(path)["kind"])
    tensors = {k: x.clone() for k, x in tensors.items()}
    most, refusals, places = opened(path), 0, {}
    for place in paths_of(meta):
        places.setdefault(tuple("*" if isinstance(k, int) else k for k in place), place)
    for place in places.values():
        for value in HUGE:
            forge(path, tensors, changed(meta, place, value))
            made, line = read_or_refused(lambda: opened(path))
            assert line or made <= most, (place, value)
            refusals += bool(line)
    assert refusals > 2 * len(places)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_of_another_type_or_shape_than_those_of_a_model_are_one_line(
    name, models, tmp_path
):
    source = models(name)
    folder = shutil.copytree(source.parent.parent, tmp_path / "data")
    path = folder / source.relative_to(source.parent.parent)
    tensors = {k: x.clone() for k, x in load_tensors(path, read_meta(path)["kind"])[0].items()}
    tried = [change(tensors) for change in TABLES.values()]
    tried += [
        tensors | {k: c(tensors[k])} for c in CHANGES.values() for k in first_tensors(tensors)
    ]
    for other in tried:
        forge(path, other)
        refused(lambda: opened(path), path.name, "tensor")
    forge(path, tensors)
    opened(path)


# tables


def cell(column, value, row=0):
    """Change of one cell of a table."""

    def change(table):
        values = list(table[column])
        values[row] = value
        return table.assign(**{column: pd.Series(values, dtype=object if value is None else None)})

    return change


TASKS = {
    "no rows": lambda t: t.iloc[:0],
    "a class that is not there": cell("classes", [0, 1, 99]),
    "a negative class": cell("classes", [0, 1, -1]),
    "a class twice": cell("classes", [0, 1, 1]),
    "fewer classes": cell("classes", [0, 1]),
    "text": lambda t: t.assign(classes="012"),
    "fractions": cell("classes", [0.5, 1.0, 2.0]),
    "another split": cell("split", "training"),
    "no split": cell("split", None),
    "in another order": lambda t: t.iloc[::-1],
    "a task twice": lambda t: pd.concat([t, t]),
    "without a column": lambda t: t.drop(columns="split"),
    "numbers as text": lambda t: t.assign(task=t["task"].astype(str)),
}
MEMBERS = {
    "no rows": lambda t: t.iloc[:0],
    "in another order": lambda t: t.iloc[::-1],
    "a member twice": lambda t: pd.concat([t, t]),
    "a row that is not there": cell("row", 10**6),
    "a negative row": cell("row", -1),
    "a row twice": cell("row", 1),
    "a shard that is not there": cell("shard", 10**6),
    "a negative shard": cell("shard", -1),
    "a negative task": cell("task", -1),
    "fractions": lambda t: t.assign(row=t["row"] + 0.5),
    "text": lambda t: t.assign(shard=t["shard"].astype(str)),
    "no truth value": lambda t: t.assign(diverged="no"),
    "nothing": cell("diverged", None),
    "without a column": lambda t: t.drop(columns="shard"),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_table_that_is_no_choice_of_classes_is_one_line(case, data):
    path = data / TASKS_FILE
    TASKS[case](pd.read_parquet(path)).to_parquet(path, index=False)
    refused(lambda: Dataset.load(path.parent), path.name)


@pytest.mark.parametrize("case", MEMBERS)
def test_a_table_that_is_not_of_the_shards_is_one_line(case, data):
    path = data / MEMBERS_FILE
    MEMBERS[case](pd.read_parquet(path)).to_parquet(path, index=False)

    def read():
        zoo = Zoo.open(path.parent)
        zoo.weights(zoo.members)

    refused(read)


TREES = {
    "a circle": {"left": 0},
    "beyond the nodes": {"right": 10**6},
    "before the nodes": {"left": -1},
    "a column that is not there": {"feature": 10**6},
    "a negative column": {"feature": -1},
    "a root that is not there": {"root": 10**6},
}


def test_trees_that_do_not_end_are_one_line(data, world):
    """They would run for ever, or read beyond their arrays."""
    path = data / READOUT_FILE
    tensors, meta = load_tensors(path, "readout")
    z = np.random.default_rng(0).normal(size=(200, tensors["z"].shape[1]))
    trees = HistGradientBoostingRegressor(max_iter=3).fit(z, z[:, 0])
    arrays = {k: torch.from_numpy(np.ascontiguousarray(x)) for k, x in arrays_of(trees).items()}
    name = next(n for n in meta["properties"] if n not in meta["classes"])
    rest = {k: x.clone() for k, x in tensors.items() if not k.startswith(f"{name}.")}
    for change in ({}, *TREES.values()):  # the control first
        changed = {k: x.clone() for k, x in arrays.items()}
        for part, value in change.items():
            changed[part].view(-1)[0] = value
        forge(path, rest | {f"{name}.{k}": x for k, x in changed.items()})
        read = lambda: load_readout(path, meta["autoencoder"])  # noqa: E731
        if change:
            refused(read, "readout.safetensors")
        else:
            np.testing.assert_allclose(evaluate(read().models[name], z)[:, 0], trees.predict(z))


# no hash


def without_hash(path):
    """Write a file as an earlier version did."""
    tensors = {k: x.clone() for k, x in load_tensors(path, read_meta(path)["kind"])[0].items()}
    meta = {k: v for k, v in read_meta(path).items() if k != "sha256"}
    if "pca" in meta:
        meta["pca"].pop("sha256")
    path.write_bytes(save(tensors, metadata={META_KEY: canonical(meta)}))


def test_artefacts_without_a_hash_are_read_with_a_line_for_each(data, capsys):
    files = [*OPENED, *(f.relative_to(data) for f in (data / ZOO_FOLDER).glob("*.safetensors"))]
    for file in files:
        without_hash(data / file)
    for _ in range(2):
        project = load(data.parent)
        project.zoo.weights(project.zoo.members)
        for read, file in ((read, file) for file, read in OPENED.items()):
            if file != READOUT_FILE:  # it is of the autoencoder that had a hash
                read(data / file)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == len(files) - 1
    assert all(line.startswith("warning: ") and "nothing vouches" in line for line in lines)
    for path in (data, data / "zoo", data / "dataset", data / PCA_FILE, data / AUTOENCODER_FILE):
        assert "no hash" in map(str, describe(path).values())


def test_a_hash_that_does_not_fit_stays_an_error(data):
    """Also one that is no hash at all."""
    path = data / PCA_FILE
    tensors = {k: x.clone() for k, x in load_tensors(path, "pca")[0].items()}
    meta = read_meta(path)
    for value in ("", "0" * 64, meta["sha256"].upper(), None, 7, []):
        path.write_bytes(save(tensors, metadata={META_KEY: canonical(meta | {"sha256": value})}))
        refused(lambda: OPENED[PCA_FILE](path), path.name)


def test_the_documentation_says_how_many_hostile_inputs_there_are():
    page = (ROOT / "docs" / "guides" / "command_line.md").read_text()
    (stated,) = re.findall(r"The tests try more than\s([0-9,]+) hostile", page)
    assert 400 < int(stated.replace(",", "")) < sum(import_module("hostile").FILES.values())
