"""Bundles: the same project in one file; what is wrong with one is a line; those of the package."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import weightspace as ws
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    IMAGES_FILE,
    PCA_FILE,
    SHARED_ENCODER_FILE,
    read_json,
)
from weightspace.bundles import numbers
from weightspace.bundles.archive import FORMAT, MANIFEST
from weightspace.bundles.fetching import fetch_bundle
from weightspace.bundles.locate import CARD, ENDING, HOME, locate, names
from weightspace.cli import app as cli
from weightspace.errors import WeightspaceError
from weightspace.project.bundling import write_bundle
from workspace import ROOT

MOST_BYTES = 8_000_000  # of a bundle in the package
BITS = 8


@pytest.fixture(scope="module")
def bundle(project, tmp_path_factory):
    """The bundle of the tiny project, all its tensors of two axes in 8 bits."""
    out = tmp_path_factory.mktemp("bundle") / f"tiny{ENDING}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "FEW", 8)
        write_bundle(project, out, BITS, None)
    return out


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy of it, without its card."""
    path = tmp_path / bundle.name
    path.write_bytes(bundle.read_bytes())
    return path


@pytest.fixture
def images():
    """Images of three classes, and their labels."""
    rng = np.random.default_rng(0)
    return rng.random((90, 8, 8)).astype(np.float32), np.arange(90) % 3


