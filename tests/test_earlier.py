"""Files of earlier versions: projects that version 0.1 made, and what it computed with them.

tests/frozen has a tiny project of two commits of that version, with readings: latents, decoded
networks, draws. Today's code must give the same; only the order in which a machine adds up may differ.
"""

import re
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save

import weightspace as ws
from frozen.make import OTHERS, READINGS, readings
from weightspace.artifacts import (
    AUTOENCODER_CARD,
    AUTOENCODER_FILE,
    META_KEY,
    SHARED_ENCODER_CARD,
    SHARED_ENCODER_FILE,
    canonical,
    load_tensors,
    read_meta,
    save_tensors,
)
from weightspace.autoencoders.base import load_autoencoder
from weightspace.errors import WeightspaceError
from weightspace.metadata import SCHEMAS, STEPS, format_of
from weightspace.params import ADDED, load_params
from weightspace.project.bundling import write_bundle
from weightspace.project.describe import describe
from weightspace.report.page import write
from weightspace.report.tables import as_markdown
from weightspace.shared_encoders.base import load_shared_encoder
from weightspace.zoo.card import zero_shot
from workspace import ROOT

FROZEN = sorted((ROOT / "tests" / "frozen").glob("*.zip"))
OLDEST = ROOT / "tests" / "frozen" / "c4fc3ae.zip"  # before critic_slopes
# Of a value of order 1, in float32 sums of some hundred products; no rounding to bf16 is among them.
TOLERANCE = 1e-4


@pytest.fixture(params=FROZEN, ids=lambda path: path.stem)
def earlier(request, tmp_path):
    """A project of an earlier version, in a folder."""
    return unpacked(request.param, tmp_path)


@pytest.fixture
def oldest(tmp_path):
    """The same of the oldest version."""
    return unpacked(OLDEST, tmp_path)


def unpacked(path, folder):
    zipfile.ZipFile(path).extractall(folder / "project")
    return folder / "project"


def differences(root):
    """Name -> largest difference between what is computed and what the version computed."""
    before, today = load_file(root / READINGS), readings(root)
    assert today.keys() == before.keys()
    return {
        name: float(((today[name] - x).abs() / (1 + x.abs())).max()) for name, x in before.items()
    }


def rewritten(path, meta, tensors=None):
    """Write a tensor file with other metadata, without a hash."""
    values = {k: x.clone() for k, x in load_file(path).items()} | (tensors or {})
    path.write_bytes(save(values, metadata={META_KEY: canonical(meta)}))


def without_hash(meta):
    return {k: v for k, v in meta.items() if k != "sha256"}


def test_the_frozen_set_is_small_and_has_both_commits():
    assert len(FROZEN) == 2
    assert sum(path.stat().st_size for path in FROZEN) < 340_000


def test_what_an_earlier_version_computed_is_computed_today(earlier):
    distances = differences(earlier)
    assert len(distances) >= 7
    assert max(distances.values()) < TOLERANCE, distances
    if earlier.joinpath("data", "autoencoder_mlp").is_dir():
        named = {name.partition(".")[0] for name in distances}
        assert {f"{k}_{name}" for k, names in OTHERS.items() for name in names} < named


@pytest.mark.parametrize(
    ("file", "tensor", "changed"),
    [
        (SHARED_ENCODER_FILE, "velocity.last.0.weight", {"shared_encoder.drawn", "sampled.0"}),
        (AUTOENCODER_FILE, "reference", {"autoencoder.decoded", "sampled.0", "sampled.2"}),
    ],
)
def test_a_percent_of_a_weight_is_beyond_the_tolerance(oldest, file, tensor, changed):
    path = oldest / "data" / file
    values = load_file(path)[tensor]
    rewritten(path, without_hash(read_meta(path)), {tensor: 1.01 * values + 0.01})
    far = {name for name, value in differences(oldest).items() if value > TOLERANCE}
    assert changed <= far


def test_files_of_an_earlier_version_say_no_format_and_those_of_today_do(oldest, tmp_path):
    path = oldest / "data" / SHARED_ENCODER_FILE
    meta = read_meta(path)
    assert "format" not in meta
    assert "critic_slopes" not in meta["options"]
    load_shared_encoder(path).save(tmp_path / "today.safetensors")
    today = read_meta(tmp_path / "today.safetensors")
    assert today["format"] == 1 + len(STEPS["shared_encoder"])
    assert today["options"]["critic_slopes"] == 0
    load_autoencoder(oldest / "data" / AUTOENCODER_FILE).save(tmp_path / "same.safetensors")
    same = (tmp_path / "same.safetensors").read_bytes()
    assert same == (oldest / "data" / AUTOENCODER_FILE).read_bytes()  # a kind without steps


