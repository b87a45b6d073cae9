"""The commands: what they leave, and that a bad input is one line, exit code 2 and nothing else."""

import pickle
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import weightspace
from weightspace.artifacts import META_KEY, read_json, save_tensors
from weightspace.cli import app as cli
from weightspace.errors import WeightspaceError
from weightspace.project.network import load_network
from weightspace.weights.spec import take
from workspace import ROOT


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, project_root):
    """Run the command line in an empty folder, as a person would; the project is elsewhere."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        arguments = [str(w) for w in words]
        rootless = {"info", "export", "sweep", "--version", "--help", "--root"}
        if not rootless & {*arguments}:
            arguments[1:1] = ["--root", str(project_root)]
        monkeypatch.setattr(sys, "argv", ["weightspace", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        return Done(caught.value.code or 0, shown.out, shown.err)

    return call


@pytest.fixture(scope="session")
def mine(tmp_path_factory):
    """A person's images: 12x12 colour bytes, classes with names."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("mine") / "my.npz"
    images = rng.integers(0, 256, (90, 12, 12, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(["ä", "b", "c"])[np.arange(90) % 3])
    return path


def files(folder):
    """Everything below a folder, hidden files too."""
    return sorted(p.name for p in folder.rglob("*"))


SAMPLE = ("sample", "--classes", "c,ä,b", "--accuracy", 0.5, "--out", "out", "-n", 2)


def test_every_command_has_help(run):
    commands = list(typer.main.get_command(cli.app).commands)
    for name in commands:
        done = run(name, "--help")
        assert done.code == 0
        assert "Usage" in done.out
    assert "sample" in commands


def test_sample_writes_networks_and_says_what_they_achieve(run, mine, tmp_path):
    done = run(*SAMPLE, "--data", mine, "--best-of", 2, "--fine-tune-epochs", 1, "--seed", 5)
    assert done.code == 0, done.err
    assert files(tmp_path / "out") == [
        "MODEL_CARD.md",
        "network-00000.safetensors",
        "network-00001.safetensors",
        "report.json",
        "samples.parquet",
    ]
    table = pd.read_parquet(tmp_path / "out" / "samples.parquet")
    assert list(table["classes"][0]) == ["c", "ä", "b"]
    assert (table["seed"] == 5).all()
    for said in (
        "colour to grey",
        "12x12 to 8x8",
        "20 images of each class",
        "10 others",
        "Written",
    ):
        assert said in done.out
    assert f"mean {table['test_accuracy'].mean():.3f}" in done.out
    assert read_json(tmp_path / "out" / "report.json")["request"]["fine_tune_epochs"] == 1
    assert "warning: images unlike those of training: c (" in done.err


def test_statistics_that_are_not_there_cannot_be_reestimated(run, mine, tmp_path):
    done = run(*SAMPLE, "--data", mine, "--reestimate")
    assert (done.code, files(tmp_path)) == (2, [])
    assert done.err.startswith("error: architecture 'cnn': no running statistics to re-estimate")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("words", "steps"), [((), 2), (("--guidance-steps", 0), 0)])
def test_sample_draws_in_one_pass_on_request(run, mine, tmp_path, words, steps):
    done = run(*SAMPLE[:-2], "--data", mine, *words)
    assert done.code == 0, done.err
    request = read_json(tmp_path / "out" / "report.json")["request"]
    assert request["guidance_steps"] == steps
    assert (request["image_gradients"] == 0) == (steps == 0)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert ("without a gradient step" in card) == (steps == 0)


def test_sample_warns_of_a_request_out_of_range(run, mine, tmp_path):
    done = run("sample", "--data", mine, "--classes", "c,ä,b", "--accuracy", 0.01, "--out", "out")
    assert done.code == 0
    assert "warning: the accuracy asked for, 0.01, is outside the trained range" in done.err
    assert pd.read_parquet(tmp_path / "out" / "samples.parquet")["outside_trained_range"].all()


