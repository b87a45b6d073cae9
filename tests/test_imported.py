"""A zoo made of checkpoints: what the table says is kept, what it claims is measured."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import AutoencoderData
from weightspace.data.dataset import Dataset
from weightspace.errors import WeightspaceError
from weightspace.evaluate.properties import Features, evaluate_properties
from weightspace.project.project import import_zoo
from weightspace.registry import resolve
from weightspace.weights import spec
from weightspace.weights.pca import fit_pca
from weightspace.weights.spec import take
from weightspace.zoo import imported
from weightspace.zoo.store import Zoo

HYPER = ["optimizer", "lr", "weight_decay", "epochs", "epoch"]


@pytest.fixture
def folder(tmp_path, world):
    """Every member of the tiny zoo as a checkpoint, and the table of them, shuffled."""
    zoo, dataset = world().zoo, world().dataset
    weights, rows = zoo.weights(zoo.members), []
    (tmp_path / "nets" / "päck").mkdir(parents=True)
    for i, member in enumerate(zoo.members.to_dict("records")):
        one = take(weights, i)
        name = f"päck/{i}.pt" if i % 2 else f"{i}.safetensors"
        if i % 2:
            wrapped = {"state_dict": {f"model.{k}": v.clone() for k, v in one.items()}}
            torch.save(wrapped, tmp_path / "nets" / name)
        else:
            save_file({k: v.clone() for k, v in one.items()}, tmp_path / "nets" / name)
        classes = dataset.tasks["classes"][member["task"]]
        row = {"file": name, "classes": ",".join(dataset.class_names[c] for c in classes)}
        rows.append(row | {k: member[k] for k in ("run", "test_accuracy", *HYPER)})
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


def bring(folder, project_root, table="table.csv", out="zoo", arch="cnn"):
    return import_zoo(folder / "nets", folder / table, folder / out, arch=arch, root=project_root)


def edit(folder, **columns):
    """Change columns of the table; None drops one."""
    table = pd.read_csv(folder / "table.csv")
    for name, value in columns.items():
        table = table.drop(columns=name) if value is None else table.assign(**{name: value})
    table.to_csv(folder / "table.csv", index=False)


def test_a_zoo_comes_back_as_it_was(folder, world, project_root):
    found = bring(folder, project_root)
    old, new = world().zoo, Zoo.open(folder / "zoo")
    order = old.members.sort_values(["run", "epoch"]).reset_index(drop=True)
    mine = new.members
    first = mine.drop_duplicates("run")["test_accuracy"].to_numpy()
    assert len(mine) == len(order)
    assert mine["split"].value_counts().to_dict() == order["split"].value_counts().to_dict()
    key = ["task", "lr", "epoch"]
    merged = mine.merge(order, on=key, suffixes=("", "_old"))
    assert len(merged) == len(mine)
    for name in ("train_loss", "val_accuracy", "test_accuracy"):
        assert np.allclose(merged[name], merged[f"{name}_old"], atol=1e-6), name
    assert (merged["snapshot"] == merged["snapshot_old"]).all()
    assert len(first) == old.members["run"].nunique()
    a, b = new.weights(merged[mine.columns]), old.weights(order)
    again = merged[["member"]].assign(place=np.arange(len(merged)))
    places = order.merge(merged[[*key, "member"]].merge(again), on=key)["place"]
    assert torch.equal(new.spec.flatten(a)[torch.tensor(places.to_numpy())], old.spec.flatten(b))
    assert any(": 0 of" in note and "test_accuracy" in note for note in found.notes)


def test_a_zoo_larger_than_memory_comes_shard_by_shard(folder, project_root, monkeypatch):
    """And is the same, whatever its shards hold."""
    bring(folder, project_root, out="whole")
    whole, sizes, save = Zoo.open(folder / "whole"), [], imported.save_shard

    def counted(path, weights, *rest):
        sizes.append(spec.count(weights))
        return save(path, weights, *rest)

    monkeypatch.setattr(imported, "save_shard", counted)
    monkeypatch.setattr(spec, "BLOCK_NUMBERS", 7 * whole.spec.numel)
    bring(folder, project_root)
    zoo = Zoo.open(folder / "zoo")
    assert sizes == [7] * (len(zoo.members) // 7) + [len(zoo.members) % 7]
    assert len(list((folder / "whole").glob("*.safetensors"))) == 1 < len(sizes)
    where = ["shard", "row"]
    left, right = (z.members.drop(columns=where) for z in (zoo, whole))
    pd.testing.assert_frame_equal(left, right)
    mine, theirs = (z.spec.flatten(z.weights(z.members)) for z in (zoo, whole))
    assert torch.equal(mine, theirs)


def test_later_stages_accept_it(folder, world, project_root):
    edit(folder, run=None, **dict.fromkeys(HYPER))  # file and classes are enough
    notes = bring(folder, project_root).notes
    assert any("no optimizer, lr, weight_decay, epochs" in note for note in notes)
    tiny, zoo = world(), Zoo.open(folder / "zoo")
    members = {s: zoo.select(s) for s in ("train", "val", "test_sets")}
    weights = {s: zoo.weights(t) for s, t in members.items()}
    pca = fit_pca(zoo.spec, weights["train"], tiny.params.pca)
    data = AutoencoderData.measure(tiny.runner, pca, weights, members, tiny.data.probes)
    for name in AUTOENCODERS:
        autoencoder, _ = resolve(AUTOENCODERS, name, "autoencoder").fit(
            data, tiny.params.autoencoder, tiny.params.autoencoders.of(name), 0
        )
        assert autoencoder.latent == tiny.params.autoencoder.latent
    readings = {"raw_weights": {s: zoo.spec.flatten(w).numpy() for s, w in weights.items()}}
    assert evaluate_properties(Features(members, readings), 0)["test_sets"]["members"] == len(
        members["test_sets"]
    )


def test_claims_are_not_believed(folder, project_root):
    edit(folder, test_accuracy=0.99)
    found = bring(folder, project_root)
    assert found.members["test_accuracy"].mean() < 0.9
    assert any("differ from the table" in n and ": 0 of" not in n for n in found.notes)


def test_runs_of_different_length_end_with_the_same_snapshot(folder, project_root):
    table = pd.read_csv(folder / "table.csv")
    table[table["run"] > 0].iloc[:-1].to_csv(folder / "table.csv", index=False)
    found = bring(folder, project_root)
    last = found.members.groupby("run")["snapshot"].max()
    assert (last == 2).all()
    assert any("are not in the table" in note for note in found.notes)


def test_broken_networks_are_marked_as_diverged(folder, project_root):
    table = pd.read_csv(folder / "table.csv")
    name = next(f for f in table["file"] if f.endswith(".safetensors"))
    state = {
        "convs.0.weight": torch.full((3, 1, 3, 3), torch.nan),
        "convs.0.bias": torch.zeros(3),
        "convs.1.weight": torch.zeros(4, 3, 3, 3),
        "convs.1.bias": torch.zeros(4),
        "head.weight": torch.zeros(3, 16),
        "head.bias": torch.zeros(3),
    }
    save_file(state, folder / "nets" / name)
    found = bring(folder, project_root)
    run = table.loc[table["file"] == name, "run"].iloc[0]
    marked = found.members[found.members["diverged"]]
    assert marked["run"].nunique() == 1
    assert len(marked) == (table["run"] == run).sum()
    assert any("1 diverged runs" in note for note in found.notes)


# name -> changes of the table's columns
BAD = {
    "no file column": {"file": None},
    "no classes column": {"classes": None},
    "unknown class": {"classes": "0,1,cat"},
    "too few classes": {"classes": "0,1"},
    "a class twice": {"classes": "1,1,2"},
    "out of the folder": {"file": "../table.csv"},
    "absolute": {"file": "/etc/hostname"},
    "no such file": {"file": "none.pt"},
    "one file for all": {"file": "0.safetensors"},
    "text as epoch": {"epoch": "late"},
    "infinite rate": {"lr": np.inf},
    "zero rate": {"lr": 0.0},
    "missing epoch": {"epoch": np.nan},
    "one run, many tasks": {"run": 1},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_and_leave_nothing(folder, project_root, case):
    edit(folder, **BAD[case])
    with pytest.raises(WeightspaceError) as caught:
        bring(folder, project_root)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir()) == ["nets", "table.csv"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'"', b"file,classes\n", bytes(9)])
def test_files_that_are_no_tables(folder, project_root, content):
    (folder / "table.csv").write_bytes(content)
    with pytest.raises(WeightspaceError):
        bring(folder, project_root)


def test_a_link_out_of_the_folder_is_refused(folder, project_root):
    (folder / "secret.pt").write_bytes(b"")
    (folder / "nets" / "link.pt").symlink_to(folder / "secret.pt")
    edit(folder, file=[f"{i}.pt" for i in range(len(pd.read_csv(folder / "table.csv")))])
    table = pd.read_csv(folder / "table.csv")
    table.loc[0, "file"] = "link.pt"
    table.iloc[:1].to_csv(folder / "table.csv", index=False)
    with pytest.raises(WeightspaceError, match=r"'link.pt' is not a file in"):
        bring(folder, project_root)


@pytest.mark.parametrize("arch", ["mlp", "cn", ""])
def test_another_architecture_is_refused(folder, project_root, arch):
    with pytest.raises(WeightspaceError):
        bring(folder, project_root, arch=arch)
    assert not (folder / "zoo").exists()


@pytest.mark.slow
def test_every_later_stage_runs_on_an_imported_zoo(finished_clone, tmp_path):
    """The stages themselves, on a zoo that came as checkpoints and a table of two columns."""
    root = tmp_path / "clone"
    clone = finished_clone.copy(root)
    zoo, dataset = Zoo.open(root / "data" / "zoo"), Dataset.load(root / "data" / "dataset")
    weights, rows = zoo.weights(zoo.members), []
    (root / "nets").mkdir()
    for i, task in enumerate(zoo.members["task"]):
        torch.save({"state_dict": take(weights, i)}, root / "nets" / f"{i}.ckpt")
        names = ",".join(str(c) for c in dataset.tasks["classes"][task])
        rows.append({"file": f"{i}.ckpt", "classes": names})
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)
    words = ["import", "nets", "--arch", "cnn", "--results", "table.csv", "--out", "mine"]
    clone.run("python", "-m", "weightspace", *words)
    shutil.rmtree(root / "data" / "zoo")
    (root / "mine").rename(root / "data" / "zoo")
    for path in root.glob("metrics/*.json"):
        path.unlink()
    clone.stages("outputs", "pca", "autoencoder", "shared_encoder", "evaluate_*")
    metrics = {p.stem for p in root.glob("metrics/*.json")}
    stages = ("baselines", "reconstruction", "sampling", "distribution", "novelty")
    assert metrics == {*stages, "finetuning", "properties", "generation"}