def rewritten(path, **changed):
    """A bundle with some of its files replaced, or left out where None."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()} | changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)


def refused(path, match):
    """One line says what is wrong with a bundle."""
    with pytest.raises(WeightspaceError, match=match) as error:
        ws.load(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


@pytest.mark.parametrize("bits", [3, 5.5, 8, 12, 16])
def test_numbers_keep_the_error_of_their_bits_and_no_scale_matters(bits, rng):
    x = torch.randn(64, 128, generator=rng) * torch.logspace(-6, 6, 64)[:, None]
    stored = numbers.packed({"x": x, "few": x[:8, :8], "whole": torch.arange(9000)}, bits)
    back = numbers.unpacked(stored)
    assert torch.equal(back["few"], x[:8, :8])
    assert back["whole"].dtype == torch.int64
    error = ((back["x"] - x).square().mean(1) / x.square().mean(1)).sqrt()
    expected = max(numbers.GAUSS / 2**bits, 4.5 / torch.iinfo(stored["x"].dtype).max) / 12**0.5
    assert error.max() < 1.2 * expected
    fewer = numbers.unpacked(numbers.packed({"x": x}, 3))["x"]  # the control
    assert bits == 3 or (fewer - x)[-1].norm() > 2 * (back["x"] - x)[-1].norm()


def test_rows_of_zeros_stay_zero():
    x = torch.zeros(3, 4000)
    x[1] = 1.0
    back = numbers.unpacked(numbers.packed({"x": x}, 8))["x"]
    assert torch.equal(back != 0, x != 0)
    assert torch.allclose(back, x, atol=0.01)


def test_a_bundle_is_the_same_project(bundle, project, images, tmp_path):
    bundled = ws.load(bundle)
    stored = bundled.bundle.read(f"data/{AUTOENCODER_FILE}")
    assert b'"dtype":"I8"' in stored  # in fewer bits, indeed
    assert bundled.params == project.params
    assert bundled.dataset.tasks.equals(project.dataset.tasks)
    for part, x in project.dataset.images.items():
        assert torch.equal(bundled.dataset.images[part], x)  # images are not changed at all
    weights = project.zoo.weights(project.zoo.select("val")[:6])
    z, near = project.encode(weights), bundled.encode(weights)
    assert 0 < (near - z).norm() < 0.1 * z.norm()
    rebuilt, other = project.decode(z), bundled.decode(near)
    for name, w in rebuilt.items():
        assert (other[name] - w).norm() < 0.1 * w.norm() + 1e-6
    task = bundled.task(images, ["0", "1", "2"])
    drawn = bundled.sample(task, accuracy=0.5, n=2, guidance_steps=0)
    assert np.isfinite(drawn.table["test_loss"]).all()
    drawn.save(tmp_path / "drawn")
    assert f"--root tiny{ENDING}" in (tmp_path / "drawn" / "MODEL_CARD.md").read_text()
    provenance = ws.load_network(tmp_path / "drawn" / "network-00000.safetensors").info[
        "provenance"
    ]
    assert provenance["bundle"]["sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert "bundle" not in project.provenance()
    assert len(bundled.predict(weights).table) == 6
    assert len(bundled.retrieve_tasks(weights, n=2)) == 6


def test_the_card_says_what_a_bundle_is_and_what_its_bits_cost(bundle, project):
    card, content = read_json(bundle.with_suffix(CARD)), bundle.read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert (card["bytes"], card["bits"], card["format"]) == (len(content), BITS, FORMAT)
    for name, sha256 in card["made_from"].items():
        assert sha256 == hashlib.sha256((project.root / name).read_bytes()).hexdigest()
    assert {f"data/{PCA_FILE}", f"data/{IMAGES_FILE}", "params.yaml"} <= set(card["made_from"])
    figures = card["val"]
    assert abs(figures["bundle"]["draw_top"] - figures["project"]["draw_top"]) < 0.1
    assert 0.5 < figures["same_predictions"] <= 1


def test_the_same_project_gives_the_same_bytes(bundle, project, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "FEW", 8)
    out = tmp_path / f"again{ENDING}"
    write_bundle(project, out, BITS, None)
    assert out.read_bytes() == bundle.read_bytes()
    write_bundle(project, out, 4, None)
    assert len(out.read_bytes()) < len(bundle.read_bytes())
    megabytes = (len(out.read_bytes()) + len(bundle.read_bytes())) / 2e6
    card = write_bundle(project, out, 16, megabytes)
    assert 4 <= card["bits"] < BITS
    assert card["bytes"] <= megabytes * 1e6
    with pytest.raises(WeightspaceError, match="too large"):
        write_bundle(project, out, 16, 0.001)


def test_nothing_is_left_behind_and_nothing_need_be_writable(copy, project, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    copy.chmod(0o444)
    tmp_path.chmod(0o555)
    weights = project.zoo.weights(project.zoo.select("val")[:2])
    assert len(ws.load(copy).encode(weights)) == 2
    assert sorted(tmp_path.rglob("*")) == before
    tmp_path.chmod(0o755)


def test_what_a_bundle_has_not_is_one_line(bundle, images):
    bundled = ws.load(bundle)
    task = bundled.task(images, ["0", "1", "2"])
    with pytest.raises(
        WeightspaceError, match=r"members.parquet: is in no bundle.*folder"
    ) as error:
        bundled.retrieve(task)
    assert "\n" not in str(error.value)


def test_latents_of_the_folder_and_of_the_bundle_are_kept_apart(bundle, project, tmp_path):
    z = project.encode(project.zoo.weights(project.zoo.select("val")[:2]))
    project.save_latents(tmp_path / "z.safetensors", z, ["a", "b"])
    assert len(project.load_latents(tmp_path / "z.safetensors").z) == 2  # the control
    with pytest.raises(WeightspaceError, match="of another autoencoder"):
        ws.load(bundle).load_latents(tmp_path / "z.safetensors")


@pytest.mark.parametrize("fault", ["cut", "text", "empty", "byte", "other"])
def test_a_damaged_bundle_is_one_line(fault, copy):
    content = bytearray(copy.read_bytes())
    if fault == "byte":  # in the middle of a file that is read at once
        with zipfile.ZipFile(copy) as archive:
            inside = archive.getinfo(f"data/{SHARED_ENCODER_FILE}")
        content[inside.header_offset + inside.compress_size // 2] ^= 0xFF
    changed = {"cut": content[:-100], "text": b"no archive", "empty": b"", "byte": content}
    if fault == "other":
        with zipfile.ZipFile(copy, "w") as archive:
            archive.writestr("a", "b")
    else:
        copy.write_bytes(changed[fault])
    refused(copy, "not a")


@pytest.mark.parametrize("name", ["params.yaml", MANIFEST, f"data/{PCA_FILE}"])
def test_a_bundle_that_lacks_a_file_is_one_line(name, copy):
    ws.load(copy)  # the control
    rewritten(copy, **{name: None})
    refused(copy, "not a bundle|is in no bundle|another version")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MANIFEST, b"{}"),
        (MANIFEST, b'{"format":2}'),
        (MANIFEST, b'{"format":1,"bits":8}'),
        (MANIFEST, b'{"format":1,"bits":8,"commit":null,"made_from":{"a":"b"}}'),
        (MANIFEST, b"[" * 5000),
        ("params.yaml", b"seed: 1"),
        (f"data/{AUTOENCODER_FILE}", b"\xff" * 40),
        (f"data/{AUTOENCODER_FILE}", b""),
        ("data/dataset/tasks.parquet", b"PAR1"),
    ],
)
def test_a_bundle_of_other_contents_is_one_line(name, content, copy):
    rewritten(copy, **{name: content})
    refused(copy, "version|not a complete bundle|bundle.json: |not an undamaged")


def test_an_artefact_in_the_place_of_another_is_one_line(copy, bundle):
    with zipfile.ZipFile(bundle) as archive:
        other = archive.read(f"data/{PCA_FILE}")
    rewritten(copy, **{f"data/{AUTOENCODER_FILE}": other})
    refused(copy, "another kind.*'autoencoder'")


def test_a_bundle_must_have_the_hash_of_its_card(bundle, copy):
    card = read_json(bundle.with_suffix(CARD))
    copy.with_suffix(CARD).write_text(json.dumps(card))
    ws.load(copy)  # the control
    copy.with_suffix(CARD).write_text(json.dumps(card | {"sha256": "0" * 64}))
    refused(copy, r"other contents.*as tiny.json says")


def test_a_folder_a_file_and_a_name(bundle, project_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(project_root) == project_root
    assert locate(bundle) == bundle
    monkeypatch.setattr("weightspace.bundles.locate.HOME", bundle.parent)
    assert locate("tiny") == bundle
    (tmp_path / "tiny").mkdir()  # a folder of images, say
    assert locate("tiny") == bundle
    (tmp_path / "tiny" / "params.yaml").touch()
    assert locate("tiny") == tmp_path.joinpath("tiny").relative_to(tmp_path)
    for name in ("tyni", tmp_path):
        with pytest.raises(WeightspaceError, match=r"no (such )?project.*\(tiny\)") as error:
            locate(name)
        assert "\n" not in str(error.value)


def test_a_bundle_is_not_made_of_a_bundle_or_written_over_another_file(bundle, project, tmp_path):
    with pytest.raises(WeightspaceError, match="is a bundle itself"):
        write_bundle(ws.load(bundle), tmp_path / "new.bundle", BITS, None)
    (tmp_path / "mine.bundle").write_text("mine")
    (tmp_path / "card.json").write_text("{}")
    for name in ("mine.bundle", "card.bundle", "mine.zip"):
        with pytest.raises(WeightspaceError, match=r"did not write it|not a \.bundle file"):
            write_bundle(project, tmp_path / name, BITS, None)
    assert (tmp_path / "mine.bundle").read_text() == "mine"


def call(monkeypatch, capsys, *words):
    """Run the command line; exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["weightspace", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, *capsys.readouterr()


def test_commands_take_a_bundle_as_root(bundle, project, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("my.npz", images=images[0], labels=images[1])
    mine = ("--data", "my.npz", "--classes", "0,1,2")
    drawn = ("sample", *mine, "--accuracy", 0.5, "-n", 2, "--out", "drawn")
    for words in (
        drawn,
        ("encode", "drawn", "--out", "z.safetensors"),
        ("decode", "z.safetensors", "--out", "decoded"),
        ("predict", "decoded"),
        ("retrieve", "--weights", "drawn"),
        ("compare", "drawn", "decoded", *mine),
    ):
        code, _, err = call(monkeypatch, capsys, *words, "--root", bundle)
        assert code == 0, err
    code, out, _ = call(monkeypatch, capsys, "info", bundle)
    assert (code, "bits of a number" in out) == (0, True)
    for words in (("document", "--root"), ("bundle", "--out", "x.bundle", "--root")):
        code, _, err = call(monkeypatch, capsys, *words, bundle)
        assert (code, err.count("\n")) == (2, 1)


class Server(BaseHTTPRequestHandler):
    """Gives one file, or half of it."""

    content, part = b"", 1.0

    def do_GET(self):
        if not self.path.endswith(f"some{ENDING}"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: int(self.part * len(self.content))])

    def log_message(self, *_):
        pass


@pytest.fixture
def address(bundle):
    """Address of the bundle on this machine."""
    handler = type("Handler", (Server,), {"content": bundle.read_bytes()})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/a/some{ENDING}", handler
        server.shutdown()
        thread.join()


@pytest.mark.skipif(find_spec("pooch") is None, reason="pip install '.[fetch]'")
def test_a_published_bundle_is_fetched_and_used(bundle, address, tmp_path, monkeypatch, capsys):
    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    words = ("fetch", address[0], "--sha256", sha256, "--to", tmp_path / "new")
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, err) == (0, ""), err
    fetched = tmp_path / "new" / f"some{ENDING}"
    assert f"--root {fetched}" in out
    assert ws.load(fetched).bundle.sha256 == sha256
    code, out, _ = call(monkeypatch, capsys, *words)
    assert "there already" in out
    assert [p.name for p in (tmp_path / "new").iterdir()] == [fetched.name]