def test_an_empty_folder_is_filled(run, mine, tmp_path):
    (tmp_path / "out").mkdir()
    assert run(*SAMPLE, "--data", mine).code == 0


X, Y = np.zeros((60, 8, 8), np.uint8), np.arange(60) % 3


def npz(**arrays):
    """Write an archive."""
    return lambda path: np.savez(path, **arrays)


def folder(path, contents):
    """Write a folder of files."""
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


# name -> what lies at my.npz
BAD_DATA = {
    "missing": lambda path: None,
    "an empty folder": lambda path: path.mkdir(),
    "a folder of text": lambda path: folder(path, {"a.txt": b"text"}),
    "class folders of text": lambda path: folder(path, {"a/1.png": b"text"}),
    "idx without labels": lambda path: folder(path, {"my-images-idx3-ubyte": b"\0\0\x08\3"}),
    "idx of text": lambda path: folder(
        path, {"my-images-idx3-ubyte": b"text", "my-labels-idx1-ubyte": b"text"}
    ),
    "a link to itself": lambda path: path.symlink_to(path),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("images"),
    "half an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)),
    "no images": npz(labels=Y),
    "no labels": npz(images=X),
    "images elsewhere": npz(**{"../images": X, "labels": Y}),
    "objects": npz(images=np.array([Bomb()] * 60), labels=Y),
    "objects as labels": npz(images=X, labels=np.array([Bomb()] * 60)),
    "no pixels": npz(images=X[:0], labels=Y[:0]),
    "flat": npz(images=X.reshape(60, 64), labels=Y),
    "four channels": npz(images=np.zeros((60, 8, 8, 4), np.uint8), labels=Y),
    "too small": npz(images=np.zeros((60, 4, 4), np.uint8), labels=Y),
    "stretched": npz(images=np.zeros((60, 8, 16), np.uint8), labels=Y),
    "wide range": npz(images=np.full((60, 8, 8), 7.5), labels=Y),
    "NaN": npz(images=np.full((60, 8, 8), np.nan), labels=Y),
    "text as pixels": npz(images=np.full((60, 8, 8), "a"), labels=Y),
    "labels too many": npz(images=X[:50], labels=Y),
    "labels real": npz(images=X, labels=Y + 0.5),
    "labels NaN": npz(images=X, labels=np.full(60, np.nan)),
    "one image of a class": npz(images=X[:3], labels=Y[:3]),
    "other classes": npz(images=X, labels=Y + 5),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_nothing(run, tmp_path, case):
    BAD_DATA[case](tmp_path / "my.npz")
    before = files(tmp_path)
    done = run(
        "sample", "--data", "my.npz", "--classes", "0,1,2", "--accuracy", 0.5, "--out", "out"
    )
    refused(done)
    assert files(tmp_path) == before


def refused(done):
    """One line that says what is wrong, exit code 2."""
    assert done.code == 2
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert done.out == ""


# name -> words after `sample --data my.npz`
BAD_WORDS = {
    "nothing": "",
    "no classes": "--accuracy .5 --out out",
    "no request": "--classes 0,1,2 --out out",
    "no output": "--classes 0,1,2 --accuracy .5",
    "two classes": "--classes 0,1 --accuracy .5 --out out",
    "a class twice": "--classes 0,1,1 --accuracy .5 --out out",
    "an unknown class": "--classes 0,1,x --accuracy .5 --out out",
    "commas only": "--classes ,, --accuracy .5 --out out",
    "loss": "--classes 0,1,2 --loss .5 --out out",
    "both": "--classes 0,1,2 --loss .5 --accuracy .5 --out out",
    "too much": "--classes 0,1,2 --accuracy 90 --out out",
    "negative": "--classes 0,1,2 --accuracy -0.5 --out out",
    "not a number": "--classes 0,1,2 --accuracy much --out out",
    "NaN": "--classes 0,1,2 --accuracy nan --out out",
    "no networks": "--classes 0,1,2 --accuracy .5 --out out -n 0",
    "negative guidance": "--classes 0,1,2 --accuracy .5 --out out --guidance-steps -1",
    "negative seed": "--classes 0,1,2 --accuracy .5 --out out --seed -1",
    "a wrong option": "--classes 0,1,2 --accurcy .5 --out out",
    "a full folder": "--classes 0,1,2 --accuracy .5 --out full",
    "a file": "--classes 0,1,2 --accuracy .5 --out my.npz",
    "below a file": "--classes 0,1,2 --accuracy .5 --out my.npz/out",
    "a link": "--classes 0,1,2 --accuracy .5 --out loop",
    "no permission": "--classes 0,1,2 --accuracy .5 --out /proc/1/out",
    "the working folder": "--classes 0,1,2 --accuracy .5 --out .",
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words_are_one_line_and_leave_nothing(run, tmp_path, case):
    np.savez(tmp_path / "my.npz", images=X, labels=Y)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = files(tmp_path)
    refused(run("sample", "--data", "my.npz", *BAD_WORDS[case].split()))
    assert files(tmp_path) == before


@pytest.fixture
def checkpoints(tmp_path, project):
    """A folder of checkpoints and their table."""
    members = project.zoo.members[:6]
    weights, rows = project.zoo.weights(members), []
    (tmp_path / "nets").mkdir()
    for i, member in enumerate(members.to_dict("records")):
        torch.save({"model": take(weights, i)}, tmp_path / "nets" / f"{i}.pt")
        names = " ".join(str(c) for c in project.dataset.tasks["classes"][member["task"]])
        rows.append({"file": f"{i}.pt", "classes": names, "run": member["run"]})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path


IMPORT = ("import", "nets", "--arch", "cnn", "--results", "table.csv", "--out", "zoo")


def test_import_makes_a_zoo(run, checkpoints):
    done = run(*IMPORT)
    assert done.code == 0, done.err
    assert files(checkpoints / "zoo") == ["members.parquet", "weights-00000.safetensors"]
    assert "6 members of 2 runs" in done.out
    assert "no optimizer, lr, weight_decay, epochs" in done.out


def _bomb(path):
    torch.save({"state_dict": Bomb()}, path)


# name -> what lies at nets/0.pt
BAD_CHECKPOINTS = {
    "code": _bomb,
    "bare code": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "missing": lambda path: path.unlink(),
    "other tensors": lambda path: torch.save({"a": torch.ones(2)}, path),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints_are_one_line_and_leave_nothing(run, checkpoints, case):
    BAD_CHECKPOINTS[case](checkpoints / "nets" / "0.pt")
    before = files(checkpoints)
    refused(run(*IMPORT))
    assert files(checkpoints) == before  # and no file "ran"


@pytest.fixture(scope="module")
def drawn(project_root, mine, tmp_path_factory):
    """The folder that `weightspace sample` writes, with two networks."""
    words = [str(w) for w in (*SAMPLE, "--data", mine, "--root", project_root)]
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert CliRunner().invoke(cli.app, words).exit_code == 0
    return folder / "out"


@pytest.fixture
def sampled(drawn, mine, tmp_path):
    """A folder of two sampled networks and my.npz beside it."""
    shutil.copytree(drawn, tmp_path / "out")
    shutil.copy(mine, tmp_path / "my.npz")
    return tmp_path


MINE = ("--data", "my.npz", "--classes", "c,ä,b")


def test_encode_and_decode(run, sampled, project):
    done = run("encode", "out", "--out", "z.safetensors")
    assert (done.code, done.out) == (0, "Written to z.safetensors: 2 latents of 6 numbers\n")
    done = run("decode", "z.safetensors", "--out", "again")
    assert done.code == 0, done.err
    one, two = (project.networks(sampled / folder) for folder in ("out", "again"))
    wanted = project.decode(project.encode(one))
    assert torch.allclose(project.net.spec.flatten(two), project.net.spec.flatten(wanted))
    names = pd.read_parquet(sampled / "again" / "networks.parquet")["latent"]
    assert list(names) == ["out/network-00000.safetensors", "out/network-00001.safetensors"]
    latents = project.load_latents(sampled / "z.safetensors")
    np.savez(sampled / "z.npz", z=latents.z.numpy())
    done = run("decode", "z.npz", "--out", "third")
    assert done.code == 0
    assert done.err == ("warning: 2 of 2 latents have no names of classes; outputs are numbered\n")
    for folder, classes in (
        ("again", ["c", "ä", "b"]),
        ("third", [f"output {i}" for i in range(3)]),
    ):
        assert load_network(sampled / folder / "network-00001.safetensors").classes == classes
    third = project.networks(sampled / "third")
    assert torch.allclose(project.net.spec.flatten(two), project.net.spec.flatten(third))


def test_export(run, sampled):
    done = run("export", "out", "--out", "onnx")
    assert (done.code, done.out) == (0, "Written to onnx: 2 ONNX files\n"), done.err
    assert files(sampled / "onnx") == ["network-00000.onnx", "network-00001.onnx"]


def test_compare_a_network_with_itself(run, sampled):
    done = run("compare", "out", "out", *MINE)
    assert done.code == 0, done.err
    assert "network-00001" in done.out
    assert "cosine 1.000" in done.out
    assert "agreement 1.000" in done.out


def test_compare_in_another_order_is_refused_and_other_classes_are_said(run, sampled):
    """As the networks' files say; files of other programs say nothing."""
    words = ("compare", "out", "out", "--data", "my.npz", "--classes")
    done = run(*words, "ä,b,c")
    refused(done)
    assert "found ä,b,c, expected c,ä,b, as out/network-00000.safetensors says" in done.err
    torch.save(load_file(sampled / "out" / "network-00000.safetensors"), sampled / "a.pt")
    done = run("compare", "a.pt", "a.pt", "--data", "my.npz", "--classes", "ä,b,c")
    assert (done.code, done.err) == (0, "")
    with np.load("my.npz") as mine:
        np.savez("my.npz", images=mine["images"], labels=np.char.add(mine["labels"], "2"))
    done = run(*words, "c2,ä2,b2")
    assert done.code == 0
    assert done.err.startswith(
        "warning: out/network-00001.safetensors is a network for the classes"
    )
    assert done.err.count("\n") == 1


def test_retrieve_networks(run, sampled, project):
    done = run("retrieve", *MINE, "-n", 3, "--out", "found")
    assert done.code == 0, done.err
    table = pd.read_parquet(sampled / "found" / "networks.parquet")
    assert table["similarity"].is_monotonic_decreasing
    weights = project.zoo.weights(project.zoo.members.iloc[table["member"]])
    found = project.networks(sampled / "found")
    assert torch.equal(project.net.spec.flatten(found), project.net.spec.flatten(weights))
    assert all(str(m) in done.out for m in table["member"])
    assert run("retrieve", *MINE, "--accuracy", 0.4).code == 0


def test_retrieve_the_task(run, sampled):
    done = run("retrieve", "--weights", "out/network-00000.safetensors", "-n", 4)
    assert done.code == 0, done.err
    assert done.out.count("│ train") + done.out.count("│ val") + done.out.count("│ test") == 4


def test_predict(run, sampled):
    done = run("predict", "out")
    assert done.code == 0, done.err
    for word in ("network-00001", "test accuracy", "epoch", "optimizer", "fraction wrong"):
        assert word in done.out


def test_names_that_repeat_are_shown_as_paths(run, sampled):
    shutil.copytree(sampled / "out", sampled / "b")
    done = run("predict", "out/network-00000.safetensors", "b/network-00000.safetensors")
    assert all(f"{folder}/network-00000.safetensors" in done.out for folder in ("out", "b"))
    assert "out/" not in run("predict", "out").out  # the control
    assert "b/network-00000" in run("compare", "out", "b", *MINE).out
    assert run("retrieve", "--weights", "b", "-n", 1).out.count("b/") == 0


def test_the_version_is_that_of_the_package(run):
    assert run("--version").out == f"weightspace {weightspace.__version__}\n"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError(28, "No space left on device", "z"), 2, "error: z: No space left on device\n"),
        (KeyError("a\nb\x1b"), 1, "error: a bug of weightspace, please report it; KeyError: "),
    ],
)
def test_whatever_happens_is_one_line(run, sampled, monkeypatch, raised, code, line):
    def fail(*_):
        raise raised

    monkeypatch.setattr("weightspace.cli.use.start", fail)
    before = files(sampled)
    done = run(*SAMPLE[:-4], "--out", "new", "--data", "my.npz")
    assert (done.code, done.err.count("\n"), done.out) == (code, 1, "")
    assert done.err.startswith(line)
    assert "\x1b" not in done.err
    assert files(sampled) == before


