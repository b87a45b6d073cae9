"""Every option and argument of every command, from typer's own tree, with a list of hostile values.

A value is refused by one line and exit code 2, before anything is written; or it is one that the
option is documented to take, by its range or because it is the name of a new file.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import load_file

from weightspace.cli import app as cli
from weightspace.data import fetch
from weightspace.experiments import parallel, suite, sweep
from weightspace.report.document import document

ROOT = Path(__file__).resolve().parent.parent
TREE = typer.main.get_command(cli.app)  # which the application builds anew at each call
COMMANDS = TREE.commands
MINE = {"data": "my.npz", "classes": "a,b,c"}
# command -> words that it works with: parameter -> value. A new command needs its line.
WORKS = {
    "demo": {"out": "new.html"},
    "bundle": {"out": "new.bundle", "bits": "8", "megabytes": "8"},
    "sample": MINE | {"out": "new", "accuracy": "0.5", "guidance_steps": "0"},
    "import": {"folder": "checkpoints", "arch": "cnn", "results": "table.csv", "out": "new"},
    "encode": {"paths": "nets", "out": "new.safetensors"},
    "decode": {"latents": "z.npz", "out": "new"},
    "compare": MINE | {"a": "nets", "b": "nets"},
    "retrieve": MINE,
    "predict": {"paths": "nets"},
    "export": {"paths": "nets", "out": "new"},
    "info": {"path": "nets/0.safetensors"},
    "card": {"kind": "zoo"},
    "ls": {"section": "nets"},
    "validate": {"path": "params.yaml"},
    "params": {"path": "params.yaml", "out": "new.md"},
    "results": {"root": "finished"},
    "document": {"root": "finished"},
    "repro": {"jobs": "1"},
    "sweep": {"set_": "seed=0", "metric": "reconstruction.val.agreement_mean"},
    "suite": {"definition": "table.yaml", "out": "new.md", "set_": "seed=1"},
    "fetch": {"name": "fashion-mnist", "to": "new", "home": "HOME"},
    "stages": {"root": "finished"},
    "plugins": {},
    "report": {"root": "finished", "out": "new.html"},
    "pictures": {"root": "finished"},
}
HOSTILE = {
    "empty": "",
    "spaces": "  ",
    "newline": "a\nerror: b",
    "escape": "\x1b[2J",
    "right to left": "a\u202eb",
    "half a character": "\udcff",
    "long": "x" * 5000,
    "long name": "x" * 300,
    "negative": "-1",
    "zero": "0",
    "2 ** 64": str(2**64),
    "many digits": "1" * 400,
    "nan": "nan",
    "infinity": "-inf",
    "a word": "much",
    "an option": "--help-me",
    "a file": "file",
    "below a file": "file/new",
    "a folder": "full",
    "a link to itself": "loop",
    "not writable": "/proc/1/new",
}
TABLE = """
title: A table
seeds: [0]
split: test_sets
columns: {agreement: reconstruction.agreement_mean}
rows: [{name: as it is, set: {}, read: {reconstruction: ""}}]
"""


def name(command, parameter):
    """How a parameter is given: the option's longest name, or None for an argument."""
    return max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else None


def line(command, changed=None, value=None):
    """Words of a command that works, with the value of one parameter changed."""
    given, options, arguments = WORKS[command] | {changed: value}, [], []
    for parameter in COMMANDS[command].params:
        if parameter.name not in given:
            continue
        flag = name(command, parameter)
        if flag is None:
            arguments.append(given[parameter.name])
        elif parameter.is_flag:
            options.append(f"{flag}={value}")
        else:
            options += [flag, given[parameter.name]]
    return [command, *options, *arguments]


def allowed(command, parameter, value):
    """Whether a value is one that a parameter takes: in its range, or a name of its own choice."""
    if parameter.type_descriptor.annotation in (int, float):
        return value == "0" and parameter.min <= 0 and parameter.name != "loss"  # R is accuracy
    if parameter.name in ("out", "to") and not command_needs_ending(command):
        plain = value not in ("", "  ") and value.isprintable() and "/" not in value
        taken = ("file", "loop", "--help-me", *(["full"] if parameter.name == "out" else []))
        return plain and len(value) < 255 and value not in taken
    return False


def command_needs_ending(command):
    """Whether the name of its output has an ending, which none of the values has."""
    return command in ("bundle", "encode")


def inputs(command):
    """What is tried: a parameter, the name of a hostile value, the value, and whether it is one to be taken."""
    for parameter in COMMANDS[command].params:
        for label, value in HOSTILE.items() if parameter.name != "help" else ():
            expected = allowed(command, parameter, value)
            if not expected or label == "zero":  # others are names or numbers like any other
                yield parameter, label, value, expected


