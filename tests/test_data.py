"""Splits do not leak, samples do not overlap, statistics come from train images only."""

import sys
import tracemalloc
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cases import FILE, section, tiny
from weightspace.data import tasks as tasks_module
from weightspace.data.dataset import PARTS, Dataset, make_dataset
from weightspace.data.sources import SOURCES
from weightspace.errors import WeightspaceError
from weightspace.params import DigitsSettings, SourcesSettings

CLASSES, COUNTS = 9, {"train": 6, "val": 3, "test": 4}
EACH = sum(COUNTS.values())


class Sources(SourcesSettings):
    """With a source that the package does not have."""

    fake: DigitsSettings


ANY = Sources(**FILE["sources"], fake={})


def _settings(**keys):
    return section("dataset", **{"samples_per_class": COUNTS, "source": "fake"} | keys)


@pytest.fixture
def source(monkeypatch):
    """Image source whose image i has i in every pixel, so that a sample can be told from others."""
    images = np.arange(CLASSES * EACH, dtype=np.float32)[:, None, None, None].repeat(4, 3)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), EACH))
    names = [f"class {c}" for c in range(CLASSES)]
    fake = SimpleNamespace(
        images=images, labels=labels, load=lambda *_: (fake.images, labels, names)
    )
    monkeypatch.setitem(sys.modules, "fake_source", fake)
    monkeypatch.setitem(SOURCES, "fake", "fake_source")
    return fake


def _numbers(dataset):
    """Number of every sample in the source, part -> (K, n): all are used, so it is their rank."""
    flat = torch.cat([dataset.images[p][..., 0].flatten() for p in PARTS])
    rank = flat.argsort().argsort()
    sizes = [CLASSES * n for n in COUNTS.values()]
    return {
        p: r.reshape(CLASSES, -1).numpy() for p, r in zip(PARTS, rank.split(sizes), strict=True)
    }


UNSEEN = pytest.mark.parametrize("unseen", [0, 1, 3, 4])


@UNSEEN
@pytest.mark.parametrize("val_classes", [0, 1])
@pytest.mark.parametrize("enumerate_at_most", [200_000, 0])  # all sets listed, or drawn
def test_no_class_set_crosses_splits(unseen, val_classes, enumerate_at_most, source, monkeypatch):
    monkeypatch.setattr(tasks_module, "ENUMERATE_AT_MOST", enumerate_at_most)
    settings = _settings(unseen_classes=unseen, val_classes=val_classes, tasks=504)
    dataset = make_dataset(settings, ANY, 5)
    table = dataset.tasks.assign(chosen=[frozenset(c) for c in dataset.tasks["classes"]])
    assert (table.groupby("chosen")["split"].nunique() == 1).all()
    assert (table.groupby("chosen")["class_set"].nunique() == 1).all()
    assert (table.groupby("class_set")["chosen"].nunique() == 1).all()
    orders = table.groupby("class_set")["classes"].agg(lambda c: {tuple(x) for x in c})
    assert all(o == set(permutations(sorted(next(iter(o))))) for o in orders)
    assert (table.groupby("class_set").size() == 6).all()


@UNSEEN
def test_unseen_classes_occur_in_test_classes_only(unseen, source):
    dataset = make_dataset(_settings(unseen_classes=unseen), ANY, 5)
    hidden = set(dataset.unseen)
    assert len(hidden) == unseen
    assert set(dataset.seen) == set(range(CLASSES)) - hidden
    held = [len(hidden & set(c)) for c in dataset.tasks["classes"]]
    fresh = dataset.tasks["split"] == "test_classes"
    assert fresh.any() == (unseen > 0)
    assert all(n == (min(unseen, 3) if f else 0) for n, f in zip(held, fresh, strict=True))