def test_info(run, sampled, project_root):
    torch.save({"a": torch.ones(2, 3)}, sampled / "other.pt")
    (sampled / "classes" / "ö").mkdir(parents=True)
    Image.new("L", (8, 8)).save(sampled / "classes" / "ö" / "1.png")
    for path, said in {
        project_root: (
            "project",
            "dataset, zoo, pca, autoencoder, shared",
            "120 of 40 runs",
        ),
        project_root / "data" / "zoo": ("zoo", "cnn"),
        project_root / "data" / "dataset": ("dataset", "1x8x8"),
        project_root / "data" / "autoencoder" / "autoencoder.safetensors": ("autoencoder", "mlp"),
        project_root / "data" / "shared_encoder" / "shared_encoder.safetensors": (
            "shared_encoder",
        ),
        "out": ("network-00000", "my.npz", "provenance"),
        "out/network-00001.safetensors": ("network", "accuracy", "0.5"),
        "my.npz": ("90", "3x12x12", "ä (30)"),
        "classes": ("images", "central squares", "ö (1)"),
        "other.pt": ("another program", "a (2, 3)"),
    }.items():
        done = run("info", path)
        assert done.code == 0, (path, done.err)
        assert all(word in done.out for word in said), (path, done.out)


@pytest.fixture
def unloaded(monkeypatch):
    """No command may get as far as loading a project."""
    monkeypatch.setattr("weightspace.cli.use.start", lambda *_: pytest.fail("work was done"))