@pytest.fixture(scope="module")
def work(tmp_path_factory, project):
    """A folder with all that commands read."""
    folder = tmp_path_factory.mktemp("door")
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(30) % 3]
    np.savez(folder / "my.npz", images=rng.random((30, 8, 8)), labels=labels)
    members = project.zoo.select("val")[:2]
    weights = project.zoo.weights(members)
    info = [{"classes": ["a", "b", "c"]}] * 2
    project.save(folder / "nets", ["0.safetensors", "1.safetensors"], weights, info)
    np.savez(folder / "z.npz", z=project.encode(weights).numpy())
    (folder / "checkpoints").mkdir()
    for i in range(2):
        torch.save(
            load_file(folder / "nets" / f"{i}.safetensors"), folder / "checkpoints" / f"{i}.pt"
        )
    classes = [" ".join(map(str, project.dataset.tasks["classes"][t])) for t in members["task"]]
    table = pd.DataFrame({"file": ["0.pt", "1.pt"], "classes": classes, "run": [0, 1]})
    table.to_csv(folder / "table.csv", index=False)
    (folder / "table.yaml").write_text(TABLE)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "docs", folder / "finished" / "docs")
    for part in ("metrics", "src", "stages", "benchmarks"):
        (folder / "finished" / part).symlink_to(ROOT / part)
    for part in ("params.yaml", "dvc.yaml", "README.md"):
        shutil.copy(ROOT / part, folder / "finished")
    document(folder / "finished", write=True, outputs=False)
    for file in fetch.IMAGE_SETS["fashion-mnist"].contents:
        (folder / "home").mkdir(exist_ok=True)
        (folder / "home" / file).write_bytes(b"")
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "note").write_text("mine")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


@pytest.fixture
def run(work, project_root, monkeypatch, capsys):
    """Run words in that folder, without DVC and without the network; code, output, errors."""
    monkeypatch.chdir(work)
    for module in (suite, sweep):
        monkeypatch.setattr(module, "baseline_commit", lambda: "commit")
        monkeypatch.setattr(module, "run_one", lambda *_: "commit")
        monkeypatch.setattr(module, "value", lambda *_: 0.5)
    monkeypatch.setattr(fetch, "_check", lambda *_: None)
    monkeypatch.setattr(sweep, "call", stages_of_dvc)
    monkeypatch.setattr(parallel, "repro", lambda *_: None)
    monkeypatch.setattr(cli, "app", TREE)

    def call(words):
        monkeypatch.setattr(sys, "argv", ["weightspace", *completed(words, work, project_root)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return call


def completed(words, work, project_root):
    """Words of a command with the addresses of its files and of its project."""
    words = [f"file://{work}/home" if word == "HOME" else word for word in words]
    needs = {p.name for p in COMMANDS[words[0]].params}
    if "root" in needs and "--root" not in words:
        words[1:1] = ["--root", str(project_root)]
    return words


def stages_of_dvc(*words):
    """What DVC says of the stages up to one, if there is such a stage."""
    known = words[-1] in ("--dot", "evaluate_reconstruction")
    return Dag(0 if known else 1)


class Dag:
    """A finished command."""

    def __init__(self, code):
        self.returncode = code
        self.stdout = '"metrics/reconstruction.json"' if code == 0 else "no such stage"


def contents(folder):
    """Names and sizes of everything below a folder."""
    return {p: p.lstat().st_size for p in folder.rglob("*")}


def remove(paths):
    """Remove files and folders, the deepest first."""
    for path in sorted(paths, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_every_command_has_words_that_work():
    assert set(WORKS) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_values_are_refused_by_one_line_before_anything_is_written(command, run, work):
    before, wrong = contents(work), []
    for parameter, label, value, expected in inputs(command):
        code, out, err = run(line(command, parameter.name, value))
        written = contents(work).keys() - before.keys()
        one = err.startswith("error: ") and err.count("\n") == 1 and err[:-1].isprintable()
        fine = code == 0 if expected else (code, out, written) == (2, "", set()) and one
        if not fine:
            wrong.append((parameter.name, label, code, out[:200], err[-300:], written))
        remove(written)
    assert not wrong
    assert contents(work) == before


def test_the_walk_has_every_option_with_every_value():
    """The control of the count in the documentation: an option that is left out is missed here."""
    parameters = {c: [p for p in t.params if p.name != "help"] for c, t in COMMANDS.items()}
    tried = {c: {p.name for p, *_ in inputs(c)} for c in COMMANDS}
    assert tried == {c: {p.name for p in of_command} for c, of_command in parameters.items()}
    every = len(HOSTILE) * sum(map(len, parameters.values()))
    assert every * 0.85 < count_inputs() < every


def count_inputs():
    """Hostile values of options and arguments that are refused."""
    return sum(not expected for command in COMMANDS for *_, expected in inputs(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_words_work(command, run, work):
    """The control: what is refused above is refused for the value that was changed."""
    before = contents(work)
    code, _, err = run(line(command))
    assert code == 0, err
    remove(contents(work).keys() - before.keys())
