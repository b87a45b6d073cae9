"""A light install: what extras bring is not needed to start, and one line says what is missing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from weightspace.cli.app import main
from workspace import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Modules of the extras; an import of one fails as where it is not installed.
BLOCKED = ("dvc", "dvclive", "ray", "onnx", "onnxscript", "open_clip", "pooch", "mkdocs", "IPython")
BLOCK = f"""
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def light(code, folder, **env):
    """Run code in a fresh process, in a folder, without what the extras bring."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "stages")))
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code],
        cwd=folder,
        env={"PATH": str(folder), "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
    )


def names(requirements):
    """Names of distributions, without versions and extras."""
    return {re.split(r"[\[<>=]", line)[0] for line in requirements}


def test_dvc_is_an_extra_that_development_includes():
    assert names(EXTRAS["pipeline"]) == {"dvc", "dvclive"}
    assert not names(PROJECT["dependencies"]) & {"dvc", "dvclive", "ray", "onnx"}
    assert "pipeline" in re.search(r"weightspace\[(.*?)\]", EXTRAS["dev"][0])[1].split(",")


def test_every_extra_that_a_message_names_exists():
    texts = [f.read_text() for d in ("src", "stages") for f in (ROOT / d).rglob("*.py")]
    named = set(re.findall(r"weightspace\[(\w+)\]", "".join(texts)))
    assert named <= EXTRAS.keys()
    assert named >= {"clip", "fetch", "onnx", "pipeline", "ray"}


def test_every_module_is_imported_without_the_extras(tmp_path):
    modules = [
        ".".join(f.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for f in sorted((ROOT / "src").rglob("*.py"))
        if f.stem not in ("__main__", "_gpu", "_kernels")  # the last two need Triton
    ]
    done = light(
        f"from importlib import import_module\nfor m in {modules}: import_module(m)", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert light("import dvc", tmp_path).returncode == 1  # the control


@pytest.fixture
def experiment(tmp_path, monkeypatch, capsys):
    """Run `weightspace WORDS` where only the commands of a folder are installed; what it says."""
    (tmp_path / "table.yaml").write_text(
        "{title: A, seeds: [0], split: val, columns: {a: b.c}, rows: [{name: x, set: {}}]}"
    )
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    def run(words):
        monkeypatch.setattr(sys, "argv", ["weightspace", *words.split()])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        return line

    return run


@pytest.mark.parametrize("words", ["sweep -S seed=1", "suite table.yaml"])
def test_without_dvc_experiments_are_one_line(words, experiment, tmp_path):
    (tmp_path / "git").write_text("#!/bin/sh\necho 0123abcd\n")
    (tmp_path / "git").chmod(0o755)
    line = experiment(words)
    assert line.startswith(
        "error: experiments: no command 'dvc'; pip install 'weightspace[pipeline]'"
    )
    assert "`make`" in line


def test_without_git_a_table_is_one_line(experiment):
    assert experiment("suite table.yaml").endswith("no command 'git'; install git")
