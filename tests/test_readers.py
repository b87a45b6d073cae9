"""Public zoos: every layout comes as it was, measured to what it logs; nothing malformed passes."""

import json
import pickle
import shutil
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import fake_zoos
from cases import FILE, merged, section, tiny
from weightspace.cli.app import main
from weightspace.data.dataset import Dataset, make_dataset
from weightspace.errors import WeightspaceError
from weightspace.experiments.preflight import check
from weightspace.nets.base import build_net
from weightspace.weights import spec as spec_module
from weightspace.zoo import imported
from weightspace.zoo.imported import Source, import_zoo, with_pixels, without_images
from weightspace.zoo.readers import READERS
from weightspace.zoo.readers._pickles import Stub, plain, read_stubbed
from weightspace.zoo.readers.ray_tune import read_images
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

EPOCHS = fake_zoos.EPOCHS
RELU = {"activation": "relu"}
WHERE = {  # what of a fake is one architecture
    "folder": {},
    "matrix": RELU,
    "ray_tune": {"nlin": "relu"},
    "wild_park": {"channels": "1-4-5", "activation": "relu"},
}
MEMBERS = {"folder": 12, "matrix": 6, "ray_tune": 6, "wild_park": 6}


@pytest.fixture(scope="module")
def dataset():
    """Ten of ten digits in one task."""
    one = {"train": 1.0, "val": 0.0, "test_sets": 0.0}
    counts = {"train": 12, "val": 8, "test": 20}
    keys = {"tasks": "sets", "classes_per_task": 10, "splits": one, "samples_per_class": counts}
    params = section("dataset", **keys)
    return make_dataset(params, section("sources"), 0)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory, dataset):
    """One fake of each layout, scored on the test images."""
    images, labels = dataset.task_batch(torch.tensor([0]), "test")
    folders = {layout: tmp_path_factory.mktemp(layout) for layout in fake_zoos.MAKERS}
    for layout, folder in folders.items():
        fake_zoos.MAKERS[layout](folder, images[0], labels)
    return folders


@pytest.fixture
def fake(fakes, tmp_path):
    """Factory: a copy of a fake, which a test may damage."""

    def copy(layout):
        return shutil.copytree(fakes[layout], tmp_path / layout)

    return copy


def runner(layout, dataset, **settings):
    keys = fake_zoos.NETS[layout] | settings
    options = section("nets", convnet=keys).of("convnet")
    return TaskRunner(build_net("convnet", dataset.shape, 10, options), dataset)


def source(layout, folder, **keys):
    table = folder / "table.csv" if layout == "folder" else None
    return Source(folder, layout, table, WHERE[layout], **keys)


def bring(layout, folder, dataset, out, settings=None, **keys):
    keys.setdefault("split", None if layout in ("folder", "wild_park") else "0.5,0.25,0.25")
    asked = replace(source(layout, folder), **keys)
    return import_zoo(asked, runner(layout, dataset, **(settings or {})), out)


def test_every_reader_has_a_fake():
    assert set(READERS) == set(fake_zoos.MAKERS)