def test_today_s_files_are_not_helped(oldest, tmp_path):
    """A file that says to be of today lacks nothing, or is refused."""
    path = oldest / "data" / SHARED_ENCODER_FILE
    meta = without_hash(read_meta(path))
    rewritten(path, meta | format_of("shared_encoder"))
    with pytest.raises(WeightspaceError, match="critic_slopes"):
        load_shared_encoder(path)
    rewritten(path, meta)
    load_shared_encoder(path)


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
@pytest.mark.parametrize("value", [0, -1, 9, True, "2", None, 2.0, [1]])
def test_a_format_that_is_not_known_is_one_line(tmp_path, kind, value):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "example", {"a": torch.ones(1)}, {})
    rewritten(path, {"kind": kind, "format": value})
    with pytest.raises(WeightspaceError, match=r"x\.safetensors: written by a later version") as e:
        load_tensors(path, kind)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "broken",
    [
        lambda meta: meta | {"settings": None},
        lambda meta: meta | {"settings": {}},
        lambda meta: meta | {"options": [1]},
        lambda meta: {k: v for k, v in meta.items() if k != "options"},
    ],
)
def test_what_no_version_wrote_is_one_line(oldest, broken):
    path = oldest / "data" / SHARED_ENCODER_FILE
    rewritten(path, broken(without_hash(read_meta(path))))
    with pytest.raises(WeightspaceError, match=re.escape(path.name)) as e:
        load_shared_encoder(path)
    assert "\n" not in str(e.value)


def test_settings_of_an_earlier_version_are_read_with_a_line_and_refused_by_the_pipeline(
    oldest, capsys
):
    project = ws.load(oldest)
    assert project.params.shared_encoders.flow.critic_slopes == 0
    assert project.params.baselines.hypernetwork.width == project.params.shared_encoder.width
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert all(key in line for key in ADDED)
    with pytest.raises(WeightspaceError, match=r"widths?' is missing .* version 0\.1 did as with"):
        load_params(oldest / "params.yaml")
    text = (oldest / "params.yaml").read_text()
    (oldest / "params.yaml").write_text(text.replace("seed:", "sed:"))
    with pytest.raises(WeightspaceError, match="unknown key 'sed'"):
        ws.load(oldest)


def test_result_files_and_cards_of_an_earlier_version_are_read(earlier, tmp_path, capsys):
    assert "random initialisation" in as_markdown(earlier)
    (first, *missing) = write(earlier, tmp_path / "index.html")
    assert first.startswith("Written to")
    assert not [line for line in missing if ".json" in line]
    project = ws.load(earlier)
    tasks = project.dataset.tasks
    cards = [earlier / "data" / card for card in (AUTOENCODER_CARD, SHARED_ENCODER_CARD)]
    of_split = {s: t["task"].to_numpy() for s, t in tasks.groupby("split")}
    assert zero_shot(project.dataset, of_split["test_sets"], *cards)
    assert not zero_shot(project.dataset, of_split["train"], *cards)
    capsys.readouterr()


def test_every_file_of_an_earlier_version_is_described(earlier):
    data = earlier / "data"
    for path in [data, *earlier.rglob("*.safetensors")]:
        if path.name != READINGS:
            assert describe(path)["kind"]
    z = ws.load(earlier).load_latents(earlier / "latents.safetensors")
    assert z.names == ["drawn"]
    assert describe(earlier / "samples")


def test_a_bundle_of_an_earlier_project_draws_as_the_project(oldest, tmp_path):
    write_bundle(ws.load(oldest), tmp_path / "old.bundle", 16, None)
    read = [ws.load(root).shared_encoder for root in (oldest, tmp_path / "old.bundle")]
    condition = torch.linspace(-1, 1, read[0].condition_features)[None]
    with torch.no_grad():
        a, b = (m.sample(condition, 4, torch.Generator().manual_seed(0)) for m in read)
    assert (a - b).abs().max() < 0.02 < a.std()