@pytest.mark.parametrize(("unseen", "val_classes"), [(0, 1), (1, 2), (2, 3)])
def test_val_classes_occur_in_val_only(unseen, val_classes, source):
    settings = _settings(unseen_classes=unseen, val_classes=val_classes)
    dataset = make_dataset(settings, ANY, 5)
    before = make_dataset(_settings(unseen_classes=unseen), ANY, 5)
    hidden = set(dataset.unseen) - set(before.unseen)
    assert len(hidden) == val_classes
    assert set(before.unseen) <= set(dataset.unseen)
    held = [len(hidden & set(c)) for c in dataset.tasks["classes"]]
    val = dataset.tasks["split"] == "val"
    assert val.any()
    assert all(n == (val_classes if v else 0) for n, v in zip(held, val, strict=True))


def test_hundreds_of_classes():
    """54 million class sets: drawn and not listed, with tasks of never-seen classes only."""
    settings = section("dataset", tasks=6000, unseen_classes=100, val_classes=50, unseen_share=0.1)
    table, hidden = tasks_module.draw_tasks(settings, 700, 0)
    sets = table.drop_duplicates("class_set")
    assert sets["split"].value_counts().to_dict() == {
        "train": 700,
        "val": 150,
        "test_sets": 150,
        "test_classes": 100,
    }
    assert sets["classes"].map(frozenset).nunique() == len(sets)
    used = {s: set(g.explode().tolist()) for s, g in table.groupby("split")["classes"]}
    assert len(hidden) == 150
    assert used["val"] | used["test_classes"] <= set(hidden)
    assert not used["val"] & used["test_classes"]
    assert not (used["train"] | used["test_sets"]) & set(hidden)
    tracemalloc.start()
    with pytest.raises(WeightspaceError, match=r"dataset\.tasks.*all of 57(\d){6}"):
        tasks_module.draw_tasks(section("dataset", tasks="all"), 701, 0)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@UNSEEN
def test_every_split_has_its_share(unseen, source):
    dataset = make_dataset(_settings(unseen_classes=unseen), ANY, 5)
    sets = dataset.tasks.drop_duplicates("class_set")["split"].value_counts()
    seen = sets.drop("test_classes", errors="ignore")
    assert set(seen.index) == {"train", "val", "test_sets"}
    for name, share in (("train", 0.7), ("val", 0.15), ("test_sets", 0.15)):
        assert abs(seen[name] - share * seen.sum()) <= 1, name


@pytest.mark.parametrize("wanted", [18, 20, 100])
def test_drawn_tasks_are_whole_class_sets(wanted, source):
    dataset = make_dataset(_settings(tasks=wanted), ANY, 0)
    assert 0 <= len(dataset.tasks) - wanted < 6
    assert (dataset.tasks.groupby("class_set").size() == 6).all()
    assert dataset.tasks["task"].tolist() == list(range(len(dataset.tasks)))
    assert len(make_dataset(_settings(), ANY, 0).tasks) == 9 * 8 * 7


def test_a_task_per_class_set_is_the_first_order_of_each(source):
    every = make_dataset(_settings(unseen_classes=1), ANY, 0)
    one = make_dataset(_settings(unseen_classes=1, tasks="sets"), ANY, 0)
    first = every.tasks.drop_duplicates("class_set").reset_index(drop=True)
    assert len(every.tasks) == 6 * len(one.tasks)
    assert one.tasks["classes"].map(sorted).to_list() == one.tasks["classes"].to_list()
    assert one.tasks.drop(columns="task").equals(first.drop(columns="task"))


def test_all_classes_in_one_task_are_one_row():
    """And not 3,628,800."""
    one = {"train": 1.0, "val": 0.0, "test_sets": 0.0}
    settings = section("dataset", tasks="sets", classes_per_task=10, splits=one)
    tracemalloc.start()
    table, unseen = tasks_module.draw_tasks(settings, 10, 0)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert table["classes"].to_list() == [list(range(10))]
    assert table["split"].to_list() == ["train"]
    assert unseen == []