@pytest.mark.parametrize("layout", READERS)
def test_networks_reach_what_the_zoo_logs(layout, fakes, dataset, tmp_path):
    """So each tensor is in its place and turned as it must be; with the control of another activation."""
    made = bring(layout, fakes[layout], dataset, tmp_path / "zoo", tolerance=1e-6)
    members = Zoo.open(tmp_path / "zoo").members
    assert len(members) == MEMBERS[layout] == len(made.members)
    assert members.groupby("run")["epoch"].apply(list).map(tuple).unique().tolist() == [(0, 3, 6)]
    assert members.groupby("run")["snapshot"].apply(list).map(tuple).unique().tolist() == [
        (0, 1, 2)
    ]
    assert not members["believed"].any()
    assert not members["diverged"].all()
    assert any("test_accuracy: 0 of" in note for note in made.notes)
    shifted = with_pixels(dataset, dataset.mean + 0.3, -dataset.std)  # negatives, darker
    with pytest.raises(WeightspaceError, match="networks do not reach what the zoo says"):
        bring(layout, fakes[layout], shifted, tmp_path / "other", tolerance=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["zoo"]


def test_settings_of_one_task_are_valid_without_runs_of_each_split():
    """As the guide of public zoos has them; of several tasks each split still needs a run."""
    train_only = {"train": 1.0, "val": 0.0, "test_sets": 0.0}
    one = {"tasks": "sets", "classes_per_task": 10, "splits": train_only}
    assert len(check(tiny(dataset=one)).tasks) == 1
    with pytest.raises(WeightspaceError, match="no run is in split 'test_sets'"):
        check(tiny(dataset=one | {"classes_per_task": 9}))


def test_residual_networks_of_ray_tune_reach_what_the_zoo_logs(dataset, tmp_path):
    """Tensors by torchvision's names, every run with ReLU; with the control of another stem."""
    images, labels = dataset.task_batch(torch.tensor([0]), "test")
    folder = tmp_path / "runs"
    folder.mkdir()
    fake_zoos.make_ray_resnets(folder, images[0], labels)

    def bring_resnets(stem):
        options = section("nets", resnet18={"width": 2, "stem": stem}).resnet18
        net = build_net("resnet18", dataset.shape, 10, options)
        asked = Source(folder, "ray_tune", split="0.5,0.25,0.25", tolerance=1e-6)
        return import_zoo(asked, TaskRunner(net, dataset), tmp_path / stem).members

    members = bring_resnets("small")
    assert len(members) == 12
    assert members["test_accuracy"].nunique() > 6
    with pytest.raises(WeightspaceError, match="network of stem small; expected torchvision"):
        bring_resnets("torchvision")


@pytest.mark.parametrize("layout", READERS)
def test_shards_of_any_size_hold_the_same_zoo(layout, fakes, dataset, tmp_path, monkeypatch):
    sizes, save = [], imported.save_shard

    def counted(path, weights, *rest):
        sizes.append(spec_module.count(weights))
        return save(path, weights, *rest)

    monkeypatch.setattr(imported, "save_shard", counted)
    bring(layout, fakes[layout], dataset, tmp_path / "whole")
    monkeypatch.setattr(imported, "PER_SHARD", 4)
    bring(layout, fakes[layout], dataset, tmp_path / "parts")
    whole, parts = Zoo.open(tmp_path / "whole"), Zoo.open(tmp_path / "parts")
    count = MEMBERS[layout]
    assert sizes == [count, *([4] * (count // 4)), *([count % 4] if count % 4 else [])]
    where = ["shard", "row"]
    left, right = (z.members.drop(columns=where) for z in (whole, parts))
    pd.testing.assert_frame_equal(left, right)
    mine, theirs = (z.spec.flatten(z.weights(z.members)) for z in (whole, parts))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("layout", ["folder", "matrix", "ray_tune"])
def test_what_is_only_logged_is_believed_and_says_so(layout, fakes, tmp_path):
    """No images are needed; a result that nobody logged is unknown, not 0."""
    nothing = without_images((1, 8, 8), 10)
    made = bring(layout, fakes[layout], nothing, tmp_path / "zoo", believe=True)
    assert made.members["believed"].all()
    assert made.members["val_accuracy"].isna().all()
    assert made.members["test_accuracy"].between(0, 1).all()
    assert not made.members["diverged"].any()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the control: there is nothing to measure on
        bring(layout, fakes[layout], nothing, tmp_path / "other")


def test_members_are_chosen_by_a_column(fakes, dataset, tmp_path):
    folder = fakes["ray_tune"]
    for where, count in (
        ({"nlin": "relu"}, 6),
        ({"model::nlin": "relu", "epoch": "6"}, 2),
        ({"activation": "relu", "dropout": "0.1"}, 3),
        ({"nlin": "relu", "seed": "2"}, 3),
    ):
        out = tmp_path / "-".join(where.values())
        made = bring("ray_tune", folder, dataset, out, where=where, split="1,0,0")
        assert len(made.members) == count


def test_a_member_of_another_activation_is_one_line(fakes, dataset, tmp_path):
    for layout in ("matrix", "ray_tune"):
        with pytest.raises(
            WeightspaceError, match=r"activation tanh; expected relu.*--where activ"
        ):
            bring(layout, fakes[layout], dataset, tmp_path / "zoo", where={})
        bring(
            layout,
            fakes[layout],
            dataset,
            tmp_path / layout,
            {"activation": "tanh"},
            where={"activation": "tanh"},
            tolerance=1e-6,
        )


def test_splits_are_of_runs_and_say_so(fakes, dataset, tmp_path):
    """By fractions, by a file, by the zoo's column, by the task: never a run in two."""
    folder = fakes["matrix"]
    drawn = bring("matrix", folder, dataset, tmp_path / "a", split="0.5,0,0.5").members
    assert drawn.groupby("run")["split"].nunique().eq(1).all()
    assert set(drawn["split"]) == {"train", "test_sets"}
    again = bring("matrix", folder, dataset, tmp_path / "b", split="0.5,0,0.5").members
    assert drawn["split"].equals(again["split"])
    table = pd.DataFrame({"run": [f"gs://zoo/unit-{i:03d}" for i in range(4)]})
    table["split"] = ["train", "val", "train", "test"]
    table.to_csv(tmp_path / "runs.csv", index=False)
    listed = bring("matrix", folder, dataset, tmp_path / "c", split=str(tmp_path / "runs.csv"))
    assert set(listed.members["split"]) == {"val", "test_sets"}
    assert any("a held-out network may have a task that train has" in n for n in listed.notes)
    park = bring("wild_park", fakes["wild_park"], dataset, tmp_path / "d").members
    assert park["split"].value_counts().to_dict() == {"train": 3, "test_sets": 3}
    by_task = bring("matrix", folder, dataset, tmp_path / "e", split=None).members
    assert set(by_task["split"]) == {"train"}


def test_a_penalty_of_zero_has_a_logarithm(fakes, dataset, tmp_path):
    made = bring(
        "matrix",
        fakes["matrix"],
        dataset,
        tmp_path / "a",
        {"activation": "tanh"},
        where={"activation": "tanh"},
    )
    assert sorted(made.members["weight_decay"].unique()) == [
        pytest.approx(2e-5),
        pytest.approx(2e-4),
    ]
    assert any("weight_decay: 0 is written as" in n for n in made.notes)


def test_broken_weights_mark_their_run(fake, dataset, tmp_path):
    folder = fake("matrix")
    weights = np.load(folder / "weights.npy")
    table = pd.read_csv(folder / "metrics.csv.gz")
    row = int(((table["config.activation"] == "relu") & (table["step"] == 6)).argmax())
    weights[row] = np.nan
    np.save(folder / "weights.npy", weights)
    for believe in (False, True):
        made = bring("matrix", folder, dataset, tmp_path / str(believe), believe=believe).members
        assert made.loc[made["diverged"], "run"].nunique() == 1
        assert made["diverged"].sum() == len(EPOCHS) == len(made) / 2


def test_images_of_a_pickle_are_read_without_their_classes(fakes, dataset):
    read = read_images(fakes["ray_tune"] / "dataset.pt")
    images, labels = dataset.task_batch(torch.tensor([0]), "test")
    assert set(read) == {"trainset", "testset"}
    assert np.array_equal(read["testset"][0], images[0].numpy())
    assert np.array_equal(read["testset"][1], labels.numpy())


class Bomb:
    """Runs a command when it is unpickled by Python."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_pickle_runs(tmp_path):
    torch.save({"config": Bomb(tmp_path / "ran")}, tmp_path / "a.pt")
    value = read_stubbed(tmp_path / "a.pt")["config"]
    assert isinstance(value, Stub)
    assert value.name.endswith(".open")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)["config"].close()  # the control
    assert (tmp_path / "ran").exists()
    assert plain(value) == [str(tmp_path / "ran"), "w"]


def test_numpy_scalars_are_numbers(tmp_path):
    values = {"a": np.float64(0.1), "b": np.int32(-3), "c": [np.float32(0.5), np.bool_(True)]}
    torch.save(values, tmp_path / "a.pt")
    assert plain(read_stubbed(tmp_path / "a.pt")) == {"a": 0.1, "b": -3, "c": [0.5, True]}
    torch.save({"a": np.datetime64("2020-01-01")}, tmp_path / "a.pt")
    value = read_stubbed(tmp_path / "a.pt")
    with pytest.raises(WeightspaceError, match="no number"):
        plain(value)


def test_other_pixels_are_the_same_images(dataset):
    other = with_pixels(dataset, 0.5, 0.25)
    back = with_pixels(other, dataset.mean, dataset.std)
    pixels = dataset.images["test"] * dataset.std + dataset.mean
    torch.testing.assert_close(other.images["test"], (pixels - 0.5) / 0.25)
    torch.testing.assert_close(back.images["train"], dataset.images["train"])


def test_the_dataset_of_other_pixels_is_written(fakes, dataset, tmp_path):
    other = with_pixels(dataset, 0.5, 0.5)
    import_zoo(
        source("matrix", fakes["matrix"]),
        runner("matrix", other),
        tmp_path / "zoo",
        keep_dataset=True,
    )
    kept = Dataset.load(tmp_path / "zoo" / "dataset")
    assert (kept.mean, kept.std) == (0.5, 0.5)
    assert torch.equal(kept.images["val"], other.images["val"])


# Malformed: what is changed, one line each


def csv(name, change, **options):
    """Change a table."""

    def apply(folder):
        table = pd.read_csv(folder / name)
        change(table).to_csv(folder / name, index=False, **options)

    return apply


def matrix(change):
    """Change the matrix."""

    def apply(folder):
        np.save(folder / "weights.npy", change(np.load(folder / "weights.npy")))

    return apply


def data(name, value):
    """Bytes in the place of every file of a name; None removes it."""

    def apply(folder):
        files = sorted(folder.rglob(name))
        assert files
        for file in files[:1]:
            file.unlink() if value is None else file.write_bytes(value)

    return apply


def run_of(folder, i=1):
    return sorted(folder.glob("NN_tune*"))[i]


def lines(change):
    """Change the lines of the results of a run."""

    def apply(folder):
        file = run_of(folder) / "result.json"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps(row) for row in change(rows)))

    return apply


def state(change, pattern="checkpoints"):
    """Change a checkpoint."""

    def apply(folder):
        file = sorted(folder.rglob(pattern))[3]
        torch.save(change(torch.load(file, weights_only=True)), file)

    return apply


def first(table, column, value):
    return table.assign(**{column: table[column].astype(object).where(table.index != 3, value)})


def renamed(old, new):
    return lambda s: {k.replace(old, new): v for k, v in s.items()}


def part(change):
    """Change the splits of the Wild Park."""

    def apply(folder):
        file = folder / "cnn_park_splits.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return apply


def edit(splits, key, value, split="train"):
    return splits | {split: splits[split] | {key: value}}


def park(change):
    """Change a checkpoint of the Wild Park: plain values, which its reader takes as well."""

    def apply(folder):
        file = sorted(folder.rglob("checkpoint.pt"))[0]
        raw = read_stubbed(file)
        torch.save(change({"model": dict(raw["model"]), "config": plain(raw["config"])}), file)

    return apply


def second_name(folder):
    (run_of(folder) / "checkpoint_3").mkdir()


def script(folder):
    """A TorchScript archive in the place of a checkpoint."""
    file = sorted(folder.rglob("checkpoint.pt"))[0]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))


GZ = {"compression": "gzip"}
LAYOUT, METRICS = "layout.csv", "metrics.csv.gz"
MALFORMED = {
    # matrix
    "matrix: no weights": ("matrix", data("weights.npy", None), "no weights.npy"),
    "matrix: no layout": ("matrix", data(LAYOUT, None), "no such file"),
    "matrix: no metrics": ("matrix", data(METRICS, None), "no metrics.csv.gz"),
    "matrix: empty weights": ("matrix", data("weights.npy", b""), "not a complete NumPy"),
    "matrix: cut weights": ("matrix", data("weights.npy", b"\x93NUMPY\x01\x00v"), "NumPy"),
    "matrix: objects": ("matrix", matrix(lambda w: w.astype(object)), "NumPy file"),
    "matrix: integers": ("matrix", matrix(lambda w: w.astype(int)), "not a matrix"),
    "matrix: a vector": ("matrix", matrix(lambda w: w[0]), "not a matrix of networks"),
    "matrix: no rows": ("matrix", matrix(lambda w: w[:0]), "not a matrix of networks"),
    "matrix: a row short": ("matrix", matrix(lambda w: w[:-1]), "rows of metrics and weights"),
    "matrix: a column short": ("matrix", matrix(lambda w: w[:, :-1]), "do not fill a row"),
    "matrix: damaged gzip": ("matrix", data(METRICS, b"\x1f\x8b\x08"), "not a table"),
    "matrix: no gzip": ("matrix", data(METRICS, b"modeldir,step\n"), "not a table"),
    "matrix: no step": (
        "matrix",
        csv(METRICS, lambda t: t.drop(columns="step"), **GZ),
        "'step' is",
    ),
    "matrix: step of text": (
        "matrix",
        csv(METRICS, lambda t: first(t, "step", "x"), **GZ),
        "'step'",
    ),
    "matrix: no run": (
        "matrix",
        csv(METRICS, lambda t: first(t, "modeldir", None), **GZ),
        "row 4: no modeldir",
    ),
    "matrix: a row twice": (
        "matrix",
        csv(METRICS, lambda t: t.assign(step=6), **GZ),
        "a second row of its run and step",
    ),
    "matrix: accuracy of 93": (
        "matrix",
        csv(METRICS, lambda t: t.assign(test_accuracy=93.0), **GZ),
        "'test_accuracy'; found 93.0, expected 0 to 1",
    ),
    "matrix: loss of text": (
        "matrix",
        csv(METRICS, lambda t: t.assign(test_loss="low"), **GZ),
        "'test_loss': not a number",
    ),
    "matrix: a gap": (
        "matrix",
        csv(LAYOUT, lambda t: first(t, "start_idx", 500)),
        "does not follow the one before it",
    ),
    "matrix: another shape": (
        "matrix",
        csv(LAYOUT, lambda t: first(t, "shape", "(3, 3, 1, 4)")),
        "not with its shape",
    ),
    "matrix: a gamma": (
        "matrix",
        csv(LAYOUT, lambda t: first(t, "varname", "sequential/bn/gamma:0")),
        "unknown kind; found sequential/bn/gamma:0",
    ),
    "matrix: layers in another order": (
        "matrix",
        csv(LAYOUT, lambda t: first(t, "varname", "sequential/dense_7/kernel:0")),
        "no tensor of each kind",
    ),
    "matrix: no start": (
        "matrix",
        csv(LAYOUT, lambda t: t.drop(columns="start_idx")),
        "'start_idx'",
    ),
    # ray_tune
    "ray: no runs": (
        "ray_tune",
        lambda f: [p.rename(f / p.name[3:]) for p in f.glob("NN*")],
        "no folder NN",
    ),
    "ray: no params": ("ray_tune", data("params.json", None), "no params.json"),
    "ray: params cut": (
        "ray_tune",
        data("params.json", b'{"seed": 1'),
        "not a complete line of JSON",
    ),
    "ray: params a list": ("ray_tune", data("params.json", b"[1]"), "not a table of settings"),
    "ray: no results": ("ray_tune", data("result.json", None), "no result.json"),
    "ray: results empty": ("ray_tune", data("result.json", b"\n"), "no results"),
    "ray: results cut": ("ray_tune", data("result.json", b'{"test_acc": 0.1}\n{"test'), "line 2"),
    "ray: a line is a number": ("ray_tune", data("result.json", b"3\n"), "not a table of results"),
    "ray: results no text": ("ray_tune", data("result.json", b"\xff\xfe\x00"), "cannot be read"),
    "ray: an epoch twice": ("ray_tune", lines(lambda r: [*r, r[-1]]), "stands twice"),
    "ray: half an epoch": (
        "ray_tune",
        lines(lambda r: [x | {"training_iteration": 0.5} for x in r]),
        "epoch is no integer",
    ),
    "ray: results end early": ("ray_tune", lines(lambda r: r[:5]), "no results of epoch 6"),
    "ray: accuracy of 93": (
        "ray_tune",
        lines(lambda r: [x | {"test_acc": 93} for x in r]),
        "'test_accuracy'; found 93",
    ),
    "ray: accuracy of text": (
        "ray_tune",
        lines(lambda r: [x | {"test_acc": "high"} for x in r]),
        "not a number; found 'high'",
    ),
    "ray: two names of one epoch": ("ray_tune", second_name, "two checkpoints of epoch 3"),
    "ray: no checkpoints": (
        "ray_tune",
        lambda f: [p.rename(p.parent / f"x{p.name}") for p in run_of(f).glob("check*")],
        "run without checkpoints",
    ),
    "ray: empty checkpoint": (
        "ray_tune",
        lambda f: next(run_of(f).rglob("checkpoints")).write_bytes(b""),
        "torch.save",
    ),
    "ray: no such checkpoint": (
        "ray_tune",
        lambda f: next(run_of(f).rglob("checkpoints")).unlink(),
        "no such file",
    ),
    "ray: code": (
        "ray_tune",
        lambda f: torch.save({"a": Bomb(f / "ran")}, next(run_of(f).rglob("checkpoints"))),
        "nothing in it was run",
    ),
    "ray: no weight": (
        "ray_tune",
        state(lambda s: {k: v for k, v in s.items() if k != "module_list.3.weight"}),
        "no tensor of each kind",
    ),
    "ray: one layer more": (
        "ray_tune",
        state(
            lambda s: (
                s
                | {"module_list.14.weight": torch.ones(2, 2), "module_list.14.bias": torch.ones(2)}
            )
        ),
        "layers do not match architecture 'convnet'",
    ),
    "ray: other names": (
        "ray_tune",
        state(renamed("module_list", "layers")),
        "tensors of no module",
    ),
    "ray: another width": (
        "ray_tune",
        state(lambda s: s | {"module_list.9.weight": torch.ones(7, 2)}),
        "as 'hidden.0.weight' has another shape; found (7, 2), expected (6, 2)",
    ),
    "ray: transposed": (
        "ray_tune",
        state(lambda s: s | {"module_list.11.weight": s["module_list.11.weight"].mT.clone()}),
        "has another shape",
    ),
    "ray: integers": (
        "ray_tune",
        state(lambda s: s | {"module_list.11.bias": torch.ones(10, dtype=torch.int64)}),
        "cannot be used",
    ),
    # wild_park
    "park: no splits": ("wild_park", data("cnn_park_splits.json", None), "no splits"),
    "park: splits cut": ("wild_park", data("cnn_park_splits.json", b'{"train"'), "JSON"),
    "park: no test": ("wild_park", part(lambda s: {k: s[k] for k in ("train", "val")}), "'test'"),
    "park: a score short": ("wild_park", part(lambda s: edit(s, "score", [0.1])), "of one length"),
    "park: score of 93": ("wild_park", part(lambda s: edit(s, "score", [93.0] * 6)), "0 to 1"),
    "park: no step": (
        "wild_park",
        part(lambda s: edit(s, "step", [None] * 6)),
        "no path or no step",
    ),
    "park: a path twice": (
        "wild_park",
        part(lambda s: edit(s, "path", [s["train"]["path"][0]] * 6)),
        "is in the splits twice",
    ),
    "park: a run in two splits": (
        "wild_park",
        part(
            lambda s: (
                s
                | {
                    "val": {k: v[:1] for k, v in s["train"].items()},
                    "train": {k: v[1:] for k, v in s["train"].items()},
                }
            )
        ),
        "is in two splits",
    ),
    "park: no such checkpoint": ("wild_park", data("checkpoint.pt", None), "no file '"),
    "park: out of the folder": (
        "wild_park",
        part(lambda s: edit(s, "path", [f"../wild_park/{p}" for p in s["train"]["path"]])),
        "is not in ",
    ),
    "park: no config": (
        "wild_park",
        park(lambda c: {"model": c["model"]}),
        "no 'config'; found model",
    ),
    "park: no model": ("wild_park", park(lambda c: {"config": c["config"]}), "no 'model'"),
    "park: config of no network": (
        "wild_park",
        park(lambda c: c | {"config": {"lr": 1}}),
        "no architecture",
    ),
    "park: model is a number": ("wild_park", park(lambda c: c | {"model": 3}), "no state_dict"),
    "park: residuals": (
        "wild_park",
        park(lambda c: c | {"config": c["config"] | {"residual": [-1, 0]}}),
        "no architecture here has residual connections",
    ),
    "park: another stride": (
        "wild_park",
        park(lambda c: c | {"config": c["config"] | {"stride": [2, 1]}}),
        "network of strides [2, 1]; expected [1, 1]",
    ),
    "park: damaged": ("wild_park", data("checkpoint.pt", b"PK\x03\x04"), "torch.save"),
    "park: TorchScript": ("wild_park", script, "TorchScript"),
    # folder
    "folder: no split of that name": (
        "folder",
        csv("table.csv", lambda t: t.assign(split="exam")),
        "no split 'exam'",
    ),
    "folder: a run in two splits": (
        "folder",
        csv("table.csv", lambda t: first(t, "split", "val")),
        "several splits",
    ),
    "folder: accuracy of 93": (
        "folder",
        csv("table.csv", lambda t: t.assign(test_accuracy=93)),
        "0 to 1",
    ),
    "folder: other classes": (
        "folder",
        csv("table.csv", lambda t: t.assign(classes="1,0,2,3,4,5,6,7,8,9")),
        "not a task",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_zoos_are_one_line_and_leave_nothing(case, fake, dataset, tmp_path):
    layout, damage, words = MALFORMED[case]
    folder = fake(layout)
    damage(folder)
    with pytest.raises(WeightspaceError) as caught:
        bring(layout, folder, dataset, tmp_path / "zoo")
    message = str(caught.value)
    assert "\n" not in message
    assert words in message
    assert [p.name for p in tmp_path.iterdir()] == [layout]
    assert not (folder / "ran").exists()


RULES = {
    "two fractions": ({"split": "0.5,0.5"}, "no fractions"),
    "fractions above 1": ({"split": "0.5,0.5,0.5"}, "no fractions"),
    "no file of splits": ({"split": "none.csv"}, "no such file"),
    "no such column": ({"where": {"nlim": "relu"}}, "no column 'nlim'"),
    "nothing chosen": ({"where": {"nlin": "gelu"}}, "no networks to import"),
    "no such layout": ({"layout": "ray"}, "did you mean 'ray_tune'?"),
    "a table too many": ({"table": "table.csv"}, "would not be read"),
    "no such folder": ({"path": "nowhere"}, "no such folder"),
}


@pytest.mark.parametrize("case", RULES)
def test_wrong_requests_are_one_line_and_leave_nothing(case, fakes, dataset, tmp_path):
    keys, words = RULES[case]
    keys = {k: tmp_path / v if k in ("path", "table") else v for k, v in keys.items()}
    asked = replace(source("ray_tune", fakes["ray_tune"]), **keys)
    with pytest.raises(WeightspaceError) as caught:
        import_zoo(asked, runner("ray_tune", dataset), tmp_path / "zoo")
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strides": [1, 2]}, r"strides \[2, 2\]; expected \[1, 2\], as nets.convnet"),
        ({"padding": [1, 0]}, "padding"),
        ({"mean": False}, "mean"),
    ],
)
def test_what_no_tensor_shows_is_compared_with_the_settings(
    settings, words, fakes, dataset, tmp_path
):
    """Weights of another stride or border would fit, and do other things."""
    with pytest.raises(WeightspaceError, match=words):
        bring("matrix", fakes["matrix"], dataset, tmp_path / "zoo", settings)


@pytest.fixture
def root(dataset, tmp_path):
    """A project with the dataset of ten digits and the architecture of the matrix."""
    nets = {"convnet": fake_zoos.NETS["matrix"]}
    one = {"train": 1.0, "val": 0.0, "test_sets": 0.0}
    settings = {"tasks": "sets", "classes_per_task": 10, "splits": one}
    params = merged(FILE, {"dataset": settings, "nets": nets})
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "params.yaml").write_text(yaml.safe_dump(params))
    dataset.save(tmp_path / "root" / "data" / "dataset")
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tolerance", "0.001"), "read again and measured again"),
        (("--believe", "--shape", "1,8,8"), "results are the zoo's, none was measured"),
        (("--pixels", "0.5,0.5"), "has the images as these networks expect them"),
        (("--where", "step=6"), "2 members of 2 runs"),
    ],
)
def test_the_command_imports_a_zoo(words, said, root, fakes, tmp_path, monkeypatch, capsys):
    given = ["import", str(fakes["matrix"]), "--layout", "matrix", "--arch", "convnet"]
    given += ["--where", "activation=relu", "--root", str(root), "--out", str(tmp_path / "zoo")]
    monkeypatch.setattr(sys, "argv", ["weightspace", *given, *words])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert (caught.value.code or 0, err) == (0, "")
    assert said in out
    assert Zoo.open(tmp_path / "zoo").members["believed"].all() == ("--believe" in words)
    assert (tmp_path / "zoo" / "dataset").is_dir() == bool({"--pixels", "--shape"} & set(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "1,8,8"), "no images to measure on"),
        (("--shape", "1,8", "--believe"), "is no list of numbers"),
        (("--pixels", "0.5"), "is no list of numbers"),
        (("--pixels", "0.5,0"), "is no list of numbers"),
        (("--where", "step"), "is no COLUMN=VALUE"),
        (("--where", "step=6", "--where", "step=3"), "is no COLUMN=VALUE"),
        (("--where", "step=7"), "no networks to import"),
        (("--layout", "folder"), "no table says what the checkpoints are"),
    ],
)
def test_wrong_words_are_one_line(words, said, root, fakes, tmp_path, monkeypatch, capsys):
    given = ["import", str(fakes["matrix"]), "--arch", "convnet", "--root", str(root)]
    given += [
        "--out",
        str(tmp_path / "zoo"),
        *(() if "--layout" in words else ("--layout", "matrix")),
    ]
    monkeypatch.setattr(sys, "argv", ["weightspace", *given, *words])
    with pytest.raises(SystemExit) as caught:
        main()
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "zoo").exists()


def test_the_script_writes_every_layout(tmp_path, monkeypatch):
    for layout in fake_zoos.MAKERS:
        monkeypatch.setattr(sys, "argv", ["fake_zoos.py", layout, str(tmp_path / layout)])
        fake_zoos.main()
        assert any((tmp_path / layout).iterdir())
