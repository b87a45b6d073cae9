"""Many runs at once equal one by one; bytes depend on nothing but settings; bad shards refused."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import reference
from cases import NETS, WORLDS, build, networks, section, tiny
from conftest import _here, train_zoo
from fake_device import fake_device
from weightspace import artifacts
from weightspace.artifacts import load_tensors, save_tensors, write_parquet
from weightspace.data.dataset import PARTS, make_dataset
from weightspace.errors import WeightspaceError, problem
from weightspace.jobs import local
from weightspace.params import RuntimeSettings
from weightspace.zoo import generate as generator
from weightspace.zoo import train
from weightspace.zoo.generate import generate, summarise, work_key
from weightspace.zoo.plan import Run, plan_run
from weightspace.zoo.shards import ShardJob, train_shard
from weightspace.zoo.store import Zoo
from weightspace.zoo.train import train_runs

ROOT = Path(__file__).parent.parent

RUNS = [  # optimiser, rate, decay, steps; of different lengths in one batch
    ("adam", 0.01, 0.0, (1, 3, 9)),
    ("sgd", 0.1, 0.02, (2, 5, 6)),
    ("adam", 0.002, 0.1, (3, 4, 12)),
    ("sgd", 0.03, 0.0, (1, 2, 3)),
    ("sgd", 0.05, 0.1, (4, 11, 12)),
]


def _inputs(case, rng):
    net = build(case)
    runs = [Run(i, 0, o, lr, wd, 1, s) for i, (o, lr, wd, s) in enumerate(RUNS)]
    shape, classes = NETS[case][2:]
    images = torch.randn(classes + 2, 10, *shape, generator=rng, dtype=torch.float64)
    of_run = torch.stack([torch.randperm(len(images), generator=rng)[:classes] for _ in runs])
    batches = torch.randint(10 * classes, (len(runs), 12, 8), generator=rng)
    for row, run in zip(batches, runs, strict=True):
        row[run.steps[-1] :] = 0
    return net, runs, networks(net, len(runs), dtype=torch.float64), images, of_run, batches


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("case", NETS)
def test_vectorised_training_equals_one_by_one(case, momentum, rng):
    net, runs, init, images, classes, batches = _inputs(case, rng)
    found = train_runs(net, runs, init, images, classes, batches, momentum)
    for i, run in enumerate(runs):
        own = {k: w[i] for k, w in init.items()}
        task = (
            images[classes[i]].flatten(0, 1),
            torch.arange(classes.shape[1]).repeat_interleave(10),
        )
        expected = reference.train_one(net, run, own, *task, batches[i], momentum)
        assert len(expected) == 3
        for name, w in found.items():
            assert w.dtype == torch.float64
            truth = torch.stack([e[name] for e in expected])
            error = (w[i] - truth).abs().max()
            assert error < 1e-10, f"run {run}, tensor {name}: off by {error}"
            assert (truth[0] - own[name]).abs().max() > 1e-5  # something was learned


@pytest.mark.parametrize("case", ["cnn", "cnn-batch-norm", "mlp", "resnet18-small"])
def test_runs_do_not_see_each_other(case, rng):
    net, runs, init, images, classes, batches = _inputs(case, rng)
    together = train_runs(net, runs, init, images, classes, batches, 0.9)
    broken = [
        Run(r.run, r.task, r.optimizer, 1e9 if i == 1 else r.lr, r.weight_decay, 1, r.steps)
        for i, r in enumerate(runs)
    ]
    beside = train_runs(net, broken, init, images, classes, batches, 0.9)
    for name, w in together.items():
        assert torch.equal(w[[0, 2, 3, 4]], beside[name][[0, 2, 3, 4]])
    head = net.spec.names[-1]
    assert not torch.equal(together[head][1], beside[head][1])


@pytest.mark.parametrize("case", ["cnn-batch-norm", "resnet18-small"])
def test_runs_of_all_optimisers_share_a_gradient_and_no_result_depends_on_it(
    case, rng, monkeypatch
):
    net, runs, init, images, classes, batches = _inputs(case, rng)
    sizes, gradient = [], type(net).gradient

    def counted(net, weights, x, *rest):
        sizes.append(len(x))
        return gradient(net, weights, x, *rest)

    monkeypatch.setattr(type(net), "gradient", counted)
    arguments = net, runs, init, images, classes, batches, 0.9
    together = train_runs(*arguments)
    assert (
        sizes == [5] * 3 + [4] * 3 + [3] * 3 + [2] * 3
    )  # of both optimisers; the shortest end first
    assert {run.optimizer for run in runs[-3:]} == {"adam", "sgd"}
    sizes.clear()
    monkeypatch.setattr(train, "_block_size", lambda *_: 2)
    apart = train_runs(*arguments)
    assert max(sizes) == 2  # the control
    for name, w in together.items():
        torch.testing.assert_close(apart[name], w, rtol=1e-9, atol=1e-11)


def test_snapshots_of_one_run_lie_in_memory_once(rng, monkeypatch):
    net, runs, init, images, classes, batches = _inputs("cnn", rng)
    together = train_runs(net, runs, init, images, classes, batches, 0.9)
    made, block = [], train._train_block

    def noted(*arguments):
        made.append(block(*arguments))
        return made[-1]

    monkeypatch.setattr(train, "_train_block", noted)
    for size, shared in ((1, True), (2, False)):  # the control: two runs come back in their order
        some = [part[:size] for part in (runs, classes, batches)]
        start = {name: w[:size] for name, w in init.items()}
        few = train_runs(net, some[0], start, images, some[1], some[2], 0.9)
        head = few[net.spec.names[-1]]
        assert (
            head.untyped_storage().data_ptr() == made[-1].untyped_storage().data_ptr()
        ) == shared
        for name, w in few.items():
            torch.testing.assert_close(w, together[name][:size], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", ["cnn", "resnet18-small"])
def test_runs_train_where_the_images_are_and_come_back(case, rng):
    net, runs, init, images, classes, batches = _inputs(case, rng)
    expected = train_runs(net, runs, init, images, classes, batches, 0.9)
    with fake_device() as device:
        there = train_runs(net, runs, init, images.to(device), classes, batches, 0.9)
    for name, w in there.items():
        assert w.device.type == "cpu"
        torch.testing.assert_close(w, expected[name])


@pytest.mark.parametrize("case", NETS)
def test_activations_in_bf16_give_nearly_the_same_gradients(case, rng):
    net, _, init, images, classes, _ = _inputs(case, rng)
    init, images = {k: w.float() for k, w in init.items()}, images[classes].flatten(1, 2).float()
    exact = net.gradient({k: w.clone() for k, w in init.items()}, images, torch.sin)
    rounded = net.gradient(init, images.bfloat16(), torch.sin)
    assert all(g.dtype == torch.float32 for g in rounded.values())
    a, b = (torch.cat([g.flatten() for g in of.values()]) for of in (exact, rounded))
    deep = case.startswith("resnet18")  # 20 layers of rounding
    assert 0 < (a - b).norm() < (0.5 if deep else 0.1) * a.norm()


def test_memory_of_images_does_not_grow_with_runs(rng):
    images = torch.randn(5, 10, 1, 8, 8, generator=rng)
    classes = torch.stack([torch.randperm(5, generator=rng)[:3] for _ in range(40)])
    batches = torch.randint(30, (40, 12, 8), generator=rng)
    steps = train._steps(classes, batches, images)
    assert steps.images.data_ptr() == images.data_ptr()  # no copy
    x, labels = steps.batch(7, torch.tensor([3, 39]))
    for row, run in enumerate((3, 39)):
        task = images[classes[run]].flatten(0, 1)  # what a copy for each run would be
        assert torch.equal(x[row], task[batches[run, 6]])
        assert torch.equal(labels[row], torch.arange(3).repeat_interleave(10)[batches[run, 6]])


def test_cycles_train_every_task_once():
    plans = [plan_run(r, section("zoo"), 11, 8, 0) for r in range(33)]
    cycles = [[p.task for p in plans[i : i + 11]] for i in (0, 11, 22)]
    assert all(sorted(c) == list(range(11)) for c in cycles)
    assert cycles[0] != cycles[1] != cycles[2]


@pytest.mark.parametrize(
    ("keys", "per_epoch"),
    [
        ({}, 8),
        ({"epochs": [1, 3], "snapshots": 5, "first_step": [4, 9]}, 5),
        ({"epochs": [1, 1], "snapshots": 6, "first_step": [1, 9]}, 6),
        ({"epochs": [1, 2], "snapshots": 2, "first_step": [50, 60]}, 2),
    ],
)
def test_snapshot_steps_rise_to_the_end_of_the_run(keys, per_epoch):
    settings = section("zoo", **keys)
    for number in range(300):
        run = plan_run(number, settings, 7, per_epoch, 0)
        assert len(run.steps) == settings.snapshots
        assert run.steps[0] >= 1
        assert (np.diff(run.steps) > 0).all()
        assert run.steps[-1] == run.epochs * per_epoch


def test_plans_use_the_whole_ranges():
    settings = section("zoo")
    plans = [plan_run(r, settings, 50, 8, 0) for r in range(600)]
    for name, bounds in (("adam", settings.adam_lr), ("sgd", settings.sgd_lr)):
        rates = np.log([p.lr for p in plans if p.optimizer == name])
        low, high = np.log(bounds)
        assert low <= rates.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < rates.max() <= high
        assert abs(rates.mean() - (low + high) / 2) < 0.1 * (high - low)  # uniform in the log
        assert 200 < len(rates) < 400
    assert {p.epochs for p in plans} == set(range(12, 25))
    assert {p.steps[0] for p in plans} == set(range(2, 9))
    assert min(p.weight_decay for p in plans) < 1.2e-5
    assert max(p.weight_decay for p in plans) > 8e-3


def test_run_lengths_of_the_original_study():
    """Last epoch N(100, 15) clipped to [50, 150], first snapshot at epoch U(5, 10)."""
    study = yaml.safe_load((ROOT / "benchmarks" / "original.yaml").read_text())["base"]
    keys = {k.removeprefix("zoo."): v for k, v in study.items() if k.startswith("zoo.")}
    keys |= {k: yaml.safe_load(v) for k, v in keys.items() if isinstance(v, str)}
    plans = [plan_run(r, section("zoo", **keys), 50, 18, 0) for r in range(1000)]
    last = np.array([p.epochs for p in plans])
    assert {p.steps for p in plans} == {(p.steps[0], p.epochs * 18) for p in plans}
    assert {p.steps[0] for p in plans} == {18 * e for e in range(5, 11)}
    assert last.min() >= 50
    assert last.max() <= 150
    assert abs(last.mean() - 100) < 2
    assert abs(last.std() - 15) < 1.5
    inside = np.abs(last - 100) < 15.5
    assert 0.65 < inside.mean() < 0.75  # normal: .70; uniform over the range: .31
    narrow = section("zoo", **keys | {"epochs": [95, 105]})
    ends = [plan_run(r, narrow, 50, 18, 0).epochs for r in range(200)]
    assert (ends.count(95) > 40, ends.count(105) > 40) == (True, True)  # clipped, not drawn again


def test_more_snapshots_than_steps_is_one_line():
    settings = section("zoo", epochs=[1, 1], snapshots=6)
    with pytest.raises(WeightspaceError, match=r"zoo.snapshots.*5 steps, 6 snapshots"):
        plan_run(0, settings, 7, 5, 0)


@pytest.mark.parametrize("name", WORLDS)
def test_logged_accuracies_equal_those_of_the_stored_weights(name, world):
    tiny_world = world(name)
    zoo, dataset, net = tiny_world.zoo, tiny_world.dataset, tiny_world.net
    members = zoo.members
    weights = zoo.weights(members)
    assert members["test_accuracy"].nunique() > 5
    for i, member in members.iterrows():
        own = {k: w[i] for k, w in weights.items()}
        for part in PARTS:
            images, labels = dataset.task_batch(torch.tensor([member["task"]]), part)
            found = reference.accuracy_one(net, own, images[0], labels)
            assert found == pytest.approx(member[f"{part}_accuracy"], abs=1e-6)


def test_members_table_is_complete(world):
    zoo = world().zoo
    members = zoo.members
    assert members["member"].tolist() == list(range(120))
    assert members["run"].nunique() == 40
    assert (members.groupby("run")["snapshot"].agg(list).map(tuple) == (0, 1, 2)).all()
    tasks = world().dataset.tasks.set_index("task")
    assert (members["split"].to_numpy() == tasks["split"].loc[members["task"]].to_numpy()).all()
    last = members[members["snapshot"] == 2]
    assert (last["epoch"] == last["epochs"]).all()
    first = members[members["snapshot"] == 0]
    assert last["train_loss"].mean() < first["train_loss"].mean() - 0.02
    shown = summarise(members)
    assert (shown["runs"], shown["members"], shown["diverged_runs"]) == (40, 120, 0)


def test_selection_keeps_order_and_split(world):
    zoo = world().zoo
    chosen = [zoo.select(s) for s in ("train", "val", "test_sets")]
    assert sum(map(len, chosen)) == 120
    assert (chosen[0]["split"] == "train").all()
    assert (zoo.select("val", last_only=True)["snapshot"] == 2).all()
    mixed = zoo.members.iloc[[70, 3, 119, 4]]
    found, everything = zoo.weights(mixed), zoo.weights(zoo.members)
    for name, w in everything.items():
        assert torch.equal(found[name], w[[70, 3, 119, 4]])


def test_a_part_is_the_same_rows_of_the_whole(world, tmp_path):
    zoo = world().zoo
    mixed = zoo.members.iloc[[70, 3, 119, 4]]
    whole = zoo.weights(mixed)
    assert torch.equal(
        zoo.part(mixed, "convs.1.weight", slice(1, 3)), whole["convs.1.weight"][:, 1:3]
    )
    assert torch.equal(zoo.part(mixed, "head.bias", slice(0, 3)), whole["head.bias"])
    path = _copy(zoo, tmp_path / "zoo")
    tensors, meta = load_tensors(path, "zoo-shard")
    tensors["head.bias"][10] = float("nan")
    save_tensors(path, "zoo-shard", tensors, meta)
    with pytest.raises(WeightspaceError, match=r"weights-00001.*'head.bias' has NaN"):
        Zoo.open(path.parent).part(zoo.members.iloc[[70]], "head.bias", slice(0, 3))


def _copy(zoo, folder):
    """Copy of a zoo, to be damaged."""
    folder.mkdir()
    for file in zoo.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "weights-00001.safetensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_healthy_member_is_refused_by_file_and_tensor(value, world, tmp_path):
    path = _copy(world().zoo, tmp_path / "zoo")
    tensors, meta = load_tensors(path, "zoo-shard")
    tensors["convs.1.weight"][7, 0, 0, 0, 0] = value
    save_tensors(path, "zoo-shard", tensors, meta)
    zoo = Zoo.open(path.parent)
    row = zoo.members[(zoo.members["shard"] == 1) & (zoo.members["row"] == 7)].index
    with pytest.raises(WeightspaceError, match=r"weights-00001.*'convs.1.weight'") as error:
        zoo.weights(zoo.members)
    assert "\n" not in str(error.value)
    marked = zoo.members.copy()
    marked.loc[row, "diverged"] = True  # a diverged member may hold anything
    write_parquet(path.parent / "members.parquet", marked)
    zoo = Zoo.open(path.parent)
    assert not zoo.weights(zoo.members)["convs.1.weight"].isfinite().all()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _foreign(path):
    import safetensors.torch

    path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}))


def _kind(path):
    save_tensors(path, "aligned", *load_tensors(path, "zoo-shard")[:1], {})


def _finite_change(path):
    """One number of one network is another one, and nothing else tells."""
    tensors, meta = load_tensors(path, "zoo-shard")
    whole = path.read_bytes()
    tensors["head.bias"] = tensors["head.bias"].clone()
    tensors["head.bias"][7, 0] += 1e-3
    save_tensors(path, "zoo-shard", tensors, meta)
    start = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[:start] + path.read_bytes()[start:])


def _flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[-41] ^= 4
    path.write_bytes(data)


def _short(path):
    tensors, meta = load_tensors(path, "zoo-shard")
    save_tensors(path, "zoo-shard", {k: w[:50] for k, w in tensors.items()}, meta)


def _without(path):
    tensors, meta = load_tensors(path, "zoo-shard")
    del tensors["head.bias"]
    save_tensors(path, "zoo-shard", tensors, meta)


def _other(path):
    net = build("cnn-one-layer")
    meta = {"spec": net.spec.to_json(), "shard": 1}
    save_tensors(path, "zoo-shard", networks(net, 60), meta)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "not a complete safetensors file"),
        (_foreign, "foreign safetensors file"),
        (lambda p: p.write_bytes(b"no tensors"), "not a complete safetensors file"),
        (lambda p: p.write_bytes(b""), "not a complete safetensors file"),
        (Path.unlink, "file is missing"),
        (_kind, "found 'aligned', expected 'zoo-shard'"),
        (_short, "fewer members"),
        (_finite_change, "changed after it was written"),
        (_flipped_bit, "changed after it was written"),
        (_without, "head.bias"),
        (_other, "another architecture"),
    ],
)
def test_a_damaged_shard_is_refused_in_one_line(damage, words, world, tmp_path):
    path = _copy(world().zoo, tmp_path / "zoo")
    damage(path)
    zoo = Zoo.open(path.parent)
    first = zoo.members[zoo.members["shard"] == 0]
    assert len(zoo.weights(first)["head.bias"]) == 60  # the other shard is fine
    with pytest.raises(WeightspaceError, match=words) as error:
        zoo.weights(zoo.members)
    assert "\n" not in str(error.value)
    assert "weights-00001.safetensors" in str(error.value)


@pytest.fixture
def hashed(monkeypatch):
    """Files whose hash was computed, one entry each."""
    noted, compute = [], artifacts._sha256_of_file
    note = lambda path: noted.append(path) or compute(path)  # noqa: E731
    monkeypatch.setattr(artifacts, "_sha256_of_file", note)
    return noted


def _settle(path, seconds=60):
    """Let a file be so old: one that changed a moment ago is verified at every call."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_shard_is_hashed_once_while_it_stays_the_same(world, tmp_path, hashed):
    path = _copy(world().zoo, tmp_path / "zoo")
    for file in path.parent.iterdir():
        _settle(file)
    hashed.clear()  # of what the world was made of
    zoo = Zoo.open(path.parent)
    mixed = zoo.members.iloc[[70, 3, 119, 4]]  # of both shards
    first = zoo.weights(mixed)
    assert len(hashed) == 2
    again = Zoo.open(path.parent).weights(mixed)
    assert all(torch.equal(w, again[k]) for k, w in first.items())
    zoo.weights(zoo.members)
    assert len(hashed) == 2  # other rows, and another zoo of the same files
    _settle(path, 30)  # another time: it may have changed
    zoo.weights(mixed)
    assert len(hashed) == 3
    twin = tmp_path / "twin"
    shutil.copy2(path, twin)
    twin.replace(path)  # another inode
    zoo.weights(mixed)
    zoo.weights(mixed)
    assert len(hashed) == 4
    os.utime(path)  # changed a moment ago: a second change may leave its time as it is
    zoo.weights(mixed)
    zoo.weights(mixed)
    assert len(hashed) == 6


