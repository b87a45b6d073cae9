"""Cards of zoos, autoencoders and samplers: complete, true to the files, a schema that refuses."""

import json
import re
import shutil

import pytest

import weightspace as ws
from test_earlier import FROZEN, unpacked
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    MEMBERS_FILE,
    file_sha256,
    read_json,
    read_parquet,
    write_parquet,
)
from weightspace.errors import WeightspaceError
from weightspace.evaluate.summary import RECONSTRUCTION, SAMPLING
from weightspace.leaderboard.named import folder_hash
from weightspace.project.carding import MEANINGS, STAGE, make
from weightspace.project.cards import Card
from weightspace.zoo.card import read_card


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished tiny pipeline, with its figures."""
    return unpacked(FROZEN[0], tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="module")
def made(root):
    """Its three cards."""
    return {kind: make(root, kind) for kind in STAGE}


def test_a_card_says_what_the_files_say(made, root):
    project = ws.load(root)
    members = project.zoo.members
    population = made["zoo"].population
    assert population.members == len(members)
    assert population.runs == members["run"].nunique()
    assert population.per_split == members.groupby("split").size().to_dict()
    for card in made.values():
        assert card.images.classes == project.dataset.class_names
        assert card.architecture.numbers == project.net.spec.numel
        assert sum(card.split.tasks.values()) == len(project.dataset.tasks)
        assert card.sha256["data/dataset/"] == folder_hash(root / "data" / "dataset")
    assert made["zoo"].sha256["data/zoo/"] == folder_hash(root / "data" / "zoo")
    file = root / "data" / AUTOENCODER_FILE
    for kind in ("autoencoder", "sampler"):
        assert made[kind].sha256[f"data/{AUTOENCODER_FILE}"] == file_sha256(file)
    assert tuple(made["sampler"].trained_range) == project.trained_range
    fitted = read_card(file.with_name("card.json"))
    assert made["autoencoder"].fit.class_sets == fitted["class_sets"]
    assert made["autoencoder"].settings["autoencoder"] == fitted["settings"]


@pytest.mark.parametrize(
    ("kind", "file", "keys"),
    [("autoencoder", "reconstruction", RECONSTRUCTION), ("sampler", "sampling", SAMPLING)],
)
def test_figures_are_those_of_the_metrics_with_their_split(made, root, kind, file, keys):
    metrics = read_json(root / "metrics" / f"{file}.json")
    shown = {(f.name, f.split): f.value for f in made[kind].figures}
    for split, figures in metrics.items():
        for name, key in keys.items():
            assert shown[name, split] == figures[key.format(result="accuracy")]
        assert made[kind].fit.zero_shot[split] == figures["zero_shot"]
    assert {name for name, _ in shown} <= set(MEANINGS)


def test_figures_of_a_zoo_are_those_of_its_stage(made, root):
    shown = {f.name: f.value for f in made["zoo"].figures}
    measured = read_json(root / "metrics" / "zoo.json")
    assert shown == {name: value for name, value in measured.items() if "_q" in name}


def test_markdown_has_every_hash_figure_and_limit(made):
    for card in made.values():
        text = card.markdown()
        for part in (*card.sha256.values(), *card.limits, *card.licence, *card.reproduce):
            assert part in text
        for figure in card.figures:
            assert re.search(rf"^\| `{figure.name}` \|", text, re.MULTILINE)
        for title in ("Images", "Split", "Settings", "Figures", "Limits", "Licence", "Reproduce"):
            assert f"\n## {title}\n" in text


def test_a_card_comes_back_from_its_json(made, tmp_path):
    for kind, card in made.items():
        path = tmp_path / f"{kind}.json"
        path.write_text(card.text())
        assert Card.read(path) == card
        assert Card.read(path).text() == card.text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "network"),
        ("format", 2),
        ("sha256", {"a": "0"}),
        ("figures", [{"name": "a", "meaning": "b", "split": "val"}]),
        ("trained_range", [0.5]),
        ("limits", "none"),
        ("another", 1),
        ("licence", ["a\nb"]),
    ],
)
def test_another_structure_is_one_line(made, tmp_path, key, value):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(made["sampler"].text()) | {key: value}))
    with pytest.raises(WeightspaceError, match=r"card\.json") as caught:
        Card.read(path)
    assert "\n" not in str(caught.value)


def test_there_are_three_kinds_and_a_bundle_has_no_zoo(root):
    with pytest.raises(WeightspaceError, match="no card of that kind"):
        make(root, "zoos")
    with pytest.raises(WeightspaceError, match="a bundle has no zoo"):
        make("digits", "zoo")


def test_a_bundle_has_the_card_of_its_sampler():
    card, bundle = make("digits", "sampler"), ws.load("digits").bundle
    assert card.sha256["digits.bundle"] == bundle.sha256
    assert card.made.commit == bundle.manifest.commit
    assert {f.split for f in card.figures} >= {"val", "test_sets"}


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_projects_of_earlier_versions_have_cards(path, tmp_path):
    root = unpacked(path, tmp_path)
    for kind in STAGE:
        assert make(root, kind).figures


def test_the_card_of_an_imported_zoo_says_what_was_not_measured(root, made, tmp_path):
    copy = shutil.copytree(root, tmp_path / "project")
    members = read_parquet(copy / "data" / MEMBERS_FILE)
    members["believed"] = members["member"] < 5
    write_parquet(copy / "data" / MEMBERS_FILE, members)
    card = make(copy, "zoo")
    assert card.population.imported
    assert card.population.believed == 5
    assert "Results of 5 members" in card.markdown()
    assert "zoo" in made["zoo"].settings
    assert "zoo" not in card.settings
    assert not made["zoo"].population.imported
    assert made["zoo"].reproduce != card.reproduce
