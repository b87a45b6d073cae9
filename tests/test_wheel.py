"""The wheel: what is in it, and that it works alone in a clean environment, without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import numpy as np
import pandas as pd
import pytest

import weightspace
from weightspace.bundles.locate import FIRST
from workspace import ROOT

SECONDS = 300  # after which a command of this file is ended


def call(*words, cwd):
    """Run a command without the variables of this process; its output."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={"PATH": os.defpath, "HOME": str(cwd), "PIP_NO_INDEX": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the working tree."""
    copied = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", copied / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied / name)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", "out")
    call(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=copied)
    (path,) = (copied / "out").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """A new environment with the wheel; the packages that it needs are read from this one."""
    root = tmp_path_factory.mktemp("clean")
    venv.create(root / "env", symlinks=True)
    options = ("--python", root / "env" / "bin" / "python", "--disable-pip-version-check")
    call(sys.executable, "-m", "pip", *options, "install", "--no-deps", wheel, cwd=root)
    (site,) = (root / "env" / "lib").glob("python*/site-packages")
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    # No .pth file of these folders is read, such as that of the working tree's package.
    (site / "dependencies.pth").write_text("\n".join(sorted(packages)) + "\n")
    return root


def test_what_builds_the_package_comes_with_its_tests():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (backend,) = data["build-system"]["requires"]
    assert backend in data["project"]["optional-dependencies"]["dev"]
    name = backend.partition(">")[0]
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in pinned if line.startswith(f"{name}==")]


@pytest.mark.slow
def test_the_wheel_has_every_module_and_its_data(wheel):
    assert wheel.name.startswith(f"weightspace-{weightspace.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    source, package = ROOT / "src", ROOT / "src" / "weightspace"
    files = [*source.rglob("*.py"), *package.rglob("*.yaml"), package / "py.typed"]
    files += [p for ending in ("bundle", "json") for p in (package / "bundles").glob(f"*.{ending}")]
    assert {str(path.relative_to(source)) for path in files} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "stages"))]


@pytest.mark.slow
def test_a_clean_environment_has_the_command_and_draws_from_the_bundle(clean):
    programs = clean / "env" / "bin"
    home = call(programs / "python", "-c", "import weightspace as w; print(w.__file__)", cwd=clean)
    assert home.startswith(str(clean))
    command = programs / "weightspace"
    assert call(command, "--version", cwd=clean) == f"weightspace {weightspace.__version__}\n"
    listed = call(command, "ls", cwd=clean)
    assert all(name in listed for name in ("functional", "resnet18", FIRST))
    labels = np.arange(30) % 3
    np.savez(clean / "my.npz", images=np.random.default_rng(0).random((30, 8, 8)), labels=labels)
    asked = ("--data", "my.npz", "--classes", "0,1,2", "--accuracy", "0.9", "-n", "2")
    call(command, "sample", *asked, "--root", FIRST, "--out", "drawn", cwd=clean)
    table = pd.read_parquet(clean / "drawn" / "samples.parquet")
    assert list(table["file"]) == sorted(p.name for p in (clean / "drawn").glob("*.safetensors"))
    assert len(table) == 2
    card = (clean / "drawn" / "MODEL_CARD.md").read_text()
    assert f"* weightspace: {weightspace.__version__}\n" in card