def test_damage_is_noticed_on_the_first_read_and_on_the_first_one_after_a_change(world, tmp_path):
    path = _copy(world().zoo, tmp_path / "zoo")
    whole, zoo = path.read_bytes(), Zoo.open(path.parent)
    first = zoo.members[zoo.members["shard"] == 1].iloc[:1]  # far from the byte that is damaged
    for age in (60, 50, 40):
        _flipped_bit(path)
        _settle(path, age)
        with pytest.raises(WeightspaceError, match="changed after it was written"):
            zoo.weights(first)
        path.write_bytes(whole)
        _settle(path, age - 5)
        zoo.weights(first)
        zoo.weights(first)


def test_a_verified_shard_is_verified_again_when_other_members_count_as_diverged(world, tmp_path):
    path = _copy(world().zoo, tmp_path / "zoo")
    tensors, meta = load_tensors(path, "zoo-shard")
    tensors["head.bias"][7] = float("nan")
    save_tensors(path, "zoo-shard", tensors, meta)
    _settle(path)
    zoo = Zoo.open(path.parent)
    marked = zoo.members.copy()
    marked.loc[(marked["shard"] == 1) & (marked["row"] == 7), "diverged"] = True
    Zoo(zoo.folder, marked, zoo.spec).weights(marked)
    with pytest.raises(WeightspaceError, match=r"'head\.bias' has NaN"):
        zoo.weights(zoo.members)


