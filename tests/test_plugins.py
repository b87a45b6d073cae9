"""Members of families from outside: found, validated, refused, and seen by DVC."""

import os
import pickle
import shutil
import subprocess
import sys
from importlib import invalidate_caches

import pytest
import yaml

from cases import FILE, merged
from test_dvc import planned, running
from weightspace import registry
from weightspace.artifacts import read_meta
from weightspace.autoencoders import AUTOENCODERS
from weightspace.errors import WeightspaceError
from weightspace.experiments.stages import chosen_code, generated
from weightspace.params import options_of, validate_params
from weightspace.registry import FAMILIES, Outside, find, resolve
from workspace import ROOT, Workspace

EXAMPLE = ROOT / "examples" / "ridge_autoencoder"
SETTINGS = {"autoencoders": {"ridge": {"ridge": 0.01}}, "autoencoder": {"model": "ridge"}}
MARKER = "src/weightspace/autoencoders/ridge.py"
MODULE = '''"""A member."""

from pydantic import Field

from weightspace import params


class Settings(params.Settings):
    """Its options."""

    width: int = Field(ge=1)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder where the example plugin is installed, from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options]
    subprocess.run([*command, "--target", folder / "site", folder / "source"], check=True)
    return folder / "site"


@pytest.fixture
def searched(monkeypatch):
    """Factory: a folder from which distributions and modules are imported during a test."""
    folders = []

    def add(folder):
        folders.append(str(folder))
        monkeypatch.syspath_prepend(folder)
        invalidate_caches()
        registry.outside.cache_clear()
        return folder

    yield add
    registry.outside.cache_clear()
    for name, module in list(sys.modules.items()):  # the next test has another of its name
        if (getattr(module, "__file__", None) or "").startswith(tuple(folders)):
            del sys.modules[name]


def distribution(folder, name, points, version="1.0", module=MODULE):
    """Write an installed distribution whose entry points are ``group -> member``."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[weightspace.{group}]\n{member} = {name}\n" for group, member in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (folder / f"{name}.py").write_text(module)


def test_built_in_members_alone_are_what_the_project_has():
    assert not [m for family in FAMILIES for m in registry.outside(family)]
    assert registry.origins(("autoencoders", "mlp"), ("nets", "cnn")) == {}
    assert {f.name: set(f.table) for f in FAMILIES.values()}["autoencoders"] == set(AUTOENCODERS)
    assert {f.key for f in FAMILIES.values()} <= {
        f"{section}.{key}" for section, keys in FILE.items() if section != "seed" for key in keys
    }


def test_an_entry_point_is_found_by_its_name(searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide", "nets": "wide"}, "2.1")
    with pytest.raises(WeightspaceError, match=r"unknown autoencoder\.model 'wide'"):
        resolve(AUTOENCODERS, "wide", "autoencoder.model")
    searched(tmp_path)
    assert resolve(AUTOENCODERS, "wide", "autoencoder.model").Settings(width=3).width == 3
    facts = {"distribution": "other", "version": "2.1"}
    assert registry.origins(("nets", "wide"), ("nets", "cnn")) == {"members": {"nets.wide": facts}}
    with pytest.raises(WeightspaceError, match="did you mean 'wide'"):
        resolve(AUTOENCODERS, "wid", "autoencoder.model")


def test_a_name_that_two_places_have_is_an_error_with_both(searched, tmp_path):
    distribution(tmp_path, "first", {"autoencoders": "mlp", "nets": "wide"})
    distribution(tmp_path, "second", {"nets": "wide"})
    searched(tmp_path)
    with pytest.raises(WeightspaceError, match="'mlp' is a member of weightspace and of first"):
        resolve(AUTOENCODERS, "mlp", "autoencoder.model")
    with pytest.raises(WeightspaceError, match="'wide' is a member of first and of second"):
        find("nets", "wide")
    with pytest.raises(WeightspaceError, match="of first and of second"):
        registry.every()
    assert resolve(AUTOENCODERS, "tokens", "autoencoder.model")  # the control: no clash


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"wide": {"width": 0}}, "'autoencoders.wide.width': .*found 0"),
        ({"wide": {}}, "key 'autoencoders.wide.width' is missing"),
        ({"wide": {"width": 2, "widht": 2}}, "'autoencoders.wide.widht'.*did you mean 'width'"),
        ({"wid": {"width": 2}}, "unknown key 'autoencoders.wid'.*did you mean 'wide'"),
        ({"wide": 7}, "'autoencoders.wide': .*found 7"),
    ],
)
def test_its_section_is_validated_by_its_own_settings(keys, words, searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide"})
    searched(tmp_path)
    right = {"autoencoders": {"wide": {"width": 5}}}
    assert validate_params(merged(FILE, right)).autoencoders.of("wide").width == 5
    given = FILE | {"autoencoders": FILE["autoencoders"] | keys}
    with pytest.raises(WeightspaceError, match=words) as error:
        validate_params(given)
    assert "\n" not in str(error.value)


def test_a_section_that_is_missing_is_one_line(searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide"})
    searched(tmp_path)
    params = validate_params(merged(FILE, {"autoencoder": {"model": "wide"}}))
    with pytest.raises(WeightspaceError, match=r"no settings of 'wide'.*add it"):
        params.autoencoders.of("wide")


def test_settings_with_members_from_outside_reach_other_processes(searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide"})
    searched(tmp_path)
    chosen = {"autoencoders": {"wide": {"width": 5}}, "autoencoder": {"model": "wide"}}
    params = validate_params(merged(FILE, chosen))
    again = pickle.loads(pickle.dumps(params))
    assert again.autoencoders.of("wide").width == 5
    assert again.model_dump() == params.model_dump()
    assert options_of("autoencoders", "wide", {"width": 4}).width == 4


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import nothing_of_that_name\n", "cannot be imported.*nothing_of_that_name"),
        ("Settings = dict\n", "no class Settings"),
        ("", "no class Settings"),
    ],
)
def test_a_broken_member_is_one_line(module, words, searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide"}, module=module)
    searched(tmp_path)
    with pytest.raises(WeightspaceError, match=f"'wide' of other.*{words}"):
        validate_params(merged(FILE, {"autoencoders": {"wide": {}}}))


def test_a_marker_follows_version_and_source(searched, tmp_path):
    distribution(tmp_path, "other", {"autoencoders": "wide"})
    searched(tmp_path)
    member = find("autoencoders", "wide")
    newer = Outside("autoencoders", "wide", "other", "other", "1.1")
    assert "version: 1.0" in member.marker
    assert member.marker != newer.marker
    (tmp_path / "other.py").write_text(MODULE + "# edited\n")
    edited = Outside("autoencoders", "wide", "other", "other", "1.0")
    assert edited.marker.splitlines()[:-1] == member.marker.splitlines()[:-1]
    assert edited.marker != member.marker
    (tmp_path / "a.py").write_text(member.marker)
    assert registry.read_marker(tmp_path / "a.py")["sha256"] == member.digest
    assert registry.read_marker(ROOT / "src/weightspace/autoencoders/mlp.py") is None


def test_the_ridge_decoder_is_the_least_squares_one(site, searched, world):
    """Errors are orthogonal to latents without a penalty, and only then; linear: all of it is kept."""
    searched(site)
    ridge, tiny = resolve(AUTOENCODERS, "ridge", "autoencoder.model"), world()
    train = tiny.data.weights["train"]
    leftover, rebuilt = {}, {}
    for penalty in (0.0, 1.0):
        model, history = ridge.fit(
            tiny.data, tiny.params.autoencoder, ridge.Settings(ridge=penalty), 0
        )
        z, x = model.encode(train).double(), model.coefficients(train).double()
        leftover[penalty] = float((z.T @ (x - z @ model.decoder.double())).abs().max() / len(z))
        rebuilt[penalty] = float(history["train_loss"].iloc[0])
        assert z.square().mean() == pytest.approx(1, rel=1e-4)
    assert leftover[0.0] < 1e-5
    assert leftover[1.0] > 0.1
    assert rebuilt[0.0] < rebuilt[1.0] < 1


def place(workspace, path, text):
    """Write a file of a workspace, its folder included."""
    (workspace.root / path).parent.mkdir(parents=True, exist_ok=True)
    workspace.write(path, text)


def extended(workspace, site, settings):
    """The workspace of a person with the plugin installed, with other settings committed."""
    params = merged(yaml.safe_load(workspace.read("params.yaml")), settings)
    workspace.write("params.yaml", yaml.safe_dump(params, sort_keys=False))
    workspace.commit("settings")
    path = f"{workspace.root / 'src'}:{site}"
    return Workspace(workspace.root, {"PYTHONPATH": path})


def test_members_are_found_where_ray_unpacks_them(tmp_path):
    """Package and members are two folders there; another folder called members is not asked."""
    code = "from weightspace.registry import outside; print(*outside('nets'))"

    def found(package):
        folder, members = tmp_path / package, tmp_path / "_ray_pkg_b" / "members" / "nets"
        shutil.copytree(ROOT / "src" / "weightspace", folder / "weightspace", dirs_exist_ok=True)
        members.mkdir(parents=True, exist_ok=True)
        (members / "mine.py").touch()
        path = os.pathsep.join((str(folder), str(tmp_path / "_ray_pkg_b")))
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
        ).stdout.split()

    assert found("_ray_pkg_a") == ["mine"]
    assert found("site-packages") == []


def test_settings_travel_without_members_that_are_not_selected(site, searched):
    """To a machine that lacks the plugin; the section of a selected member travels along."""
    searched(site)
    for model in ("mlp", "ridge"):
        data = merged(FILE, SETTINGS | {"autoencoder": {"model": model}})
        rebuild, (plain,) = validate_params(data).__reduce__()
        assert ("ridge" in plain["autoencoders"]) == (model == "ridge")
        assert rebuild(plain).autoencoders.tokens == validate_params(data).autoencoders.tokens


def test_the_generated_dependencies_skip_links_and_markers(tmp_path):
    folder = tmp_path / "src" / "weightspace" / "autoencoders"
    folder.mkdir(parents=True)
    (folder / "mlp.py").write_text("")
    (folder / "gone.py").symlink_to("../../members/autoencoders/gone.py")
    (folder / "ridge.py").write_text(registry.MARK + "\n")
    name = "src/weightspace/autoencoders/${autoencoder.model}.py"
    assert chosen_code([name], tmp_path) == [folder / "mlp.py"]


@pytest.mark.slow
def test_plugin_and_project_member_run_as_stages(site, finished_clone, tmp_path):
    """One after the other in one clone; what each leaves says where it is from."""
    workspace = extended(finished_clone.copy(tmp_path / "copy"), site, SETTINGS)
    workspace.stages("check", "autoencoder")
    artefact = workspace.root / "data" / "autoencoder" / "autoencoder.safetensors"
    facts = {"distribution": "weightspace-ridge", "version": "0.1.0"}
    assert read_meta(artefact)["members"] == {"autoencoders.ridge": facts}
    info = workspace.run("python", "-m", "weightspace", "info", str(artefact)).text
    assert "weightspace-ridge" in info
    assert "0.1.0" in info
    assert (workspace.root / MARKER).read_text().startswith(registry.MARK)  # by the stage check

    text = (EXAMPLE / "weightspace_ridge" / "autoencoder.py").read_text()
    assert 'name = "ridge"' in text  # a copy that still bears the name of what it was made from
    place(workspace, "src/members/autoencoders/flat.py", text)
    flat = {"autoencoders": {"flat": {"ridge": 0.5}}, "autoencoder": {"model": "flat"}}
    workspace = extended(workspace, site, flat)
    refused = workspace.run("python", "stages/autoencoder.py", ok=False)
    assert refused.code == 2
    assert "flat.py: autoencoders 'flat' of src/members is not what DVC saw" in refused.text
    done = workspace.run("python", "-m", "weightspace", "plugins", "--write")
    assert done.text.split() == [
        "Written",
        "for",
        "git",
        "to",
        "commit:",
        "src/weightspace/autoencoders/flat.py",
    ]
    assert workspace.run("python", "-m", "weightspace", "plugins", "--write").text == ""
    assert "A  src/weightspace/autoencoders/flat.py" in workspace.run("git", "status", "-s").text
    workspace.stages("autoencoder")
    assert read_meta(artefact)["members"]["autoencoders.flat"]["distribution"] == "src/members"
    assert read_meta(artefact)["autoencoder"] == "flat"  # the one that was selected
    listed = workspace.run("python", "-m", "weightspace", "plugins").text
    assert "ridge           weightspace-ridge 0.1.0" in listed
    assert "flat            src/members" in listed
    text = (workspace.root / "dvc.yaml").read_text()
    assert generated(text, workspace.root.resolve()) == text  # markers add no dependency
    workspace.pytest("tests/test_layers.py", "-k", "family or found")  # nor a line to a table

    without = Workspace(workspace.root)  # the plugin is uninstalled
    for command in (("stages/check.py",), ("-m", "weightspace", "validate")):
        done = without.run("python", *command, ok=False)
        assert done.code == 2
        (line,) = done.errors
        assert f"pip install weightspace-ridge==0.1.0, or remove {MARKER}" in line
    assert (
        "weightspace-ridge, which is not there"
        in without.run("python", "-m", "weightspace", "plugins").text
    )


@pytest.mark.slow
def test_dvc_sees_a_new_version_and_an_edit(site, finished_clone, tmp_path):
    """A marker of a member that is not selected reruns nothing; of a selected one, its users."""
    shutil.copytree(site, tmp_path / "site")
    workspace = finished_clone.copy(tmp_path / "copy")
    text = (EXAMPLE / "weightspace_ridge" / "autoencoder.py").read_text()
    assert 'name = "ridge"' in text  # a copy that still bears the name of what it was made from
    place(workspace, "src/members/autoencoders/flat.py", text)
    sections = {"autoencoders": {"flat": {"ridge": 0.5}, "ridge": {"ridge": 0.01}}}
    workspace = extended(workspace, tmp_path / "site", sections)
    write = ("python", "-m", "weightspace", "plugins", "--write")

    def release(version):
        (metadata,) = (tmp_path / "site").glob("*.dist-info/METADATA")
        lines = metadata.read_text().splitlines(keepends=True)
        lines = [f"Version: {version}\n" if x.startswith("Version:") else x for x in lines]
        metadata.write_text("".join(lines))

    workspace.run(*write)
    assert planned(workspace) == {"check"}  # params.yaml has two sections more
    for model, change in (
        ("ridge", lambda: (release("0.2.0"), workspace.run(*write))),
        ("flat", lambda: place(workspace, "src/members/autoencoders/flat.py", text + "# edited\n")),
    ):
        workspace.set({"autoencoder.model": model})
        done = workspace.dvc("repro", "autoencoder").text
        assert "Running stage 'autoencoder'" in done
        assert "Running stage 'pca'" not in done
        commit = ("commit", "--force", "check", "autoencoder")
        before = running(workspace.dvc_all(commit, ("repro", "--dry")).text)
        change()
        assert planned(workspace) - before == {"autoencoder"}
    release("0.3.0")
    workspace.set({"autoencoder.model": "ridge"})
    done = workspace.run("python", "stages/autoencoder.py", ok=False)
    assert done.code == 2
    (line,) = done.errors
    assert "found version 0.2.0, expected version 0.3.0" in line
    assert "make repro" in line