def test_encode_writes_over_its_earlier_latents_only(run, sampled, project):
    (sampled / "other").mkdir()
    shutil.copy(sampled / "out" / "network-00001.safetensors", sampled / "other")
    for networks in ("out", "other"):
        assert run("encode", networks, "--out", "z.safetensors").code == 0
    assert len(project.load_latents(sampled / "z.safetensors").z) == 1


@pytest.mark.parametrize("out", ["autoencoder", "network", "zoo", "link", "loop", "cut", "text"])
def test_encode_writes_over_nothing_else(out, run, sampled, project_root, unloaded):
    """Not over artefacts of the project, networks, damaged files or what is no artefact at all."""
    artefact = sampled / "data" / "autoencoder.safetensors"
    artefact.parent.mkdir()
    shutil.copy(project_root / "data" / "autoencoder" / artefact.name, artefact)
    (sampled / "link.safetensors").symlink_to(artefact)
    (sampled / "loop.safetensors").symlink_to(sampled / "loop.safetensors")
    (sampled / "cut.safetensors").write_bytes(artefact.read_bytes()[:-9])
    (sampled / "text.safetensors").write_text("my notes")
    shutil.copy(
        project_root / "data" / "zoo" / "weights-00000.safetensors", sampled / "zoo.safetensors"
    )
    name = {"autoencoder": artefact, "network": "out/network-00001.safetensors"}
    before = {f: f.read_bytes() for f in sampled.rglob("*") if f.is_file()}
    network = "out/network-00000.safetensors"
    refused(run("encode", network, "--out", name.get(out, f"{out}.safetensors")))
    assert {f: f.read_bytes() for f in sampled.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("out", ["z.safetensors", "./in/../z.safetensors", "hard.safetensors"])
def test_encode_writes_over_none_of_its_inputs(out, run, sampled, unloaded):
    """Latents would do as a target, but not as one that is read: by name, path or hard link."""
    meta = {META_KEY: '{"kind":"latents"}'}
    (sampled / "in").mkdir()
    save_file({"z": torch.zeros(1, 6)}, sampled / "z.safetensors", meta)
    (sampled / "hard.safetensors").hardlink_to(sampled / "z.safetensors")
    done = run("encode", "out", "z.safetensors", "--out", out)
    refused(done)
    assert "is an input of this command" in done.err


def test_other_commands_write_over_their_earlier_files_only(monkeypatch, tmp_path, project_root):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    commands = {
        "params.md": ["params", str(Path(__file__).parent.parent / "params.yaml")],
        "page.html": ["report", "--root", str(project_root)],
    }
    for name, words in commands.items():
        for _ in range(2):
            assert runner.invoke(cli.app, [*words, "--out", name]).exit_code == 0
        written = (tmp_path / name).read_bytes()
        for other in (
            b"seed: 0",
            b"",
            *(
                (tmp_path / n).read_bytes()
                for n in commands
                if n != name and (tmp_path / n).exists()
            ),
        ):
            (tmp_path / "mine").write_bytes(other)
            done = runner.invoke(cli.app, [*words, "--out", "mine"])
            assert isinstance(done.exception, WeightspaceError)
            assert "this command did not write it" in str(done.exception)
            assert (tmp_path / "mine").read_bytes() == other
        assert (tmp_path / name).read_bytes() == written


# Words of a command that must be refused, beside a folder `out` of networks and `my.npz`
BAD_COMMANDS = [
    "encode none.pt --out z.safetensors",
    "encode empty --out z.safetensors",
    "encode my.npz --out z.safetensors",
    "encode out --out z.txt",
    "encode out --out my.npz/z.safetensors",
    "encode wrong.pt --out z.safetensors",
    "encode nan.pt --out z.safetensors",
    "encode code.pt --out z.safetensors",
    "encode --out z.safetensors",
    "encode out out --out z.safetensors",
    "encode out --out z.safetensors --out y.safetensors",
    "decode none.safetensors --out new",
    "decode out/network-00000.safetensors --out new",
    "decode my.npz --out new",
    "decode z_short.npz --out new",
    "decode z_text.npz --out new",
    "decode z_nan.npz --out new",
    "decode z_code.npz --out new",
    "sweep -S seed=0 -S seed=1",
    "decode z_scalar.npz --out new",
    "decode foreign.safetensors --out new",
    "decode z_other.safetensors --out new",
    "decode z_json.safetensors --out new",
    "decode z_list.safetensors --out new",
    "decode z_names.safetensors --out new",
    "compare out out --data my.npz --classes a,b",
    "compare out out/network-00000.safetensors --data my.npz --classes c,ä,b",
    "compare out wrong.pt --data my.npz --classes c,ä,b",
    "compare out none --data my.npz --classes c,ä,b",
    "compare out out --data none.npz --classes c,ä,b",
    "retrieve",
    "retrieve --data my.npz",
    "retrieve --data my.npz --classes c,ä,b --weights out",
    "retrieve --data my.npz --classes c,ä,b --accuracy 7",
    "retrieve --data my.npz --classes c,ä,b --loss 1",
    "retrieve --data my.npz --classes c,ä,b --out out",
    "retrieve --data my.npz --classes c,ä,b -n 0",
    "retrieve --weights none.pt",
    "retrieve --weights out --classes c,ä,b",
    "retrieve --weights out --accuracy 0.7",
    "retrieve --weights out --loss 0.7",
    "retrieve --weights out --out new",
    "compare out out --data my.npz --classes c,ä,,b",
    "retrieve --weights wrong.pt",
    "predict wrong.pt",
    "predict out out/network-00000.safetensors",
    "predict empty",
    "predict",
    "export none.pt --out new",
    "export empty --out new",
    "export --out new",
    "export out",
    "export out --out out",
    "export out out --out new",
    "export foreign.safetensors --out new",
    "export cut.safetensors --out new",
    "export code.pt --out new",
    "export z_json.safetensors --out new",
    "export out --out my.npz/new",
    "info none",
    "info empty",
    "info params.txt",
    "info z_text.npz",
    "info code.pt",
    "info z_json.safetensors",
    "info cut.safetensors",
    "info loop.pt",
]


@pytest.fixture
def junk(sampled):
    """The same folder with files that no command should take."""
    (sampled / "empty").mkdir()
    (sampled / "params.txt").write_text("seed: 0")
    (sampled / "loop.pt").symlink_to(sampled / "loop.pt")
    good = load_file(sampled / "out" / "network-00000.safetensors")
    torch.save(good | {"extra": torch.ones(1)}, sampled / "wrong.pt")
    torch.save(good | {"head.bias": torch.full((3,), torch.nan)}, sampled / "nan.pt")
    torch.save({"model": Bomb()}, sampled / "code.pt")
    save_file(good, sampled / "foreign.safetensors")
    whole = (sampled / "out" / "network-00000.safetensors").read_bytes()
    (sampled / "cut.safetensors").write_bytes(whole[:-9])
    for name, z in {
        "short": np.zeros((2, 5), np.float32),
        "text": np.full((2, 6), "a"),
        "nan": np.full((2, 6), np.nan),
        "code": np.array([Bomb()]),
        "scalar": np.float32(1),
    }.items():
        np.savez(sampled / f"z_{name}.npz", z=z)
    for name, meta in {
        "json": "{",
        "list": "[1]",
        "names": '{"kind":"latents"}',
    }.items():
        save_file({"z": torch.zeros(1, 6)}, sampled / f"z_{name}.safetensors", {META_KEY: meta})
    other = {"autoencoder": "0", "names": ["a"]}
    save_tensors(sampled / "z_other.safetensors", "latents", {"z": torch.zeros(1, 6)}, other)
    return sampled


@pytest.mark.parametrize("words", BAD_COMMANDS)
def test_bad_commands_are_one_line_and_leave_nothing(run, junk, words):
    before = files(junk)
    refused(run(*words.split()))
    assert files(junk) == before


def test_an_error_while_writing_leaves_nothing(run, mine, tmp_path, monkeypatch):
    from weightspace.errors import problem
    from weightspace.project import samples

    def full(path, table):
        raise problem("cannot write: No space left on device", where=path)

    monkeypatch.setattr(samples, "write_parquet", full)
    refused(run(*SAMPLE, "--data", mine))
    assert files(tmp_path) == []


def test_a_project_that_has_not_run_is_one_line(run, mine, tmp_path, project_root):
    (tmp_path / "root").mkdir()
    refused(run(*SAMPLE, "--data", mine, "--root", "root"))
    (tmp_path / "root" / "params.yaml").write_text((project_root / "params.yaml").read_text())
    refused(run(*SAMPLE, "--data", mine, "--root", "root"))
    assert files(tmp_path) == ["params.yaml", "root"]


def test_stages_says_whether_dvc_yaml_is_that_of_the_code(run, tmp_path):
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "dvc.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text(text)
    assert run("stages", "--root", ".").code == 0
    script = tmp_path / "stages" / "dataset.py"
    script.write_text(script.read_text() + "\nimport weightspace.report.plots\n")
    done = run("stages", "--root", ".")
    refused(done)
    assert "dvc.yaml" in done.err
    assert "python -m weightspace stages --write" in done.err
    assert (tmp_path / "dvc.yaml").read_text() == text
    assert run("stages", "--write", "--root", ".").out == "Written to dvc.yaml\n"
    assert (tmp_path / "dvc.yaml").read_text().count("report/plots.py") == 1
    assert run("stages", "--root", ".").code == 0
    assert run("stages", "--write", "--root", ".").out == ""
    (tmp_path / "dvc.yaml").unlink()
    refused(run("stages", "--root", "."))


def test_without_a_command_the_help_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["weightspace"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "Usage" in "".join(capsys.readouterr())