def test_diverged_runs_are_kept_marked_and_not_selected(tmp_path):
    params = tiny(zoo={"sgd_lr": [1e6, 1e7], "runs": 20})
    zoo = Zoo.open(train_zoo(params, tmp_path))
    members = zoo.members
    sgd = members["optimizer"] == "sgd"
    assert 0 < sgd.sum() < len(members) == 60
    assert members["diverged"].tolist() == sgd.tolist()
    chosen = pd.concat([zoo.select(s) for s in ("train", "val", "test_sets")])
    assert set(chosen["optimizer"]) == {"adam"}
    assert len(chosen) == (~sgd).sum()
    assert len(zoo.weights(members)["head.bias"]) == 60
    assert summarise(members)["diverged_runs"] == members["run"][sgd].nunique()


def _bytes(folder):
    return {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir())}


def test_bytes_do_not_depend_on_processes(world, tmp_path):
    """Two workers against this process, where the tiny world is trained."""
    params = tiny(runtime={"workers": 2})
    generate(params, world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    assert _bytes(tmp_path / "zoo") == _bytes(world().zoo.folder)
    assert not list((tmp_path / "scratch").iterdir())


def test_bytes_depend_on_the_seed(world, tmp_path):
    other = _bytes(train_zoo(tiny(seed=4), tmp_path))
    shard = "weights-00000.safetensors"
    assert other[shard] != _bytes(world().zoo.folder)[shard]


def test_a_longer_zoo_contains_the_shorter_one(world, tmp_path):
    short = _bytes(world().zoo.folder)
    longer, longest = (train_zoo(tiny(zoo={"runs": n}), tmp_path / str(n)) for n in (50, 60))
    shards = [n for n in short if n.startswith("weights")]
    assert len(shards) == 2
    assert all(_bytes(longer)[n] == short[n] for n in shards)
    last = "weights-00002.safetensors"
    assert _bytes(longer)[last] == _bytes(longest)[last]
    members = Zoo.open(longer).members
    assert len(members) == 150
    pd.testing.assert_frame_equal(members.iloc[:120], world().zoo.members)


def test_shared_initialisation_is_common_and_the_default_is_not(world, tmp_path):
    make_dataset(tiny().dataset, tiny().sources, 3).save(tmp_path / "dataset")
    spread = {}
    for init in ("shared", "independent"):
        zoo = tiny(zoo={"init": init, "adam_lr": [1e-9, 1e-9], "sgd_lr": [1e-9, 1e-9]}).zoo
        folder = tmp_path / init
        job = ShardJob(tmp_path / "dataset", zoo, tiny().nets.cnn, 3, folder, 0)
        train_shard(job)
        tensors, _ = load_tensors(job.weights_path, "zoo-shard")
        spread[init] = float(tensors["head.weight"].std(0).mean())
    assert spread["shared"] < 1e-6
    assert spread["independent"] > 0.1


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{src!r}, {tests!r}]
from pathlib import Path
from cases import tiny
from weightspace.zoo import generate as g