@pytest.mark.skipif(find_spec("pooch") is None, reason="pip install '.[fetch]'")
@pytest.mark.parametrize(
    "fault", ["hash", "no hash", "offline", "missing", "cut", "file", "ending"]
)
def test_what_is_wrong_with_a_fetch_is_one_line_and_no_file(fault, bundle, address, tmp_path):
    (at, handler), sha256 = address, hashlib.sha256(bundle.read_bytes()).hexdigest()
    changed = {
        "offline": f"http://127.0.0.1:9/some{ENDING}",
        "missing": at.replace("some", "none"),
        "file": f"file:///some{ENDING}",
        "ending": at.removesuffix(ENDING),
    }
    handler.part = 0.5 if fault == "cut" else 1.0
    asked = {"hash": "0" * 64, "no hash": None}.get(fault, sha256)
    with pytest.raises(WeightspaceError) as error:
        fetch_bundle(changed.get(fault, at), asked, tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_wrong_file_that_is_there_stays(tmp_path):
    path = tmp_path / f"some{ENDING}"
    path.write_bytes(b"mine")
    with pytest.raises(WeightspaceError, match="other contents"):
        fetch_bundle(f"http://127.0.0.1:9/some{ENDING}", "0" * 64, tmp_path)
    assert path.read_bytes() == b"mine"


def test_fetching_without_its_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("weightspace.bundles.fetching.find_spec", lambda _: None)
    with pytest.raises(WeightspaceError, match=r"weightspace\[fetch\]"):
        fetch_bundle(f"http://127.0.0.1:9/some{ENDING}", "0" * 64, tmp_path)


@pytest.mark.parametrize("name", names())
def test_a_bundle_of_the_package_is_what_its_card_says(name):
    path = HOME / f"{name}{ENDING}"
    card, content = read_json(path.with_suffix(CARD)), path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["bytes"] <= MOST_BYTES
    assert ws.load(name).bundle.manifest.made_from == card["made_from"]
    for file, sha256 in card["made_from"].items():
        path = ROOT / file
        if path.is_file() and file.startswith("data/"):  # the artefacts of the pipeline are there
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, "run `make bundle`"


def test_every_card_of_the_package_has_its_bundle():
    assert {path.stem for path in HOME.glob(f"*{CARD}")} == set(names())


@pytest.mark.parametrize("words", [("--help",), ("sample", "--help"), ("demo", "--help")])
def test_help_imports_nothing_heavy(words):
    code = f"""
import sys
from weightspace.cli.app import main
sys.argv = ["weightspace", *{words!r}]
try:
    main()
except SystemExit:
    pass
print("heavy:", *({{"torch", "pandas", "sklearn", "scipy", "matplotlib", "safetensors"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].strip() == "heavy:"
    assert "--help" in done.stdout
