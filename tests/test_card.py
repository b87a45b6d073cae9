"""Method cards: what a fit saw, and what they say of a split."""

from itertools import permutations

import numpy as np
import pytest

from weightspace.artifacts import read_json, write_json
from weightspace.errors import WeightspaceError
from weightspace.zoo.card import class_sets, method_card, read_card, zero_shot


def tasks(dataset, split):
    return dataset.tasks.loc[dataset.tasks["split"] == split, "task"].to_numpy()


@pytest.fixture
def card(world, tmp_path):
    """That of an autoencoder, as a stage writes it."""
    tiny = world()
    path = tmp_path / "card.json"
    written = method_card(tiny.dataset, tiny.data.members, tiny.params, "autoencoder")
    write_json(path, written)
    return path


def test_a_card_has_the_class_sets_that_were_seen(world, card):
    tiny, written = world(), read_json(card)
    assert written["seed"] == tiny.params.seed
    assert written["source"] == "digits"
    assert written["model"] == "mlp"
    assert written["settings"]["epochs"] == tiny.params.autoencoder.epochs
    assert set(written["class_sets"]) == {"train", "val"}
    for split, sets in written["class_sets"].items():
        table = tiny.zoo.select(split)
        assert len(sets) == table["class_set"].nunique() > 1
        seen = {frozenset(names) for names in sets}
        names = [tiny.dataset.class_names[c] for c in tiny.dataset.classes[table["task"].iloc[-1]]]
        assert frozenset(names) in seen


def test_a_split_is_zero_shot_where_no_card_has_one_of_its_class_sets(world, card, tmp_path):
    dataset = world().dataset
    test = tasks(dataset, "test_sets")
    assert zero_shot(dataset, test, card)
    assert not zero_shot(dataset, tasks(dataset, "train"), card)
    assert not zero_shot(dataset, tasks(dataset, "val"), card)
    written = read_json(card)
    (names,) = class_sets(dataset, test[-1:])
    written["class_sets"]["train"].append(list(list(permutations(names))[-1]))  # in any order
    other = tmp_path / "other.json"
    write_json(other, written)
    assert not zero_shot(dataset, test, card, other)
    assert zero_shot(dataset, test[:1], card, other) == (test[:1] not in _orders(dataset, test[-1]))


def _orders(dataset, task):
    """Tasks of the class set of a task."""
    of_set = dataset.tasks.set_index("task")["class_set"]
    return np.array(of_set.index[of_set == of_set[task]])


def test_a_missing_card_is_one_line(world, tmp_path):
    with pytest.raises(WeightspaceError, match=r"card\.json: file is missing"):
        zero_shot(world().dataset, np.array([0]), tmp_path / "card.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_sets", {"train": [["1", "1"]]}),
        ("class_sets", [["1"]]),
        ("seed", "0"),
        ("model", None),
    ],
)
def test_a_card_of_another_structure_is_one_line(world, card, key, value):
    assert read_card(card) == read_json(card)
    write_json(card, read_json(card) | {key: value})
    with pytest.raises(
        WeightspaceError, match=rf"card\.json: metadata of a 'card': '{key}"
    ) as caught:
        zero_shot(world().dataset, np.array([0]), card)
    assert "\n" not in str(caught.value)