def killed(jobs, runtime, train=g.execute):
    for shard in train(jobs, runtime):
        os.kill(os.getpid(), signal.SIGKILL)
        yield shard

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2] == "kill":
        g.execute = killed
    params = tiny(zoo={{"runs": 120}})
    g.generate(params, Path(sys.argv[3]), folder / "zoo", folder / "scratch")
"""


def _run(folder, mode, dataset):
    script = folder / "script.py"
    text = textwrap.dedent(SCRIPT).format(src=str(ROOT / "src"), tests=str(ROOT / "tests"))
    script.write_text(text)
    command = [sys.executable, str(script), str(folder), mode, str(dataset)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    # its output ends with the last process that it started: a worker that stayed would be an error
    done = subprocess.run(command, check=False, env=environment, stdout=subprocess.PIPE, timeout=90)
    return done.returncode


def test_a_killed_generation_continues_from_its_finished_shards(world, tmp_path):
    dataset = world().folder / "dataset"
    assert _run(tmp_path, "kill", dataset) == -signal.SIGKILL
    scratch = next((tmp_path / "scratch").iterdir())
    finished = {f.name: f.stat() for f in scratch.glob("weights-*")}
    assert 1 <= len(finished) < 6
    assert not (tmp_path / "zoo").exists()
    assert _run(tmp_path, "go on", dataset) == 0
    found = _bytes(tmp_path / "zoo")
    assert len(found) == 7
    for name, before in finished.items():  # the very same files, moved and not trained again
        after = (tmp_path / "zoo" / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    undisturbed = train_zoo(tiny(zoo={"runs": 120}), tmp_path / "whole")
    assert found == _bytes(undisturbed)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.fixture(scope="module")
def waiting(world, tmp_path_factory):
    """Work folder whose two shards are finished and wait to be put together."""
    folder = tmp_path_factory.mktemp("waiting")
    for shard in range(2):
        settings = (tiny().zoo, tiny().nets.cnn, tiny().seed)
        train_shard(ShardJob(world().folder / "dataset", *settings, folder, shard))
    return folder


def _flip(place):
    """Damage: one bit of a file, at a fraction of its length."""

    def flip(path):
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 16
        path.write_bytes(data)

    return flip


FILES = ("weights-00001.safetensors", "members-00001.parquet", "checksums-00001.json")
DAMAGES = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"no tensors, no table"),
    **{f"bit at {place}": _flip(place) for place in (0.0, 0.02, 0.5, 0.98, 1.0)},
}
LOSSES = [(name, "missing") for name in FILES[1:]]  # without weights it is not finished


@pytest.mark.parametrize(("name", "damage"), [(n, d) for n in FILES for d in DAMAGES] + LOSSES)
def test_a_damaged_shard_of_an_interrupted_zoo_is_trained_again(
    name, damage, waiting, world, tmp_path, monkeypatch, capsys
):
    """Only that one, said in one line, and the bytes are those of an undisturbed zoo."""
    trained, folder = [], shutil.copytree(waiting, tmp_path / "scratch" / "key")
    monkeypatch.setattr(generator, "work_key", lambda *_: "key")
    DAMAGES.get(damage, Path.unlink)(folder / name)

    def train(jobs, _):
        trained.extend(job.shard for job in jobs)
        assert not list(folder.glob("*-00001.*"))  # nothing damaged is left, whatever comes next
        return _here(jobs, _)

    monkeypatch.setattr(generator, "execute", train)
    generate(tiny(), world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    assert trained == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / FILES[0]) in line
    assert "damaged" in line
    assert _bytes(tmp_path / "zoo") == _bytes(world().zoo.folder)


def test_undamaged_shards_of_an_interrupted_zoo_are_not_trained_again(
    waiting, world, tmp_path, monkeypatch, capsys
):
    shutil.copytree(waiting, tmp_path / "scratch" / "key")
    monkeypatch.setattr(generator, "work_key", lambda *_: "key")
    monkeypatch.setattr(generator, "execute", lambda jobs, _: iter([1 / 0] if jobs else []))
    generate(tiny(), world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    assert not capsys.readouterr().err
    assert _bytes(tmp_path / "zoo") == _bytes(world().zoo.folder)


def test_a_full_disk_is_one_line_and_continues(world, tmp_path, monkeypatch):
    """The disk fills in the second shard; later there is room again."""
    dataset, real, full = world().folder / "dataset", os.fsync, [True]
    monkeypatch.setattr(generator, "execute", _here)

    def fsync(handle):
        done = list(tmp_path.glob("scratch/*/weights-00000.safetensors"))
        if full[0] and done and stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    arguments = (tiny(), dataset, tmp_path / "zoo", tmp_path / "scratch")
    with pytest.raises(WeightspaceError, match=r"cannot write: No space left.*free space") as error:
        generate(*arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "zoo").exists()
    (kept,) = tmp_path.glob("scratch/*/*.safetensors")
    assert not list(tmp_path.glob("scratch/*/.*"))  # no half-written file
    before = kept.stat()
    full[0] = False
    generate(*arguments)
    after = (tmp_path / "zoo" / kept.name).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert _bytes(tmp_path / "zoo") == _bytes(world().zoo.folder)


def test_a_disk_that_fills_at_the_end_leaves_no_partial_zoo(world, tmp_path, monkeypatch):
    def fail(path, table):
        raise problem("cannot write: No space left on device", where=path)

    monkeypatch.setattr(generator, "write_parquet", fail)
    with pytest.raises(WeightspaceError, match="No space left"):
        train_zoo(tiny(), tmp_path)
    assert not list((tmp_path / "zoo").iterdir())
    monkeypatch.undo()
    assert _bytes(train_zoo(tiny(), tmp_path)) == _bytes(world().zoo.folder)


def test_two_at_once_do_not_share_a_folder(world, tmp_path, monkeypatch):
    """The second stops with one line and disturbs nothing; the control: other settings may run."""
    dataset, scratch = world().folder / "dataset", tmp_path / "scratch"

    def train(jobs, runtime):
        with pytest.raises(WeightspaceError, match="another process trains this zoo") as error:
            generate(tiny(), dataset, tmp_path / "second", scratch)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "second").exists()
        monkeypatch.setattr(generator, "execute", _here)
        generate(tiny(seed=4, zoo={"runs": 20}), dataset, tmp_path / "other", scratch)
        return _here(jobs, runtime)

    monkeypatch.setattr(generator, "execute", train)
    generate(tiny(), dataset, tmp_path / "zoo", scratch)
    assert _bytes(tmp_path / "zoo") == _bytes(world().zoo.folder)
    assert (tmp_path / "other" / "members.parquet").exists()
    generate(tiny(), dataset, tmp_path / "second", scratch)  # the lock went with its holder


def test_old_shards_are_left_alone_when_settings_change(world, tmp_path, monkeypatch):
    """Finished shards of other settings, inputs or code lie in a folder of another name."""
    dataset = world().folder / "dataset"
    keys = {work_key(tiny(zoo=zoo), dataset) for zoo in ({}, {"batch_size": 8}, {"epochs": [1, 3]})}
    keys.add(work_key(tiny(seed=4), dataset))
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    assert work_key(tiny(), copy) in keys  # the control: the same inputs elsewhere
    (copy / "tasks.parquet").write_bytes(b"others")
    keys.add(work_key(tiny(), copy))
    code = tmp_path / "train.py"
    code.write_text("edited")
    monkeypatch.setattr(sys.modules["weightspace.zoo.train"], "__file__", str(code))
    keys.add(work_key(tiny(), dataset))
    with fake_device():
        keys.add(work_key(tiny(runtime={"device": "auto"}), dataset))
        assert work_key(tiny(runtime={"device": "cpu"}), dataset) in keys  # the control
    monkeypatch.setattr(torch, "__version__", "2.0")
    keys.add(work_key(tiny(), dataset))
    assert len(keys) == 8
    same = {work_key(tiny(zoo={"runs": 80}, runtime={"executor": "ray"}), dataset)}
    assert same <= keys


class _Deadly:
    """A job that kills the process which receives it."""

    device = "cpu"

    def execute(self):
        pass

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_killed_worker_is_one_line():
    with pytest.raises(WeightspaceError, match="a worker was killed"):
        list(local.execute([_Deadly()], tiny().runtime))


class _OnGpu:
    device = "cuda"


def test_processes_share_the_memory_of_a_gpu(monkeypatch):
    class Pool:
        def __init__(self, processes, context, start, arguments):
            raise _Started(processes, arguments[-1])

    class _Started(Exception):  # noqa: N818  # no error
        pass

    monkeypatch.setattr(local, "ProcessPoolExecutor", Pool)
    runtime = RuntimeSettings(device="cuda", workers=16, executor="local")
    for jobs, expected in ((7, (4, 0.25)), (1, (1, 1.0))):
        with pytest.raises(_Started) as started:
            list(local.execute([_OnGpu()] * jobs, runtime))
        assert started.value.args == expected
    fractions = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(local, "prepare", lambda threads: None)
    monkeypatch.setattr(local.threading, "Thread", mock.Mock())
    for share in (0.25, None):
        local._start_worker(1, mock.Mock(), share)
    assert fractions == [0.25]


SCRIPT_OF_ONE_JOB = """
from weightspace.params import RuntimeSettings
from weightspace.jobs import local

class Job:
    device = "cpu"
    def execute(self):
        return "done"

def main():
    settings = RuntimeSettings(device="cpu", workers=1, executor="local")
    print(*local.execute([Job()], settings))

"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def last_line(text):
        script.write_text(text)
        command = [sys.executable, str(script)]
        found = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True
        )
        return (found.stdout + found.stderr).strip().splitlines()[-1]

    guard = 'if __name__ == "__main__":'
    assert f"`{guard}`" in last_line(SCRIPT_OF_ONE_JOB + "main()")
    assert last_line(SCRIPT_OF_ONE_JOB + f"{guard} main()") == "done"


def test_a_failed_generation_leaves_the_earlier_zoo(world, tmp_path):
    folder = _copy(world().zoo, tmp_path / "zoo").parent
    before = _bytes(folder)
    make_dataset(tiny().dataset, tiny().sources, 3).save(tmp_path / "dataset")
    with pytest.raises(WeightspaceError, match="snapshots"):
        train_zoo(tiny(zoo={"epochs": [1, 1], "snapshots": 9}), tmp_path)
    assert _bytes(folder) == before
