"""The pages below docs: commands run, code works, names are those of the code; the package builds."""

import hashlib
import re
import tomllib

import pandas as pd
import pytest
import yaml

import weightspace
from cases import merged
from test_pages import commands
from weightspace.artifacts import read_meta, read_parquet
from weightspace.data.dataset import Dataset
from weightspace.project.network import KIND
from weightspace.report.plots import PLOTS
from workspace import ROOT, clone

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TUTORIAL = commands((ROOT / "docs" / "tutorial.md").read_text())
FORMATS = (ROOT / "docs" / "formats.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()


def test_the_tutorial_has_five_commands():
    assert len(TUTORIAL) == 5


@pytest.mark.slow
def test_the_tutorial_works(tmp_path):
    workspace = clone(tmp_path / "clone")
    for command in TUTORIAL:
        # DVC up to the model: what evaluates it has no part in the commands that follow
        only = ("shared_encoder",) if command[:3] == ("dvc", "exp", "run") else ()
        done = workspace.run(*command, *only)
        assert "warning" not in done.text.lower() or command[0] in ("weightspace", "dvc")
    assert "Cnn(" in done.text
    assert "['3', '8', '1']" in done.text
    assert len(pd.read_parquet(workspace.root / "samples" / "samples.parquet")) == 4
    chosen = yaml.safe_load(workspace.read("params.yaml"))
    assert chosen["dataset"]["source"] == "npz"
    assert not [n for n in workspace.run("git", "ls-files").text.split() if "my.npz" in n]


def of_kind(kind):
    """Fenced blocks of docs/extending.md in one language."""
    return [text for language, text in BLOCK.findall(EXTENDING) if language == kind]


def shortened(text, source):
    """Whether lines are those of a source in its order, some left out where three dots stand."""
    rest = iter(source.splitlines())
    return all(line in rest for line in text.splitlines() if line.strip() not in ("", "..."))


def test_the_shortened_example_of_a_distribution_is_its_module():
    path = ROOT / "examples" / "ridge_autoencoder" / "weightspace_ridge" / "autoencoder.py"
    (block,) = of_kind("py")
    assert shortened(block, path.read_text())
    assert not shortened(block.replace("@ self.encoder", "@ self.decoder"), path.read_text())
    assert not shortened("\n".join(reversed(block.splitlines())), path.read_text())


@pytest.mark.slow
def test_the_example_of_a_projects_member_works(tmp_path):
    """Its file, its section and the commands, as docs/extending.md has them."""
    workspace = clone(tmp_path / "clone")
    ((module,), (section,), (lines,)) = map(of_kind, ("python", "yaml", "sh"))
    (workspace.root / "src" / "members" / "sources").mkdir()
    workspace.write("src/members/sources/stripes.py", module)
    params = merged(yaml.safe_load(workspace.read("params.yaml")), yaml.safe_load(section))
    params["dataset"]["tasks"] = 24  # all there are of three of four classes
    workspace.write("params.yaml", yaml.safe_dump(params))
    for line in lines.splitlines():
        workspace.run(*line.split())
    assert Dataset.load(workspace.root / "data" / "dataset").class_names[0] == "level"
    (dependency,) = (d for d in workspace.lock()["dataset"]["deps"] if "stripes" in d["path"])
    digest = hashlib.md5((workspace.root / "src/members/sources/stripes.py").read_bytes())
    assert dependency["md5"] == digest.hexdigest()  # through the link


@pytest.mark.slow
def test_the_example_of_a_new_member_passes_the_contracts(tmp_path):
    """The steps of docs/extending.md for the package, then the tests of its family and of the layout."""
    workspace = clone(tmp_path / "clone")
    (module,), (key, line, case) = of_kind("python"), of_kind("text")[1:]
    options = re.search(r"^class Settings.*?(?=^def )", module, re.MULTILINE | re.DOTALL)[0]
    imported = "from weightspace.params import StripesSettings as Settings\n\n\n"
    folder = "src/weightspace/data/sources"
    workspace.write(f"{folder}/stripes.py", module.replace(options, imported))
    options = options.replace("class Settings(params.", "class StripesSettings(")
    tests = ("tests/test_sources.py", "-k", "stripes or case or family")
    before = workspace.pytest("tests/test_layers.py", "-k", "family", ok=False)
    assert before.code != 0  # a file without its line is found
    for path, end, added in (
        (f"{folder}/__init__.py", '"weightspace.data.sources.npz",\n', line),
        (
            "tests/test_sources.py",
            '"npz": lambda tmp: {"path": str(write_npz(tmp / "some.npz"))},\n',
            case,
        ),
        ("src/weightspace/params.py", "    npz: NpzSettings\n", key),
        ("src/weightspace/params.py", "# image sources\n\n\n", options.replace("params.", "")),
        ("params.yaml", "sources:\n", "  stripes: {noise: 0.2}\n"),
    ):
        text = workspace.read(path)
        assert text.count(end) == 1, end
        workspace.write(path, text.replace(end, end + added))
    workspace.set({"sources.stripes": {"noise": 0.3}})
    done = workspace.pytest(*tests, "tests/test_layers.py")
    assert re.search(r"\d+ passed|\[100%\]", done.text)


def test_formats_name_every_artefact(project_root):
    data = project_root / "data"
    for path in [*data.rglob("*.safetensors"), *data.rglob("*.parquet")]:
        name = re.sub(r"\d{5}", "NNNNN", path.name)
        assert f"`{name}`" in FORMATS or f"/{name}`" in FORMATS, name
        if path.suffix == ".safetensors":
            assert f"kind `{read_meta(path)['kind']}`" in FORMATS
    assert f"kind `{KIND}`" in FORMATS


def test_formats_name_every_column_and_key(project_root):
    data = project_root / "data"
    text = re.sub(
        r"`\{train,val,test\}_\{loss,accuracy\}`",
        " ".join(f"`{p}_{k}`" for p in ("train", "val", "test") for k in ("loss", "accuracy")),
        FORMATS,
    )
    tables = [data / "zoo" / "members.parquet", data / "dataset" / "tasks.parquet"]
    names = {str(column) for path in tables for column in read_parquet(path)}
    for path in data.rglob("*.safetensors"):
        names |= set(read_meta(path))
    assert not sorted(name for name in names if f"`{name}`" not in text)


def test_the_plots_of_dvc_and_of_the_page_are_the_same_files():
    listed = (ROOT / "metrics" / "plots").glob("*.csv")
    assert {p.name for p in listed} <= set(PLOTS)


def test_licence_and_citation_agree_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == weightspace.__version__
    assert project["dynamic"] == ["version"]  # read from the package, see tool.setuptools.dynamic
    assert cited["license"] == project["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    notes = re.findall(r"^## (.+)$", (ROOT / "docs" / "release_notes.md").read_text(), re.MULTILINE)
    assert notes[0] == weightspace.__version__
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