def test_samples_of_parts_are_disjoint_and_of_their_class(source):
    numbers = _numbers(make_dataset(_settings(), ANY, 1))
    everything = np.concatenate([n.ravel() for n in numbers.values()])
    assert len(set(everything.tolist())) == len(everything) == CLASSES * EACH
    for part, found in numbers.items():
        assert found.shape == (CLASSES, COUNTS[part])
        assert (source.labels[found] == np.arange(CLASSES)[:, None]).all()


def test_digits_samples_are_disjoint():
    params = tiny()
    images = make_dataset(params.dataset, params.sources, 0).images
    rows = [{x.numpy().tobytes() for x in images[part].flatten(0, 1)} for part in PARTS]
    assert [len(r) for r in rows] == [200, 100, 100]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def _changed(source, settings, rows):
    source.images = source.images.copy()
    source.images[rows] += 1000
    return make_dataset(settings, ANY, 1)


@pytest.mark.parametrize("part", PARTS)
def test_standardisation_sees_train_images_only(part, source):
    before = make_dataset(_settings(), ANY, 1)
    rows = _numbers(before)[part].ravel()
    after = _changed(source, _settings(), rows)
    kept = [p for p in PARTS if p != part]
    same = all(torch.equal(before.images[p], after.images[p]) for p in kept)
    assert same == (part != "train")


def test_standardisation_sees_seen_classes_only(source):
    settings = _settings(unseen_classes=2)
    before = make_dataset(settings, ANY, 1)
    reference = before.images["train"][before.seen].double()
    assert float(reference.mean()) == pytest.approx(0, abs=1e-6)
    assert float(reference.std()) == pytest.approx(1, abs=1e-6)
    after = _changed(source, settings, np.isin(source.labels, before.unseen))
    assert torch.equal(before.images["train"][before.seen], after.images["train"][before.seen])
    assert not torch.equal(
        before.images["train"][before.unseen], after.images["train"][before.unseen]
    )


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"classes_per_task": 10}, "dataset.classes_per_task", "9 classes"),
        ({"unseen_classes": 7}, "dataset.classes_per_task", "at least 10"),
        ({"val_classes": 7}, "dataset.classes_per_task", "7 of them kept unseen"),
        ({"samples_per_class": COUNTS | {"val": 4}}, "dataset.samples_per_class", "'class 0'"),
        ({"tasks": 6}, "dataset.tasks", "1 class sets"),
        ({"source": "fakes"}, "dataset.source", "did you mean 'fake'"),
    ],
)
def test_what_the_source_cannot_give_is_one_line(keys, key, words, source):
    with pytest.raises(WeightspaceError) as error:
        make_dataset(_settings(**keys), ANY, 0)
    message = str(error.value)
    assert "\n" not in message
    assert key in message
    assert words in message


def test_seed_decides_everything(source):
    a, b, c = (make_dataset(_settings(unseen_classes=1), ANY, seed) for seed in (1, 1, 2))
    assert a.tasks.equals(b.tasks)
    assert all(torch.equal(a.images[p], b.images[p]) for p in PARTS)
    assert not torch.equal(a.images["train"], c.images["train"])
    assert a.tasks["classes"].tolist() != c.tasks["classes"].tolist()


def test_save_and_load(tmp_path, source):
    dataset = make_dataset(_settings(unseen_classes=1), ANY, 1)
    for name in ("a", "b"):
        dataset.save(tmp_path / name)
        dataset = Dataset.load(tmp_path / name)
    for file in ("images.safetensors", "tasks.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert torch.equal(dataset.classes, make_dataset(_settings(unseen_classes=1), ANY, 1).classes)


def test_labels_follow_the_order_of_the_task(source):
    dataset = make_dataset(_settings(), ANY, 1)
    numbers = _numbers(dataset)["val"]
    images, labels = dataset.task_batch(torch.tensor([0, 3]), "val")
    assert images.shape == (2, 9, 1, 1, 4)
    for row, task in zip(images, (0, 3), strict=True):
        classes = dataset.classes[task]
        expected = dataset.images["val"][classes].flatten(0, 1)
        assert torch.equal(row, expected)
        assert (source.labels[numbers[classes].ravel()] == classes[labels].numpy()).all()
